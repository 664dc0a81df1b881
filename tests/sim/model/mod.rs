//! A store in memory that owes what every store owes: the conformance suite in `tests/it/store` runs against it
//! as against the real ones. Simulations run on it, since it answers in microseconds and at once.
//!
//! Each call is one transaction: it is done whole when it returns, or not at all. The pure parts that the real
//! stores share (what a decision comes to, when a room is looked at next, how tokens are shared) are theirs.

mod claims;
mod intake;
mod journal;
mod notes;
mod registry;
mod settle;
mod straight;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use hipchat_notifier::adapters::store::terms::WRITE_DOWN_AFTER;
use hipchat_notifier::domain::envelope::Received;
use hipchat_notifier::domain::frequency::Streak;
use hipchat_notifier::domain::ids::{EventId, GatherKey, IntegrationId, RoomKey, TokenKey};
use hipchat_notifier::domain::line::RoomState;
use hipchat_notifier::domain::pacing::{Budget, Meter};
use hipchat_notifier::domain::reason::Outcome;
use hipchat_notifier::domain::story::Story;
use hipchat_notifier::ports::{
    Applied, AtWork, ClaimTerms, CollationKey, Decide, Definition, Gauges, InHand, IntakeQuery,
    IntakeReceipt, Journal, JournalEntry, Letter, ManagedBy, Registry, RoomLine, Settled, Settlement,
    Storage, Store, StoreError, Stored, Straight, StreakKey,
};
use jiff::Timestamp;

/// Promises that the model breaks when it is told to, so that whoever watches it can show that he sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flaws {
    /// A settlement counts whoever holds the room by now.
    pub no_fencing: bool,
    /// A room that is held is handed out to others.
    pub no_leases: bool,
    /// An event that came before is taken in as a new one.
    pub no_dedup: bool,
    /// Lines are handed out with the newest first.
    pub newest_first: bool,
    /// What was spent of a room's budget is not kept.
    pub forgets_budgets: bool,
    /// What was reserved and spent of a token is not kept.
    pub forgets_tokens: bool,
    /// A streak stays as it was.
    pub forgets_streaks: bool,
    /// Lost news leaves the room's belief as it is.
    pub believes_lost_news: bool,
    /// A pause leaves in the line what waits.
    pub pause_keeps_line: bool,
    /// A letter that is handed out leaves the outbox at once.
    pub letters_go_once: bool,
    /// A room is told straight though something waits in it.
    pub passes_lines: bool,
    /// What comes near something that is told straight does not have it written down first.
    pub forgets_what_is_told: bool,
    /// With the outcome of what was told straight, nothing else is written.
    pub outcome_is_all_of_it: bool,
}

/// What a notification is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Its time has not come.
    Gathering,
    Pending,
    /// Its letter is in the outbox.
    Burying,
    Ended(Outcome),
}

impl State {
    fn waits(self) -> bool {
        matches!(self, Self::Gathering | Self::Pending)
    }

    fn is_open(self) -> bool {
        !matches!(self, Self::Ended(_))
    }

    fn is_told(self) -> bool {
        matches!(self, Self::Ended(outcome) if outcome.is_told())
    }
}

#[derive(Debug, Clone)]
struct Note {
    event: EventId,
    integration: IntegrationId,
    room: RoomKey,
    state: State,
    reason: String,
    detail: String,
    story: Story,
    gather: Option<GatherKey>,
    ready_at: Timestamp,
    streak: Option<StreakKey>,
    attempts: u32,
    first_attempt_at: Option<Timestamp>,
    last_status: Option<u16>,
    plain: bool,
    received_at: Timestamp,
    decided_at: Timestamp,
    sent_at: Option<Timestamp>,
}

#[derive(Debug, Default)]
struct Room {
    due_at: Option<i64>,
    hold_until: Option<i64>,
    fresh_at: Option<i64>,
    claim: u64,
    lease_until: Option<i64>,
    lease: i64,
    revision: u64,
    state: RoomState,
}

#[derive(Debug, Default, Clone)]
struct Throttled {
    meter: Option<Meter>,
    closed_until: Option<i64>,
}

#[derive(Debug, Clone, Copy, Default)]
struct KeptStreak {
    streak: Streak,
    touched: Option<i64>,
    news: i64,
}

