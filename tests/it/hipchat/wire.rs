//! What is sent is what HipChat's schema describes.

use std::borrow::Cow;

use hipchat_notifier::adapters::hipchat::wire;
use hipchat_notifier::domain::message::{Attribute, Card, Lozenge};
use serde_json::{Value, json};

use super::*;

fn assert_valid(message: &RoomMessage) -> Value {
    let schema: Value =
        serde_json::from_str(include_str!("../../../schemas/room-notification.schema.json")).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let body: Value = serde_json::from_slice(&wire::to_bytes(message)).unwrap();
    let faults: Vec<_> = validator.iter_errors(&body).map(|fault| fault.to_string()).collect();
    assert!(faults.is_empty(), "{faults:?} in {body}");
    assert_eq!(body, wire::to_value(message));
    body
}

fn attribute(label: impl Into<Cow<'static, str>>, value: &str) -> Attribute {
    Attribute { label: label.into(), value: value.into(), style: None, url: None }
}

fn full_card() -> Card {
    Card {
        id: "checkout-1".into(),
        title: "Checkout".into(),
        url: Some("https://go.postman.co/monitors/1".into()),
        description: Some("2 of 5 tests failed".into()),
        activity_html: "<b>Checkout</b> failed".into(),
        attributes: vec![
            Attribute { style: Some(Lozenge::Error), ..attribute("Result", "failure") },
            Attribute { url: Some("https://go.postman.co/c/1".into()), ..attribute("Collection", "Shop") },
        ],
        date: Some(at(0)),
    }
}

#[test]
fn a_full_message_is_written_out_in_hipchats_words() {
    let message = RoomMessage { from: Some("Postman".into()), card: Some(full_card()), ..message() };
    let expected = json!({
        "message": "<b>Checkout</b> failed – 3 of 5",
        "message_format": "html",
        "color": "red",
        "notify": true,
        "from": "Postman",
        "card": {
            "style": "application",
            "id": "checkout-1",
            "title": "Checkout",
            "format": "medium",
            "url": "https://go.postman.co/monitors/1",
            "description": {"value": "2 of 5 tests failed", "format": "text"},
            "activity": {"html": "<b>Checkout</b> failed"},
            "attributes": [
                {"label": "Result", "value": {"label": "failure", "style": "lozenge-error"}},
                {"label": "Collection", "value": {"label": "Shop", "url": "https://go.postman.co/c/1"}},
            ],
            "date": NOW,
        }
    });
    assert_eq!(assert_valid(&message), expected);
}

#[test]
fn what_is_empty_is_left_out() {
    let bare = Card {
        url: Some(String::new()),
        description: None,
        activity_html: String::new(),
        attributes: vec![attribute("", "x"), attribute("x", "")],
        date: None,
        ..full_card()
    };
    let body = assert_valid(&RoomMessage { from: Some(String::new()), card: Some(bare), ..message() });
    assert_eq!(body["from"], Value::Null);
    let expected =
        json!({"style": "application", "id": "checkout-1", "title": "Checkout", "format": "medium"});
    assert_eq!(body["card"], expected);
}

#[test]
fn every_colour_lozenge_and_length_is_valid() {
    for color in [Color::Yellow, Color::Green, Color::Red, Color::Purple, Color::Gray] {
        for notify in [false, true] {
            let body = assert_valid(&RoomMessage { color, notify, ..message() });
            assert_eq!(body["notify"], Value::Bool(notify), "a boolean, not a text");
        }
    }
    let styles = [Lozenge::Success, Lozenge::Error, Lozenge::Current];
    let attributes = styles.map(|style| Attribute { style: Some(style), ..attribute("Result", "x") });
    assert_valid(&RoomMessage {
        html: "ü".repeat(10_000),
        from: Some("ü".repeat(64)),
        card: Some(Card {
            title: "ü".repeat(500),
            description: Some("ü".repeat(1_000)),
            attributes: attributes
                .into_iter()
                .chain((0..5).map(|_| attribute("l".repeat(50), "v")))
                .collect(),
            ..full_card()
        }),
        ..message()
    });
}
