//! Monitor results: which runs are news, by each integration's rule and its streak.
//!
//! The contract's table of `notify.on` is the two `match`es below; `tests` spells each rule out as a line of
//! runs that a person can read.

use jiff::Timestamp;

use super::event::MonitorRun;
use super::integration::RunRule;
use super::reason::{Belief, SendReason, SuppressReason};
use super::story::Story;

/// What is known of the latest runs of one monitor in one region, as one integration heard of them.
/// Before any run is known the state is success. It does not move while the integration is paused or
/// suspended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Streak {
    /// Failed runs in a row; 0 while it succeeds.
    pub failures: u32,
    /// When the first of them was.
    pub first_failed_at: Option<Timestamp>,
    /// The latest `finished_at` seen.
    pub newest: Option<Timestamp>,
    /// What the room believes.
    pub belief: Belief,
}

/// Whether a run is told, and why or why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Tell(Story),
    Suppress(SuppressReason),
}

/// Decides one run by `rule` and moves the streak. `received_at` dates a failure that carries no time.
///
/// A run that finished before the newest one seen is late. It does not move the streak. The rules that promise
/// every run of its kind (`all`, `failures`, `failures-and-recovery`) still tell it, with the reason `stale`; the
/// others, and every recovery, look at the streak, and suppress it, with the same word.
pub fn decide(rule: RunRule, streak: &mut Streak, run: &MonitorRun, received_at: Timestamp) -> Verdict {
    if is_late(streak, run) {
        return late(rule, run);
    }
    // A producer's clock that is ahead must not make every later run look late.
    streak.newest = streak.newest.max(run.finished_at.map(|at| at.min(received_at)));
    if run.result.is_failed() {
        let failed_at = run.finished_at.or(run.started_at).unwrap_or(received_at);
        streak.failures = streak.failures.saturating_add(1);
        streak.first_failed_at.get_or_insert(failed_at);
        failed(rule, streak)
    } else {
        let ended = *streak;
        *streak = Streak { newest: streak.newest, belief: streak.belief, ..Streak::default() };
        succeeded(rule, ended, streak)
    }
}

fn is_late(streak: &Streak, run: &MonitorRun) -> bool {
    matches!((run.finished_at, streak.newest), (Some(this), Some(newest)) if this < newest)
}

fn late(rule: RunRule, run: &MonitorRun) -> Verdict {
    match (rule, run.result.is_failed()) {
        (RunRule::All, _) | (RunRule::Failures | RunRule::FailuresAndRecovery, true) => {
            Verdict::Tell(Story::plain(SendReason::Stale))
        }
        (RunRule::Failures, false) => Verdict::Suppress(SuppressReason::SuccessNotWanted),
        _ => Verdict::Suppress(SuppressReason::Stale),
    }
}

/// `streak` counts this failure already.
fn failed(rule: RunRule, streak: &mut Streak) -> Verdict {
    let n = streak.failures;
    let by_count = match rule {
        RunRule::All => Ok(SendReason::EveryRun),
        RunRule::Failures | RunRule::FailuresAndRecovery => Ok(SendReason::Failure),
        RunRule::FailuresThenSuccess { failures } if n <= failures => Ok(SendReason::Failure),
        RunRule::FailuresThenSuccess { .. } => Err(SuppressReason::FailuresAlreadyTold),
        RunRule::AfterFailures { failures } if n < failures => {
            return Verdict::Suppress(SuppressReason::BelowThreshold);
        }
        RunRule::AfterFailures { failures } if n == failures => Ok(SendReason::ThresholdReached),
        RunRule::Changes if n == 1 => Ok(SendReason::Failure),
        RunRule::AfterFailures { .. } | RunRule::Changes => Err(SuppressReason::AlreadyFailing),
    };
    let reason = match by_count {
        Ok(reason) => reason,
        Err(reason) if streak.belief == Belief::Failing => return Verdict::Suppress(reason),
        // By the count it was told; but the room does not know.
        Err(_) => SendReason::StillFailing,
    };
    streak.belief = Belief::Failing;
    Verdict::Tell(Story { reason, failures: n, first_failed_at: streak.first_failed_at })
}

/// `ended` is what this success ends, `streak` what begins with it.
fn succeeded(rule: RunRule, ended: Streak, streak: &mut Streak) -> Verdict {
    let told = ended.belief != Belief::Passing;
    match rule {
        RunRule::Failures => return Verdict::Suppress(SuppressReason::SuccessNotWanted),
        RunRule::All if ended.failures == 0 && !told => {
            return Verdict::Tell(Story::plain(SendReason::EveryRun));
        }
        RunRule::All => {}
        _ if !told && ended.failures == 0 => return Verdict::Suppress(SuppressReason::StillPassing),
        // It failed, but too seldom for the rule, so the room never heard of it.
        _ if !told => return Verdict::Suppress(SuppressReason::BelowThreshold),
        _ => {}
    }
    streak.belief = Belief::Passing;
    Verdict::Tell(Story {
        reason: SendReason::Recovered,
        failures: ended.failures,
        first_failed_at: ended.first_failed_at,
    })
}

