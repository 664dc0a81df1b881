//! Keeps the journal and the streaks to their age, and the gauges fresh.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::metrics::Metrics;
use crate::ports::{Clock, Store, StoreError};
use crate::worker::catalogue::Catalogue;
use crate::worker::wake::Stop;

/// How often it looks; Prometheus usually asks for the gauges every 15 to 60 s.
const ROUND_EVERY: Duration = Duration::from_secs(5);

/// Outcomes forgotten in one transaction, so that tidying never holds up intake for long.
const FORGET_AT_ONCE: usize = 2_000;

/// How long a streak is kept that no run comes for: far longer than any monitor pauses between its runs. The first run
/// after it counts as the first of its monitor. Without it, monitors that are gone, or were never there, would fill the
/// store.
const STREAKS_KEPT: Duration = Duration::from_secs(90 * 24 * 3600);

/// How far a round got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tidied {
    All,
    /// There is more to forget.
    Some,
}

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
            match self.step().await {
                Ok(Tidied::Some) => continue,
                Ok(Tidied::All) => {}
                Err(error) => tracing::warn!(%error, "can't tidy the store"),
            }
            tokio::select! {
                biased;
                () = stop.wait() => {}
                () = tokio::time::sleep(ROUND_EVERY) => {}
            }
        }
    }

    /// One round: gauges, then a bounded bite of the outdated journal.
    pub async fn step(&self) -> Result<Tidied, StoreError> {
        let now = self.clock.now();
        let gauges = self.store.gauges(now).await?;
        self.metrics.pending_notifications.set(to_i64(gauges.pending));
        self.metrics.oldest_due_seconds.set(gauges.oldest_due_seconds);
        self.metrics.unburied_letters.set(to_i64(gauges.letters));
        for (state, count) in self.catalogue.now().by_state() {
            self.metrics.integrations(state, count);
        }
        let before = |keep: Duration| now.checked_sub(keep).unwrap_or(Timestamp::MIN);
        let outcomes = self.store.forget(before(self.keep), FORGET_AT_ONCE).await?;
        let streaks = self.store.forget_streaks(before(STREAKS_KEPT), FORGET_AT_ONCE).await?;
        Ok(if outcomes.max(streaks) < FORGET_AT_ONCE { Tidied::All } else { Tidied::Some })
    }
}

fn to_i64(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