struct KeptIntegration {
    definition: Definition,
    suspended: Option<String>,
    managed_by: ManagedBy,
    url_revision: u64,
}

struct KeptLetter {
    seq: Option<i64>,
    letter: Letter,
}

/// The event while a notification needs it, and how many do.
struct Event {
    received: Arc<Received>,
    open: usize,
}

/// All that is durable.
#[derive(Default)]
struct Tables {
    flaws: Flaws,
    last_seq: i64,
    last_written: i64,
    last_letter: i64,
    revision: u64,
    clock: i64,
    notes: BTreeMap<i64, Note>,
    by_event: HashMap<EventId, BTreeMap<IntegrationId, i64>>,
    /// Those that wait, by room.
    lines: BTreeMap<RoomKey, BTreeSet<i64>>,
    events: HashMap<EventId, Event>,
    rooms: BTreeMap<RoomKey, Room>,
    tokens: BTreeMap<TokenKey, (Meter, Budget)>,
    reservations: BTreeMap<(TokenKey, RoomKey), u32>,
    throttles: BTreeMap<IntegrationId, Throttled>,
    streaks: BTreeMap<(IntegrationId, String, String), KeptStreak>,
    collations: BTreeMap<(IntegrationId, String), Timestamp>,
    letters: BTreeMap<i64, KeptLetter>,
    integrations: BTreeMap<IntegrationId, KeptIntegration>,
    /// What is told and not written yet: all that is not durable.
    in_flight: BTreeMap<RoomKey, straight::Entry>,
}

fn key_of(streak: &StreakKey) -> (IntegrationId, String, String) {
    (streak.integration.clone(), streak.monitor_uid.to_string(), streak.region.to_string())
}

fn key_of_collation(collation: &CollationKey) -> (IntegrationId, String) {
    (collation.integration.clone(), collation.of.clone())
}

fn refused<T>(sentence: String) -> Result<T, StoreError> {
    Err(StoreError::Refused(sentence))
}

/// The store in memory.
pub struct ModelStore {
    tables: Mutex<Tables>,
    /// Others use it too: what is handed out is written down first.
    shared: bool,
    /// Batches of which something is handed out and not durable.
    in_hand: Mutex<HashMap<InHand, Arc<tokio::sync::Mutex<straight::HandedOut>>>>,
    batches: AtomicU64,
}

impl ModelStore {
    /// An empty one, which keeps its promises but for `flaws`. One that is `shared` is not one process's alone.
    pub fn new(flaws: Flaws, shared: bool) -> Self {
        let tables = Mutex::new(Tables { flaws, ..Tables::default() });
        Self { tables, shared, in_hand: Mutex::default(), batches: AtomicU64::default() }
    }

    /// What the only worker of a store does at its start: the claims of an earlier one are void.
    /// What was told and not written went with it.
    pub fn void_claims(&self) {
        let mut tables = self.tables();
        tables.in_flight.clear();
        tables.last_seq = tables.last_written;
        for room in tables.rooms.values_mut().filter(|room| room.lease_until.is_some()) {
            room.claim += 1;
            (room.lease_until, room.due_at) = (Some(0), Some(0));
        }
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        // A decision that panics does so before anything is written.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn in_hand(&self) -> MutexGuard<'_, HashMap<InHand, Arc<tokio::sync::Mutex<straight::HandedOut>>>> {
        self.in_hand.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(
        &self,
        query: &IntakeQuery,
        decide: Decide,
        straight: Option<&Straight>,
    ) -> Result<IntakeReceipt, StoreError> {
        let mut tables = self.tables();
        tables.before_decision(query);
        let state = tables.gather(query);
        let Ok(changes) = catch_unwind(AssertUnwindSafe(|| decide(state))) else {
            return Err(StoreError::Corrupt("a decision panicked inside the store".to_owned()));
        };
        tables.before_writing(&changes);
        let places = tables.places(&changes.events);
        let handed = straight.map(|straight| tables.hand_out(&changes, &places, straight));
        let receipt = tables.take_in(&changes, &places, handed.as_ref());
        if let Some(handed) = handed.as_ref().filter(|_| self.shared) {
            tables.write_down_slow(&handed.seqs);
            return Ok(receipt);
        }
        let in_hand = handed.filter(|handed| !handed.seqs.is_empty()).map(|handed| {
            let batch = self.batches.fetch_add(1, Ordering::Relaxed);
            let batch = InHand { batch, notifications: handed.seqs.len() };
            self.in_hand().insert(batch, Arc::new(tokio::sync::Mutex::new(handed)));
            batch
        });
        Ok(IntakeReceipt { in_hand, ..receipt })
    }
}

#[async_trait]
impl Store for ModelStore {
    async fn take_in(&self, query: IntakeQuery, decide: Decide) -> Result<IntakeReceipt, StoreError> {
        self.take(&query, decide, None)
    }

