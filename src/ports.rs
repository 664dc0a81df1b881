//! The seams between the worker and the world: few, small traits, named by role.
//!
//! `adapters` implements them, `worker` uses them, `app` joins the two. Everything that crosses a seam is a
//! domain value; no seam knows SQL, AMQP or HTTP.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use secrecy::SecretString;
use url::Url;

pub use crate::domain::answer::{Answer, AnswerClass};
pub use crate::domain::changes::Changes;
use crate::domain::envelope::{Envelope, Received};
use crate::domain::event::Event;
use crate::domain::frequency::Streak;
use crate::domain::ids::{EventId, IntegrationId, RoomKey, TokenKey};
pub use crate::domain::intake::{CollationKey, Fate, IntakeState, StreakKey};
pub use crate::domain::line::{Retry, RoomLine, RoomState, TokenCalls, TokenGrant, Transition, Waiting};
use crate::domain::message::RoomMessage;
use crate::domain::pacing::{Budget, Meter};
use crate::domain::reason::{DeadLetterReason, Outcome, SuppressReason};
use crate::domain::waits::Whereabouts;

/// Wall time. Only `adapters::clock` reads it, so tests and simulations can stop it.
pub trait Clock: Send + Sync {
    /// Now, in UTC.
    fn now(&self) -> Timestamp;
}

/// What went wrong with the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Trying again may help: busy, disk full, out of reach. The sentence says what to do.
    #[error("{0}")]
    Unavailable(String),
    /// Trying again does not help: no such integration, refused by a rule. A sentence for the person who asked.
    #[error("{0}")]
    Refused(String),
    /// The store holds something that it should not, or this program has a fault.
    #[error("{0}")]
    Corrupt(String),
}

/// A part that must be well for the worker to be ready.
#[async_trait]
pub trait Readiness: Send + Sync {
    /// `Err` with a line that says what is wrong and since when.
    async fn ready(&self) -> Result<(), String>;
}

/// A batch that is decided.
pub struct Decided {
    /// Notifications of it that are told just now and not written yet: the batch is as slow as the slowest of them.
    pub in_hand: usize,
    pub durable: Durable,
}

/// What is left to wait for of a batch that is decided: it ends when the whole batch is durable.
pub type Durable = Pin<Box<dyn Future<Output = Result<(), Undurable>> + Send>>;

/// Nobody knows what of a batch is written, and nobody will: it must come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("nobody knows what of a batch is written")]
pub struct Undurable;

/// Where deliveries go: the worker's intake.
#[async_trait]
pub trait TakeIn: Send + Sync {
    /// Takes one batch in. When this returns the batch is decided; when [`Decided::durable`] has ended the batch is
    /// durable, and may be acknowledged, unless it has ended with [`Undurable`]. Both keep trying until then, so there is
    /// no other error. Whoever drops either before has given the batch up: it is not tried any more, and each of its events is whole in the store or not
    /// at all, or is told just now. Batches are decided in the order in which they are first polled, however many
    /// there are at once.
    async fn take_in(&self, batch: Vec<Received>) -> Decided;

    /// Waits until it is able to make a batch durable, for whoever has given one up.
    async fn able(&self);
}

// ---------------------------------------------------------------------------------------------- intake

/// What one batch of events needs to know before it can be decided.
#[derive(Debug, Clone, Default)]
pub struct IntakeQuery {
    /// Ids whose being known already matters.
    pub events: Vec<EventId>,
    pub streaks: Vec<StreakKey>,
    pub collations: Vec<CollationKey>,
}

/// What one batch changes, written in one transaction.
#[derive(Debug, Clone, Default)]
pub struct IntakeChanges {
    /// Events with at least one notification, in the order of their arrival.
    pub events: Vec<DecidedEvent>,
    pub streaks: Vec<(StreakKey, Streak)>,
    pub collations: Vec<(CollationKey, Timestamp)>,
    /// Events that can't be decided and go to the dead-letter queue whole.
    pub letters: Vec<Arc<Letter>>,
}

/// An event and what it became for each integration that wants it.
#[derive(Debug, Clone)]
pub struct DecidedEvent {
    pub id: EventId,
    /// Kept only while a notification of it is pending.
    pub received: Arc<Received>,
    /// The same, read, for who tells it at once.
    pub read: Option<Arc<Event>>,
    pub notifications: Vec<NewNotification>,
}

