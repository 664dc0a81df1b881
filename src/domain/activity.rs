//! Team activity: what is told at once, what is gathered, and until when.

use std::time::Duration;

use jiff::Timestamp;

use super::event::Activity;
use super::ids::GatherKey;
use super::integration::ActivityRule;
use super::pacing::later;
use super::reason::SendReason;

/// When an activity is told, and together with what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Telling {
    pub reason: SendReason,
    pub ready_at: Timestamp,
    /// Told in one message with all others of the same integration and key.
    pub gather: Option<GatherKey>,
}

/// Names one user's doings on one instance: repeats of the same name are collated. Where a uid or an id is
/// missing the name stands in.
pub fn repeat_of(a: &Activity) -> String {
    let user = a.user_id.as_deref().or(a.user_name.as_deref()).unwrap_or_default();
    let instance = a.model_uid.as_deref().or(a.model_name.as_deref()).unwrap_or_default();
    // The lengths keep ("ab", "c") and ("a", "bc") apart without forbidding any character.
    format!("{}:{user}{}:{}{instance}", user.len(), a.model.len(), a.model)
}

/// Decides one activity at `now`. `gathering_until` is the end of the running collation of its repeats, if
/// there is one; an activity that starts a new one sets it.
pub fn decide(
    rule: ActivityRule,
    repeat_of: &str,
    gathering_until: &mut Option<Timestamp>,
    now: Timestamp,
) -> Telling {
    let at_once = Telling { reason: SendReason::Activity, ready_at: now, gather: None };
    match rule {
        ActivityRule::Each { collate } if collate.is_zero() => at_once,
        ActivityRule::Each { collate } => match *gathering_until {
            Some(until) if now < until => Telling {
                reason: SendReason::Collated,
                ready_at: until,
                gather: Some(GatherKey::new(format!("collate {} {repeat_of}", until.as_millisecond()))),
            },
            _ => {
                *gathering_until = Some(later(now, collate));
                at_once
            }
        },
        ActivityRule::Digest { every } => {
            let ready_at = next_boundary(every, now);
            let gather = GatherKey::new(format!("digest {}", ready_at.as_millisecond()));
            Telling { reason: SendReason::ScheduledDigest, ready_at, gather: Some(gather) }
        }
    }
}

/// The end of the interval that `now` is in; intervals are counted from the Unix epoch, so every worker cuts
/// them alike.
fn next_boundary(every: Duration, now: Timestamp) -> Timestamp {
    let every = i64::try_from(every.as_millis()).unwrap_or(i64::MAX).max(1);
    let end = (now.as_millisecond().div_euclid(every) + 1).saturating_mul(every);
    Timestamp::from_millisecond(end).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::samples::{second, update};
    use super::*;

    const COLLATE: ActivityRule = ActivityRule::Each { collate: Duration::from_secs(300) };

    #[test]
    fn the_first_is_told_at_once_and_its_repeats_together_at_the_end() {
        let mut until = None;
        assert_eq!(decide(COLLATE, "x", &mut until, second(0)).ready_at, second(0));
        let second_one = decide(COLLATE, "x", &mut until, second(10));
        let third_one = decide(COLLATE, "x", &mut until, second(299));
        assert_eq!((second_one.reason, second_one.ready_at), (SendReason::Collated, second(300)));
        assert_eq!(second_one, third_one);
    }

    #[test]
    fn after_the_end_the_next_one_is_a_first_again() {
        let mut until = None;
        decide(COLLATE, "x", &mut until, second(0));
        let next = decide(COLLATE, "x", &mut until, second(300));
        assert_eq!((next.reason, next.ready_at, next.gather), (SendReason::Activity, second(300), None));
        assert_eq!(until, Some(second(600)));
    }

    #[test]
    fn zero_collate_tells_each_on_its_own() {
        let mut until = None;
        let rule = ActivityRule::Each { collate: Duration::ZERO };
        for at in [0, 0, 1] {
            assert_eq!(decide(rule, "x", &mut until, second(at)).gather, None);
        }
        assert_eq!(until, None);
    }

    #[test]
    fn a_digest_gathers_all_of_one_interval() {
        let rule = ActivityRule::Digest { every: Duration::from_secs(3600) };
        let hour = Timestamp::from_second(1_764_000_000 / 3600 * 3600).unwrap();
        let end = later(hour, Duration::from_secs(3600));
        let at = |s| decide(rule, "x", &mut None, later(hour, Duration::from_secs(s)));
        assert_eq!((at(0).ready_at, at(3599).ready_at), (end, end));
        assert_eq!(at(0).gather, at(3599).gather);
        assert_ne!(at(0).gather, at(3600).gather);
    }

    #[test]
    fn repeats_are_of_one_user_on_one_instance() {
        let of = |user, model, uid| repeat_of(&update(user, model, uid));
        assert_eq!(of("1", "request", "a"), of("1", "request", "a"));
        for other in [
            of("2", "request", "a"),
            of("1", "folder", "a"),
            of("1", "request", "b"),
            of("", "1request", "a"),
        ] {
            assert_ne!(of("1", "request", "a"), other);
        }
    }
}
