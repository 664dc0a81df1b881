//! From a batch of deliveries to durable outcomes and pending notifications.
//!
//! Gather: parse, match, and say what must be known. Decide: inside the store's transaction, event by event
//! in the order of their arrival. Apply: one commit. Only then may the batch be acknowledged.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::domain::envelope::{Envelope, Received};
use crate::domain::event::{Event, Subject};
use crate::domain::ids::{EventId, IntegrationId};
use crate::domain::intake::{Fate, IntakeState, collation_key, streak_key};
use crate::domain::integration::Integration;
use crate::domain::reason::{DeadLetterReason, EventFate, SendReason};
use crate::domain::story::Story;
use crate::formats;
use crate::metrics::Metrics;
use crate::ports::{
    DecidedEvent, IntakeChanges, IntakeQuery, Letter, NewNotification, Store, StoreError, TakeIn,
};
use crate::worker::catalogue::{Catalogue, Snapshot};
use crate::worker::trouble::Trouble;
use crate::worker::wake::Bell;

/// The header that makes a dead letter a replay for one integration.
pub const INTEGRATION_HEADER: &str = "x-integration-id";

/// How long a batch waits before it asks the store again. The broker keeps the batch meanwhile.
const STORE_RETRY: Duration = Duration::from_secs(1);

/// Takes events in.
pub struct Intake {
    pub store: Arc<dyn Store>,
    pub catalogue: Arc<Catalogue>,
    pub metrics: Arc<Metrics>,
    /// With the store.
    pub trouble: Arc<Trouble>,
    /// Rung when there is something to tell.
    pub dispatch: Arc<Bell>,
    /// Rung when there is something to bury.
    pub burial: Arc<Bell>,
}

#[async_trait]
impl TakeIn for Intake {
    /// Returns when the whole batch is durable, however long the store takes to be there again.
    async fn take_in(&self, batch: Vec<Received>) {
        if batch.iter().any(|received| received.envelope.header(INTEGRATION_HEADER).is_some()) {
            // Who replays has often just resumed: decide by what holds now. If it can't be read, by what is known.
            let _ = self.catalogue.refresh().await;
        }
        let snapshot = self.catalogue.now();
        let batch: Vec<Read> = batch.into_iter().map(|received| read(received, &snapshot)).collect();
        let Err(fault) = self.commit(batch.clone()).await else { return };
        // One event of the batch trips the store or a decision over: find it, so that the others go on.
        tracing::error!(
            events = batch.len(),
            "a batch can't be taken in whole ({fault}); taking it in one by one"
        );
        for read in batch {
            if let Err(fault) = self.commit(vec![read.clone()]).await {
                let letter = vec![read.given_up(&fault)];
                while self.commit(letter.clone()).await.is_err() {
                    tokio::time::sleep(STORE_RETRY).await;
                }
            }
        }
    }
}

impl Intake {
    /// Commits a batch, waiting for as long as the store is out of reach.
    ///
    /// # Errors
    /// What is wrong with the batch itself, or with the store for good.
    async fn commit(&self, batch: Vec<Read>) -> Result<(), StoreError> {
        loop {
            match self.step(batch.clone()).await {
                Ok(()) => {
                    self.trouble.worked();
                    return Ok(());
                }
                Err(error) => {
                    self.metrics.store_errors.inc();
                    self.trouble.failed("take events in", &error);
                    if !matches!(error, StoreError::Unavailable(_)) {
                        return Err(error);
                    }
                    tokio::time::sleep(STORE_RETRY).await;
                }
            }
        }
    }

    /// One try to commit a batch.
    async fn step(&self, batch: Vec<Read>) -> Result<(), StoreError> {
        let query = query(&batch);
        let fates = Arc::new(Mutex::new(Vec::new()));
        let told = fates.clone();
        let decide = move |state| {
            let (changes, fates) = decide(batch, state);
            *told.lock().unwrap_or_else(PoisonError::into_inner) = fates;
            changes
        };
        let receipt = self.store.take_in(query, Box::new(decide)).await?;
        for fate in fates.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            self.metrics.event(*fate);
        }
        for (reason, count) in &receipt.suppressed {
            self.metrics.suppressed(*reason, *count as u64);
        }
        if receipt.pending > 0 {
            self.dispatch.ring();
        }
        if receipt.letters > 0 {
            self.burial.ring();
        }
        Ok(())
    }
}