/// One event as one integration's room should hear it, or not.
#[derive(Debug, Clone)]
pub struct NewNotification {
    pub integration: IntegrationId,
    pub room: RoomKey,
    pub fate: Fate,
    /// The streak whose news it is, for a monitor's run. If the notification ends without being told, whenever
    /// and for whatever reason, the same transaction makes that streak's belief `Unsure`, unless later news of
    /// the streak is told or waits to be told: then the room knows, or will know, better.
    pub streak: Option<StreakKey>,
}

/// Decides a batch from what the store knows. Pure; called once inside the store's transaction.
pub type Decide = Box<dyn FnOnce(IntakeState) -> IntakeChanges + Send>;

/// What was committed.
#[derive(Debug, Clone, Default)]
pub struct IntakeReceipt {
    /// Notifications that this batch made pending, but for those in rooms that it handed out.
    pub pending: usize,
    /// Counts by outcome for those that ended at once (suppressed), by reason.
    pub suppressed: HashMap<SuppressReason, usize>,
    /// Letters handed to the outbox.
    pub letters: usize,
    /// What of the batch is handed out and not durable yet; [`Store::written`] waits for it.
    pub in_hand: Option<InHand>,
}

/// A batch of which some is told before it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct InHand {
    /// The batch's number in this process.
    pub batch: u64,
    /// So many.
    pub notifications: usize,
}

/// Who tells rooms straight from intake, and by which terms.
#[derive(Clone)]
pub struct Straight {
    /// Of these `rooms`, `retries` and `line` play no part.
    pub terms: ClaimTerms,
    pub now: Timestamp,
    /// Rooms at most.
    pub most: usize,
    /// Whether a room may be told straight, since its server answers at once: a batch may have to wait for it.
    pub is_quick: Arc<dyn Fn(&RoomKey) -> bool + Send + Sync>,
    /// Takes a held room with one notification, to be told and settled as any other. May be called inside the store's
    /// transaction, so it must be quick.
    pub hand: Arc<dyn Fn(RoomLine) + Send + Sync>,
}

// ---------------------------------------------------------------------------------------------- dispatch

/// The result of one step on a held room: named transitions, and the room's new state. Applied in one
/// transaction, or not at all.
#[derive(Debug, Clone)]
pub struct Settlement {
    pub room: RoomKey,
    pub claim: u64,
    pub transitions: Vec<Transition>,
    pub state: RoomState,
    /// Calls made, by token, with the corrections that the answer's headers ask for.
    pub calls: Vec<TokenCalls>,
    pub throttles: Vec<(IntegrationId, Meter)>,
    /// Integrations whose own throttle lets nothing out before then: what waits for them is left out of their
    /// room's line until that time, or until the integration is changed, so that others' get to its head.
    pub closed: Vec<(IntegrationId, Timestamp)>,
    pub then: Then,
    pub now: Timestamp,
}

/// What happens to the room after a settlement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Keep it: the holder goes on with what it has. The lease counts from the settlement's `now`.
    Hold,
    /// Give it back; look at it again at `due`, at once if something that the holder has not seen gets ready
    /// before, or (`None`) when something new arrives for it. "At once" is not before a retry's time or a
    /// server's block in the settled state: nothing could go out. With `None`, or where the settlement closes
    /// integrations, a room whose line still has ready ones (of others) is due at once; a room with nothing
    /// ready waits for what gathers or is closed, whatever `due` says.
    Release { due: Option<Timestamp> },
    /// Give it back; nothing can go out to this room before `until`, whatever arrives (the room's own budget
    /// is used up). Unlike after `Release`, arrivals don't bring the time forward.
    Rest { until: Timestamp },
}

/// The worker's settings that the store needs for claims.
#[derive(Debug, Clone, Copy)]
pub struct ClaimTerms {
    /// Rooms at most of those whose last attempt did not fail.
    pub rooms: usize,
    /// Rooms at most that are to be retried. They come on top, so that no others wait behind them.
    pub retries: usize,
    /// Notifications at most in one room's line.
    pub line: usize,
    /// After this without a settlement the room may be claimed by another.
    pub lease: std::time::Duration,
    pub token_budget: Budget,
    /// What a room may be told bounds what is reserved of its token.
    pub room_budget: Budget,
}

/// Whether this process works on a room. Called inside the store's transaction, so it must be quick.
pub type AtWork = Arc<dyn Fn(&RoomKey) -> bool + Send + Sync>;

