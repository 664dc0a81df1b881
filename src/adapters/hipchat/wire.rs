//! A room message as HipChat's JSON: the body of `POST /v2/room/{id}/notification`.
//!
//! Only the wire form: limits are kept by whoever made the message. Keys without a value are left out,
//! since the server takes neither empty lists nor (everywhere) null. `schemas/room-notification.schema.json`
//! describes the same body; `tests/it/hipchat.rs` holds the two together.

use serde::Serialize;

use crate::domain::message::{Attribute, Card, RoomMessage};

/// Bytes of most bodies beside the message: less often grown, less often copied.
const USUAL: usize = 2_048;

/// The request body, as bytes.
pub fn to_bytes(message: &RoomMessage) -> Vec<u8> {
    let mut body = Vec::with_capacity(message.html.len() + USUAL);
    let written = serde_json::to_writer(&mut body, &Notification::from(message));
    written.expect("strings, booleans and numbers always serialise");
    body
}

/// The request body, as a value: what `simulate` shows.
pub fn to_value(message: &RoomMessage) -> serde_json::Value {
    serde_json::to_value(Notification::from(message)).expect("strings, booleans and numbers always serialise")
}

#[derive(Serialize)]
struct Notification<'a> {
    message: &'a str,
    message_format: &'static str,
    color: &'static str,
    /// A JSON boolean: servers have refused the text "true".
    notify: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    card: Option<WireCard<'a>>,
}

#[derive(Serialize)]
struct WireCard<'a> {
    style: &'static str,
    /// A string: servers have refused numbers.
    id: &'a str,
    title: &'a str,
    /// How many lines an application card takes; `medium` is up to five.
    format: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    activity: Option<Activity<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    attributes: Vec<WireAttribute<'a>>,
    /// Unix seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    date: Option<i64>,
}

#[derive(Serialize)]
struct Text<'a> {
    value: &'a str,
    format: &'static str,
}

/// The server takes no other keys in here.
#[derive(Serialize)]
struct Activity<'a> {
    html: &'a str,
}

#[derive(Serialize)]
struct WireAttribute<'a> {
    label: &'a str,
    value: Value<'a>,
}

#[derive(Serialize)]
struct Value<'a> {
    label: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    style: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<&'a str>,
}

impl<'a> From<&'a RoomMessage> for Notification<'a> {
    fn from(message: &'a RoomMessage) -> Self {
        Self {
            message: &message.html,
            message_format: "html",
            color: message.color.as_str(),
            notify: message.notify,
            from: filled(&message.from),
            card: message.card.as_ref().map(WireCard::from),
        }
    }
}

impl<'a> From<&'a Card> for WireCard<'a> {
    fn from(card: &'a Card) -> Self {
        let activity = Some(card.activity_html.as_str()).filter(|html| !html.is_empty());
        Self {
            style: "application",
            id: &card.id,
            title: &card.title,
            format: "medium",
            url: filled(&card.url),
            description: filled(&card.description).map(|value| Text { value, format: "text" }),
            activity: activity.map(|html| Activity { html }),
            attributes: card.attributes.iter().filter_map(attribute).collect(),
            date: card.date.map(jiff::Timestamp::as_second),
        }
    }
}

/// `None` for one that lacks its label or its value: the server would refuse the whole message for it.
fn attribute(attribute: &Attribute) -> Option<WireAttribute<'_>> {
    if attribute.label.is_empty() || attribute.value.is_empty() {
        return None;
    }
    let value = Value {
        label: &attribute.value,
        style: attribute.style.map(|style| style.as_str()),
        url: filled(&attribute.url),
    };
    Some(WireAttribute { label: &attribute.label, value })
}

fn filled(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}
