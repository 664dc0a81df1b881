//! A batch of deliveries on its way to a decision: each read and matched, then all decided in the order of their
//! arrival. No I/O, so `simulate` decides by the same pieces as the worker.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::domain::envelope::Received;
use crate::domain::event::{Event, Subject};
use crate::domain::headers;
use crate::domain::ids::{EventId, IntegrationId};
use crate::domain::intake::{CollationKey, Fate, IntakeState, StreakKey, collation_key, streak_key};
use crate::domain::integration::Integration;
use crate::domain::reason::{DeadLetterReason, EventFate, SendReason};
use crate::domain::story::Story;
use crate::formats;
use crate::ports::{DecidedEvent, IntakeChanges, IntakeQuery, Letter, NewNotification, StoreError};
use crate::worker::catalogue::Snapshot;

/// One delivery after parsing and matching. Cheap to clone: a batch may be tried more than once.
#[derive(Clone)]
pub enum Read {
    /// Wanted by these integrations, maybe by none.
    Event { event: Arc<Event>, received: Arc<Received>, wanted_by: Vec<Arc<Integration>> },
    /// A dead letter put back for one integration.
    Replay { event: Arc<Event>, received: Arc<Received>, integration: Arc<Integration> },
    /// Goes to the dead-letter queue.
    Undecidable(Arc<Letter>),
}

/// What one delivery becomes for each integration that hears of it.
pub type Fates = Vec<(Arc<Integration>, Fate)>;

impl Read {
    /// Decides it, after all that came before it. An id that is known already changes nothing.
    pub fn decide(&self, state: &mut IntakeState) -> (EventFate, Fates) {
        match self {
            Self::Undecidable(letter) if letter.reason == DeadLetterReason::MalformedEvent => {
                (EventFate::Malformed, Fates::new())
            }
            Self::Undecidable(_) => (EventFate::Undecidable, Fates::new()),
            Self::Replay { event, integration, .. } => {
                state.known.insert(event.id.clone());
                let fate = Fate::Retell { story: Story::plain(SendReason::Replayed) };
                (EventFate::Replayed, vec![(integration.clone(), fate)])
            }
            Self::Event { wanted_by, .. } if wanted_by.is_empty() => (EventFate::Unwanted, Fates::new()),
            Self::Event { event, .. } if !state.known.insert(event.id.clone()) => {
                (EventFate::Repeated, Fates::new())
            }
            Self::Event { event, received, wanted_by } => {
                let fate = |i: &Arc<Integration>| (i.clone(), state.decide(event, i, received.at));
                (EventFate::Taken, wanted_by.iter().map(fate).collect())
            }
        }
    }

    /// The delivery, to be read anew.
    pub fn into_received(self) -> Received {
        match self {
            Self::Event { received, .. } | Self::Replay { received, .. } => Arc::unwrap_or_clone(received),
            Self::Undecidable(letter) => {
                let Letter { envelope, at, .. } = Arc::unwrap_or_clone(letter);
                Received { envelope, at }
            }
        }
    }

    /// How many notifications it makes, if it was not known before.
    fn notifications(&self) -> usize {
        match self {
            Self::Event { wanted_by, .. } => wanted_by.len(),
            Self::Replay { .. } => 1,
            Self::Undecidable(_) => 0,
        }
    }

    /// The dead letter of an event that can't be taken in because of a fault in here.
    pub fn given_up(&self, fault: &StoreError) -> Self {
        let (Self::Event { received, .. } | Self::Replay { received, .. }) = self else {
            return self.clone();
        };
        let detail =
            format!("the worker failed while taking this event in ({fault}); please report it with the body");
        undecidable(Received::clone(received), DeadLetterReason::WorkerFault, detail)
    }
}

/// Parses and matches one delivery. A panic in the parser is this event's fault alone.
pub fn read(received: Received, snapshot: &Snapshot) -> Read {
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
    let Some(wanted) = received.envelope.header(headers::INTEGRATION_ID).map(str::to_owned) else {
        let wanted_by = snapshot.wanting(&event);
        return Read::Event { event, received: Arc::new(received), wanted_by };
    };
    replay(event, received, &wanted, snapshot)
}

