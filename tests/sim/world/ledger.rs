//! What every commit means, reckoned beside the store: which notifications there are and how they end, what each room
//! believes, who holds which room. Whatever the worker or the store does otherwise is a fault, told at once.

mod decisions;
mod endings;
mod entries;
mod flights;
mod integrations;
mod rooms;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use hipchat_notifier::domain::ids::{EventId, IntegrationId, RoomKey};
use jiff::Timestamp;

use super::broker::Means;
use super::plan::Plan;
use super::rulebook::{Believes, History, Verdict};
use super::wishes::Wish;

use self::decisions::{Departed, differs};
use self::flights::Flight;
pub use self::flights::Handed;
pub use self::integrations::{Kept, Registry, wants};
use self::rooms::Holder;

/// One event for one integration.
pub type Pair = (EventId, IntegrationId);
/// What is wrong, in sentences.
pub type Faults = Vec<String>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    Waits,
    /// Given up for this reason; its letter is in the outbox.
    Burying(String),
    Ended {
        outcome: &'static str,
        reason: String,
    },
}

/// One event as one integration's room should hear it.
#[derive(Debug, Clone)]
pub struct Note {
    pub order: u64,
    pub state: State,
    room: RoomKey,
    streak: Option<StreakKey>,
    seq: Option<i64>,
    letter: Option<i64>,
    reason: String,
    ready_at: Timestamp,
    gather: Option<String>,
}

type StreakKey = (IntegrationId, &'static str, &'static str);
type RepeatsKey = (IntegrationId, &'static str, &'static str);

/// Which notifications of a room go in one order.
type Line = (RoomKey, Option<IntegrationId>, Option<String>);

/// The reckoning.
pub struct Ledger {
    plan: Plan,
    pub events: BTreeMap<String, (usize, Means)>,
    registry: Registry,
    revision: u64,
    /// Integrations that were changed on the way.
    pub touched: BTreeSet<IntegrationId>,
    snapshots: HashMap<usize, Registry>,
    /// The integrations that a life's batch in hand is decided by.
    batch: HashMap<usize, Registry>,
    pub notes: BTreeMap<Pair, Note>,
    known: BTreeSet<EventId>,
    seqs: HashMap<i64, Pair>,
    letters: HashMap<i64, Pair>,
    /// Letters that must be filed, by event, integration and reason.
    pub owed: BTreeMap<(Option<String>, Option<String>, String), u64>,
    histories: BTreeMap<StreakKey, History>,
    repeats: BTreeMap<RepeatsKey, Option<i64>>,
    departed: Departed,
    /// How often each integration was moved to another room.
    pub moves: BTreeMap<IntegrationId, usize>,
    holders: BTreeMap<RoomKey, Holder>,
    told: BTreeMap<Line, (i64, EventId)>,
    order: u64,
    /// The latest claim of each life and room.
    claims: BTreeMap<(usize, RoomKey), u64>,
    /// What is told straight from intake and not written.
    flights: BTreeMap<Pair, Flight>,
    /// How often a call of the store was held up, or a worker.
    pub disturbed: u64,
    /// Claims that ended by the clock's doing alone, in a store that several workers share.
    robbed: BTreeSet<(RoomKey, u64)>,
    /// Events that could not be taken in. If one is published once more, it comes after what came meanwhile.
    given_up: BTreeSet<EventId>,
    /// The latest event that each integration was taken one in for.
    latest_event: BTreeMap<IntegrationId, usize>,
    pub jumped: bool,
}

impl Ledger {
    pub fn new(plan: &Plan) -> Self {
        Self {
            plan: plan.clone(),
            events: BTreeMap::new(),
            registry: Registry::default(),
            revision: 0,
            touched: BTreeSet::new(),
            snapshots: HashMap::new(),
            batch: HashMap::new(),
            notes: BTreeMap::new(),
            known: BTreeSet::new(),
            seqs: HashMap::new(),
            letters: HashMap::new(),
            owed: BTreeMap::new(),
            histories: BTreeMap::new(),
            repeats: BTreeMap::new(),
            departed: Departed::default(),
            moves: BTreeMap::new(),
            holders: BTreeMap::new(),
            told: BTreeMap::new(),
            order: 0,
            claims: BTreeMap::new(),
            flights: BTreeMap::new(),
            disturbed: 0,
            robbed: BTreeSet::new(),
            given_up: BTreeSet::new(),
            latest_event: BTreeMap::new(),
            jumped: false,
        }
    }

    pub fn published(&mut self, id: &str, means: Means) {
        let n = self.events.len();
        self.events.insert(id.to_owned(), (n, means));
    }

    pub fn clock_jumped(&mut self) {
        self.jumped = true;
    }
}
