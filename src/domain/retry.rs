//! How long a room that gave no good answer is left alone.

use std::time::Duration;

/// `retry.first`, `retry.longest`, `retry.give_up_after`, each not longer than the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryRule {
    pub first: Duration,
    pub longest: Duration,
    /// Counted from a notification's first attempt.
    pub give_up_after: Duration,
}

impl RetryRule {
    /// The wait after the `failures`th bad answer in a row: doubling from `first` to `longest`, of which
    /// `jitter` (0 to 1, drawn by the caller) takes up to the half away, so that rooms which failed together
    /// do not come back together. Never shorter than `first`.
    pub fn delay(&self, failures: u32, jitter: f64) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let base = self.first.saturating_mul(1 << doublings).min(self.longest);
        base.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0).max(self.first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RULE: RetryRule = RetryRule {
        first: Duration::from_secs(1),
        longest: Duration::from_secs(300),
        give_up_after: Duration::from_secs(24 * 3600),
    };

    #[test]
    fn the_whole_schedule_without_jitter() {
        let seconds: Vec<u64> = (1..=11).map(|n| RULE.delay(n, 0.0).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    }

    proptest! {
        #[test]
        fn a_delay_is_within_its_bounds(failures in 0u32.., jitter in 0.0f64..=1.0) {
            let delay = RULE.delay(failures, jitter);
            prop_assert!(delay >= RULE.first && delay <= RULE.longest);
            prop_assert!(delay >= RULE.delay(failures, 0.0) / 2);
        }
    }
}
