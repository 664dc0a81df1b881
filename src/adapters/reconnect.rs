//! When to try again to reach something that went away: exponential with jitter, without an end.
//!
//! The only file that may name the `backoff` crate, which is unmaintained. Retries of deliveries are not made
//! from this: they are times in the store, decided by `domain`.

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::ExponentialBackoffBuilder;
use backoff::backoff::Backoff;

/// Short enough that a restarted peer is noticed before a person wonders.
const FIRST: Duration = Duration::from_millis(100);
/// Long enough that a thousand waiting workers are no load on a peer that is down.
const LONGEST: Duration = Duration::from_secs(5);

/// The waiting times between attempts to connect: about 100 ms at first, doubling, never above 5 s.
#[derive(Debug)]
pub struct Reconnect {
    schedule: ExponentialBackoff,
}

impl Reconnect {
    /// A schedule at its beginning.
    pub fn new() -> Self {
        let schedule = ExponentialBackoffBuilder::new()
            .with_initial_interval(FIRST)
            .with_multiplier(2.0)
            .with_randomization_factor(0.3)
            .with_max_interval(LONGEST)
            // The crate would otherwise give up after 15 minutes.
            .with_max_elapsed_time(None)
            .build();
        Self { schedule }
    }

    /// How long to wait before the next attempt. The jitter is applied after the crate's own cap, so the result
    /// is cut to the longest delay here.
    pub fn next_delay(&mut self) -> Duration {
        self.schedule.next_backoff().map_or(LONGEST, |delay| delay.min(LONGEST))
    }

    /// An attempt succeeded: the next failure starts from the shortest delay again.
    pub fn reset(&mut self) {
        self.schedule.reset();
    }
}

impl Default for Reconnect {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_cap_and_stay_there() {
        let mut reconnect = Reconnect::new();
        let delays: Vec<Duration> = (0..200).map(|_| reconnect.next_delay()).collect();
        assert!(delays[0] >= FIRST.mul_f64(0.7) && delays[0] <= FIRST.mul_f64(1.31), "{:?}", delays[0]);
        assert!(delays.iter().all(|delay| *delay <= LONGEST));
        assert!(delays[50..].iter().all(|delay| *delay >= LONGEST.mul_f64(0.69)), "must not fall back");
    }

    #[test]
    fn a_success_starts_the_schedule_anew() {
        let mut reconnect = Reconnect::new();
        for _ in 0..20 {
            reconnect.next_delay();
        }
        reconnect.reset();
        assert!(reconnect.next_delay() <= FIRST.mul_f64(1.31));
    }
}