/// What became of a settlement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    Applied,
    /// Applied, and the room was given back and is at rest: nothing waits in it.
    AtRest,
    /// The claim had lapsed and another has claimed the room since, or the room was given back: nothing was
    /// changed. A lapsed claim that nobody has followed still holds. Whoever gets this must not post
    /// on that room any more.
    LostClaim,
}

// ---------------------------------------------------------------------------------------------- letters

/// An event on its way to the dead-letter queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// Its place in the outbox; 0 until stored.
    pub id: i64,
    pub envelope: Envelope,
    pub reason: DeadLetterReason,
    /// A sentence a person can act on; no secret in it.
    pub detail: String,
    pub event: Option<EventId>,
    pub integration: Option<IntegrationId>,
    pub attempts: u32,
    pub last_status: Option<u16>,
    pub first_attempt_at: Option<Timestamp>,
    pub at: Timestamp,
}

/// Puts letters into the dead-letter queue.
#[async_trait]
pub trait LetterBox: Send + Sync {
    /// Publishes all and returns when the broker has confirmed all, or with those that it has confirmed and what
    /// went wrong. The caller tries the others again later. Some of them may be in the queue although their
    /// confirm was lost, so a letter can be there twice but is never lost.
    async fn bury(&self, letters: &[Letter]) -> Buried;

    /// Gives back what it holds open, in bounded time. It can be used again.
    async fn close(&self);
}

/// What became of letters that were to be buried.
#[derive(Debug, Default)]
pub struct Buried {
    /// The ids of those that the dead-letter queue has for certain.
    pub confirmed: Vec<i64>,
    /// Why it has not all of them; `None` if it has.
    pub failed: Option<BrokerError>,
}

/// The broker did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// Not there, gone in the middle, or silent. Trying again may help.
    #[error("{0}")]
    Unavailable(String),
    /// What stands on the broker differs from what the worker needs, or it refuses the login. Exit code 78.
    #[error("{0}")]
    Misconfigured(String),
}

// ---------------------------------------------------------------------------------------------- store

/// Where streaks, lines, pacing and outcomes live. The conformance suite in `tests/it/store` says exactly
/// what an implementation owes. Times are kept to the microsecond.
#[async_trait]
pub trait Store: Send + Sync {
    /// Takes in one batch: gathers what `query` asks for, calls `decide`, writes what it returns; all in one
    /// transaction. When this returns, the batch is durable and may be acknowledged.
    async fn take_in(&self, query: IntakeQuery, decide: Decide) -> Result<IntakeReceipt, StoreError>;

    /// As [`Store::take_in`], but a notification may be handed to `straight`, as a held room: if its room is idle and
    /// within its budgets, if it is all that becomes of its event, and if nothing else of the batch is for that room or
    /// that integration. It is told and settled as any other, without a claim of its room. By default none is.
    ///
    /// A store that other workers use too writes it down first, as pending and its room as held. One that is this
    /// process's alone need not: then its outcome is the only write, and comes with what else the event changes. What the
    /// receipt says is durable but for that: the event must not be acknowledged before [`Store::written`] returns, and if
    /// the worker dies it comes again, as if it had never been taken in. Whatever else touches the event, its room or its
    /// integration meanwhile has it written down first; so order, once-ness and decisions are those of `take_in`.
    async fn take_in_telling(
        &self,
        query: IntakeQuery,
        decide: Decide,
        straight: Straight,
    ) -> Result<IntakeReceipt, StoreError> {
        let _ = straight;
        self.take_in(query, decide).await
    }

    /// Returns when all of a batch that was handed out is durable: settled, or written down because its room takes
    /// long to answer. Can be asked again after an error, or when somebody has stopped waiting for the answer.
    async fn written(&self, batch: InHand) -> Result<(), StoreError> {
        let _ = batch;
        Ok(())
    }

    /// Claims rooms that are due at `now`, longest due first; those to be retried come last, in places of their
    /// own. A room whose lease has lapsed is due since then.
    /// One in which nothing ready waits is not handed out. If `now` is far before what was claimed by last, the
    /// clock was set back, and every wait moves with it. A notification that can't be read is given up
    /// (`worker-fault`) and holds up no other.
    async fn claim_rooms(&self, terms: ClaimTerms, now: Timestamp) -> Result<Vec<RoomLine>, StoreError> {
        self.claim_others(terms, Arc::new(|_| false), now).await
    }

