//! The configuration: layers of raw values first, typed and checked settings second.
//!
//! [`Settings::load`] reads the compiled-in `config/default.toml`, a TOML file, and the environment it is given,
//! and either returns settings that can be used as they are, or every fault there is, each with the place where
//! the value was set. The process's environment is never read here, and never changed. `app` and `cli` hand
//! settings on and `telemetry` reads its own; nothing else knows this module.

mod faults;
mod forms;
mod layers;
mod reader;
mod sections;
mod validate;

#[cfg(test)]
mod tests;

use std::path::Path;

pub use faults::{Fault, Origin, SettingsFaults};
pub use sections::{
    AmqpSettings, DispatchSettings, EgressSettings, HipchatSettings, HttpSettings, IntegrationsSettings,
    JournalSettings, KeySource, LinkSettings, LogFormat, LogSettings, NotificationSettings, PacingSettings,
    SecretUrl, SecretsSettings, Settings, ShutdownSettings, StoreSettings, StoreUrl, TokenIn,
};

use reader::Reader;

/// The configuration file that is read from the current folder when none is named and it is there.
pub const DEFAULT_FILE: &str = "hipchat-notifier.toml";

/// `config/default.toml`: every key with its meaning, default and why.
pub const MANUAL: &str = layers::DEFAULTS;

impl Settings {
    /// Loads the settings: the defaults, then `file` (or [`DEFAULT_FILE`] in the current folder if it is there),
    /// then `env`, of which only names with the prefix `NOTIFIER__` are looked at.
    ///
    /// # Errors
    /// Every fault of the configuration at once.
    pub fn load(
        file: Option<&Path>,
        env: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, SettingsFaults> {
        Self::load_in(Path::new(""), file, env)
    }

    /// The same with `folder` as the one in which [`DEFAULT_FILE`] is looked for.
    ///
    /// # Errors
    /// As [`Settings::load`].
    pub fn load_in(
        folder: &Path,
        file: Option<&Path>,
        env: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, SettingsFaults> {
        let mut reader = raw(folder, file, env);
        let settings = validate::settings(&mut reader);
        let faults = reader.finish();
        match settings {
            Some(settings) if faults.is_empty() => Ok(settings),
            _ => Err(SettingsFaults::new(faults)),
        }
    }
}

/// The first stage: the layers over one another. A file that cannot be read leaves its faults, and the rest is
/// checked without it.
fn raw(folder: &Path, file: Option<&Path>, env: impl Iterator<Item = (String, String)>) -> Reader {
    let beside = folder.join(DEFAULT_FILE);
    let file = file.or_else(|| beside.exists().then_some(beside.as_path()));
    let (mut layers, mut faults) = (Vec::new(), Vec::new());
    for layer in std::iter::once(layers::defaults()).chain(file.map(layers::file)) {
        match layer {
            Ok(layer) => layers.push(layer),
            Err(more) => faults.extend(more),
        }
    }
    layers.push(layers::environment(env));
    let root = layers::merge(layers).expect("sources that are already read cannot fail to merge");
    Reader::new(root, faults)
}