/// One delivery after parsing and matching.
#[derive(Clone)]
pub enum Read {
    /// Wanted by these integrations, maybe by none.
    Event { event: Arc<Event>, received: Received, wanted_by: Vec<Arc<Integration>> },
    /// A dead letter put back for one integration.
    Replay { event: Arc<Event>, received: Received, integration: Arc<Integration> },
    /// Goes to the dead-letter queue.
    Undecidable(Letter),
}

impl Read {
    /// The dead letter of an event that can't be taken in because of a fault in here.
    fn given_up(self, fault: &StoreError) -> Self {
        let (Self::Event { received, .. } | Self::Replay { received, .. }) = self else { return self };
        let detail =
            format!("the worker failed while taking this event in ({fault}); please report it with the body");
        undecidable(received, DeadLetterReason::WorkerFault, detail)
    }

    /// The label of `events_total`.
    fn fate(&self) -> EventFate {
        match self {
            Self::Event { wanted_by, .. } if wanted_by.is_empty() => EventFate::Unwanted,
            Self::Event { .. } => EventFate::Taken,
            Self::Replay { .. } => EventFate::Replayed,
            Self::Undecidable(letter) if letter.reason == DeadLetterReason::MalformedEvent => {
                EventFate::Malformed
            }
            Self::Undecidable(_) => EventFate::Undecidable,
        }
    }
}

/// Parses and matches one delivery. A panic in the parser is this event's fault alone.
fn read(received: Received, snapshot: &Snapshot) -> Read {
    let parsed = catch_unwind(AssertUnwindSafe(|| formats::read_event(&received.envelope, make_id)));
    let event = match parsed {
        Ok(Ok(event)) => Arc::new(event),
        Ok(Err(malformed)) => {
            return undecidable(received, DeadLetterReason::MalformedEvent, malformed.to_string());
        }
        Err(_) => {
            let detail = "the worker failed while reading this event; please report it with the body";
            return undecidable(received, DeadLetterReason::WorkerFault, detail.to_owned());
        }
    };
    let Some(wanted) = received.envelope.header(INTEGRATION_HEADER).map(str::to_owned) else {
        let wanted_by = snapshot.wanting(&event);
        return Read::Event { event, received, wanted_by };
    };
    replay(event, received, &wanted, snapshot)
}

/// An event that names its integration, as a dead letter that was put back does. Any producer can write that
/// header, so it opens no room that the event would not reach without it.
fn replay(event: Arc<Event>, received: Received, wanted: &str, snapshot: &Snapshot) -> Read {
    let refusal = match snapshot.integration(&IntegrationId::new(wanted)) {
        Some(integration) if integration.wants(&event) => {
            return Read::Replay { event, received, integration };
        }
        Some(_) => {
            "which does not want this event (by its kind, team, monitors or filters); change it and replay"
        }
        None => "which does not exist (any more); create it and replay",
    };
    let shown: String = wanted.chars().take(IntegrationId::MAX_LEN).collect();
    let detail = format!(
        "replayed for integration {shown:?}, {refusal}, or remove the header {INTEGRATION_HEADER} to offer the \
         event to all"
    );
    undecidable(received, DeadLetterReason::IntegrationBroken, detail)
}

/// An id for an event whose producer gave none. Said once, as every such event can be told twice after a
/// crash.
fn make_id() -> EventId {
    static SAID: std::sync::Once = std::sync::Once::new();
    SAID.call_once(|| {
        tracing::warn!(
            "an event came without message_id or CloudEvents id; the worker made one. If the broker delivers \
             such an event again it counts as another: let the producer set message_id"
        );
    });
    EventId::new(uuid::Uuid::now_v7().to_string())
}

fn undecidable(received: Received, reason: DeadLetterReason, detail: String) -> Read {
    let event = formats::identity(&received.envelope);
    // A letter that was put back for one integration must not go to all when it is put back again.
    let integration = received
        .envelope
        .header(INTEGRATION_HEADER)
        .filter(|id| IntegrationId::is_valid(id))
        .map(IntegrationId::new);
    let Received { envelope, at } = received;
    Read::Undecidable(Letter {
        id: 0,
        envelope,
        reason,
        detail,
        event,
        integration,
        attempts: 0,
        last_status: None,
        first_attempt_at: None,
        at,
    })
}

