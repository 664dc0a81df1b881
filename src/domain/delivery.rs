//! What follows from an attempt: the contract's table of answers, as transitions and new state.

use jiff::Timestamp;

use super::answer::{Answer, AnswerClass};
use super::ids::IntegrationId;
use super::integration::Integration;
use super::line::{LineRules, Retry, RoomLine, Shape, TokenCalls, Transition, Waiting};
use super::pacing::{LimitHint, Meter, later};
use super::reason::DeadLetterReason;

/// An attempt that was made: what it carried, and in which shape.
#[derive(Debug, Clone, Copy)]
pub struct Attempt<'a> {
    /// The held room, as it was when the attempt was chosen.
    pub line: &'a RoomLine,
    /// Places in `line.waiting`; never empty.
    pub take: &'a [usize],
    pub shape: Shape,
    /// The integration whose room URL was used: that of the first in `take`.
    pub integration: &'a Integration,
}

/// What an answer changes.
#[derive(Debug, Clone, PartialEq)]
pub struct Consequence {
    pub transitions: Vec<Transition>,
    pub state: super::line::RoomState,
    pub calls: TokenCalls,
    pub throttles: Vec<(IntegrationId, Meter)>,
}

/// Applies the answer that came at `now`. `jitter` (0 to 1) is drawn by the caller; `spoke_for` are the
/// integrations whose notifications the message told.
///
/// Only an answer from the room's server, or none, costs an attempt; a 429 costs nothing.
pub fn after(
    attempt: Attempt<'_>,
    answer: &Answer,
    spoke_for: &[&Integration],
    rules: &LineRules,
    now: Timestamp,
    jitter: f64,
) -> Consequence {
    let token = &attempt.integration.token;
    let mut c = Consequence {
        transitions: Vec::new(),
        state: attempt.line.state.clone(),
        calls: TokenCalls { token: token.clone(), calls: 1, hint: answer.token_limit, blocked_until: None },
        throttles: Vec::new(),
    };
    c.state.meter.correct(&answer.room_limit, now);
    match answer.class {
        AnswerClass::Accepted => accepted(&mut c, attempt, answer, spoke_for, rules, now),
        AnswerClass::RateLimited { until } => rate_limited(&mut c, answer, until, now),
        AnswerClass::Unavailable => unavailable(&mut c, attempt, answer, rules, now, jitter),
        AnswerClass::Refused => refused(&mut c, attempt, answer, now),
        AnswerClass::Broken => {
            c.transitions.push(Transition::Broken {
                integration: attempt.integration.id.clone(),
                seqs: seqs_of(attempt, Some(&attempt.integration.id)),
                detail: answer.detail.clone(),
                at: now,
                status: answer.status,
            });
        }
    }
    c
}

fn accepted(
    c: &mut Consequence,
    attempt: Attempt<'_>,
    answer: &Answer,
    spoke_for: &[&Integration],
    rules: &LineRules,
    now: Timestamp,
) {
    let status = answer.status.unwrap_or_default();
    c.transitions.push(match attempt.shape {
        Shape::Single => {
            let w = waiting(attempt, attempt.take[0]);
            Transition::Sent { seq: w.seq, reason: w.story.reason, at: now, status }
        }
        Shape::Together(reason) => {
            Transition::Digested { seqs: seqs_of(attempt, None), reason, at: now, status }
        }
    });
    c.state.meter.record(rules.room, now, 1);
    c.state.meter.limited = 0;
    c.state.retry = None;
    c.state.expired_untold = 0;
    c.throttles = spoke_for
        .iter()
        .filter_map(|integration| {
            let budget = integration.throttle.budget?;
            let mut meter = attempt.line.throttles.get(&integration.id).cloned().unwrap_or_default();
            meter.record(budget, now, 1);
            Some((integration.id.clone(), meter))
        })
        .collect();
}

/// The one to blame is blocked: the token where its own count is used up, else the room. The room also backs off
/// from a server that goes on saying so.
fn rate_limited(c: &mut Consequence, answer: &Answer, until: Timestamp, now: Timestamp) {
    let used_up = |hint: LimitHint| hint.remaining == Some(0);
    let token_is_to_blame = used_up(answer.token_limit);
    if token_is_to_blame {
        c.calls.blocked_until = Some(answer.token_limit.reset_at.unwrap_or(until));
    }
    if !token_is_to_blame || used_up(answer.room_limit) {
        c.state.meter.block_until(answer.room_limit.reset_at.unwrap_or(until), now);
    }
    c.state.meter.limited_again(now);
}

fn unavailable(
    c: &mut Consequence,
    attempt: Attempt<'_>,
    answer: &Answer,
    rules: &LineRules,
    now: Timestamp,
    jitter: f64,
) {
    let failures = c.state.retry.map_or(0, |retry| retry.failures).saturating_add(1);
    let delayed = later(now, rules.retry.delay(failures, jitter));
    // Not later than the moment at which the first of them is to be given up.
    let give_up = attempt
        .take
        .iter()
        .map(|at| later(waiting(attempt, *at).first_attempt_at.unwrap_or(now), rules.retry.give_up_after))
        .min()
        .unwrap_or(delayed);
    c.state.retry = Some(Retry { failures, at: delayed.min(give_up.max(now)) });
    // It may have arrived all the same: the answer was lost, not necessarily the message.
    c.state.meter.record(rules.room, now, 1);
    c.transitions.push(Transition::Attempted {
        seqs: seqs_of(attempt, None),
        at: now,
        status: answer.status,
        detail: answer.detail.clone(),
        plain_next: waiting(attempt, attempt.take[0]).plain,
    });
}

fn refused(c: &mut Consequence, attempt: Attempt<'_>, answer: &Answer, now: Timestamp) {
    let seqs = seqs_of(attempt, None);
    let detail = answer.detail.clone();
    c.state.retry = None;
    if waiting(attempt, attempt.take[0]).plain {
        c.transitions.push(Transition::DeadLettered {
            seqs,
            reason: DeadLetterReason::RejectedByHipchat,
            detail,
            at: now,
            status: answer.status,
            attempted: true,
        });
    } else {
        c.transitions.push(Transition::Attempted {
            seqs,
            at: now,
            status: answer.status,
            detail,
            plain_next: true,
        });
    }
}

fn waiting<'a>(attempt: Attempt<'a>, at: usize) -> &'a Waiting {
    &attempt.line.waiting[at]
}

/// The notifications of the attempt, or those of them that are `only` one integration's.
fn seqs_of(attempt: Attempt<'_>, only: Option<&IntegrationId>) -> Vec<i64> {
    attempt
        .take
        .iter()
        .map(|at| waiting(attempt, *at))
        .filter(|w| only.is_none_or(|id| w.integration == *id))
        .map(|w| w.seq)
        .collect()
}

#[cfg(test)]
#[path = "delivery_tests.rs"]
mod tests;
