//! Events of every form: what a published schema accepts is read; an event in a CloudEvent, structured or
//! binary, is the event that it is alone; a Newman report that is read makes an event that can be published; and
//! whatever is refused is refused in one short line.

use std::sync::LazyLock;

use hipchat_notifier::domain::envelope::Envelope;
use hipchat_notifier::domain::event::{Event, Subject};
use hipchat_notifier::domain::headers;
use hipchat_notifier::domain::ids::EventId;
use hipchat_notifier::formats::{
    ACTIVITY_TYPE_PREFIX, MAX_BODY_BYTES, MAX_ID_BYTES, Malformed, NewmanOptions, RUN_TYPE, can_be_id,
    event_from_newman, identity, read_event, routing_key,
};
use jsonschema::Validator;
use serde_json::Value;
use url::Url;

use crate::{envelope, judge};

/// The id of an event that brings none.
const MADE: &str = "made";
/// Bytes that a CloudEvent takes around its data, at most.
const WRAPPING: usize = 256;

struct Schemas {
    monitor_webhook: Validator,
    api_run: Validator,
    activity_webhook: Validator,
    cloudevent: Validator,
}

static SCHEMAS: LazyLock<Schemas> = LazyLock::new(|| Schemas {
    monitor_webhook: judge::schema("monitor-webhook"),
    api_run: judge::schema("api-run"),
    activity_webhook: judge::schema("activity-webhook"),
    cloudevent: judge::schema("cloudevent"),
});

pub fn check(input: &[u8]) {
    let envelope = envelope::read(input);
    let first = read(&envelope);
    assert_eq!(first, read(&envelope), "the same bytes, read again");
    match &first {
        Ok(event) => accepted(&envelope, event),
        Err(malformed) => refused(malformed),
    }
    if let Some(id) = identity(&envelope) {
        assert!(can_be_id(id.as_str()), "{id:?} is no id");
    }
    agrees_with_its_schema(&envelope);
    is_the_same_in_a_cloud_event(&envelope.body);
    as_newmans_report(&envelope.body);
}

fn read(envelope: &Envelope) -> Result<Event, Malformed> {
    read_event(envelope, || EventId::new(MADE))
}

fn accepted(envelope: &Envelope, event: &Event) {
    let carried = identity(envelope);
    assert_eq!(carried.as_ref().map_or(MADE, |id| id.as_str()), event.id.as_str(), "one event, one id");
    assert!(can_be_id(event.id.as_str()) && !event.id.as_str().trim().is_empty());
    let key = routing_key(event);
    let segments = if matches!(event.subject, Subject::Run(_)) { 3 } else { 4 };
    assert!(key.len() <= 255 && key.split('.').count() == segments, "{key}");
    texts_and_links(event);

    // Published under its own key, without the header, the event is the same team's: where the key can hold it.
    let team = event.team.as_ref().map(|team| team.as_str());
    let fits =
        |team: &str| team.len() <= 80 && team.bytes().all(|b| b.is_ascii_alphanumeric()) && team != "none";
    if team.is_none_or(fits) {
        let mut published = envelope.clone();
        published.routing_key = key;
        published.headers.remove(headers::TEAM);
        published.headers.remove(headers::ORIGINAL_ROUTING_KEY);
        assert_eq!(read(&published).as_ref(), Ok(event), "as it is published");
    }
}

fn texts_and_links(event: &Event) {
    let (texts, links) = match &event.subject {
        Subject::Run(run) => (
            vec![
                &run.monitor_name,
                &run.collection_name,
                &run.environment_name,
                &run.user_name,
                &run.trigger,
            ],
            [&run.monitor_url, &run.run_url],
        ),
        Subject::Activity(activity) => (
            vec![&activity.model_name, &activity.collection_name, &activity.message, &activity.user_name],
            [&activity.model_url, &activity.collection_url],
        ),
    };
    for text in texts.into_iter().flatten() {
        assert!(!text.contains('\0') && !text.trim().is_empty(), "{text:?}");
    }
    for link in links.into_iter().flatten() {
        let url = Url::parse(link.as_str()).expect("a link");
        assert!(matches!(url.scheme(), "http" | "https") && url.username().is_empty(), "{link:?}");
        assert_eq!(url.as_str(), link.as_str(), "in its normal form");
    }
}

