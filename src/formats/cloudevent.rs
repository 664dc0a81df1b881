//! CloudEvents 1.0 around a body: structured (one JSON document) or binary (attributes in AMQP headers).
//!
//! After the CloudEvents specification 1.0, its JSON format and its AMQP binding, which allows the header
//! prefixes `cloudEvents:` and `cloudEvents_`; `ce-` is what bridges from HTTP leave. Only what the worker
//! uses is looked at: `source`, for one, may be missing. Never looks into `data`.

use jiff::Timestamp;

use crate::domain::envelope::Envelope;

use super::fields::{Fields, clean, instant};
use super::json::{Json, Place};
use super::malformed::{Malformed, quoted};

/// The `type` of a finished monitor run.
pub const RUN_TYPE: &str = "com.postman.monitor.run.completed";
/// What the `type` of an activity starts with; model and action follow.
pub const ACTIVITY_TYPE_PREFIX: &str = "com.postman.activity.";

const PREFIXES: [&str; 3] = ["cloudEvents:", "cloudEvents_", "ce-"];
/// The place of a structured event's data.
const DATA: Place<'static> = Place::Member(&Place::Body, "data");

/// Which body forms a CloudEvent's `type` announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Run,
    Activity,
}

/// What the worker uses of the attributes.
#[derive(Debug, Default)]
pub(super) struct Attributes {
    /// The id, and the field or header that holds it.
    pub id: Option<(String, String)>,
    pub team: Option<String>,
    pub kind: Option<Kind>,
    /// When it happened. Left out if it is no time, since nothing is decided by it.
    pub time: Option<Timestamp>,
}

/// Takes a body out of its CloudEvent, if it is in one.
pub(super) fn open<'j, 'a>(
    envelope: &Envelope,
    body: &'j Json<'a>,
) -> Result<(Attributes, Fields<'j, 'a>), Malformed> {
    let fields = Fields::of(body, Place::Body)?;
    if is_structured(envelope, &fields) {
        return Ok((structured(&fields)?, data(&fields)?));
    }
    Ok((binary(envelope)?, fields))
}

/// The id of a binary event, and the header that holds it.
pub(super) fn binary_id(envelope: &Envelope) -> Option<(String, String)> {
    let (name, id) = binary_attribute(envelope, "id")?;
    (!id.trim().is_empty()).then(|| (name.to_owned(), id.to_owned()))
}

/// The id of a structured event whatever else may be wrong with it, and the field that holds it.
pub(super) fn structured_id(envelope: &Envelope, body: &Json<'_>) -> Option<(String, String)> {
    let fields = Fields::of(body, Place::Body).ok()?;
    let id = is_structured(envelope, &fields).then(|| fields.exact_text("id").unwrap_or_default())??;
    Some((fields.at("id").to_string(), id))
}

fn is_structured(envelope: &Envelope, body: &Fields<'_, '_>) -> bool {
    const STRUCTURED: &str = "application/cloudevents";
    let by_type = envelope.content_type.as_deref().is_some_and(|content_type| {
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        media_type.get(..STRUCTURED.len()).is_some_and(|start| start.eq_ignore_ascii_case(STRUCTURED))
    });
    by_type || body.has_any(&["specversion"])
}

fn structured(fields: &Fields<'_, '_>) -> Result<Attributes, Malformed> {
    let attribute = |name: &str| fields.text(name);
    if let Some(version) = attribute("specversion")? {
        check_version(fields.at("specversion"), &version)?;
    }
    let kind = attribute("type")?.map(|text| kind(fields.at("type"), &text)).transpose()?;
    Ok(Attributes {
        id: fields.exact_text("id")?.map(|id| (fields.at("id").to_string(), id)),
        team: attribute("teamid")?,
        kind,
        time: fields.time("time").unwrap_or_default(),
    })
}

fn data<'j, 'a>(fields: &Fields<'j, 'a>) -> Result<Fields<'j, 'a>, Malformed> {
    const FIX: &str = "put the event's body there as a JSON object";
    match fields.get("data") {
        None if fields.has_any(&["data_base64"]) => {
            Err(Malformed::new(fields.at("data_base64"), "found encoded data", "send it as JSON in `data`"))
        }
        None => Err(Malformed::missing(DATA, FIX)),
        Some(data @ Json::Object(_)) => Fields::of(data, DATA),
        Some(other) => Err(Malformed::new(DATA, other.found(), FIX)),
    }
}

fn binary(envelope: &Envelope) -> Result<Attributes, Malformed> {
    let attribute =
        |name: &str| binary_attribute(envelope, name).and_then(|(header, text)| Some((header, clean(text)?)));
    if let Some((header, version)) = attribute("specversion") {
        check_version(header, &version)?;
    }
    let kind = attribute("type").map(|(header, text)| kind(header, &text)).transpose()?;
    Ok(Attributes {
        id: binary_id(envelope),
        team: attribute("teamid").map(|(_, team)| team),
        kind,
        time: attribute("time").and_then(|(_, time)| instant(&time)),
    })
}

/// A header of a binary event by its attribute's name; case does not matter.
fn binary_attribute<'e>(envelope: &'e Envelope, name: &str) -> Option<(&'e str, &'e str)> {
    envelope.headers.iter().find_map(|(header, value)| {
        let is_it = PREFIXES.iter().any(|prefix| {
            header.len() == prefix.len() + name.len()
                && header.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
                && header.get(prefix.len()..).is_some_and(|rest| rest.eq_ignore_ascii_case(name))
        });
        is_it.then_some((header.as_str(), value.as_str()))
    })
}

fn check_version(field: impl std::fmt::Display, version: &str) -> Result<(), Malformed> {
    // 1.0.1 and 1.0.2 of the specification keep the attribute at 1.0, but some producers write them out.
    if version == "1.0" || version.starts_with("1.0.") {
        return Ok(());
    }
    Err(Malformed::new(field, format!("found version {}", quoted(version)), "send CloudEvents 1.0"))
}

fn kind(field: impl std::fmt::Display, text: &str) -> Result<Kind, Malformed> {
    match text.strip_prefix(ACTIVITY_TYPE_PREFIX) {
        Some(rest) if !rest.is_empty() => Ok(Kind::Activity),
        _ if text == RUN_TYPE => Ok(Kind::Run),
        _ => Err(Malformed::new(
            field,
            format!("found the unknown type {}", quoted(text)),
            format!("send {RUN_TYPE} or {ACTIVITY_TYPE_PREFIX}<model>.<action>"),
        )),
    }
}