/// What the store has to tell before the batch can be decided.
fn query(batch: &[Read]) -> IntakeQuery {
    let mut query = IntakeQuery::default();
    for read in batch {
        let Read::Event { event, wanted_by, .. } = read else { continue };
        if wanted_by.is_empty() {
            continue;
        }
        query.events.push(event.id.clone());
        match &event.subject {
            Subject::Run(run) => query.streaks.extend(wanted_by.iter().map(|i| streak_key(i, run))),
            Subject::Activity(a) => query.collations.extend(wanted_by.iter().map(|i| collation_key(i, a))),
        }
    }
    query
}

/// Decides a batch in order, and says what became of each event. An id that is known, or that came earlier in
/// the batch, changes nothing.
fn decide(batch: Vec<Read>, mut state: IntakeState) -> (IntakeChanges, Vec<EventFate>) {
    let mut changes = IntakeChanges::default();
    let mut fates: Vec<EventFate> = batch.iter().map(Read::fate).collect();
    let mut streaks = HashSet::new();
    let mut collations = HashSet::new();
    for (at, read) in batch.into_iter().enumerate() {
        match read {
            Read::Undecidable(letter) => changes.letters.push(letter),
            Read::Replay { event, received, integration } => {
                let fate = Fate::Retell { story: Story::plain(SendReason::Replayed), ready_at: received.at };
                changes.events.push(decided(
                    &event,
                    received,
                    vec![new_notification(&event, &integration, fate)],
                ));
            }
            Read::Event { event, received, wanted_by } => {
                if wanted_by.is_empty() {
                    continue;
                }
                if !state.known.insert(event.id.clone()) {
                    fates[at] = EventFate::Repeated;
                    continue;
                }
                match &event.subject {
                    Subject::Run(run) => streaks.extend(wanted_by.iter().map(|i| streak_key(i, run))),
                    Subject::Activity(a) => collations.extend(wanted_by.iter().map(|i| collation_key(i, a))),
                }
                let notifications = wanted_by
                    .iter()
                    .map(|i| new_notification(&event, i, state.decide(&event, i, received.at)))
                    .collect();
                changes.events.push(decided(&event, received, notifications));
            }
        }
    }
    changes.streaks =
        streaks.into_iter().filter_map(|k| state.streaks.get(&k).map(|v| (k.clone(), *v))).collect();
    changes.collations =
        collations.into_iter().filter_map(|k| state.collations.get(&k).map(|v| (k.clone(), *v))).collect();
    (changes, fates)
}

fn decided(event: &Event, received: Received, notifications: Vec<NewNotification>) -> DecidedEvent {
    DecidedEvent { id: event.id.clone(), received, notifications }
}

fn new_notification(event: &Event, integration: &Integration, fate: Fate) -> NewNotification {
    let streak = match &event.subject {
        Subject::Run(run) => Some(streak_key(integration, run)),
        Subject::Activity(_) => None,
    };
    NewNotification { integration: integration.id.clone(), room: integration.room.clone(), fate, streak }
}

/// An event and what it becomes for each integration that wants it.
pub struct Simulated {
    pub event: Arc<Event>,
    pub fates: Vec<(Arc<Integration>, Fate)>,
    /// Its id came before, so it changes nothing.
    pub repeated: bool,
}

/// Decides an event without a store: what `simulate` is made of.
///
/// # Errors
/// The dead letter that the event would become.
pub fn simulate_one(
    envelope: Envelope,
    at: Timestamp,
    snapshot: &Snapshot,
    state: &mut IntakeState,
) -> Result<Simulated, Box<Letter>> {
    match read(Received { envelope, at }, snapshot) {
        Read::Undecidable(letter) => Err(Box::new(letter)),
        Read::Replay { event, integration, .. } => {
            let fate = Fate::Retell { story: Story::plain(SendReason::Replayed), ready_at: at };
            Ok(Simulated { event, fates: vec![(integration, fate)], repeated: false })
        }
        Read::Event { event, wanted_by, .. } => {
            let mut fates = Vec::new();
            let repeated = !state.known.insert(event.id.clone());
            if !repeated {
                fates.extend(wanted_by.iter().map(|i| (i.clone(), state.decide(&event, i, at))));
            }
            Ok(Simulated { event, fates, repeated })
        }
    }
}
