//! Places for the rooms that are worked on: how many at once, and what they may hold in memory.
//!
//! A room begins on a quick place. One whose turn takes longer than `SLOW_AFTER` moves to a slow place and
//! leaves its quick one to the next, so rooms that answer quickly wait for such rooms only. So does one that has its
//! last answer and waits for the store alone: what takes a place is a room that is talked to.
//!
//! Some of the quick places are kept from what intake hands over: while events stream in it would take each place that
//! gets free, and a room that waits in the store would wait until the stream ends.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::domain::ids::RoomKey;
use crate::domain::line::RoomLine;

/// After this long a room counts as slow.
const SLOW_AFTER: Duration = Duration::from_secs(1);

/// Slow places for each of `concurrency`.
const SLOW_FOR_EACH: usize = 4;

/// One of so many quick places is for claimed rooms alone; of a few, one.
const CLAIMED_ALONE: usize = 4;

/// Rooms of one kind that are claimed at once: bounds how far one claim can go beyond [`HELD_BYTES`].
const CLAIM: usize = 64;

/// Nothing more is claimed while the held lines' bodies come to this. A body that several rooms are told of is
/// counted for each.
const HELD_BYTES: usize = 256 * 1024 * 1024;

/// All the places of one worker.
#[derive(Debug)]
pub struct Places {
    /// Quick places for rooms whose last attempt did not fail.
    fresh: Arc<Semaphore>,
    /// As many of those as rooms may take that intake hands over.
    handed_over: Arc<Semaphore>,
    /// Quick places for the others.
    retries: Arc<Semaphore>,
    slow: Arc<Semaphore>,
    /// For rooms whose last answer is being recorded; as many as there are quick ones of one kind, since each of them
    /// would be told again if this process died.
    recording: Arc<Semaphore>,
    held: Arc<AtomicUsize>,
    rooms: Rooms,
}

impl Places {
    /// `concurrency` quick places of each kind. Of one alone nothing is for what intake hands over.
    pub fn new(concurrency: usize) -> Self {
        let places = |count| Arc::new(Semaphore::new(count));
        Self {
            fresh: places(concurrency),
            handed_over: places(Self::for_handed_over(concurrency)),
            retries: places(concurrency),
            slow: places(concurrency.saturating_mul(SLOW_FOR_EACH)),
            recording: places(concurrency),
            held: Arc::default(),
            rooms: Rooms::default(),
        }
    }

    /// Whether there is ever a place for what intake hands over.
    pub fn are_for_handed_over(concurrency: usize) -> bool {
        Self::for_handed_over(concurrency) > 0
    }

    /// How many of the quick places are for that too.
    pub fn for_handed_over(concurrency: usize) -> usize {
        let alone = (concurrency / CLAIMED_ALONE).max(1);
        concurrency.saturating_sub(alone)
    }

    /// How many rooms may be claimed now: fresh ones, and ones to be retried.
    pub fn free(&self) -> (usize, usize) {
        if self.held.load(Ordering::Acquire) >= HELD_BYTES {
            return (0, 0);
        }
        (self.fresh.available_permits().min(CLAIM), self.retries.available_permits().min(CLAIM))
    }

    /// The place that a claimed `line` takes, if there is one.
    pub fn take(&self, line: &RoomLine) -> Option<Place> {
        let quick = if line.state.retry.is_some() { &self.retries } else { &self.fresh };
        self.place(quick, &line.room, line.bytes())
    }

    /// The place that a `line` takes which intake hands over, if there is one for such.
    pub fn take_handed_over(&self, line: &RoomLine) -> Option<Place> {
        let share = self.handed_over.clone().try_acquire_owned().ok()?;
        let place = self.place(&self.fresh, &line.room, line.bytes())?;
        Some(Place { share: Some(share), ..place })
    }

    /// Whether a room has a place. It may have two: one that lost its lease is at work until it knows.
    pub fn have(&self, room: &RoomKey) -> bool {
        self.rooms.lock().contains_key(room)
    }

    fn place(&self, quick: &Arc<Semaphore>, room: &RoomKey, bytes: usize) -> Option<Place> {
        let quick = quick.clone().try_acquire_owned().ok()?;
        self.held.fetch_add(bytes, Ordering::AcqRel);
        let held = Held { bytes, all: self.held.clone() };
        let (slow, recording, room) = (self.slow.clone(), self.recording.clone(), self.rooms.enter(room));
        Some(Place { quick, share: None, slow, recording, held, room })
    }
}

