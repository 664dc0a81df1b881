//! Held rooms on their way from intake to dispatch: what is told straight.
//!
//! Only rooms whose server answered at once the last time are told so. On SQLite nothing of it is written before it is
//! told, and the next batch, which does not wait for it, is acknowledged after this one: a server that takes its time would
//! hold up all acknowledgements, and in the end what the broker delivers. Where it does, what goes through the store is
//! quick enough.

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

/// No room is quick while the bodies of those that wait for a place come to this: the store keeps them as well, and not in
/// memory.
const WAITING_BYTES: usize = 64 * 1024 * 1024;

/// Where intake puts rooms and dispatch takes them.
pub struct Handover {
    waiting: Mutex<Waiting>,
    longest: usize,
    /// Rooms that took their last message, and at once.
    quick: Mutex<HashSet<RoomKey>>,
    terms: ClaimTerms,
    clock: Arc<dyn Clock>,
    /// Rung when a room was put here, or a place got free: for one of these, or for one that waits in the store.
    pub bell: Bell,
}

/// Rooms that wait for a place.
#[derive(Default)]
struct Waiting {
    rooms: VecDeque<Held>,
    /// Of their bodies.
    bytes: usize,
    /// Nobody takes them any more.
    closed: bool,
}

impl Waiting {
    /// How many more may come, where `longest` may wait.
    fn places(&self, longest: usize) -> usize {
        if self.closed { 0 } else { longest.saturating_sub(self.rooms.len()) }
    }
}

impl Handover {
    /// An empty one, for rooms that are held by `terms`, of which `longest` wait at most.
    pub fn new(terms: ClaimTerms, longest: usize, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            waiting: Mutex::default(),
            longest,
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
            most: lock(&self.waiting).places(self.longest),
            is_quick: Arc::new(move |room| by.has_room() && lock(&by.quick).contains(room)),
            hand: Arc::new(move |line| to.put(Held::new(line, now))),
        }
    }

    /// No more are handed over, but for what intake is just about.
    pub fn close(&self) {
        lock(&self.waiting).closed = true;
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

    fn has_room(&self) -> bool {
        lock(&self.waiting).bytes < WAITING_BYTES
    }

    fn put(&self, held: Held) {
        let mut waiting = lock(&self.waiting);
        waiting.bytes += held.line.bytes();
        waiting.rooms.push_back(held);
        drop(waiting);
        self.bell.ring();
    }

    /// Whether a room is on its way.
    pub fn has(&self, room: &RoomKey) -> bool {
        lock(&self.waiting).rooms.iter().any(|held| held.line.room == *room)
    }

    /// The room that has waited longest, if `take` takes it.
    pub fn take<T>(&self, take: impl FnOnce(&RoomLine) -> Option<T>) -> Option<(Held, T)> {
        let mut waiting = lock(&self.waiting);
        let taken = take(&waiting.rooms.front()?.line)?;
        let held = waiting.rooms.pop_front()?;
        waiting.bytes -= held.line.bytes();
        Some((held, taken))
    }
}

/// No step leaves what is locked here half changed.
fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::domain::envelope::Received;
    use crate::domain::pacing::Budget;
    use crate::domain::samples;

    struct Stopped;

    impl Clock for Stopped {
        fn now(&self) -> Timestamp {
            samples::second(0)
        }
    }

    fn large() -> RoomLine {
        let mut line = samples::line(["one"]);
        let mut received = Received { envelope: Default::default(), at: samples::second(0) };
        received.envelope.body = vec![0; WAITING_BYTES / 2];
        line.waiting[0].received = Arc::new(received);
        line
    }

    #[test]
    fn no_room_is_quick_while_much_waits_for_a_place() {
        let terms = ClaimTerms {
            rooms: 0,
            retries: 0,
            line: 1,
            lease: Duration::from_secs(30),
            room_budget: Budget::ROOM,
            token_budget: Budget::TOKEN,
        };
        let (handover, room) = (Handover::new(terms, 3, Arc::new(Stopped)), RoomKey::new("room"));
        let Straight { hand, is_quick, most, .. } = handover.straight();
        assert_eq!(most, 3);
        assert!(!is_quick(&room));
        handover.answered(&room, Some(Duration::ZERO));
        for _ in 0..2 {
            assert!(is_quick(&room));
            hand(large());
        }
        assert!(!is_quick(&room));
        assert_eq!(handover.straight().most, 1, "besides those that wait");
        assert!(handover.take(|_| None::<()>).is_none(), "no place");
        assert!(!is_quick(&room));
        assert!(handover.take(|_| Some(())).is_some());
        assert!(is_quick(&room));
        handover.close();
        assert_eq!(handover.straight().most, 0);
    }
}