    /// As [`Store::claim_rooms`], but rooms that are `at_work` are passed over, whatever their leases say. A lease
    /// lapses by a wall clock, which may be set anyhow while this process is frozen in the middle of a claim; that it
    /// works on a room itself is certain.
    async fn claim_others(
        &self,
        terms: ClaimTerms,
        at_work: AtWork,
        now: Timestamp,
    ) -> Result<Vec<RoomLine>, StoreError>;

    /// When the next room gets due, if any waits. One that is held is due when its lease lapses.
    async fn next_due(&self) -> Result<Option<Timestamp>, StoreError>;

    /// Applies the result of a step on a held room.
    async fn settle(&self, settlement: Settlement) -> Result<Settled, StoreError>;

    /// Letters not yet confirmed by the broker, oldest first: at most `limit`, less where they are large, but
    /// never none. One that is damaged is handed out as far as it can be read.
    async fn letters(&self, limit: usize) -> Result<Vec<Letter>, StoreError>;

    /// The broker has confirmed these: their notifications end as dead-lettered.
    async fn buried(&self, letters: &[i64], at: Timestamp) -> Result<(), StoreError>;

    /// Forgets outcomes decided and collations ended before `before`, at most `limit` of each. Returns how many
    /// outcomes it forgot; less than `limit` means that it is done. What is pending is never forgotten.
    async fn forget(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError>;

    /// Forgets streaks that no run has come for since `before`, give or take a day: `limit` at most. Returns how
    /// many. A streak goes at once with its integration.
    async fn forget_streaks(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError>;

    /// Figures for the gauges.
    async fn gauges(&self, now: Timestamp) -> Result<Gauges, StoreError>;
}

/// What one process has made for others to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hint {
    /// Rooms that may be due.
    Rooms,
    /// Letters to be buried.
    Letters,
    /// Integrations that are not what they were.
    Integrations,
}

/// All that a store is.
#[async_trait]
pub trait Storage: Store + Journal + Registry {
    /// Hears of what other processes make to do, and keeps what this process knows of the store right, for as long
    /// as this is polled. Hints may be lost: whoever waits for one looks now and then all the same.
    async fn attend(&self, hear: &(dyn Fn(Hint) + Send + Sync)) {
        // A store with one worker has nobody else to hear of.
        let _ = hear;
        std::future::pending().await
    }

    /// Looks at rooms again that rest for a budget: when a worker begins, the budgets may be others than those that
    /// sent them to rest. One that waits for a retry goes on waiting.
    async fn look_again(&self, now: Timestamp) -> Result<(), StoreError>;

    /// The workers that run on it now, each as people would call it.
    async fn workers(&self) -> Result<Vec<String>, StoreError>;
}

/// What the store can say of its load.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Gauges {
    /// With those whose dead letter is not confirmed yet.
    pub pending: u64,
    /// How long the notification that is longest past its due time has been so; 0 when none is.
    pub oldest_due_seconds: f64,
    pub letters: u64,
}

/// One line of `explain`.
#[derive(Debug, Clone, PartialEq)]
pub struct JournalEntry {
    pub event: EventId,
    pub received_at: Timestamp,
    pub integration: IntegrationId,
    pub outcome: Outcome,
    /// The stable reason string of the outcome. While pending: why it is told, or `dead-lettering`.
    pub reason: String,
    /// While pending, what the latest failed attempt got.
    pub detail: String,
    /// While pending, where it is.
    pub whereabouts: Option<Whereabouts>,
    pub decided_at: Timestamp,
    pub sent_at: Option<Timestamp>,
    pub attempts: u32,
}

/// What became of events.
#[async_trait]
pub trait Journal: Send + Sync {
    /// All notifications of one event, in the order of their integrations' ids; empty if it is not known.
    async fn explain(&self, event: &EventId) -> Result<Vec<JournalEntry>, StoreError>;

    /// How many notifications of one integration the journal has as dead-lettered, or on their way there. One
    /// that was replayed is none of them any more; one that was discarded still is.
    async fn dead_lettered(&self, integration: &IntegrationId) -> Result<u64, StoreError>;
}

// ---------------------------------------------------------------------------------------------- integrations

/// Where messages for an integration are posted. Holds the secret.
#[derive(Clone)]
pub struct RoomTarget {
    pub room: RoomKey,
    /// The notification endpoint, without the token.
    pub endpoint: Url,
    pub token: SecretString,
}

