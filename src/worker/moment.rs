//! A moment by both clocks: the wall clock, which leases are stored by, and this process's own, which nobody sets.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::domain::pacing::later;
use crate::ports::Clock;

/// Now, whatever happens to a clock afterwards. The wall clock may be set back while this process is frozen, and the
/// other stands still while the machine is suspended: what has passed by either of them may have passed.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    pub wall: Timestamp,
    here: Instant,
}

impl Moment {
    /// The present one.
    pub fn now(clock: &dyn Clock) -> Self {
        // The process's own first: a freeze between the two makes it look longer ago, and never shorter.
        let here = Instant::now();
        Self { wall: clock.now(), here }
    }

    /// Whether `span` may have passed since.
    pub fn may_be_past(&self, span: Duration, now: &Self) -> bool {
        later(self.wall, span) <= now.wall || now.here.saturating_duration_since(self.here) >= span
    }
}