#[cfg(test)]
mod tests {
    use super::super::event::RunResult;
    use super::super::samples::{self, second};
    use super::*;
    use proptest::prelude::*;

    /// A run whose `finished_at` is second `at`, or that carries no time.
    fn run(result: RunResult, at: Option<i64>) -> MonitorRun {
        MonitorRun { finished_at: at.map(second), ..samples::run(result) }
    }

    /// Runs in order, one letter each: `.` success, `F` failure, `E` error, `A` abort. The answer has a letter
    /// at each place: `s` success told, `r` recovery told, `f` failure told, `-` silence.
    fn heard(rule: RunRule, runs: &str) -> String {
        let mut streak = Streak::default();
        let verdict = |(i, c): (usize, char)| {
            let result = match c {
                '.' => RunResult::Success,
                'F' => RunResult::Failure,
                'E' => RunResult::Error,
                _ => RunResult::Abort,
            };
            match decide(rule, &mut streak, &run(result, Some(i as i64)), second(99)) {
                Verdict::Suppress(_) => '-',
                Verdict::Tell(Story { reason: SendReason::Recovered, .. }) => 'r',
                Verdict::Tell(_) if result.is_failed() => 'f',
                Verdict::Tell(_) => 's',
            }
        };
        runs.chars().enumerate().map(verdict).collect()
    }

    #[test]
    fn postmans_own_rule_tells_three_failures_and_then_the_first_success() {
        let rule = RunRule::DEFAULT;
        for (story, runs, expected) in [
            ("a success with no failure before it is never told", ".....", "-----"),
            ("the first run ever may be a failure", "F", "f"),
            ("a success after one failure is told, once", "F...", "fr--"),
            ("a success after two failures is told", "FF.", "ffr"),
            ("the third failure is told", "FFF", "fff"),
            ("a failure after the third is not", "FFFFF", "fff--"),
            ("the success after many failures is told, once", "FFFFFF..", "fff---r-"),
            ("after a success it counts anew", "FFFF.FFFF.", "fff-rfff-r"),
            ("errors and aborts are failed runs", "EAF.", "fffr"),
            ("flapping is told each time", "F.F.F.", "frfrfr"),
            ("silence while all is well, then the story", "...FFFFF...F.", "---fff--r--fr"),
        ] {
            assert_eq!(heard(rule, runs), expected, "{story}: {runs}");
        }
    }

    #[test]
    fn each_rule_tells_what_the_contract_says() {
        use RunRule::{AfterFailures, All, Changes, Failures, FailuresAndRecovery, FailuresThenSuccess};
        for (rule, runs, expected) in [
            (All, ".FF..F", "sffrsf"),
            (FailuresThenSuccess { failures: 1 }, ".FF..F", "-f-r-f"),
            (FailuresThenSuccess { failures: 99 }, "FFFFF.", "fffffr"),
            (Failures, ".FFFF..F", "-ffff--f"),
            (FailuresAndRecovery, ".FFFF..F", "-ffffr-f"),
            (AfterFailures { failures: 3 }, ".FF.FFFFF.", "------f--r"),
            (AfterFailures { failures: 1 }, ".FF.", "-f-r"),
            (Changes, ".FFF...F.", "-f--r--fr"),
            (Changes, "FF", "f-"),
        ] {
            assert_eq!(heard(rule, runs), expected, "{rule:?}: {runs}");
        }
    }

    #[test]
    fn a_recovery_names_the_streak_that_it_ends() {
        let mut streak = Streak::default();
        for at in 0..5 {
            decide(RunRule::DEFAULT, &mut streak, &run(RunResult::Failure, Some(at)), second(99));
        }
        assert_eq!(
            decide(RunRule::DEFAULT, &mut streak, &run(RunResult::Success, Some(5)), second(99)),
            Verdict::Tell(Story {
                reason: SendReason::Recovered,
                failures: 5,
                first_failed_at: Some(second(0))
            })
        );
        assert_eq!(streak, Streak { newest: Some(second(5)), ..Streak::default() });
    }

    #[test]
    fn a_late_run_moves_nothing_and_only_rules_that_promise_it_tell_it() {
        for (rule, result, expected) in [
            (RunRule::DEFAULT, RunResult::Success, Verdict::Suppress(SuppressReason::Stale)),
            (RunRule::DEFAULT, RunResult::Failure, Verdict::Suppress(SuppressReason::Stale)),
            (RunRule::Changes, RunResult::Success, Verdict::Suppress(SuppressReason::Stale)),
            (RunRule::FailuresAndRecovery, RunResult::Success, Verdict::Suppress(SuppressReason::Stale)),
            (
                RunRule::FailuresAndRecovery,
                RunResult::Failure,
                Verdict::Tell(Story::plain(SendReason::Stale)),
            ),
            (RunRule::All, RunResult::Success, Verdict::Tell(Story::plain(SendReason::Stale))),
            (RunRule::All, RunResult::Failure, Verdict::Tell(Story::plain(SendReason::Stale))),
            (RunRule::Failures, RunResult::Failure, Verdict::Tell(Story::plain(SendReason::Stale))),
        ] {
            let mut streak = Streak::default();
            decide(rule, &mut streak, &run(RunResult::Failure, Some(10)), second(99));
            let before = streak;
            assert_eq!(decide(rule, &mut streak, &run(result, Some(9)), second(99)), expected, "{rule:?}");
            assert_eq!(streak, before, "{rule:?}");
        }
    }

