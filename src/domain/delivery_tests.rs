//! The contract's table of answers, row by row.

use std::time::Duration;

use super::super::ids::*;
use super::super::integration::*;
use super::super::pacing::Budget;
use super::super::reason::SendReason;
use super::super::retry::RetryRule;
use super::super::samples::{self, second};
use super::*;

const RULES: LineRules = LineRules {
    room: Budget::ROOM,
    retry: RetryRule {
        first: Duration::from_secs(1),
        longest: Duration::from_secs(300),
        give_up_after: Duration::from_secs(100),
    },
    max_age: Duration::from_secs(3600),
};

fn integration(id: &str) -> Integration {
    let budget = Some(Budget { messages: 2, per: Duration::from_secs(60) });
    Integration { throttle: Throttle { budget, ..Throttle::default() }, ..samples::integration(id) }
}

fn line(ids: &[&str]) -> RoomLine {
    let mut line = samples::line(ids);
    line.state.expired_untold = 3;
    line
}

fn answer(class: AnswerClass, status: Option<u16>) -> Answer {
    Answer {
        status,
        class,
        detail: "as the server said".into(),
        room_limit: LimitHint::default(),
        token_limit: LimitHint::default(),
    }
}

/// The consequence of an answer to an attempt that carried the whole line.
fn consequence(line: &RoomLine, answer: &Answer, jitter: f64) -> Consequence {
    let (a, b) = (integration("a"), integration("b"));
    let take: Vec<usize> = (0..line.waiting.len()).collect();
    let shape = if take.len() == 1 { Shape::Single } else { Shape::Together(SendReason::OverBudget) };
    let attempt = Attempt { line, take: &take, shape, integration: &a };
    let spoke_for: &[&Integration] = if take.len() == 1 { &[&a] } else { &[&a, &b] };
    after(attempt, answer, spoke_for, &RULES, second(10), jitter)
}

#[test]
fn accepted_ends_in_sent_or_digested_and_counts_everywhere() {
    let good = answer(AnswerClass::Accepted, Some(204));
    let one = consequence(&line(&["a"]), &good, 0.0);
    assert_eq!(
        one.transitions,
        [Transition::Sent { seq: 0, reason: SendReason::Failure, at: second(10), status: 204 }]
    );
    assert_eq!(one.state.meter.spent(RULES.room, second(10)), 1);
    assert_eq!((one.state.expired_untold, one.calls.calls), (0, 1));
    let two = consequence(&line(&["a", "b"]), &good, 0.0);
    assert_eq!(
        two.transitions,
        [Transition::Digested {
            seqs: vec![0, 1],
            reason: SendReason::OverBudget,
            at: second(10),
            status: 204
        }]
    );
    let throttled: Vec<&str> = two.throttles.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(throttled, ["a", "b"]);
    assert_eq!(two.state.meter.spent(RULES.room, second(10)), 1, "a digest takes one place");
}

#[test]
fn a_rate_limit_costs_no_attempt_and_blocks_the_one_to_blame() {
    let limited = answer(AnswerClass::RateLimited { until: second(40) }, Some(429));
    let room = consequence(&line(&["a"]), &limited, 0.0);
    assert_eq!(room.transitions, []);
    assert_eq!(room.state.meter.blocked_until, Some(second(40)), "the room, where nobody says");
    assert_eq!(room.calls.blocked_until, None);

    let used_up = LimitHint { limit: Some(500), remaining: Some(0), reset_at: Some(second(200)) };
    let token = consequence(&line(&["a"]), &Answer { token_limit: used_up, ..limited.clone() }, 0.0);
    assert_eq!(token.calls.blocked_until, Some(second(200)));
    assert_eq!(token.state.meter.blocked_until, None, "the room is not to blame");

    let flood = LimitHint { limit: Some(30), remaining: Some(0), reset_at: Some(second(70)) };
    let room = consequence(&line(&["a"]), &Answer { room_limit: flood, ..limited }, 0.0);
    assert_eq!(room.state.meter.blocked_until, Some(second(70)));
    assert_eq!(room.state.expired_untold, 3, "still to be told");
}

