//! Integrations files: what is read is what the published schema describes, survives the store's form and its own
//! writing down again, and no fault holds a room's URL.

use std::io;
use std::sync::LazyLock;

use hipchat_notifier::adapters::hipchat::{Egress, parse_room_url, token_key};
use hipchat_notifier::domain::integration::IntegrationState;
use hipchat_notifier::formats::integrations::{
    IntegrationFaults, IntegrationSpec, RoomRef, SecretSources, integration_of, read_file_text, to_json,
};
use hipchat_notifier::ports::{Definition, ManagedBy, Stored};
use jsonschema::Validator;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::judge;

static SCHEMA: LazyLock<Validator> = LazyLock::new(|| judge::schema("integrations"));

/// What `room_url_env` and `room_url_file` lead to here.
const ROOM_URL: &str = "https://acme.hipchat.com/v2/room/42/notification?auth_token=Zq8Zq8Zq8Zq8Zq8Zq8";
const TOKEN: &str = "Zq8Zq8Zq8Zq8Zq8Zq8";

pub fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let first = read(text);
    match (&first, read(text)) {
        (Ok(first), Ok(again)) => {
            assert_eq!(format!("{first:?}"), format!("{again:?}"), "the same text again")
        }
        (Err(first), Err(again)) => assert_eq!(first.to_string(), again.to_string(), "the same text again"),
        _ => panic!("read once and refused once"),
    }
    let value: Option<Value> =
        toml::from_str::<toml::Value>(text).ok().and_then(|v| serde_json::to_value(v).ok());
    match first {
        Ok(definitions) => accepted(&definitions, value.expect("what is read is TOML")),
        Err(faults) => refused(text, &faults),
    }
}

fn read(text: &str) -> Result<Vec<Definition>, IntegrationFaults> {
    let egress = Egress::default();
    read_file_text(
        text,
        &SecretSources {
            env: &|name| (!name.contains('!')).then(|| ROOM_URL.to_owned()),
            read_file: &|path| match path.to_string_lossy().contains('!') {
                true => Err(io::ErrorKind::NotFound.into()),
                false => Ok(format!("{ROOM_URL}\n")),
            },
            check_url: &|url| {
                let target = parse_room_url(url, &egress).map_err(|error| error.to_string())?;
                Ok(RoomRef { token: token_key(&target), room: target.room })
            },
        },
    )
}

fn accepted(definitions: &[Definition], value: Value) {
    if let Some(error) = SCHEMA.iter_errors(&value).next() {
        panic!("read, but the schema says: {error} at {}", error.instance_path());
    }
    let mut ids: Vec<&str> = definitions.iter().map(|definition| definition.id.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), definitions.len(), "an id stands twice");
    let mut written = Vec::new();
    for definition in definitions {
        let state = if definition.paused { IntegrationState::Paused } else { IntegrationState::Active };
        let integration = integration_of(definition, state.clone()).expect("what was read can be opened");
        assert_eq!(integration.id, definition.id);
        let stored = Stored {
            definition: definition.clone(),
            managed_by: ManagedBy::File,
            state,
            pending: 0,
            unreadable: None,
        };
        let shown = to_json(&stored).expect("it can be shown");
        let url = definition.room_url.expose_secret();
        let token = url.split("auth_token=").nth(1).unwrap_or(TOKEN);
        if token.len() >= 16 && !url[..url.len() - token.len()].contains(token) {
            let public = format!("{shown} {definition:?} {integration:?}");
            assert!(
                !public.contains(token) || definition.json.contains(token),
                "the token is shown: {public}"
            );
        }
        written.push(as_in_a_file(definition));
    }
    // Its own form, written as a file, is the same integration.
    if !written.is_empty() {
        let text = toml::to_string(&json!({ "integrations": written })).expect("it can be written");
        let again = read(&text).unwrap_or_else(|faults| panic!("{faults}\n{text}"));
        for (before, after) in definitions.iter().zip(&again) {
            assert_eq!((&before.json, &before.room), (&after.json, &after.room), "written and read again");
        }
        assert_eq!(definitions.len(), again.len());
    }
}

fn as_in_a_file(definition: &Definition) -> Value {
    let spec = IntegrationSpec::from_json(&definition.json).expect("its own form");
    let mut value = serde_json::to_value(&spec).expect("text, numbers and lists");
    let fields = value.as_object_mut().expect("an object");
    fields.remove("version");
    fields.insert("room_url".to_owned(), definition.room_url.expose_secret().into());
    value
}

fn refused(text: &str, faults: &IntegrationFaults) {
    let shown = faults.to_string();
    assert!(!shown.trim().is_empty());
    assert!(!shown.contains(TOKEN) || text.contains(TOKEN), "a room URL that was fetched is shown: {shown}");
    let bad = |c: char| c.is_control() && c != '\n';
    assert!(!shown.contains(bad), "a control character: {shown:?}");
    for token in text.split("auth_token=").skip(1) {
        let token = token.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
        if token.len() >= 16 && text.matches(token).count() == 1 {
            assert!(!shown.contains(token), "a token is shown: {shown}");
        }
    }
}
