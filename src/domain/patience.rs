//! How long a room's name may lead to forbidden addresses before its integrations are given up.
//!
//! A name server that is being changed, or a network that asks for a login first, names a private address for
//! a moment. Nothing is ever sent there; but to suspend every integration of that host for it would be rash.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;

use super::answer::AnswerClass;
use super::pacing::later;

/// A name that has led to forbidden addresses for this long leads there for good.
pub const PATIENCE: Duration = Duration::from_secs(10 * 60);

/// Since when each name has led to forbidden addresses. Lost with the process: then it is waited anew.
#[derive(Debug, Default)]
pub struct Patience(HashMap<String, Forbidden>);

#[derive(Debug, Clone, Copy)]
struct Forbidden {
    since: Timestamp,
    last: Timestamp,
}

impl Patience {
    /// `host` led to forbidden addresses only: is it to be tried again, or broken?
    pub fn forbidden(&mut self, host: &str, now: Timestamp) -> AnswerClass {
        let new = Forbidden { since: now, last: now };
        let known = self.0.entry(host.to_owned()).or_insert(new);
        // What was long ago, or lies ahead since the clock was set back, says nothing of today.
        if later(known.last, PATIENCE) < now || now < known.since {
            *known = new;
        }
        known.last = now;
        match later(known.since, PATIENCE) <= now {
            true => AnswerClass::Broken,
            false => AnswerClass::Unavailable,
        }
    }

    /// `host` has answered.
    pub fn reached(&mut self, host: &str) {
        self.0.remove(host);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(at: i64) -> Timestamp {
        Timestamp::from_second(1_764_000_000 + at).unwrap()
    }

    #[test]
    fn a_name_is_broken_once_it_was_forbidden_for_long_without_a_break() {
        let mut patience = Patience::default();
        for at in [0, 1, 3, 300, 599] {
            assert_eq!(patience.forbidden("a", second(at)), AnswerClass::Unavailable, "{at}");
        }
        assert_eq!(patience.forbidden("b", second(600)), AnswerClass::Unavailable, "each name on its own");
        for at in [600, 900] {
            assert_eq!(patience.forbidden("a", second(at)), AnswerClass::Broken, "{at}");
        }
    }

    #[test]
    fn an_answer_begins_the_count_anew_and_so_does_a_long_time() {
        let mut patience = Patience::default();
        patience.forbidden("a", second(0));
        patience.reached("a");
        assert_eq!(patience.forbidden("a", second(600)), AnswerClass::Unavailable);
        assert_eq!(patience.forbidden("a", second(1_201)), AnswerClass::Unavailable, "the last was long ago");
        assert_eq!(patience.forbidden("a", second(0)), AnswerClass::Unavailable, "the clock was set back");
        assert_eq!(patience.forbidden("a", second(600)), AnswerClass::Broken);
    }
}
