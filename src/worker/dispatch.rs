//! From pending notifications to rooms: claims what is due and works off one room's line at a time.
//!
//! A room that waits holds nothing here: waiting is a time in the store. Each claimed room is one task on one of
//! the [`Places`]. Rooms whose last attempt failed have places of their own, and slow rooms leave theirs to others:
//! each may take until its timeout to answer, and there may be many of them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinSet;

use crate::domain::line::{LineRules, RoomLine};
use crate::domain::lines::Lines;
use crate::domain::message::Links;
use crate::domain::pacing::{Budget, later};
use crate::metrics::Metrics;
use crate::ports::{ClaimTerms, Clock, RoomGateway, Store};
use crate::worker::catalogue::Catalogue;
use crate::worker::places::Places;
use crate::worker::room::say_untold;
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
    /// Rung when something may be due.
    pub wake: Arc<Bell>,
    /// Rung when there is something to bury.
    pub burial: Arc<Bell>,
}

impl Dispatch {
    /// Claims and works off rooms until stopped; then lets the attempts in flight finish.
    pub async fn run(self: Arc<Self>, mut stop: Stop) {
        let places = Places::new(self.terms.concurrency);
        let mut tasks = JoinSet::new();
        let mut looked_at = self.clock.now();
        let mut worked_at = looked_at;
        while !stop.is_set() {
            while tasks.try_join_next().is_some() {}
            let mut now = self.clock.now();
            if later(looked_at, self.terms.lease / 4) <= now {
                // This process was frozen, or the clock was set ahead: leases may have lapsed behind the back
                // of the rooms' tasks. They finish first, or a room could be claimed twice by one worker.
                while tasks.join_next().await.is_some() {}
                now = self.clock.now();
            }
            if later(worked_at, self.terms.lease / 2) <= now {
                self.let_others_record(&mut stop).await;
                now = self.clock.now();
            }
            looked_at = now;
            let (fresh, retries) = places.free();
            // By this very time: a freeze from here on lapses no lease in the claim's eyes.
            let lines = self.claim_due(fresh, retries, now).await;
            if self.unsettled.load(Ordering::Acquire) == 0 && !self.claiming.lasts() {
                worked_at = self.clock.now();
            }
            if lines.is_empty() {
                let pause = self.pause(fresh + retries).await;
                tokio::select! {
                    biased;
                    () = stop.wait() => break,
                    () = self.wake.wait(pause) => continue,
                }
            }
            for line in lines {
                // There is one for each: only this loop takes any.
                let Some(place) = places.take(&line) else { continue };
                let (this, stop) = (self.clone(), stop.clone());
                tasks.spawn(async move {
                    // A free place may be what another due room waits for.
                    place.hold(this.work_off(line, &stop), || this.wake.ring()).await;
                });
            }
        }
        while tasks.join_next().await.is_some() {}
        say_untold(self.rate_limits.lock().unwrap_or_else(PoisonError::into_inner).end());
    }

    /// Claims rooms that are due at `now`: `fresh` at most whose last attempt did not fail, and `retries` at most of
    /// the others.
    pub async fn claim_due(&self, fresh: usize, retries: usize, now: Timestamp) -> Vec<RoomLine> {
        // What was posted must be recorded before anything is claimed anew: a lease that lapsed in a long
        // outage of the store would else hand out a room whose last message is not written down, and the
        // room would hear it twice.
        if fresh + retries == 0 || self.unsettled.load(Ordering::Acquire) > 0 {
            return Vec::new();
        }
        let terms = ClaimTerms {
            rooms: fresh,
            retries,
            line: self.terms.line,
            lease: self.terms.lease,
            token_budget: self.terms.token_budget,
            room_budget: self.terms.rules.room,
        };
        match self.store.claim_rooms(terms, now).await {
            Ok(lines) => {
                self.claiming.worked();
                lines
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
                () = tokio::time::sleep(RECORD_FIRST) => {}
                () = stop.wait() => {}
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
