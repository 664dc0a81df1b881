//! The published schemas, as they are printed by `schema` and used by tests and producers.
//!
//! JSON Schema 2020-12, and one AsyncAPI 3.0 document. They say what producers should send; the parser is
//! more lenient, as `tests/it/formats/agreement.rs` shows case by case.

/// Every schema's name and its text.
pub const ALL: &[(&str, &str)] = &[
    ("monitor-webhook", include_str!("../../schemas/monitor-webhook.schema.json")),
    ("api-run", include_str!("../../schemas/api-run.schema.json")),
    ("activity-webhook", include_str!("../../schemas/activity-webhook.schema.json")),
    ("cloudevent", include_str!("../../schemas/cloudevent.schema.json")),
    ("integrations", include_str!("../../schemas/integrations.schema.json")),
    ("room-notification", include_str!("../../schemas/room-notification.schema.json")),
    ("asyncapi", include_str!("../../schemas/asyncapi.json")),
];

/// The text of the schema called `name`.
pub fn named(name: &str) -> Option<&'static str> {
    ALL.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}