impl std::fmt::Debug for RoomTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RoomTarget").field("room", &self.room).finish_non_exhaustive()
    }
}

/// Who manages an integration's definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ManagedBy {
    /// `integrations.file`: only that file changes it.
    File,
    /// `integrations apply` and the like.
    Operator,
}

/// An integration to be stored: its text form and its secret.
#[derive(Debug, Clone)]
pub struct Definition {
    pub id: IntegrationId,
    /// The definition as JSON, without the room URL; `formats::integrations` reads and writes it.
    pub json: String,
    /// The room URL with the token, as it was given.
    pub room_url: SecretString,
    pub room: RoomKey,
    pub token: TokenKey,
    pub paused: bool,
}

/// An integration as it is stored.
#[derive(Debug, Clone)]
pub struct Stored {
    pub definition: Definition,
    pub managed_by: ManagedBy,
    pub state: crate::domain::integration::IntegrationState,
    /// How many of its notifications are pending. Filled by `list` alone for certain.
    pub pending: u64,
    /// Why its room URL can't be read. `definition.room_url` is empty then and names no room; the state is
    /// suspended for this reason, unless it is paused.
    pub unreadable: Option<String>,
}

/// What `apply` did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Applied {
    pub changes: Changes,
    pub unchanged: usize,
    /// Of the changed ones, those that an operator managed and the file manages from now on.
    pub taken_over: Vec<IntegrationId>,
}

/// Is given integrations one after another.
pub type Each = Box<dyn FnMut(Stored) + Send>;

/// The integrations and their states. All changes raise the revision, which workers watch.
#[async_trait]
pub trait Registry: Send + Sync {
    /// Grows with every change, also those made by other processes.
    async fn revision(&self) -> Result<u64, StoreError>;

    /// All integrations, by id, with how much waits for each. `Refused` if there are some and no room URL of theirs
    /// can be decrypted: the key is another one, and going on with it would silence them all.
    async fn list(&self) -> Result<Vec<Stored>, StoreError>;

    /// Hands the same to `each`, one after another and as they were at one moment, so that all of them need never be
    /// held at once: for who reads them at every change. What waits may be left uncounted (`pending` is 0 then), and
    /// what was handed out before an error is to be dropped.
    async fn integrations(&self, mut each: Each) -> Result<(), StoreError> {
        self.list().await?.into_iter().for_each(&mut each);
        Ok(())
    }

    /// Stores `definitions` in one transaction. `File`: what the file held before and holds no more is
    /// removed. `Operator`: others are left alone, and an id that the file manages is `Refused`. An
    /// integration whose room URL changes, or could not be read, is no longer suspended; one that can't be read
    /// because the key is another is `Refused`. `paused` follows the definition. Pending
    /// notifications of one that is removed or newly paused end as suppressed (`integration-removed`,
    /// `integration-paused`); of one whose room changed, they move to the new room's line. Where a pause or a
    /// suspension ends by this, or the room is another, streaks are told anew as after `resume`. The file may take
    /// over an operator's integration. What changes nothing does not raise the revision. A room that rests is
    /// looked at again when an integration of its line is paused, removed or gets another room URL, since it may
    /// have rested for that one.
    async fn apply(
        &self,
        definitions: Vec<Definition>,
        by: ManagedBy,
        now: Timestamp,
    ) -> Result<Applied, StoreError>;

    /// There is no integrations file: what one managed before is operators' from now on, and else as it was. Returns
    /// which, by id.
    async fn release(&self) -> Result<Vec<IntegrationId>, StoreError>;

    /// Removes one that no file manages; its pending notifications end as suppressed.
    async fn remove(&self, id: &IntegrationId, now: Timestamp) -> Result<(), StoreError>;

    /// Pauses one that no file manages; its pending notifications end as suppressed.
    async fn pause(&self, id: &IntegrationId, now: Timestamp) -> Result<(), StoreError>;

    /// Lifts a pause (unless a file manages it) or a suspension. Streaks that are failing, and were told to be,
    /// will be told anew, since the room may not know of them any more.
    async fn resume(&self, id: &IntegrationId) -> Result<(), StoreError>;
}

// ---------------------------------------------------------------------------------------------- room

/// Posts to rooms.
#[async_trait]
pub trait RoomGateway: Send + Sync {
    /// One HTTP call, classified. Never an error: whatever happens is an answer.
    async fn post(&self, target: &RoomTarget, message: &RoomMessage) -> Answer;
}