    async fn take_in_telling(
        &self,
        query: IntakeQuery,
        decide: Decide,
        straight: Straight,
    ) -> Result<IntakeReceipt, StoreError> {
        self.take(&query, decide, Some(&straight))
    }

    async fn written(&self, batch: InHand) -> Result<(), StoreError> {
        let Some(handed) = self.in_hand().get(&batch).cloned() else { return Ok(()) };
        let mut handed = handed.lock().await;
        if tokio::time::timeout(WRITE_DOWN_AFTER, handed.ended.recv()).await.is_err() {
            self.tables().write_down_slow(&handed.seqs);
        }
        self.in_hand().remove(&batch);
        Ok(())
    }

    async fn claim_others(
        &self,
        terms: ClaimTerms,
        at_work: AtWork,
        now: Timestamp,
    ) -> Result<Vec<RoomLine>, StoreError> {
        Ok(self.tables().claim_rooms(&terms, &*at_work, now))
    }

    async fn next_due(&self) -> Result<Option<Timestamp>, StoreError> {
        Ok(self.tables().next_due())
    }

    async fn settle(&self, settlement: Settlement) -> Result<Settled, StoreError> {
        Ok(self.tables().settle(&settlement))
    }

    async fn letters(&self, limit: usize) -> Result<Vec<Letter>, StoreError> {
        Ok(self.tables().letters(limit))
    }

    async fn buried(&self, letters: &[i64], at: Timestamp) -> Result<(), StoreError> {
        self.tables().buried(letters, at);
        Ok(())
    }

    async fn forget(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        Ok(self.tables().forget(before, limit))
    }

    async fn forget_streaks(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        Ok(self.tables().forget_streaks(before, limit))
    }

    async fn gauges(&self, now: Timestamp) -> Result<Gauges, StoreError> {
        Ok(self.tables().gauges(now))
    }
}

#[async_trait]
impl Storage for ModelStore {
    async fn look_again(&self, now: Timestamp) -> Result<(), StoreError> {
        self.tables().look_again_at_all(now);
        Ok(())
    }

    async fn workers(&self) -> Result<Vec<String>, StoreError> {
        Ok(Vec::new())
    }
}

#[async_trait]
impl Journal for ModelStore {
    async fn explain(&self, event: &EventId) -> Result<Vec<JournalEntry>, StoreError> {
        Ok(self.tables().explain(event))
    }

    async fn dead_lettered(&self, integration: &IntegrationId) -> Result<u64, StoreError> {
        Ok(self.tables().dead_lettered(integration))
    }
}

#[async_trait]
impl Registry for ModelStore {
    async fn revision(&self) -> Result<u64, StoreError> {
        Ok(self.tables().revision)
    }

    async fn list(&self) -> Result<Vec<Stored>, StoreError> {
        Ok(self.tables().list())
    }

    async fn apply(
        &self,
        definitions: Vec<Definition>,
        by: ManagedBy,
        now: Timestamp,
    ) -> Result<Applied, StoreError> {
        self.tables().apply(definitions, by, now)
    }

    async fn release(&self) -> Result<Vec<IntegrationId>, StoreError> {
        Ok(self.tables().release())
    }

    async fn remove(&self, id: &IntegrationId, now: Timestamp) -> Result<(), StoreError> {
        self.tables().remove(id, now)
    }

    async fn pause(&self, id: &IntegrationId, now: Timestamp) -> Result<(), StoreError> {
        self.tables().pause(id, now)
    }

    async fn resume(&self, id: &IntegrationId) -> Result<(), StoreError> {
        self.tables().resume(id)
    }
}
