//! Integrations as people write them (TOML) and as the store keeps them (JSON).
//!
//! ```text
//! integrations.toml ─▶ read ─▶ IntegrationSpec ─▶ JSON in ports::Definition ─▶ domain::Integration
//! ```
//! Reading reports every fault of the whole file at once, each with its line. Does no I/O: environment
//! variables and files with room URLs come through [`SecretSources`]. A room URL is never part of a fault, of
//! the JSON, or of what `show` prints.

mod faults;
mod fields;
mod read;
mod room;
mod rules;
mod spec;
mod words;

#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;

use crate::domain::ids::{RoomKey, TokenKey};
use crate::domain::integration::{Integration, IntegrationState};
use crate::ports::{Definition, ManagedBy, Stored};

pub use faults::{IntegrationFault, IntegrationFaults};
pub use spec::IntegrationSpec;

/// A room URL's identities, as the room adapter reads them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomRef {
    pub room: RoomKey,
    pub token: TokenKey,
}

/// Checks a room URL. The error is a sentence for people, without the token.
pub type CheckUrl<'a> = dyn Fn(&str) -> Result<RoomRef, String> + 'a;

/// Where room URLs come from that are not written in the file itself, and what makes one valid.
pub struct SecretSources<'a> {
    /// An environment variable's value, for `room_url_env`.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// A file's text, for `room_url_file`. Relative paths are the caller's to resolve.
    pub read_file: &'a dyn Fn(&Path) -> io::Result<String>,
    pub check_url: &'a CheckUrl<'a>,
}

/// Reads an integrations file.
///
/// # Errors
/// Every fault of the file; nothing of it is to be used then.
pub fn read_file_text(text: &str, sources: &SecretSources<'_>) -> Result<Vec<Definition>, IntegrationFaults> {
    read::read(text, sources)
}

/// The integration that `stored` describes, in its present state.
///
/// # Errors
/// A sentence, when the JSON was not written by this program or by a newer one that says more than this one
/// understands.
pub fn integration_from(stored: &Stored) -> Result<Integration, String> {
    integration_of(&stored.definition, stored.state.clone())
}

/// The integration that `definition` describes, in the given state.
///
/// # Errors
/// As [`integration_from`].
pub fn integration_of(definition: &Definition, state: IntegrationState) -> Result<Integration, String> {
    let spec = IntegrationSpec::from_json(&definition.json).map_err(|e| {
        format!("integration \"{}\": its stored definition cannot be read: {e}", definition.id)
    })?;
    Ok(Integration {
        id: definition.id.clone(),
        name: spec.name.clone(),
        team: spec.team.as_deref().map(crate::domain::ids::TeamId::new),
        interest: spec.interest().map_err(|e| spec.misread(&e))?,
        room: definition.room.clone(),
        token: definition.token.clone(),
        throttle: spec.throttle().map_err(|e| spec.misread(&e))?,
        message: spec.style().map_err(|e| spec.misread(&e))?,
        state,
    })
}

/// What `integrations show` prints: the fields of the file, with the room instead of its URL, and the state.
///
/// # Errors
/// As [`integration_from`].
pub fn to_json(stored: &Stored) -> Result<serde_json::Value, String> {
    let id = &stored.definition.id;
    let spec = IntegrationSpec::from_json(&stored.definition.json)
        .map_err(|e| format!("integration \"{id}\": its stored definition cannot be read: {e}"))?;
    let mut shown = serde_json::to_value(&spec).map_err(|e| e.to_string())?;
    let reason = match &stored.state {
        IntegrationState::Suspended { reason } => Some(reason.as_str()),
        IntegrationState::Active | IntegrationState::Paused => None,
    };
    shown["room"] = stored.definition.room.as_str().into();
    shown["state"] = stored.state.as_str().into();
    shown["state_reason"] = reason.into();
    shown["managed_by"] = match stored.managed_by {
        ManagedBy::File => "file",
        ManagedBy::Operator => "operator",
    }
    .into();
    shown["pending"] = stored.pending.into();
    Ok(shown)
}
