//! The published schemas: they compile, refer to what is there, and accept what was recorded.

use hipchat_notifier::formats::{NewmanOptions, event_from_newman, schema};
use jsonschema::{Registry, Validator};
use serde_json::{Value, json};

use super::{fixture, merged, plain, read};

/// All schemas by name, with a registry in which they find each other.
pub(super) struct Schemas {
    registry: Registry<'static>,
}

impl Schemas {
    pub(super) fn load() -> Self {
        let mut registry = Registry::new();
        for (name, _) in schema::ALL {
            let document = document(name);
            if let Some(id) = document["$id"].as_str() {
                registry = registry.add(id, document.clone()).expect(name);
            }
        }
        Self { registry: registry.prepare().expect("references") }
    }

    fn validator(&self, schema: &Value) -> Validator {
        jsonschema::options()
            .with_registry(&self.registry)
            .should_validate_formats(true)
            .offline()
            .build(schema)
            .unwrap_or_else(|error| panic!("{schema}: {error}"))
    }

    pub(super) fn named(&self, name: &str) -> Validator {
        self.validator(&document(name))
    }
}

fn document(name: &str) -> Value {
    let text = schema::named(name).unwrap_or_else(|| panic!("no schema {name}"));
    serde_json::from_str(text).expect(name)
}

#[test]
fn every_schema_is_one() {
    let schemas = Schemas::load();
    for (name, _) in schema::ALL.iter().filter(|(name, _)| *name != "asyncapi") {
        let document = document(name);
        assert_eq!(document["$schema"], "https://json-schema.org/draft/2020-12/schema", "{name}");
        jsonschema::meta::validate(&document).unwrap_or_else(|error| panic!("{name}: {error}"));
        schemas.validator(&document);
    }
}

#[test]
fn the_asyncapi_document_refers_to_what_it_holds() {
    let document = document("asyncapi");
    let mut references = Vec::new();
    collect_references(&document, &mut references);
    assert!(references.len() > 20);
    for reference in references {
        let pointer =
            reference.strip_prefix('#').unwrap_or_else(|| panic!("{reference} leaves the document"));
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}

/// Tools for AsyncAPI resolve neither ids nor names of other schemas, so the document holds copies whose
/// references are pointers into it.
#[test]
fn the_asyncapi_document_holds_the_schemas_of_the_bodies() {
    let asyncapi = document("asyncapi");
    for name in ["monitor-webhook", "api-run", "activity-webhook", "cloudevent"] {
        let expected = embedded(&document(name), name);
        let held = &asyncapi["components"]["schemas"][name];
        assert_eq!(*held, expected, "components.schemas.{name} should be {expected:#}");
    }
}

fn embedded(value: &Value, name: &str) -> Value {
    match value {
        Value::Object(members) => members
            .iter()
            .filter(|(key, _)| !matches!(key.as_str(), "$id" | "$schema"))
            .map(|(key, value)| match (key.as_str(), value.as_str()) {
                ("$ref", Some(reference)) => (key.clone(), json!(embedded_reference(reference, name))),
                _ => (key.clone(), embedded(value, name)),
            })
            .collect(),
        Value::Array(items) => items.iter().map(|item| embedded(item, name)).collect(),
        other => other.clone(),
    }
}

fn embedded_reference(reference: &str, name: &str) -> String {
    match (reference.strip_prefix('#'), reference.strip_prefix("urn:hipchat-notifier:")) {
        (Some(pointer), _) => format!("#/components/schemas/{name}{pointer}"),
        (None, Some(other)) => format!("#/components/schemas/{other}"),
        (None, None) => panic!("{reference} is in no schema of ours"),
    }
}

fn collect_references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            found.extend(members.get("$ref").and_then(Value::as_str).map(str::to_owned));
            members.values().for_each(|value| collect_references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|item| collect_references(item, found)),
        _ => {}
    }
}