/// An event that names its integration, as a dead letter that was put back does. Any producer can write that
/// header, so it opens no room that the event would not reach without it.
fn replay(event: Arc<Event>, received: Received, wanted: &str, snapshot: &Snapshot) -> Read {
    let refusal = match snapshot.integration(&IntegrationId::new(wanted)) {
        Some(integration) if integration.wants(&event) => {
            return Read::Replay { event, received: Arc::new(received), integration };
        }
        Some(_) => {
            "which does not want this event (by its kind, team, monitors or filters); change it and replay"
        }
        None => "which does not exist (any more); create it and replay",
    };
    let shown: String = wanted.chars().take(IntegrationId::MAX_LEN).collect();
    let detail = format!(
        "replayed for integration {shown:?}, {refusal}, or remove the header {} to offer the event to all",
        headers::INTEGRATION_ID
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
        .header(headers::INTEGRATION_ID)
        .filter(|id| IntegrationId::is_valid(id))
        .map(IntegrationId::new);
    let Received { envelope, at } = received;
    Read::Undecidable(Arc::new(Letter {
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
    }))
}

/// Notifications that one transaction writes at most, unless one event alone makes more: a batch of which thousands
/// of integrations want every event would fill the memory and hold up everything else that the store has to do.
const AT_ONCE: usize = 10_000;

/// Cuts a batch into what is decided at once, in its order.
pub fn parts(batch: impl IntoIterator<Item = Read>) -> Vec<Arc<[Read]>> {
    let (mut parts, mut part, mut notifications) = (Vec::new(), Vec::new(), 0);
    for read in batch {
        let more = read.notifications();
        if !part.is_empty() && notifications + more > AT_ONCE {
            parts.push(Arc::from(std::mem::take(&mut part)));
            notifications = 0;
        }
        notifications += more;
        part.push(read);
    }
    if !part.is_empty() {
        parts.push(Arc::from(part));
    }
    parts
}

/// What the store has to tell before the batch can be decided.
pub fn query(batch: &[Read]) -> IntakeQuery {
    let mut query = IntakeQuery::default();
    for read in batch {
        let Read::Event { event, wanted_by, .. } = read else { continue };
        if !wanted_by.is_empty() {
            query.events.push(event.id.clone());
            add_keys(event, wanted_by, &mut query.streaks, &mut query.collations);
        }
    }
    query
}

/// Adds the streaks or the collations that an event may move.
fn add_keys(
    event: &Event,
    wanted_by: &[Arc<Integration>],
    streaks: &mut impl Extend<StreakKey>,
    collations: &mut impl Extend<CollationKey>,
) {
    match &event.subject {
        Subject::Run(run) => streaks.extend(wanted_by.iter().map(|i| streak_key(i, run))),
        Subject::Activity(activity) => {
            collations.extend(wanted_by.iter().map(|i| collation_key(i, activity)));
        }
    }
}

/// Decides a batch in order, and says what became of each event.
pub fn decide(batch: &[Read], mut state: IntakeState) -> (IntakeChanges, Vec<EventFate>) {
    let mut changes = IntakeChanges::default();
    let (mut streaks, mut collations) = (HashSet::new(), HashSet::new());
    let mut event_fates = Vec::with_capacity(batch.len());
    for read in batch {
        let (event_fate, fates) = read.decide(&mut state);
        event_fates.push(event_fate);
        match read {
            Read::Undecidable(letter) => changes.letters.push(letter.clone()),
            Read::Event { event, received, .. } | Read::Replay { event, received, .. }
                if !fates.is_empty() =>
            {
                if let Read::Event { wanted_by, .. } = read {
                    add_keys(event, wanted_by, &mut streaks, &mut collations);
                }
                let notifications =
                    fates.into_iter().map(|(i, fate)| new_notification(event, &i, fate)).collect();
                let (id, received, read) = (event.id.clone(), received.clone(), Some(event.clone()));
                changes.events.push(DecidedEvent { id, received, read, notifications });
            }
            Read::Event { .. } | Read::Replay { .. } => {}
        }
    }
    changes.streaks =
        streaks.into_iter().filter_map(|k| state.streaks.get(&k).map(|v| (k.clone(), *v))).collect();
    changes.collations =
        collations.into_iter().filter_map(|k| state.collations.get(&k).map(|v| (k.clone(), *v))).collect();
    (changes, event_fates)
}

fn new_notification(event: &Event, integration: &Integration, fate: Fate) -> NewNotification {
    let streak = match &event.subject {
        Subject::Run(run) if fate.is_news() => Some(streak_key(integration, run)),
        Subject::Run(_) | Subject::Activity(_) => None,
    };
    NewNotification { integration: integration.id.clone(), room: integration.room.clone(), fate, streak }
}
