//! Which of a room's waiting notifications end without being told, and why.

use std::time::Duration;

use jiff::Timestamp;

use super::integration::{Integration, IntegrationState};
use super::line::{LineRules, Lookup, RoomLine, Transition, Waiting};
use super::pacing::later;
use super::reason::{DeadLetterReason, SendReason, SuppressReason};

/// Why a waiting notification ends.
enum Ending {
    /// Its owner wants silence.
    Paused,
    /// It can't be told, and somebody has to know.
    Undeliverable(String),
    Expired,
    /// Tried for too long.
    Exhausted,
}

/// What ends in `line` at `now`, as transitions.
pub fn due(line: &RoomLine, integrations: &Lookup<'_>, rules: &LineRules, now: Timestamp) -> Vec<Transition> {
    let (mut paused, mut expired, mut ends) = (Vec::new(), Vec::new(), Vec::new());
    for w in &line.waiting {
        let integration = integrations(&w.integration);
        match ending(w, integration.as_deref(), rules, now) {
            None => {}
            Some(Ending::Paused) => paused.push(w.seq),
            Some(Ending::Expired) => expired.push(w.seq),
            Some(Ending::Undeliverable(detail)) => {
                ends.push(dead(w, DeadLetterReason::IntegrationBroken, detail, now));
            }
            Some(Ending::Exhausted) => {
                ends.push(dead(w, DeadLetterReason::RetriesExhausted, exhausted(w, rules), now));
            }
        }
    }
    if !paused.is_empty() {
        let detail = "paused while it waited for its message".to_owned();
        ends.push(Transition::Suppressed { seqs: paused, reason: SuppressReason::Paused, detail, at: now });
    }
    if !expired.is_empty() {
        let detail = format!("waited longer than {} (notifications.max_age)", in_words(rules.max_age));
        ends.push(Transition::Expired { seqs: expired, at: now, detail });
    }
    ends
}

/// An integration that is not known (`None`) is being changed, or can't be read: what waits for it stays where
/// it is. When it is removed, the store itself ends what waits for it.
fn ending(
    w: &Waiting,
    integration: Option<&Integration>,
    rules: &LineRules,
    now: Timestamp,
) -> Option<Ending> {
    let replayed = w.story.reason == SendReason::Replayed;
    match integration.map(|i| &i.state) {
        // Who replays a letter wants it told: it goes back to where it came from rather than into silence.
        Some(IntegrationState::Paused) if replayed => Some(Ending::Undeliverable(
            "replayed, but the integration is paused; resume it and replay again".to_owned(),
        )),
        Some(IntegrationState::Paused) => Some(Ending::Paused),
        Some(IntegrationState::Suspended { reason }) => Some(Ending::Undeliverable(format!(
            "the integration is suspended ({reason}); mend that, resume it and replay"
        ))),
        Some(IntegrationState::Active) | None => match w.first_attempt_at {
            Some(first) if later(first, rules.retry.give_up_after) <= now => Some(Ending::Exhausted),
            None if later(w.ready_at, rules.max_age) <= now => Some(Ending::Expired),
            _ => None,
        },
    }
}

fn dead(w: &Waiting, reason: DeadLetterReason, detail: String, at: Timestamp) -> Transition {
    Transition::DeadLettered { seqs: vec![w.seq], reason, detail, at, status: None, attempted: false }
}

fn exhausted(w: &Waiting, rules: &LineRules) -> String {
    let after = in_words(rules.retry.give_up_after);
    let last =
        if w.last_answer.is_empty() { String::new() } else { format!("; the last: {}", w.last_answer) };
    format!(
        "the room's server gave no good answer to {} attempts in {after} (retry.give_up_after){last}; replay when it \
         does again",
        w.attempts
    )
}

/// A duration as people write it: `24h`, `7d`, `90s`.
pub fn in_words(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{}ms", duration.as_millis()),
        s if s % 86_400 == 0 && s > 86_400 => format!("{}d", s / 86_400),
        s if s % 3600 == 0 => format!("{}h", s / 3600),
        s if s % 60 == 0 => format!("{}m", s / 60),
        s => format!("{s}s"),
    }
}
