//! What comes from around the body: identity, team, CloudEvents in both modes.

use std::cell::Cell;

use hipchat_notifier::domain::envelope::Envelope;
use hipchat_notifier::domain::event::Subject;
use hipchat_notifier::domain::ids::EventId;
use hipchat_notifier::formats::{identity, read_event};
use serde_json::json;

use super::{fixture, plain, read};

type Headers<'h> = &'h [(&'h str, &'h str)];
type IdCase<'c> = (&'c str, Option<&'c str>, Headers<'c>, Option<&'c str>);
type TeamCase<'c> = (&'c str, Headers<'c>, &'c str, Option<&'c str>);

const RUN: &str = r#"{"monitor_uid":"m","metrics":{}}"#;
const ACTIVITY: &str = r#"{"action":"update","model":"request"}"#;

fn with_headers(body: &str, headers: Headers<'_>) -> Envelope {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Envelope { headers, ..plain(body) }
}

fn fault(envelope: &Envelope) -> String {
    read(envelope).expect_err("refused").to_string()
}

#[test]
fn the_first_identity_there_is_counts() {
    let structured = json!({"specversion": "1.0", "id": "ce", "data": {"monitor_uid": "m", "metrics": {}}});
    let replay = [("x-event-id", "first"), ("x-integration-id", "i")];
    let cases: [IdCase<'_>; 9] = [
        (RUN, None, &[], None),
        (RUN, Some(" "), &[], None),
        (RUN, Some("amqp"), &[], Some("amqp")),
        (&structured.to_string(), None, &[], Some("ce")),
        (&structured.to_string(), Some("amqp"), &[], Some("amqp")),
        (RUN, None, &[("cloudEvents:id", "bin")], Some("bin")),
        (RUN, Some("amqp"), &[("cloudEvents:id", "bin")], Some("amqp")),
        (RUN, Some("amqp"), &replay, Some("first")),
        // Without an integration it is a new event.
        (RUN, Some("amqp"), &replay[..1], Some("amqp")),
    ];
    for (body, message_id, headers, expected) in cases {
        let mut envelope = with_headers(body, headers);
        envelope.message_id = message_id.map(str::to_owned);
        let made = Cell::new(false);
        let event = read_event(&envelope, || {
            made.set(true);
            EventId::new("made")
        });
        let id = event.expect("an event").id;
        assert_eq!(id.as_str(), expected.unwrap_or("made"), "{envelope:?}");
        assert_eq!(made.get(), expected.is_none(), "{envelope:?}");
        assert_eq!(identity(&envelope), expected.map(EventId::new), "{envelope:?}");
    }
}