    #[test]
    fn a_run_from_the_future_does_not_make_later_ones_late() {
        let mut streak = Streak::default();
        let rule = RunRule::DEFAULT;
        decide(rule, &mut streak, &run(RunResult::Success, Some(1_000_000)), second(50));
        assert_eq!(streak.newest, Some(second(50)));
        let next = decide(rule, &mut streak, &run(RunResult::Failure, Some(60)), second(60));
        assert!(matches!(next, Verdict::Tell(_)));
    }

    #[test]
    fn a_run_that_finished_at_the_same_time_or_carries_no_time_is_not_late() {
        for at in [Some(10), None] {
            let mut streak = Streak::default();
            decide(RunRule::DEFAULT, &mut streak, &run(RunResult::Failure, Some(10)), second(99));
            decide(RunRule::DEFAULT, &mut streak, &run(RunResult::Failure, at), second(99));
            assert_eq!((streak.failures, streak.newest), (2, Some(second(10))));
        }
    }

    #[test]
    fn a_room_that_may_have_missed_a_failure_is_told_again_once() {
        let fail = run(RunResult::Failure, None);
        for rule in [RunRule::DEFAULT, RunRule::Changes, RunRule::AfterFailures { failures: 3 }] {
            for belief in [Belief::Unsure, Belief::Passing] {
                let mut streak = Streak { failures: 7, belief, ..Streak::default() };
                assert!(matches!(
                    decide(rule, &mut streak, &fail, second(0)),
                    Verdict::Tell(Story { reason: SendReason::StillFailing, failures: 8, .. })
                ));
                assert!(
                    matches!(decide(rule, &mut streak, &fail, second(0)), Verdict::Suppress(_)),
                    "{rule:?}"
                );
            }
        }
    }

    #[test]
    fn a_room_that_may_have_missed_a_recovery_is_told_again_once() {
        let pass = run(RunResult::Success, None);
        for rule in [RunRule::DEFAULT, RunRule::Changes, RunRule::FailuresAndRecovery] {
            let mut streak = Streak { belief: Belief::Unsure, ..Streak::default() };
            assert!(matches!(
                decide(rule, &mut streak, &pass, second(0)),
                Verdict::Tell(Story { reason: SendReason::Recovered, failures: 0, .. })
            ));
            assert_eq!(
                decide(rule, &mut streak, &pass, second(0)),
                Verdict::Suppress(SuppressReason::StillPassing)
            );
        }
    }

    #[test]
    fn a_threshold_that_is_lowered_in_mid_streak_tells_the_next_failure_and_no_unheard_recovery() {
        let (fail, pass) = (run(RunResult::Failure, None), run(RunResult::Success, None));
        let four_in_silence = || {
            let mut streak = Streak::default();
            for _ in 0..4 {
                decide(RunRule::AfterFailures { failures: 5 }, &mut streak, &fail, second(0));
            }
            streak
        };
        let lowered = RunRule::AfterFailures { failures: 3 };
        assert!(matches!(
            decide(lowered, &mut four_in_silence(), &fail, second(0)),
            Verdict::Tell(Story { reason: SendReason::StillFailing, failures: 5, .. })
        ));
        assert_eq!(
            decide(lowered, &mut four_in_silence(), &pass, second(0)),
            Verdict::Suppress(SuppressReason::BelowThreshold)
        );
    }

    #[test]
    fn a_streak_below_its_threshold_stays_silent_whatever_the_room_believes() {
        let rule = RunRule::AfterFailures { failures: 3 };
        let mut streak = Streak { failures: 1, belief: Belief::Unsure, ..Streak::default() };
        let fail = run(RunResult::Failure, None);
        assert_eq!(
            decide(rule, &mut streak, &fail, second(0)),
            Verdict::Suppress(SuppressReason::BelowThreshold)
        );
        assert!(matches!(
            decide(rule, &mut streak, &fail, second(0)),
            Verdict::Tell(Story { reason: SendReason::ThresholdReached, .. })
        ));
    }

    proptest! {
        /// Postman's rule, re-computed plainly from the whole history of a room.
        #[test]
        fn postmans_rule_agrees_with_a_plain_recount(runs in "[.FEA]{0,60}", failures in 1u32..6) {
            let mut expected = String::new();
            for (i, c) in runs.char_indices() {
                let before = runs[..i].chars().rev().take_while(|c| *c != '.').count();
                expected.push(match c {
                    '.' if before > 0 => 'r',
                    '.' => '-',
                    _ if before < failures as usize => 'f',
                    _ => '-',
                });
            }
            prop_assert_eq!(heard(RunRule::FailuresThenSuccess { failures }, &runs), expected);
        }
    }
}
