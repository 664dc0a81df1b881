//! From pending notifications to rooms: claims what is due, takes what intake hands over, and works off one room's
//! line at a time.
//!
//! A room that waits holds nothing here: waiting is a time in the store. Each claimed room is one task on one of
//! the [`Places`]. Rooms whose last attempt failed have places of their own, and slow rooms leave theirs to others:
//! each may take until its timeout to answer, and there may be many of them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::domain::ids::RoomKey;
use crate::domain::line::LineRules;
use crate::domain::lines::Lines;
use crate::domain::message::Links;
use crate::domain::pacing::Budget;
use crate::metrics::Metrics;
use crate::ports::{ClaimTerms, Clock, RoomGateway, Store};
use crate::worker::catalogue::Catalogue;
use crate::worker::handover::Handover;
use crate::worker::moment::Moment;
use crate::worker::places::{Place, Places};
use crate::worker::room::{Held, Progress, say_untold};
use crate::worker::trouble::Trouble;
use crate::worker::wake::{Bell, Stop};

/// The longest pause between two looks at the store: how soon work is found that another process made.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// After a long outage of the store, how long all workers leave rooms alone: a few tries of recording an answer.
const RECORD_FIRST: Duration = Duration::from_secs(5);

/// The pause after a look that was handed nothing although something is due.
const NOT_HANDED_OUT: Duration = Duration::from_millis(50);

/// What dispatch goes by.
#[derive(Debug, Clone)]
pub struct DispatchTerms {
    pub rules: LineRules,
    pub token_budget: Budget,
    /// Rooms worked on at the same time that are neither slow nor to be retried.
    pub concurrency: usize,
    /// Notifications loaded of one room's line at a time, and so told in one digest at most.
    pub line: usize,
    pub lease: Duration,
    /// Other workers may have the same store.
    pub shared: bool,
    pub links: Arc<Links>,
}

/// Tells rooms.
pub struct Dispatch {
    pub store: Arc<dyn Store>,
    pub catalogue: Arc<Catalogue>,
    pub gateway: Arc<dyn RoomGateway>,
    pub clock: Arc<dyn Clock>,
    pub metrics: Arc<Metrics>,
    /// With the store, when what became of a message is to be recorded.
    pub trouble: Arc<Trouble>,
    /// With the store, when rooms are claimed.
    pub claiming: Arc<Trouble>,
    /// How many rooms hold an answer that the store has not taken yet.
    pub unsettled: AtomicUsize,
    /// The log lines about rate limits: a server's flood of them does not become the log's.
    pub rate_limits: Mutex<Lines>,
    pub terms: DispatchTerms,
    /// What intake hands over.
    pub handover: Arc<Handover>,
    /// Of the rooms that are worked on.
    pub places: Arc<Places>,
    /// Rung when something may be due.
    pub wake: Arc<Bell>,
    /// Rung when there is something to bury.
    pub burial: Arc<Bell>,
}

impl DispatchTerms {
    /// How many rooms may wait that intake hands over. Where other workers could take them from the store, no more
    /// than have places here.
    pub fn handed_over(&self) -> usize {
        if self.shared { Places::for_handed_over(self.concurrency) } else { usize::MAX }
    }

    /// By which rooms are held: `rooms` at most whose last attempt did not fail, and `retries` of the others.
    pub fn claim(&self, rooms: usize, retries: usize) -> ClaimTerms {
        ClaimTerms {
            rooms,
            retries,
            line: self.line,
            lease: self.lease,
            token_budget: self.token_budget,
            room_budget: self.rules.room,
        }
    }
}

impl Dispatch {
    /// Claims and works off rooms until stopped; then lets the attempts in flight finish.
    pub async fn run(self: Arc<Self>, mut stop: Stop) {
        let (places, mut tasks) = (self.places.clone(), JoinSet::new());
        let (mut seen, mut look) = (Seen::at(Moment::now(&*self.clock)), Look::Now);
        while !stop.is_set() {
            while tasks.try_join_next().is_some() {}
            while let Some((held, place)) = self.handover.take(|line| places.take_handed_over(line)) {
                tasks.spawn(self.clone().occupy(place, held, stop.clone()));
            }
            if look.is_due(&places) {
                self.make_sure_of_leases(&mut seen, &mut tasks, &mut stop).await;
                let (fresh, retries) = places.free();
                // By this very time: a freeze from here on lapses no lease in the claim's eyes.
                let claimed = self.claim_due(fresh, retries, seen.looked_at).await;
                if self.unsettled.load(Ordering::Acquire) == 0 && !self.claiming.lasts() {
                    seen.worked_at = Moment::now(&*self.clock);
                }
                if !claimed.is_empty() {
                    for held in claimed {
                        // There is one for each: only this loop takes any.
                        let Some(place) = places.take(&held.line) else { continue };
                        tasks.spawn(self.clone().occupy(place, held, stop.clone()));
                    }
                    continue;
                }
                look = Look::after(self.pause(fresh + retries).await, (fresh == 0, retries == 0));
            }
            tokio::select! {
                biased;
                () = stop.wait() => break,
                () = self.wake.wait(look.pause()) => look = Look::Now,
                () = self.handover.bell.wait(LOOK_EVERY) => {}
            }
        }
        self.handover.close();
        self.give_back_handed_over(&stop).await;
        while tasks.join_next().await.is_some() {}
        say_untold(self.rate_limits.lock().unwrap_or_else(PoisonError::into_inner).end());
    }

