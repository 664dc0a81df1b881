//! An envelope becomes an event: which body form it is, whose it is, and by which identity it is known.
//!
//! Decides nothing about the event and makes no id: the caller says how.

use crate::domain::envelope::Envelope;
use crate::domain::event::{Event, Subject};
use crate::domain::headers;
use crate::domain::ids::{EventId, TeamId};

use super::cloudevent::{self, Attributes, Kind};
use super::fields::{Fields, checked_id, clean};
use super::json::{self, Json};
use super::malformed::Malformed;
use super::surrogates::mended;
use super::{activity_webhook, api_run, monitor_webhook, routing};

/// Bytes at most of a body.
pub const MAX_BODY_BYTES: usize = 1_048_576;

/// Failed tests at most that are kept of a run; a message lists a few. A mebibyte can hold 350,000 of them that say
/// nothing, and each takes thirty times as much once it is read.
pub(super) const MAX_FAILURES: usize = 10_000;

/// Reads an event of any form of the contract.
///
/// Its identity is `x-event-id` for a replay (a dead letter with `x-integration-id`), else the AMQP
/// `message_id`, else the CloudEvents `id`, else what `make_id` gives; `make_id` is called for nothing else.
/// Its team is the CloudEvents extension `teamid`, else the header `team`, else the second segment of the
/// routing key, or of the original one where a dead letter was put back past the exchange.
///
/// # Errors
/// What is wrong with the body, the ids or the CloudEvents attributes, and where.
pub fn read_event(envelope: &Envelope, make_id: impl FnOnce() -> EventId) -> Result<Event, Malformed> {
    let text = mended(text_of(&envelope.body)?);
    let body = json::parse(&text)?;
    let (attributes, data) = cloudevent::open(envelope, &body)?;
    let subject = subject(&attributes, &data)?;
    let team = team(envelope, attributes.team);
    let id = carried_id(envelope, || attributes.id)?.unwrap_or_else(make_id);
    Ok(Event { id, team, subject })
}

/// The identity that an envelope carries, also where its body is malformed; `None` if it carries none that
/// can be used.
pub fn identity(envelope: &Envelope) -> Option<EventId> {
    let from_event = || {
        let text = mended(text_of(&envelope.body).ok()?);
        let body = json::parse(&text).ok()?;
        cloudevent::structured_id(envelope, &body)
    };
    carried_id(envelope, || cloudevent::binary_id(envelope).or_else(from_event)).unwrap_or_default()
}

/// Whether an event may have `text` as its identity.
pub fn can_be_id(text: &str) -> bool {
    checked_id("id", text.to_owned()).is_ok()
}

fn carried_id(
    envelope: &Envelope,
    cloudevent_id: impl FnOnce() -> Option<(String, String)>,
) -> Result<Option<EventId>, Malformed> {
    let replayed = envelope.header(headers::INTEGRATION_ID).and_then(|_| envelope.header(headers::EVENT_ID));
    let named =
        |field: &str, text: &str| (!text.trim().is_empty()).then(|| (field.to_owned(), text.to_owned()));
    let carried = replayed
        .and_then(|id| named(headers::EVENT_ID, id))
        .or_else(|| envelope.message_id.as_deref().and_then(|id| named("message_id", id)))
        .or_else(cloudevent_id);
    carried.map(|(field, text)| checked_id(field, text).map(EventId::new)).transpose()
}

fn team(envelope: &Envelope, attribute: Option<String>) -> Option<TeamId> {
    attribute
        .or_else(|| envelope.header(headers::TEAM).and_then(clean))
        .or_else(|| routing::team_of(&envelope.routing_key).and_then(clean))
        .or_else(|| routing::team_of(envelope.header(headers::ORIGINAL_ROUTING_KEY)?).and_then(clean))
        .map(TeamId::new)
}

fn text_of(body: &[u8]) -> Result<&str, Malformed> {
    const FIX: &str = "publish one event as a JSON object in UTF-8";
    if body.len() > MAX_BODY_BYTES {
        let problem = format!("{} bytes long, over the limit of {MAX_BODY_BYTES}", body.len());
        return Err(Malformed::new(
            "body",
            problem,
            "publish at most 1 MiB, for instance with fewer failures",
        ));
    }
    let text = std::str::from_utf8(body).map_err(|error| {
        Malformed::new("body", format!("not UTF-8 from byte {} on", error.valid_up_to()), FIX)
    })?;
    // A byte order mark is not JSON, but some platforms write it before every file.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim().is_empty() { Err(Malformed::new("body", "empty", FIX)) } else { Ok(text) }
}

fn subject(attributes: &Attributes, data: &Fields<'_, '_>) -> Result<Subject, Malformed> {
    match form(attributes.kind, data)? {
        Form::MonitorWebhook => monitor_webhook::read(data).map(Subject::Run),
        Form::ApiRun => api_run::read(data).map(Subject::Run),
        Form::ActivityWebhook => {
            let mut activity = activity_webhook::read(data)?;
            // Only here: a run's time decides whether it is stale, and a CloudEvent's `time` may be that of
            // its publishing.
            activity.occurred_at = activity.occurred_at.or(attributes.time);
            Ok(Subject::Activity(activity))
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    MonitorWebhook,
    ApiRun,
    ActivityWebhook,
}

fn form(kind: Option<Kind>, data: &Fields<'_, '_>) -> Result<Form, Malformed> {
    let is_api_run = !data.has_any(&["metrics"]) && matches!(data.get("run"), Some(Json::Object(_)));
    match kind {
        Some(Kind::Activity) => Ok(Form::ActivityWebhook),
        _ if is_api_run => Ok(Form::ApiRun),
        Some(Kind::Run) => Ok(Form::MonitorWebhook),
        None if data.has_any(&["metrics"]) => Ok(Form::MonitorWebhook),
        None if data.has_any(&["action", "model"]) => Ok(Form::ActivityWebhook),
        None if data.has_any(&["monitor_uid"]) => Ok(Form::MonitorWebhook),
        None => Err(Malformed::new(
            data.place(),
            "none of the known forms",
            "send `monitor_uid` and `metrics` (a monitor run), `run` (a run from the Postman API), `action` and \
             `model` (an activity), or one of these as `data` of a CloudEvent",
        )),
    }
}
