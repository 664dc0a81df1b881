//! Routing keys: what a publisher writes, and what the worker reads back.
//!
//! AMQP 0-9-1: segments are separated by dots, a key is at most 255 bytes, `*` and `#` stand for segments in
//! bindings.

use crate::domain::event::{Event, Subject};

/// The team segment of an event without a team.
const NO_TEAM: &str = "none";
/// Bytes at most of one segment: `activity.` and three of them, with two dots, stay within 255.
const MAX_SEGMENT_BYTES: usize = 80;

/// The key to publish `event` under: `monitor.<team>.<monitor uid>` or `activity.<team>.<model>.<action>`.
/// What can't stand in a segment becomes `-`. A team that a segment can't hold as it is should travel in the
/// header `team` as well, which goes before the key.
pub fn routing_key(event: &Event) -> String {
    let team = segment(event.team.as_ref().map_or(NO_TEAM, |team| team.as_str()));
    match &event.subject {
        Subject::Run(run) => format!("monitor.{team}.{}", segment(&run.monitor_uid)),
        Subject::Activity(activity) => {
            format!("activity.{team}.{}.{}", segment(&activity.model), segment(&activity.action))
        }
    }
}

/// The team that a routing key names, if it has one of the two forms.
pub(super) fn team_of(key: &str) -> Option<&str> {
    let mut segments = key.split('.');
    if !matches!(segments.next(), Some("monitor" | "activity")) {
        return None;
    }
    let team = segments.next()?;
    segments.next()?;
    (!team.is_empty() && team != NO_TEAM).then_some(team)
}

fn segment(text: &str) -> String {
    let mut segment = String::new();
    for c in text.chars() {
        let kept = if matches!(c, '.' | '*' | '#') || c.is_control() || c.is_whitespace() { '-' } else { c };
        if segment.len() + kept.len_utf8() > MAX_SEGMENT_BYTES {
            break;
        }
        segment.push(kept);
    }
    if segment.is_empty() { "-".into() } else { segment }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::EventId;
    use crate::domain::{envelope::Envelope, ids::TeamId};

    fn event(team: Option<&str>, body: &str) -> Event {
        let envelope = Envelope { body: body.into(), ..Envelope::default() };
        let read = super::super::read_event(&envelope, || EventId::new("e")).expect("an event");
        Event { team: team.map(TeamId::new), ..read }
    }

    fn run(team: Option<&str>, uid: &str) -> Event {
        event(team, &serde_json::json!({"monitor_uid": uid, "metrics": {}}).to_string())
    }

    #[test]
    fn keys_hold_team_and_subject() {
        let activity = event(Some("acme"), r#"{"action":"up.date","model":"mock server"}"#);
        let cases = [
            (run(Some("acme"), "5852-1e6b8957"), "monitor.acme.5852-1e6b8957"),
            (run(Some("a.b"), "#.*"), "monitor.a-b.---"),
            (run(None, "u"), "monitor.none.u"),
            (activity, "activity.acme.mock-server.up-date"),
        ];
        for (event, key) in cases {
            assert_eq!(routing_key(&event), key);
        }
    }

    #[test]
    fn keys_stay_within_a_short_string() {
        let long = "ä".repeat(500);
        let body = serde_json::json!({"action": long, "model": long}).to_string();
        let key = routing_key(&event(Some(&long), &body));
        assert!(key.len() <= 255, "{}", key.len());
        assert_eq!(key.split('.').count(), 4);
    }

    #[test]
    fn the_team_is_read_from_keys_of_the_two_forms_only() {
        let cases = [
            ("monitor.acme.1", Some("acme")),
            ("activity.acme.request.update", Some("acme")),
            ("monitor.acme", None),
            ("monitor", None),
            ("monitor..1", None),
            ("monitor.none.1", None),
            ("hipchat.events", None),
            ("hipchat.events.x", None),
            ("", None),
        ];
        for (key, team) in cases {
            assert_eq!(team_of(key), team, "{key}");
        }
    }
}