#[test]
fn a_server_that_goes_on_saying_too_many_is_asked_less_and_less() {
    let limited = answer(AnswerClass::RateLimited { until: second(11) }, Some(429));
    let used_up = LimitHint { limit: None, remaining: Some(0), reset_at: Some(second(11)) };
    let token = Answer { token_limit: used_up, ..limited.clone() };
    for (says, first) in [(&limited, Some(second(11))), (&token, None)] {
        let mut line = line(&["a"]);
        let mut blocked = Vec::new();
        for _ in 0..8 {
            line.state.meter.blocked_until = None;
            let c = consequence(&line, says, 0.0);
            assert_eq!((&c.transitions[..], c.state.retry), (&[][..], line.state.retry), "costs no attempt");
            blocked.push(c.state.meter.blocked_until);
            line.state = c.state;
        }
        let longer = [12, 14, 18, 26, 42, 70, 70].map(|at| Some(second(at)));
        assert_eq!((blocked[0], &blocked[1..]), (first, &longer[..]));
        let told = consequence(&line, &answer(AnswerClass::Accepted, Some(204)), 0.0);
        assert_eq!(told.state.meter.limited, 0, "an accepted message ends it");
    }
}

#[test]
fn no_good_answer_is_retried_later_and_later() {
    let mut line = line(&["a"]);
    for (failures, expected) in [(1, 11), (2, 12), (3, 14), (4, 18)] {
        let c = consequence(&line, &answer(AnswerClass::Unavailable, Some(503)), 0.0);
        let retry = c.state.retry.unwrap();
        assert_eq!((retry.failures, retry.at), (failures, second(expected)));
        assert!(matches!(
            &c.transitions[..],
            [Transition::Attempted { plain_next: false, status: Some(503), .. }]
        ));
        assert_eq!(c.state.meter.spent(RULES.room, second(10)), failures);
        line.state = c.state;
    }
}

#[test]
fn a_retry_is_not_later_than_the_moment_of_giving_up() {
    let mut line = line(&["a"]);
    line.waiting[0].first_attempt_at = Some(second(-85));
    line.state.retry = Some(Retry { failures: 8, at: second(10) });
    let c = consequence(&line, &answer(AnswerClass::Unavailable, None), 0.0);
    assert_eq!(c.state.retry.unwrap().at, second(15));
}

#[test]
fn a_refused_message_is_tried_once_more_without_a_card_and_then_given_up() {
    let refused = answer(AnswerClass::Refused, Some(400));
    let mut line = line(&["a"]);
    let first = consequence(&line, &refused, 0.0);
    assert!(matches!(&first.transitions[..], [Transition::Attempted { plain_next: true, .. }]));
    line.waiting[0].plain = true;
    let second_try = consequence(&line, &refused, 0.0);
    assert!(matches!(
        &second_try.transitions[..],
        [Transition::DeadLettered {
            reason: DeadLetterReason::RejectedByHipchat,
            attempted: true,
            status: Some(400),
            ..
        }]
    ));
}

#[test]
fn a_broken_integration_takes_only_its_own_notifications_with_it() {
    let c = consequence(&line(&["a", "b", "a"]), &answer(AnswerClass::Broken, Some(401)), 0.0);
    assert_eq!(
        c.transitions,
        [Transition::Broken {
            integration: IntegrationId::new("a"),
            seqs: vec![0, 2],
            detail: "as the server said".into(),
            at: second(10),
            status: Some(401)
        }]
    );
}

#[test]
fn headers_on_a_good_answer_correct_the_room_and_the_token() {
    let last = LimitHint { limit: Some(10), remaining: Some(0), reset_at: Some(second(50)) };
    let good = Answer { room_limit: last, token_limit: last, ..answer(AnswerClass::Accepted, Some(204)) };
    let c = consequence(&line(&["a"]), &good, 0.0);
    assert_eq!(c.state.meter.blocked_until, Some(second(50)));
    assert_eq!(c.state.meter.learned.map(|learned| learned.limit), Some(10));
    assert_eq!(c.calls.hint, last);
}

#[test]
fn a_held_line_follows_its_transitions() {
    let mut held = line(&["a", "b", "a", "b", "b"]);
    let seqs = |line: &RoomLine| line.waiting.iter().map(|w| w.seq).collect::<Vec<_>>();
    held.apply(&[
        Transition::Sent { seq: 1, reason: SendReason::Failure, at: second(1), status: 204 },
        Transition::Attempted {
            seqs: vec![3],
            at: second(2),
            status: Some(503),
            detail: String::new(),
            plain_next: true,
        },
        Transition::Expired { seqs: vec![4], at: second(3), detail: String::new() },
    ]);
    assert_eq!((seqs(&held), held.state.expired_untold), (vec![0, 2, 3], 4));
    let tried = &held.waiting[2];
    assert_eq!((tried.attempts, tried.first_attempt_at, tried.plain), (1, Some(second(2)), true));
    let broken = Transition::Broken {
        integration: IntegrationId::new("a"),
        seqs: vec![0],
        detail: String::new(),
        at: second(4),
        status: Some(401),
    };
    held.apply(&[broken]);
    assert_eq!(seqs(&held), [3], "all that waits for a broken integration goes with it");
}