#[test]
fn the_recorded_bodies_are_valid_and_read() {
    let schemas = Schemas::load();
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/events");
    let mut seen = 0;
    for entry in std::fs::read_dir(directory).expect("fixtures") {
        let name = entry.expect("an entry").file_name().into_string().expect("UTF-8");
        let (schema, body) = match name.as_str() {
            "newman-run.json" | "newman-run-errors.json" => {
                let body = event_from_newman(&fixture(&name), &NewmanOptions::default()).expect("an event");
                ("monitor-webhook", body.to_string().into_bytes())
            }
            _ if name.starts_with("monitor-webhook") => ("monitor-webhook", fixture(&name)),
            _ if name.starts_with("activity-webhook") => ("activity-webhook", fixture(&name)),
            _ if name.starts_with("postman-api-run") => ("api-run", fixture(&name)),
            _ if name.starts_with("cloudevent") => ("cloudevent", fixture(&name)),
            _ => panic!("{name}: no schema for it"),
        };
        let value: Value = serde_json::from_slice(&body).expect("JSON");
        if let Err(error) = schemas.named(schema).validate(&value) {
            panic!("{name} by {schema}: {error} at {}", error.instance_path());
        }
        read(&plain(body)).unwrap_or_else(|fault| panic!("{name}: {fault}"));
        seen += 1;
    }
    assert!(seen >= 15, "{seen}");
}

#[test]
fn integrations_by_the_contract() {
    let validator = Schemas::load().named("integrations");
    let one = |integration: Value| validator.is_valid(&json!({"integrations": [integration]}));
    let url = "https://acme.hipchat.com/v2/room/42/notification?auth_token=x";
    let monitor = |extra| merged(json!({"id": "a-1", "kind": "monitor-results", "room_url": url}), extra);
    let activity =
        |extra| merged(json!({"id": "a-1", "kind": "team-activity", "room_url_env": "ROOM"}), extra);
    let good = [
        monitor(json!({})),
        monitor(json!({
            "name": "Checkout on call", "team": "acme", "monitors": ["5852-1e6b*"], "paused": false,
            "notify": {"on": "failures-then-success", "failures": 3},
            "throttle": {"messages": 10, "per": "1h", "overflow": "digest"},
            "message": {"detail": "full", "ping": "failures"},
        })),
        monitor(json!({"notify": {"failures": 5}})),
        activity(
            json!({"notify": {"on": "each", "collate": "0s"}, "models": ["request"], "not_users": ["bot*"]}),
        ),
        activity(json!({"notify": {"on": "digest", "every": "1h30m"}})),
    ];
    let bad = [
        json!({"id": "a", "kind": "monitor-results"}),
        json!({"id": "a", "room_url": url}),
        monitor(json!({"id": "A"})),
        monitor(json!({"id": "x".repeat(65)})),
        monitor(json!({"kind": "uptime"})),
        monitor(json!({"room_url_file": "/run/secrets/room"})),
        monitor(json!({"monitor": ["x"]})),
        monitor(json!({"models": ["x"]})),
        monitor(json!({"notify": {"on": "digest"}})),
        monitor(json!({"notify": {"on": "all", "failures": 3}})),
        monitor(json!({"notify": {"failures": 0}})),
        monitor(json!({"throttle": {"messages": 10}})),
        monitor(json!({"throttle": {"messages": 10, "per": "an hour"}})),
        monitor(json!({"throttle": {"messages": 10, "per": ""}})),
        monitor(json!({"message": {"ping": "always"}})),
        activity(json!({"monitors": ["x"]})),
        activity(json!({"notify": {"on": "all"}})),
        activity(json!({"notify": {"on": "each", "every": "1h"}})),
        activity(json!({"notify": {"on": "digest", "collate": "5m"}})),
    ];
    for integration in good {
        assert!(one(integration.clone()), "{integration}");
    }
    for integration in bad {
        assert!(!one(integration.clone()), "{integration}");
    }
}

#[test]
fn room_notifications_are_checked_strictly() {
    let validator = Schemas::load().named("room-notification");
    assert!(validator.is_valid(&json!({"message": "x", "color": "red", "notify": true})));
    assert!(!validator.is_valid(&json!({"message": ""})));
    assert!(!validator.is_valid(&json!({"message": "x", "colour": "red"})));
}
