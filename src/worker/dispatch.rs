//! From pending notifications to rooms: claims what is due and works off one room's line at a time.
//!
//! A room that waits holds nothing here: waiting is a time in the store. Each claimed room is one task, of
//! which `concurrency` run at most, so no room waits for another.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::domain::line::LineRules;
use crate::domain::message::Links;
use crate::domain::pacing::Budget;
use crate::metrics::Metrics;
use crate::ports::{ClaimTerms, Clock, RoomGateway, Store};
use crate::worker::catalogue::Catalogue;
use crate::worker::wake::{Bell, Stop};

/// The longest pause between two looks at the store: how soon work is found that another process made.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What dispatch goes by.
#[derive(Debug, Clone)]
pub struct DispatchTerms {
    pub rules: LineRules,
    pub token_budget: Budget,
    /// Rooms worked on at the same time.
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
    pub terms: DispatchTerms,
    /// Rung when something may be due.
    pub wake: Arc<Bell>,
    /// Rung when there is something to bury.
    pub burial: Arc<Bell>,
}

impl Dispatch {
    /// Claims and works off rooms until stopped; then lets the attempts in flight finish.
    pub async fn run(self: Arc<Self>, mut stop: Stop) {
        let permits = Arc::new(Semaphore::new(self.terms.concurrency));
        let mut tasks = JoinSet::new();
        while !stop.is_set() {
            while tasks.try_join_next().is_some() {}
            let claimed = self.clone().claim(&permits, &mut tasks, &stop).await;
            if claimed == 0 {
                let pause = self.pause(permits.available_permits()).await;
                tokio::select! {
                    () = self.wake.wait(pause) => {}
                    () = stop.wait() => break,
                }
            }
        }
        while tasks.join_next().await.is_some() {}
    }

    /// Claims as many rooms as there are free places, and starts a task for each. Returns how many.
    async fn claim(self: Arc<Self>, permits: &Arc<Semaphore>, tasks: &mut JoinSet<()>, stop: &Stop) -> usize {
        let free = permits.available_permits();
        if free == 0 {
            return 0;
        }
        let terms = ClaimTerms {
            rooms: free,
            line: self.terms.line,
            lease: self.terms.lease,
            token_budget: self.terms.token_budget,
        };
        let lines = match self.store.claim_rooms(terms, self.clock.now()).await {
            Ok(lines) => lines,
            Err(error) => {
                self.metrics.store_errors.inc();
                tracing::error!(%error, "can't claim rooms; trying again");
                return 0;
            }
        };
        let claimed = lines.len();
        for line in lines {
            let Ok(permit) = permits.clone().try_acquire_owned() else { break };
            let (this, stop) = (self.clone(), stop.clone());
            tasks.spawn(async move {
                this.work(line, &stop).await;
                drop(permit);
                // A free place may be what another due room waits for.
                this.wake.ring();
            });
        }
        claimed
    }

    /// How long there is nothing to do, as far as the store knows.
    async fn pause(&self, free: usize) -> Duration {
        if free == 0 {
            return LOOK_EVERY;
        }
        match self.store.next_due().await {
            Ok(Some(due)) => {
                let ahead = due.duration_since(self.clock.now());
                Duration::try_from(ahead).unwrap_or_default().min(LOOK_EVERY).max(Duration::from_millis(1))
            }
            Ok(None) | Err(_) => LOOK_EVERY,
        }
    }
}
