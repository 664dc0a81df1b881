//! Which of many log lines of one kind are told, so that a producer's flood does not become the log's.

use std::time::Duration;

use jiff::Timestamp;

use super::pacing::later;

/// Lines that are told whole in one window; the others of it are only counted.
pub const TOLD_WHOLE: u32 = 50;
/// How long a window is. It begins with the first line after the one before has ended.
pub const WINDOW: Duration = Duration::from_secs(60);

/// The current window of one kind of line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lines {
    since: Option<Timestamp>,
    told: u32,
    untold: u64,
}

/// What a window kept back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Untold {
    pub count: u64,
    /// When the window began.
    pub since: Timestamp,
}

impl Lines {
    /// Whether a line is told whole. Ask [`Lines::ended`] first, or what the last window kept back is forgotten.
    pub fn admit(&mut self, now: Timestamp) -> bool {
        if self.since.is_none_or(|since| is_over(since, now)) {
            *self = Self { since: Some(now), ..Self::default() };
        }
        let whole = self.told < TOLD_WHOLE;
        if whole {
            self.told += 1;
        } else {
            self.untold += 1;
        }
        whole
    }

    /// Ends the window if it is over; returns what it kept back, if anything.
    pub fn ended(&mut self, now: Timestamp) -> Option<Untold> {
        let since = self.since.filter(|since| is_over(*since, now))?;
        let count = std::mem::take(self).untold;
        (count > 0).then_some(Untold { count, since })
    }

    /// Ends the window whatever its time; returns what it kept back, if anything. For a worker that stops.
    pub fn end(&mut self) -> Option<Untold> {
        let Self { since, untold: count, .. } = std::mem::take(self);
        since.filter(|_| count > 0).map(|since| Untold { count, since })
    }
}

/// A clock that was set back ends a window too, or nothing would be told until it has caught up.
fn is_over(since: Timestamp, now: Timestamp) -> bool {
    later(since, WINDOW) <= now || now < since
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn second(at: i64) -> Timestamp {
        Timestamp::from_second(1_764_000_000 + at).unwrap()
    }

    #[test]
    fn the_first_of_a_window_are_told_and_the_rest_is_counted() {
        let mut lines = Lines::default();
        assert_eq!(lines.ended(second(0)), None);
        let told = (0..120).filter(|_| lines.admit(second(1))).count();
        assert_eq!(told, TOLD_WHOLE as usize);
        assert_eq!(lines.ended(second(60)), None);
        assert_eq!(lines.ended(second(61)), Some(Untold { count: 70, since: second(1) }));
        assert_eq!(lines.ended(second(61)), None, "said once");
        assert!(lines.admit(second(61)), "a new window");
    }

    #[test]
    fn a_clock_that_was_set_back_silences_nothing() {
        let mut lines = Lines::default();
        (0..60).for_each(|_| {
            lines.admit(second(5_000));
        });
        assert!(lines.admit(second(0)));
    }

    #[test]
    fn a_worker_that_stops_says_what_it_kept_back() {
        let mut lines = Lines::default();
        assert_eq!(lines.end(), None);
        (0..51).for_each(|_| {
            lines.admit(second(0));
        });
        assert_eq!(lines.end(), Some(Untold { count: 1, since: second(0) }));
        assert_eq!(lines.end(), None);
    }

    proptest! {
        #[test]
        fn every_line_is_told_or_counted(steps in proptest::collection::vec(0i64..30, 0..500)) {
            let (mut lines, mut now, mut told, mut counted) = (Lines::default(), 0, 0u64, 0u64);
            for step in &steps {
                now += step;
                counted += lines.ended(second(now)).map_or(0, |untold| untold.count);
                told += u64::from(lines.admit(second(now)));
            }
            counted += lines.end().map_or(0, |untold| untold.count);
            prop_assert_eq!(told + counted, steps.len() as u64);
        }
    }
}