#[test]
fn a_malformed_event_keeps_the_identity_it_carries() {
    let mut envelope = plain("not JSON");
    assert_eq!(identity(&envelope), None);
    envelope.message_id = Some("a".into());
    assert_eq!(identity(&envelope), Some(EventId::new("a")));
    let no_metrics = plain(r#"{"specversion":"1.0","id":"ce","data":{"monitor_uid":"m"}}"#);
    assert_eq!(identity(&no_metrics), Some(EventId::new("ce")));
    let unknown_type = plain(r#"{"specversion":"1.0","id":"ce","type":"x"}"#);
    assert_eq!(identity(&unknown_type), Some(EventId::new("ce")));
    assert_eq!(identity(&with_headers("", &[("CE-ID", "bin")])), Some(EventId::new("bin")));
}

#[test]
fn ids_are_short_and_plain() {
    let long = "x".repeat(256);
    let shown = format!("found 256 bytes, \"{}…\"", "x".repeat(60));
    let fix = "send at most 255 bytes without control characters";
    let by_property = |id: &str| Envelope { message_id: Some(id.to_owned()), ..plain(RUN) };
    let structured = |id: &str| {
        plain(
            json!({"specversion": "1.0", "id": id, "data": {"monitor_uid": "m", "metrics": {}}}).to_string(),
        )
    };
    let cases = [
        (by_property(&long), format!("message_id: {shown}; {fix}")),
        (by_property("a\nb"), format!("message_id: found control characters in \"a\\u{{a}}b\"; {fix}")),
        (structured(&long), format!("id: {shown}; {fix}")),
        (with_headers(RUN, &[("ce-id", &long)]), format!("ce-id: {shown}; {fix}")),
        (
            with_headers(RUN, &[("x-event-id", &long), ("x-integration-id", "i")]),
            format!("x-event-id: {shown}; {fix}"),
        ),
    ];
    for (envelope, expected) in cases {
        assert_eq!(fault(&envelope), expected);
        assert_eq!(identity(&envelope), None);
    }
    assert!(read(&by_property(&"x".repeat(255))).is_ok());
}

#[test]
fn the_team_comes_from_the_nearest_place() {
    let structured =
        r#"{"specversion":"1.0","id":"1","teamid":"ce","data":{"monitor_uid":"m","metrics":{}}}"#;
    let cases: [TeamCase<'_>; 11] = [
        (structured, &[("team", "header")], "monitor.key.m", Some("ce")),
        (RUN, &[("cloudEvents_teamid", "bin"), ("team", "header")], "monitor.key.m", Some("bin")),
        (RUN, &[("team", "header")], "monitor.key.m", Some("header")),
        (RUN, &[("team", "")], "monitor.key.m", Some("key")),
        (RUN, &[], "monitor.key.m", Some("key")),
        (RUN, &[], "monitor.none.m", None),
        (RUN, &[], "monitor.key", None),
        (RUN, &[], "other.key.m", None),
        (RUN, &[], "", None),
        // A dead letter that was put back into the queue by its name.
        (RUN, &[("x-original-routing-key", "monitor.origin.m")], "hipchat.events", Some("origin")),
        (RUN, &[("x-original-routing-key", "monitor.origin.m")], "monitor.key.m", Some("key")),
    ];
    for (body, headers, key, expected) in cases {
        let mut envelope = with_headers(body, headers);
        envelope.routing_key = key.to_owned();
        let team = read(&envelope).expect("an event").team;
        assert_eq!(team.as_ref().map(|team| team.as_str()), expected, "{envelope:?}");
    }
}

#[test]
fn structured_cloudevents_are_known_by_content_type_or_shape() {
    let event = read(&plain(fixture("cloudevent-structured.json"))).expect("by shape");
    assert_eq!(event.id.as_str(), "b1f0c7be-6d0e-4f5b-9f0c-0d5c6c8a1a11");
    assert_eq!(event.team.as_ref().map(|team| team.as_str()), Some("acme"));
    assert!(matches!(event.subject, Subject::Run(run) if run.failures.len() == 1));

    let no_version = format!(r#"{{"id":"1","data":{RUN}}}"#);
    for content_type in [
        "application/cloudevents+json",
        "Application/CloudEvents+JSON; charset=UTF-8",
        "application/cloudevents",
    ] {
        let envelope = Envelope { content_type: Some(content_type.into()), ..plain(no_version.as_str()) };
        assert!(read(&envelope).is_ok(), "{content_type}");
    }
    for content_type in ["application/json", "", "ü", "application/cloudevent"] {
        let envelope = Envelope { content_type: Some(content_type.into()), ..plain(no_version.as_str()) };
        assert!(read(&envelope).is_err(), "{content_type}");
    }
}

#[test]
fn binary_cloudevents_are_known_by_any_prefix_in_any_case() {
    for prefix in ["cloudEvents:", "cloudEvents_", "ce-", "CLOUDEVENTS:", "Ce-"] {
        let named = |name: &str| format!("{prefix}{name}");
        let (kind, id, version) = (named("type"), named("id"), named("specversion"));
        let headers = [
            (kind.as_str(), "com.postman.activity.request.update"),
            (id.as_str(), "bin-1"),
            (version.as_str(), "1.0"),
        ];
        let event = read(&with_headers(ACTIVITY, &headers)).expect(prefix);
        assert_eq!(event.id.as_str(), "bin-1");
    }
}

#[test]
fn an_activitys_time_may_be_the_cloudevents_and_a_runs_may_not() {
    let time = [("ce-time", "2026-11-22T10:00:00Z")];
    match read(&with_headers(ACTIVITY, &time)).expect("an activity").subject {
        Subject::Activity(activity) => assert_eq!(activity.occurred_at, time[0].1.parse().ok()),
        Subject::Run(run) => panic!("{run:?}"),
    }
    match read(&with_headers(RUN, &time)).expect("a run").subject {
        Subject::Run(run) => assert_eq!(run.finished_at, None),
        Subject::Activity(activity) => panic!("{activity:?}"),
    }
    assert!(read(&with_headers(ACTIVITY, &[("ce-time", "yesterday")])).is_ok());
}

#[test]
fn faulty_cloudevents_name_the_attribute() {
    let types = "send com.postman.monitor.run.completed or com.postman.activity.<model>.<action>";
    let structured = |extra: serde_json::Value| {
        let mut body = json!({"specversion": "1.0", "id": "1", "data": {"monitor_uid": "m", "metrics": {}}});
        for (name, value) in extra.as_object().expect("an object") {
            body[name] = value.clone();
        }
        plain(body.to_string())
    };
    let run_type = "com.postman.monitor.run.completed";
    let cases = [
        (
            structured(json!({"type": "com.example.x"})),
            format!("type: found the unknown type \"com.example.x\"; {types}"),
        ),
        (
            structured(json!({"type": "com.postman.activity."})),
            format!("type: found the unknown type \"com.postman.activity.\"; {types}"),
        ),
        (
            with_headers(RUN, &[("cloudEvents:type", "x")]),
            format!("cloudEvents:type: found the unknown type \"x\"; {types}"),
        ),
        (
            structured(json!({"specversion": "0.3"})),
            "specversion: found version \"0.3\"; send CloudEvents 1.0".into(),
        ),
        (
            with_headers(RUN, &[("ce-specversion", "2.0")]),
            "ce-specversion: found version \"2.0\"; send CloudEvents 1.0".into(),
        ),
        (structured(json!({"type": ["x"]})), "type: found an array of 1; send text, or leave it out".into()),
        (
            structured(json!({"data": null})),
            "data: missing; put the event's body there as a JSON object".into(),
        ),
        (
            structured(json!({"data": "{}"})),
            "data: found the text \"{}\"; put the event's body there as a JSON object".into(),
        ),
        (
            structured(json!({"data": null, "data_base64": "e30="})),
            "data_base64: found encoded data; send it as JSON in `data`".into(),
        ),
        (
            structured(json!({"type": run_type, "data": {"action": "update", "model": "request"}})),
            "data.monitor_uid: missing; send text that is not empty".into(),
        ),
        (
            structured(json!({"type": "com.postman.activity.request.update"})),
            "data.action: missing; send text that is not empty".into(),
        ),
        (
            structured(json!({"data": {"monitor_uid": "m", "metrics": {"errors": -1}}})),
            "data.metrics.errors: found the number -1; send a whole number, 0 or more (below 2^64), \
             without quotes"
                .into(),
        ),
    ];
    for (envelope, expected) in cases {
        assert_eq!(fault(&envelope), expected);
    }
}
