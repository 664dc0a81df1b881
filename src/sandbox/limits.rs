//! Sliding windows: at most so many in any stretch of a given length, counted exactly.
//!
//! HipChat's own windows were fixed ones, which let twice the budget through around a boundary; the sandbox is
//! the stricter judge. It must not read a clock: times are arguments.

use std::collections::VecDeque;
use std::time::Duration;

use super::Limit;

/// Time since the sandbox started, in nanoseconds; monotonic. A number, because a window holds many.
pub(super) type Moment = u64;

/// What a limit has left, as its headers tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Allowance {
    pub(super) limit: u32,
    pub(super) remaining: u32,
    /// Until the oldest counted call leaves the window: when nothing remains, a call made then is taken.
    pub(super) resets_in: Duration,
}

/// A limit and what counts against it.
#[derive(Debug)]
pub(super) struct Window {
    limit: Option<Limit>,
    taken: VecDeque<Moment>,
}

impl Window {
    /// `None` never refuses and remembers nothing.
    pub(super) fn new(limit: Option<Limit>) -> Self {
        Self { limit, taken: VecDeque::new() }
    }

    /// Counts one call if there is room for it. What is refused does not count, so that a client that waits
    /// for the reset is always served.
    pub(super) fn take(&mut self, now: Moment) -> bool {
        let Some((calls, per)) = self.limit else { return true };
        forget(&mut self.taken, now, per);
        let fits = self.taken.len() < calls as usize;
        if fits {
            self.taken.push_back(now);
        }
        fits
    }

    /// What is left now; `None` when unlimited.
    pub(super) fn allowance(&mut self, now: Moment) -> Option<Allowance> {
        let (limit, per) = self.limit?;
        forget(&mut self.taken, now, per);
        let used = u32::try_from(self.taken.len()).unwrap_or(u32::MAX);
        let resets_in = self
            .taken
            .front()
            .map_or(per, |oldest| per.saturating_sub(Duration::from_nanos(now.saturating_sub(*oldest))));
        Some(Allowance { limit, remaining: limit.saturating_sub(used), resets_in })
    }
}

/// The busiest stretch there was, refused calls included: what a client really tried.
#[derive(Debug)]
pub(super) struct Peak {
    per: Duration,
    seen: VecDeque<Moment>,
    most: usize,
}

impl Peak {
    pub(super) fn new(per: Duration) -> Self {
        Self { per, seen: VecDeque::new(), most: 0 }
    }

    pub(super) fn note(&mut self, now: Moment) {
        forget(&mut self.seen, now, self.per);
        self.seen.push_back(now);
        self.most = self.most.max(self.seen.len());
    }

    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// Forgets the record, not the window: what is still in it goes on counting.
    pub(super) fn reset(&mut self) {
        self.most = 0;
    }
}

/// The window is open at its far end: what happened exactly `per` ago no longer counts.
fn forget(times: &mut VecDeque<Moment>, now: Moment, per: Duration) {
    let per = Moment::try_from(per.as_nanos()).unwrap_or(Moment::MAX);
    while times.front().is_some_and(|oldest| oldest.saturating_add(per) <= now) {
        times.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Moment = 1_000_000_000;

    #[test]
    fn a_window_slides_and_tells_when_the_next_call_fits() {
        let mut window = Window::new(Some((2, Duration::from_secs(10))));
        assert_eq!(
            window.allowance(0),
            Some(Allowance { limit: 2, remaining: 2, resets_in: Duration::from_secs(10) })
        );
        assert!(window.take(0));
        assert!(window.take(4 * SECOND));
        assert!(!window.take(9 * SECOND), "a third within ten seconds");
        assert_eq!(
            window.allowance(9 * SECOND),
            Some(Allowance { limit: 2, remaining: 0, resets_in: Duration::from_secs(1) })
        );
        assert!(window.take(10 * SECOND), "the first has left the window, and the refused one never counted");
        assert!(!window.take(13 * SECOND), "a fixed window would have begun anew");
        assert!(window.take(14 * SECOND));
    }

    #[test]
    fn no_limit_never_refuses_and_has_no_allowance() {
        let mut window = Window::new(None);
        assert!((0..10_000).all(|_| window.take(0)));
        assert_eq!(window.allowance(0), None);
        assert!(window.taken.is_empty());
    }

    #[test]
    fn a_limit_of_none_refuses_all() {
        assert!(!Window::new(Some((0, Duration::from_secs(1)))).take(0));
    }

    proptest! {
        #[test]
        fn never_more_than_the_limit_in_any_window(
            limit in 1u32..6, per_s in 1u64..10, steps in prop::collection::vec(0u64..3_000, 1..200),
        ) {
            let mut window = Window::new(Some((limit, Duration::from_secs(per_s))));
            let (mut now, mut taken) = (0, Vec::new());
            for step in steps {
                now += step * 1_000_000;
                let before = window.allowance(now).expect("limited").remaining;
                let fits = window.take(now);
                prop_assert_eq!(fits, before > 0);
                if fits {
                    taken.push(now);
                }
            }
            for (index, start) in taken.iter().enumerate() {
                let within = taken[index..].iter().take_while(|at| **at < start + per_s * SECOND).count();
                prop_assert!(within <= limit as usize);
            }
        }

        #[test]
        fn waiting_for_the_reset_is_enough(limit in 1u32..6, gaps in prop::collection::vec(0u64..900, 1..50)) {
            let mut window = Window::new(Some((limit, Duration::from_secs(2))));
            let mut now = 0;
            for gap in gaps {
                now += gap * 1_000_000;
                if !window.take(now) {
                    let wait = window.allowance(now).expect("limited").resets_in;
                    now += Moment::try_from(wait.as_nanos()).expect("short");
                    prop_assert!(window.take(now));
                }
            }
        }
    }
}
