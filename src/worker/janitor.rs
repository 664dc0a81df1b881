//! Keeps the journal to its age and the gauges fresh.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::metrics::Metrics;
use crate::ports::{Clock, Store, StoreError};
use crate::worker::catalogue::Catalogue;
use crate::worker::wake::Stop;

/// How often the gauges are read. Prometheus usually asks every 15 to 60 s.
const GAUGES_EVERY: Duration = Duration::from_secs(5);

/// Outcomes forgotten in one transaction, so that tidying never holds up intake for long.
const FORGET_AT_ONCE: usize = 2_000;

/// Tidies up.
pub struct Janitor {
    pub store: Arc<dyn Store>,
    pub catalogue: Arc<Catalogue>,
    pub clock: Arc<dyn Clock>,
    pub metrics: Arc<Metrics>,
    /// `journal.keep`.
    pub keep: Duration,
}

impl Janitor {
    /// Tidies until stopped.
    pub async fn run(self, mut stop: Stop) {
        while !stop.is_set() {
            if let Err(error) = self.step().await {
                tracing::warn!(%error, "can't tidy the store");
            }
            tokio::select! {
                () = tokio::time::sleep(GAUGES_EVERY) => {}
                () = stop.wait() => {}
            }
        }
    }

    /// One round: gauges, then a bounded bite of the outdated journal.
    pub async fn step(&self) -> Result<(), StoreError> {
        let now = self.clock.now();
        let gauges = self.store.gauges(now).await?;
        self.metrics.pending_notifications.set(to_i64(gauges.pending));
        self.metrics.oldest_due_seconds.set(gauges.oldest_due_seconds);
        self.metrics.unburied_letters.set(to_i64(gauges.letters));
        self.metrics.integrations.set(self.catalogue.now().len() as i64);
        let before = now.checked_sub(self.keep).unwrap_or(Timestamp::MIN);
        while self.store.forget(before, FORGET_AT_ONCE).await? >= FORGET_AT_ONCE {}
        Ok(())
    }
}

fn to_i64(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
