//! The validator against the schema itself, compiled without our changes, as the oracle.

use proptest::prelude::*;

use super::*;

fn oracle() -> jsonschema::Validator {
    jsonschema::validator_for(&serde_json::from_str(SCHEMA).expect("JSON")).expect("a schema")
}

fn check(body: &Value) -> Result<Notification, Box<Rejection>> {
    Validator::new().check(body.to_string().as_bytes())
}

fn card(extra: Value) -> Value {
    let mut card = json!({"style": "application", "id": "c-1", "title": "Title"});
    let fields = card.as_object_mut().expect("an object");
    for (name, value) in extra.as_object().expect("an object") {
        fields.insert(name.clone(), value.clone());
    }
    json!({"message": "m", "card": card})
}

/// A name, a body, and for a refused one the field and the rule of the answer.
type Case = (&'static str, Value, Option<(&'static str, &'static str)>);

fn table() -> Vec<Case> {
    let long = |length: usize| "x".repeat(length);
    vec![
        ("least", json!({"message": "m"}), None),
        ("most", serde_json::from_str::<Value>(SCHEMA).expect("JSON")["examples"][1].clone(), None),
        ("no message", json!({"color": "red"}), Some(("message", "required"))),
        ("empty message", json!({"message": ""}), Some(("message", "minLength"))),
        ("message of 10000", json!({"message": long(10_000)}), None),
        ("message of 10001", json!({"message": long(10_001)}), Some(("message", "maxLength"))),
        ("message a number", json!({"message": 1}), Some(("message", "type"))),
        ("message null", json!({"message": null}), Some(("message", "type"))),
        ("text", json!({"message": "m", "message_format": "text"}), None),
        ("markdown", json!({"message": "m", "message_format": "markdown"}), Some(("message_format", "enum"))),
        ("gray", json!({"message": "m", "color": "gray"}), None),
        ("random", json!({"message": "m", "color": "random"}), None),
        ("grey", json!({"message": "m", "color": "grey"}), Some(("color", "enum"))),
        ("Red", json!({"message": "m", "color": "Red"}), Some(("color", "enum"))),
        ("notify", json!({"message": "m", "notify": true}), None),
        ("notify a string", json!({"message": "m", "notify": "true"}), Some(("notify", "type"))),
        ("notify 1", json!({"message": "m", "notify": 1}), Some(("notify", "type"))),
        ("from empty", json!({"message": "m", "from": ""}), None),
        ("from of 64", json!({"message": "m", "from": long(64)}), None),
        ("from of 65", json!({"message": "m", "from": long(65)}), Some(("from", "maxLength"))),
        ("attach_to of 36", json!({"message": "m", "attach_to": long(36)}), None),
        ("attach_to of 37", json!({"message": "m", "attach_to": long(37)}), Some(("attach_to", "maxLength"))),
        ("unknown key", json!({"message": "m", "room_id": 1}), Some(("room_id", "additionalProperties"))),
        ("list", json!([{"message": "m"}]), Some(("", "type"))),
        ("string", json!("m"), Some(("", "type"))),
        ("card null", json!({"message": "m", "card": null}), Some(("card", "type"))),
        (
            "card alone",
            json!({"card": {"style": "link", "id": "1", "title": "t"}}),
            Some(("message", "required")),
        ),
        ("card", card(json!({})), None),
        ("card with more keys", card(json!({"more": 1})), None),
        ("card id a number", card(json!({"id": 7})), Some(("card.id", "type"))),
        ("card id empty", card(json!({"id": ""})), Some(("card.id", "minLength"))),
        ("card of no style", card(json!({"style": "photo"})), Some(("card.style", "enum"))),
        ("title of 500", card(json!({"title": long(500)})), None),
        ("title of 501", card(json!({"title": long(501)})), Some(("card.title", "maxLength"))),
        ("description", card(json!({"description": long(1000)})), None),
        (
            "description of 1001",
            card(json!({"description": long(1001)})),
            Some(("card.description", "oneOf")),
        ),
        ("description object", card(json!({"description": {"value": "v", "format": "html"}})), None),
        (
            "description without format",
            card(json!({"description": {"value": "v"}})),
            Some(("card.description", "oneOf")),
        ),
        ("format large", card(json!({"format": "large"})), Some(("card.format", "enum"))),
        ("date a string", card(json!({"date": "today"})), Some(("card.date", "type"))),
        ("icon", card(json!({"icon": "https://a.test/i.png"})), None),
        ("icon without url", card(json!({"icon": {"url@2x": "u"}})), Some(("card.icon", "oneOf"))),
        ("thumbnail of 250", card(json!({"thumbnail": {"url": long(250)}})), None),
        (
            "thumbnail of 251",
            card(json!({"thumbnail": {"url": long(251)}})),
            Some(("card.thumbnail.url", "maxLength")),
        ),
        ("thumbnail alone", card(json!({"thumbnail": {}})), Some(("card.thumbnail.url", "required"))),
        ("activity", card(json!({"activity": {"html": "<b>x</b>"}})), None),
        (
            "activity with more keys",
            card(json!({"activity": {"html": "x", "more": 1}})),
            Some(("card.activity.more", "additionalProperties")),
        ),
        ("no attributes", card(json!({"attributes": []})), Some(("card.attributes", "minItems"))),
        (
            "11 attributes",
            card(json!({"attributes": vec![json!({"label": "l", "value": {"label": "v"}}); 11]})),
            Some(("card.attributes", "maxItems")),
        ),
        (
            "attribute without label",
            card(json!({"attributes": [{"value": {"label": "v"}}]})),
            Some(("card.attributes.0.label", "required")),
        ),
        (
            "attribute label of 51",
            card(json!({"attributes": [{"label": long(51), "value": {"label": "v"}}]})),
            Some(("card.attributes.0.label", "maxLength")),
        ),
        (
            "lozenge of no style",
            card(json!({"attributes": [{"label": "l", "value": {"label": "v", "style": "red"}}]})),
            Some(("card.attributes.0.value.style", "enum")),
        ),
    ]
}

#[test]
fn each_body_is_judged_as_the_schema_judges_it() {
    let oracle = oracle();
    for (name, body, expected) in table() {
        let verdict = check(&body);
        assert_eq!(oracle.is_valid(&body), verdict.is_ok(), "{name}: the schema says otherwise");
        match (verdict, expected) {
            (Ok(_), None) => {}
            (Err(rejection), Some((field, rule))) => {
                assert_eq!(rejection.field.as_deref().unwrap_or(""), field, "{name}: {rejection:?}");
                assert_eq!(rejection.validation.as_deref(), Some(rule), "{name}: {rejection:?}");
            }
            (verdict, _) => panic!("{name}: {verdict:?}"),
        }
    }
}

#[test]
fn what_the_server_was_seen_to_say() {
    let rejection = check(&json!({"message": "m", "notify": "true"})).expect_err("a string");
    assert_eq!(rejection.message, "Value u'true' for field 'notify' is not of type 'boolean'");
    assert_eq!(rejection.expected_type, Some(json!("boolean")));
    assert_eq!(rejection.value, Some(json!("true")));

    for body in ["", "{", "{\"message\": \"a\nb\"}", "{\"message\": \"\\ud800\"}", "nul", "{} {}"] {
        let rejection = Validator::new().check(body.as_bytes()).expect_err(body);
        assert!(
            rejection.message.starts_with("The request body cannot be parsed as valid JSON: "),
            "{body}: {rejection:?}"
        );
    }
    assert!(Validator::new().check(b"{\"message\": \"\xff\"}").is_err(), "not UTF-8");
    let deep = "[".repeat(100_000);
    assert!(Validator::new().check(deep.as_bytes()).is_err(), "nested without end");
}

#[test]
fn lengths_are_counted_in_utf16_as_well() {
    let pairs = "😀".repeat(5_000);
    assert!(check(&json!({"message": pairs})).is_ok(), "10000 code units");
    let body = json!({"message": format!("{pairs}x")});
    assert!(oracle().is_valid(&body), "5001 code points");
    assert_eq!(check(&body).expect_err("10001 code units").validation.as_deref(), Some("maxLength"));
    assert!(check(&json!({"message": "ä".repeat(10_000)})).is_ok(), "20000 bytes are 10000 of either unit");
    let title = card(json!({"title": format!("{}x", "😀".repeat(250))}));
    assert_eq!(check(&title).expect_err("501 code units").field.as_deref(), Some("card.title"));
}

#[test]
fn what_is_left_out_has_hipchats_default() {
    let notification = check(&json!({"message": "m"})).expect("valid");
    assert_eq!((notification.color, notification.format), (Color::Yellow, Format::Html));
    assert!(!notification.notify && notification.from.is_none() && notification.card.is_none());
    let notification = check(&json!({"message": "m", "color": "purple", "message_format": "text"}));
    let notification = notification.expect("valid");
    assert_eq!((notification.color, notification.format), (Color::Purple, Format::Text));
    for seed in 0..10 {
        assert_ne!(Color::Random.drawn(seed), Color::Random);
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "[a-z]{0,70}".prop_map(Value::from),
        prop::sample::select(vec!["html", "text", "red", "gray", "grey", "application", "link"])
            .prop_map(Value::from),
    ];
    let name = prop::sample::select(vec![
        "message",
        "message_format",
        "color",
        "notify",
        "from",
        "attach_to",
        "card",
        "style",
        "id",
        "title",
        "description",
        "value",
        "format",
        "url",
        "activity",
        "html",
        "attributes",
        "label",
        "icon",
        "other",
    ]);
    leaf.prop_recursive(4, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(name.clone().prop_map(str::to_owned), inner, 0..8)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn any_body_is_judged_as_the_schema_judges_it(mut body in any_json(), helped in any::<bool>()) {
        if helped && let Some(fields) = body.as_object_mut() {
            fields.insert("message".to_owned(), json!("m"));
        }
        prop_assert_eq!(oracle().is_valid(&body), check(&body).is_ok());
    }
}
