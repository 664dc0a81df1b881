//! Held rooms on their way from intake to dispatch: what is told straight, before it is written down.
//!
//! Only rooms whose server answered at once the last time are told so. The next batch does not wait for them, but it is
//! acknowledged after this one: a server that takes its time would hold up all acknowledgements, and in the end what the
//! broker delivers. Where it does, what goes through the store is quick enough.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::domain::ids::RoomKey;
use crate::domain::line::RoomLine;
use crate::ports::{ClaimTerms, Clock, Straight};
use crate::worker::moment::Moment;
use crate::worker::room::Held;
use crate::worker::wake::Bell;

/// A room that answers within this is quick.
const QUICK: Duration = Duration::from_millis(25);

/// Where intake puts rooms and dispatch takes them.
pub struct Handover {
    held: Mutex<VecDeque<Held>>,
    /// Rooms that took their last message, and at once.
    quick: Mutex<HashSet<RoomKey>>,
    terms: ClaimTerms,
    clock: Arc<dyn Clock>,
    /// Rung when a room was put here, or a place got free: for one of these, or for one that waits in the store.
    pub bell: Bell,
}

impl Handover {
    /// An empty one, for rooms that are held by `terms`.
    pub fn new(terms: ClaimTerms, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            held: Mutex::default(),
            quick: Mutex::default(),
            terms,
            clock,
            bell: Bell::default(),
        })
    }

    /// What a store needs to hand rooms over.
    pub fn straight(self: &Arc<Self>) -> Straight {
        let (by, to, now) = (self.clone(), self.clone(), Moment::now(&*self.clock));
        Straight {
            terms: self.terms,
            now: now.wall,
            is_quick: Arc::new(move |room| lock(&by.quick).contains(room)),
            hand: Arc::new(move |line| to.put(Held { line, since: now })),
        }
    }

    /// A room's server has answered; `took` if it took the message.
    pub fn answered(&self, room: &RoomKey, took: Option<Duration>) {
        let mut quick = lock(&self.quick);
        if took.is_none_or(|took| took > QUICK) {
            quick.remove(room);
        } else if !quick.contains(room) {
            quick.insert(room.clone());
        }
    }

    fn put(&self, held: Held) {
        lock(&self.held).push_back(held);
        self.bell.ring();
    }

    /// Whether a room is on its way.
    pub fn has(&self, room: &RoomKey) -> bool {
        lock(&self.held).iter().any(|held| held.line.room == *room)
    }

    /// The room that has waited longest, if `take` takes it.
    pub fn take<T>(&self, take: impl FnOnce(&RoomLine) -> Option<T>) -> Option<(Held, T)> {
        let mut waiting = lock(&self.held);
        let taken = take(&waiting.front()?.line)?;
        Some((waiting.pop_front()?, taken))
    }
}

/// No step leaves what is locked here half changed.
fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}