    /// Gives back what was handed over and not begun, since stopping was asked for. Once more when intake has stopped as
    /// well: what it was just taking in may come behind [`Self::run`].
    pub async fn give_back_handed_over(&self, stop: &Stop) {
        while let Some((held, ())) = self.handover.take(|_| Some(())) {
            self.work_off(held, stop).await;
        }
    }

    /// Notes that the store is looked at now, after the rooms' tasks, and other workers, had the time that they need
    /// if leases may have lapsed.
    async fn make_sure_of_leases(&self, seen: &mut Seen, tasks: &mut JoinSet<()>, stop: &mut Stop) {
        let mut now = Moment::now(&*self.clock);
        if seen.looked_at.may_be_past(self.terms.lease / 4, &now) {
            // This process was frozen, or the clock was set ahead: leases may have lapsed behind the back of the
            // rooms' tasks. They finish first, or a room could be claimed twice by one worker.
            while tasks.join_next().await.is_some() {}
            now = Moment::now(&*self.clock);
        }
        if self.terms.shared && seen.worked_at.may_be_past(self.terms.lease / 2, &now) {
            self.let_others_record(stop).await;
            now = Moment::now(&*self.clock);
        }
        seen.looked_at = now;
    }

    /// Works off a room on its place.
    async fn occupy(self: Arc<Self>, place: Place, held: Held, stop: Stop) {
        let recording = held.recording.clone();
        // In a box: it is large, and would be copied each time the task is moved before it begins.
        let work = Box::pin(async {
            // Where something is left, or came meanwhile, it may be due.
            if self.work_off(held, &stop).await != Progress::AtRest {
                self.wake.ring();
            }
        });
        place.hold(work, recording, || self.handover.bell.ring()).await;
    }

    /// Claims rooms that are due at `now`: `fresh` at most whose last attempt did not fail, and `retries` at most of
    /// the others.
    pub async fn claim_due(&self, fresh: usize, retries: usize, now: Moment) -> Vec<Held> {
        // What was posted must be recorded before anything is claimed anew: a lease that lapsed in a long
        // outage of the store would else hand out a room whose last message is not written down, and the
        // room would hear it twice.
        if fresh + retries == 0 || self.unsettled.load(Ordering::Acquire) > 0 {
            return Vec::new();
        }
        let (places, handover) = (self.places.clone(), self.handover.clone());
        let at_work = Arc::new(move |room: &RoomKey| places.have(room) || handover.has(room));
        match self.store.claim_others(self.terms.claim(fresh, retries), at_work, now.wall).await {
            Ok(lines) => {
                self.claiming.worked();
                lines.into_iter().map(|line| Held::new(line, now)).collect()
            }
            Err(error) => {
                self.metrics.store_errors.inc();
                self.claiming.failed("claim rooms", &error);
                Vec::new()
            }
        }
    }

    /// The store was out of reach for so long that leases may have lapsed. If it is back, other workers get the time
    /// to record what they have posted, as this one does before it claims: the rooms would else hear it twice.
    async fn let_others_record(&self, stop: &mut Stop) {
        if self.store.next_due().await.is_ok() {
            tokio::select! {
                biased;
                () = stop.wait() => {}
                () = tokio::time::sleep(RECORD_FIRST) => {}
            }
        }
    }

    /// How long there is nothing to do, as far as the store knows.
    async fn pause(&self, free: usize) -> Duration {
        if free == 0 || self.unsettled.load(Ordering::Acquire) > 0 {
            return LOOK_EVERY;
        }
        match self.store.next_due().await {
            Ok(Some(due)) => match Duration::try_from(due.duration_since(self.clock.now())) {
                Ok(ahead) if !ahead.is_zero() => ahead.min(LOOK_EVERY),
                // Something is due and was not handed out: the store is in trouble, or others are at it.
                Ok(_) | Err(_) => NOT_HANDED_OUT,
            },
            Ok(None) | Err(_) => LOOK_EVERY,
        }
    }
}

/// When the store was looked at last, and when it worked last.
struct Seen {
    looked_at: Moment,
    worked_at: Moment,
}

impl Seen {
    fn at(now: Moment) -> Self {
        Self { looked_at: now, worked_at: now }
    }
}

/// When the store is looked at next.
enum Look {
    Now,
    /// When it says that something gets due, or a place gets free of which there was none: of those for rooms whose
    /// last attempt did not fail, and of those for the others.
    Later {
        at: Instant,
        lacked: (bool, bool),
    },
}

impl Look {
    fn after(pause: Duration, lacked: (bool, bool)) -> Self {
        Self::Later { at: Instant::now() + pause, lacked }
    }

    fn is_due(&self, places: &Places) -> bool {
        let Self::Later { at, lacked } = self else { return true };
        let free = places.free();
        (lacked.0 && free.0 > 0) || (lacked.1 && free.1 > 0) || *at <= Instant::now()
    }

    fn pause(&self) -> Duration {
        match self {
            Self::Now => Duration::ZERO,
            Self::Later { at, .. } => at.saturating_duration_since(Instant::now()),
        }
    }
}