/// The rooms that have places, and how many.
#[derive(Debug, Clone, Default)]
struct Rooms(Arc<Mutex<HashMap<RoomKey, usize>>>);

impl Rooms {
    fn enter(&self, room: &RoomKey) -> AtWork {
        *self.lock().entry(room.clone()).or_default() += 1;
        AtWork { room: room.clone(), all: self.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RoomKey, usize>> {
        // No step leaves it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A room that is worked on, until this is dropped.
#[derive(Debug)]
struct AtWork {
    room: RoomKey,
    all: Rooms,
}

impl Drop for AtWork {
    fn drop(&mut self) {
        let mut rooms = self.all.lock();
        if let Some(places) = rooms.get_mut(&self.room) {
            *places -= 1;
            if *places == 0 {
                rooms.remove(&self.room);
            }
        }
    }
}

/// A room's place, free again when it is dropped.
#[derive(Debug)]
pub struct Place {
    quick: OwnedSemaphorePermit,
    /// Of those for what intake hands over.
    share: Option<OwnedSemaphorePermit>,
    slow: Arc<Semaphore>,
    recording: Arc<Semaphore>,
    held: Held,
    room: AtWork,
}

/// Whether a room has its last answer for now, which only has to be recorded.
#[derive(Debug, Clone, Default)]
pub struct Recording(Arc<AtomicBool>);

impl Recording {
    /// It has.
    pub fn begin(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it has.
    pub fn has_begun(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Place {
    /// Holds the place while `work` is under way, and calls `freed` each time somebody else may have a place. `recording`
    /// is begun by the work itself.
    pub async fn hold(self, work: impl Future<Output = ()>, recording: Recording, freed: impl Fn()) {
        let Self { quick, share, slow, recording: recorders, held, room } = self;
        let mut quick = Some((quick, share));
        // In its stead.
        let mut other = None;
        let mut work = pin!(work);
        let mut exchange = pin!(Some(async {
            tokio::time::sleep(SLOW_AFTER).await;
            slow.acquire_owned().await.ok()
        }));
        poll_fn(|cx| {
            if work.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            if quick.is_some() {
                // The work has just been looked at, so there is nothing to be woken for.
                if recording.has_begun() {
                    other = recorders.clone().try_acquire_owned().ok();
                }
                if other.is_none()
                    && let Some(exchange) = exchange.as_mut().as_pin_mut()
                    && let Poll::Ready(slow) = exchange.poll(cx)
                {
                    other = slow;
                }
                if other.is_some() {
                    quick = None;
                    // A slow place that it waits for is for others now.
                    exchange.set(None);
                    freed();
                }
            }
            Poll::Pending
        })
        .await;
        drop((quick, other, held, room));
        freed();
    }
}

/// The bytes that a held line is counted with.
#[derive(Debug)]
struct Held {
    bytes: usize,
    all: Arc<AtomicUsize>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::RoomState;

    /// Begins as many rooms as may be begun, each of which takes ten seconds.
    fn fill(places: &Places) -> usize {
        let free = places.free().0;
        for _ in 0..free {
            let place = places.place(&places.fresh, &RoomKey::new("r"), 1).unwrap();
            tokio::spawn(place.hold(
                tokio::time::sleep(Duration::from_secs(10)),
                Recording::default(),
                || {},
            ));
        }
        free
    }

    /// Lets `wait` pass, and what is due by then happen.
    async fn pass(wait: Duration) {
        tokio::time::sleep(wait + Duration::from_millis(10)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn slow_rooms_free_their_quick_places_until_the_slow_ones_are_taken() {
        let places = Places::new(8);
        for _ in 0..5 {
            assert_eq!(fill(&places), 8);
            assert_eq!(places.free(), (0, 8), "those to be retried have places of their own");
            pass(SLOW_AFTER).await;
        }
        assert_eq!(places.free().0, 0, "40 at once at most");
        pass(Duration::from_secs(10)).await;
        assert_eq!(places.free(), (8, 8));
        assert_eq!(places.slow.available_permits(), 32);
        assert_eq!(places.held.load(Ordering::Acquire), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_for_the_store_alone_leaves_its_place_to_as_many_others_as_there_are_places() {
        let places = Places::new(2);
        let record = |places: &Places| {
            let place = places.place(&places.fresh, &RoomKey::new("r"), 1).unwrap();
            let (recording, work) = (Recording::default(), Duration::from_millis(500));
            let begun = recording.clone();
            tokio::spawn(place.hold(
                async move {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    begun.begin();
                    tokio::time::sleep(work).await;
                },
                recording,
                || {},
            ));
        };
        (0..2).for_each(|_| record(&places));
        assert_eq!(places.free().0, 0, "rooms are talked to");
        pass(Duration::from_millis(100)).await;
        assert_eq!(places.free().0, 2, "answers are recorded");
        (0..2).for_each(|_| record(&places));
        pass(Duration::from_millis(100)).await;
        assert_eq!(places.free().0, 0, "no more than so many are not recorded");
        pass(Duration::from_millis(600)).await;
        assert_eq!((places.free().0, places.recording.available_permits()), (2, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_room_that_only_has_to_be_recorded_does_not_keep_a_slow_place_from_another() {
        let places = Places::new(1);
        let (recording, begun) = (Recording::default(), Recording::default());
        let hold = |places: &Places, work: u64, recording: &Recording| {
            let place = places.place(&places.fresh, &RoomKey::new("r"), 1).unwrap();
            let (recording, begun) = (recording.clone(), recording.clone());
            tokio::spawn(place.hold(
                async move {
                    tokio::time::sleep(Duration::from_secs(2)).await;
                    if work > 2 {
                        begun.begin();
                        tokio::time::sleep(Duration::from_secs(work - 2)).await;
                    }
                },
                recording,
                || {},
            ));
        };
        let all = places.slow.clone().acquire_many_owned(4).await.unwrap();
        hold(&places, 100, &recording);
        pass(Duration::from_secs(2)).await;
        assert_eq!(
            places.recording.available_permits(),
            0,
            "it waited for a slow place, and is recorded now"
        );
        drop(all);
        pass(Duration::from_secs(1)).await;
        assert_eq!(places.slow.available_permits(), 4);
        hold(&places, 2, &begun);
        pass(Duration::from_millis(1500)).await;
        assert_eq!((places.fresh.available_permits(), places.slow.available_permits()), (1, 3));
    }

    #[tokio::test]
    async fn what_is_handed_over_leaves_some_places_to_what_is_claimed() {
        for (concurrency, handed_over) in [(1, 0), (2, 1), (3, 2), (8, 6), (64, 48)] {
            let places = Places::new(concurrency);
            assert_eq!(Places::are_for_handed_over(concurrency), handed_over > 0);
            let line = RoomLine {
                room: RoomKey::new("r"),
                claim: 1,
                state: RoomState::default(),
                waiting: Vec::new(),
                going_on: Vec::new(),
                tokens: HashMap::new(),
                throttles: HashMap::new(),
            };
            let mut taken: Vec<_> = std::iter::from_fn(|| places.take_handed_over(&line)).collect();
            assert_eq!(taken.len(), handed_over);
            taken.extend(std::iter::from_fn(|| places.take(&line)));
            assert_eq!(taken.len(), concurrency, "and those take all that there are");
            assert!(places.take_handed_over(&line).is_none());
            drop(taken);
            assert_eq!(places.handed_over.available_permits(), handed_over);
        }
    }

    #[tokio::test]
    async fn a_room_is_at_work_until_its_last_place_is_free() {
        let (places, room) = (Places::new(2), RoomKey::new("r"));
        let (one, other) = (
            places.place(&places.fresh, &room, 0).unwrap(),
            places.place(&places.retries, &room, 0).unwrap(),
        );
        one.hold(async {}, Recording::default(), || {}).await;
        assert!(places.have(&room) && !places.have(&RoomKey::new("another")));
        drop(other);
        assert!(!places.have(&room));
    }

    #[tokio::test]
    async fn nothing_is_claimed_while_much_is_held_and_one_claim_is_bounded() {
        let places = Places::new(1000);
        assert_eq!(places.free(), (CLAIM, CLAIM));
        let place = places.place(&places.fresh, &RoomKey::new("r"), HELD_BYTES);
        assert_eq!(places.free(), (0, 0));
        drop(place);
        assert_eq!(places.free(), (CLAIM, CLAIM));
    }
}