fn refused(malformed: &Malformed) {
    let shown = malformed.to_string();
    let bad = |c: char| c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c);
    assert!(!shown.contains(bad), "not one clean line: {shown:?}");
    assert!(shown.chars().count() < 2_000, "{} characters: {shown:.200}", shown.chars().count());
    let parts = [&malformed.field, &malformed.problem, &malformed.fix];
    assert!(parts.iter().all(|part| !part.trim().is_empty()), "{malformed:?}");
}

/// A report that `publish --newman` takes makes an event that everybody takes.
fn as_newmans_report(report: &[u8]) {
    match event_from_newman(report, &NewmanOptions::default()) {
        Err(malformed) => refused(&malformed),
        Ok(event) => {
            assert!(SCHEMAS.monitor_webhook.is_valid(&event), "made of a report, but no event: {event}");
            let body = serde_json::to_vec(&event).expect("a value is JSON");
            assert!(body.len() <= MAX_BODY_BYTES, "{} bytes", body.len());
            let read = read(&Envelope { body, ..Envelope::default() });
            assert!(read.is_ok(), "made of a report, but {read:?}: {event}");
        }
    }
}

/// A body without any property. JSON that serde_json can't hold says nothing of schemas.
fn agrees_with_its_schema(envelope: &Envelope) {
    if envelope.body.len() > MAX_BODY_BYTES {
        return;
    }
    let Ok(value) = serde_json::from_slice::<Value>(&envelope.body) else { return };
    let is = |name: &str| !value[name].is_null();
    let schema = match () {
        () if is("specversion") => &SCHEMAS.cloudevent,
        () if is("metrics") => &SCHEMAS.monitor_webhook,
        () if value["run"].is_object() => &SCHEMAS.api_run,
        () => &SCHEMAS.activity_webhook,
    };
    if schema.is_valid(&value) {
        let plain = Envelope { body: envelope.body.clone(), ..Envelope::default() };
        if let Err(malformed) = read(&plain)
            && !is_long_in_bytes(&value, &malformed)
        {
            panic!("the schema accepts {value}, and the worker says {malformed:?}");
        }
    }
}

/// Whether a text was refused for its bytes, of which its schema speaks in words alone: it can count characters only.
fn is_long_in_bytes(value: &Value, malformed: &Malformed) -> bool {
    match value {
        Value::String(text) => {
            text.len() > text.chars().count()
                && text.len() > MAX_ID_BYTES
                && malformed.problem.starts_with(&format!("found {} bytes", text.len()))
        }
        Value::Array(values) => values.iter().any(|value| is_long_in_bytes(value, malformed)),
        Value::Object(fields) => fields.values().any(|value| is_long_in_bytes(value, malformed)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// What is read alone is read the same as a CloudEvent's data.
fn is_the_same_in_a_cloud_event(body: &[u8]) {
    let Ok(text) = std::str::from_utf8(body) else { return };
    let text = text.trim_start_matches('\u{feff}');
    let alone = Envelope { body: body.to_vec(), ..Envelope::default() };
    let Ok(event) = read(&alone) else { return };
    let is_wrapped = text.contains("specversion")
        || serde_json::from_str::<Value>(text).is_ok_and(|value| !value["specversion"].is_null());
    if is_wrapped || body.len() + WRAPPING > MAX_BODY_BYTES || nests_deeply(text) {
        // In a CloudEvent already, though maybe in one without an id, or too large or deep for a second one.
        return;
    }
    let kind = match event.subject {
        Subject::Run(_) => RUN_TYPE.to_owned(),
        Subject::Activity(_) => format!("{ACTIVITY_TYPE_PREFIX}model.action"),
    };
    let wrapped = format!(r#"{{"specversion":"1.0","id":"c-1","source":"/","type":"{kind}","data":{text}}}"#);
    let structured = Envelope { body: wrapped.into_bytes(), ..Envelope::default() };
    let expected = Event { id: EventId::new("c-1"), ..event };
    assert_eq!(read(&structured).as_ref(), Ok(&expected), "structured");
    for prefix in ["cloudEvents:", "cloudEvents_", "ce-", "CE-"] {
        let mut binary = alone.clone();
        for (name, value) in [("specversion", "1.0"), ("id", "c-1"), ("type", &kind)] {
            binary.headers.insert(format!("{prefix}{name}"), value.to_owned());
        }
        assert_eq!(read(&binary).as_ref(), Ok(&expected), "binary, {prefix}");
    }
}

/// Whether one more level might be too many for the parser.
fn nests_deeply(text: &str) -> bool {
    text.bytes().filter(|b| matches!(b, b'{' | b'[')).count() > 120
}
