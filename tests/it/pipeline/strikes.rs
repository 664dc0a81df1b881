//! What becomes of the workers of a play while it goes on, and of what they work with.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hipchat_notifier::ports::Storage;
use tokio::task::AbortHandle;

use super::play::{Play, now};
use super::twice::Cut;
use crate::support::process::{Site, Worker};
use crate::support::services::Services;

/// The workers, and what was done.
pub struct Company {
    workers: Vec<Worker>,
    pub done: Done,
}

/// What was done to them.
#[derive(Debug, Default)]
pub struct Done {
    /// When a call to a room may have been cut off: at kills, and at freezes longer than a lease.
    pub cuts: Vec<Cut>,
    kills: usize,
    freezes: usize,
    replacements: usize,
    nodes_killed: usize,
    stores_restarted: usize,
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kills, freezes, replacements, nodes_killed, stores_restarted, .. } = self;
        write!(
            f,
            "{kills} workers killed, {freezes} frozen, {replacements} stopped and replaced; {nodes_killed} nodes of \
             the broker killed, the store restarted {stores_restarted} times"
        )
    }
}

impl Company {
    /// So many workers, each ready.
    pub async fn of(site: &Site, count: usize) -> Self {
        let mut workers = Vec::new();
        for _ in 0..count {
            workers.push(site.start().await);
        }
        Self { workers, done: Done::default() }
    }

    /// Kills one as a crash would, and starts another.
    pub async fn kill(&mut self, site: &Site, place: usize) {
        self.workers.remove(place).kill();
        self.done.cuts.push(Cut::at(now()));
        self.done.kills += 1;
        self.workers.insert(place, site.start().await);
    }

    /// Freezes one for longer than a lease.
    pub async fn freeze(&mut self, place: usize, lasts: Duration) {
        let worker = &self.workers[place];
        worker.signal("STOP");
        let from = now();
        self.done.freezes += 1;
        tokio::time::sleep(lasts).await;
        worker.signal("CONT");
        self.done.cuts.push(Cut { from, to: now() });
    }

    /// Stops one as an orchestrator does, and starts another. Returns how long it took to stop.
    pub async fn replace(&mut self, site: &Site, place: usize) -> Duration {
        let (status, took) = self.workers[place].terminate().await;
        assert_eq!(status.code(), Some(0), "{status}");
        self.done.replacements += 1;
        self.workers[place] = site.start().await;
        took
    }

    /// Kills the node that leads the work queue, restarts the store and kills a worker while it is away, and starts it.
    pub async fn lose_the_leader(&mut self, services: &Services, play: &Play, place: usize) {
        let leader = services.leader(&play.broker.topology.queue).await.to_string();
        services.does("kill9", &leader).await;
        self.done.nodes_killed += 1;
        services.does("restart", "postgres").await;
        self.done.stores_restarted += 1;
        self.kill(&play.site, place).await;
        services.does("start", &leader).await;
    }
}

/// How long the notification that was longest past its due had been so, at the worst moment that was seen.
pub struct Stalls {
    longest_ms: Arc<AtomicU64>,
    watching: AbortHandle,
}

impl Stalls {
    /// Looks several times a second, as far as the store lets it.
    pub fn watch(store: Arc<dyn Storage>) -> Self {
        let longest_ms = Arc::new(AtomicU64::new(0));
        let longest = Arc::clone(&longest_ms);
        let watching = tokio::spawn(async move {
            loop {
                if let Ok(gauges) = store.gauges(now()).await {
                    longest.fetch_max((gauges.oldest_due_seconds * 1000.0) as u64, Ordering::Relaxed);
                }
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
        });
        Self { longest_ms, watching: watching.abort_handle() }
    }

    pub fn longest(&self) -> Duration {
        Duration::from_millis(self.longest_ms.load(Ordering::Relaxed))
    }
}

impl Drop for Stalls {
    fn drop(&mut self) {
        self.watching.abort();
    }
}
