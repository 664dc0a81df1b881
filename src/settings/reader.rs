//! Reads typed values out of the merged tree and notes a fault for each that is not as it must be.
//!
//! Reading never stops at a fault: what cannot be used reads as absent, so that all faults come to light at
//! once. The keys that were asked for are the known keys; whatever else is in the tree is a fault.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use config::{Value, ValueKind};

use super::faults::{Fault, Origin};
use super::layers::{self, PREFIX};
use crate::formats::{duration, nearest::nearest};

/// Keys whose values are never shown. `store.url` is one because PostgreSQL's holds a password.
const SECRETS: [&str; 6] =
    ["amqp.url", "amqp.urls", "http.bearer_token", "hipchat.proxy", "secrets.key", "store.url"];

const NOT_SHOWN: &str = "(not shown)";

pub(super) struct Reader {
    root: Value,
    known: BTreeSet<String>,
    faults: Vec<Fault>,
}

impl Reader {
    pub fn new(root: Value, faults: Vec<Fault>) -> Self {
        Self { root, known: BTreeSet::new(), faults }
    }

    /// `key` may be set, and need not be.
    pub fn known_as(&mut self, key: &str) {
        self.known.insert(key.to_owned());
    }

    /// Where `key` was set, if it was.
    pub fn origin(&self, key: &str) -> Option<Origin> {
        self.look_up(key).map(layers::origin)
    }

    /// Notes a fault of `key` as it is set, or of its absence.
    pub fn fault(&mut self, key: &str, problem: impl Into<String>, fix: impl Into<String>) {
        let (origin, found) = match self.look_up(key) {
            Some(value) => (layers::origin(value), Some(shown(key, value))),
            None => (Origin::Default, None),
        };
        self.faults.push(Fault {
            key: key.to_owned(),
            origin,
            found,
            problem: problem.into(),
            fix: fix.into(),
        });
    }

    /// `key = value (origin)`, for the fault of another key that does not go together with it.
    pub fn described(&self, key: &str) -> String {
        match self.look_up(key) {
            Some(value) => format!("{key} = {} ({})", shown(key, value), layers::origin(value)),
            None => key.to_owned(),
        }
    }

    /// A text that is not blank.
    pub fn text(&mut self, key: &str, fix: &str) -> Option<String> {
        let value = self.value(key)?;
        let problem = match value.kind {
            ValueKind::String(text) if !text.trim().is_empty() => return Some(text.trim().to_owned()),
            ValueKind::String(_) => "it is empty",
            ValueKind::Table(_) => "a section, not a value",
            _ => "not text in quotes",
        };
        self.fault(key, problem, fix);
        None
    }

    /// A text that `parse` understands; its error says what is wrong.
    pub fn parsed<T>(
        &mut self,
        key: &str,
        fix: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.text(key, fix)?;
        parse(&text).map_err(|problem| self.fault(key, problem, fix)).ok()
    }

    /// A path to a file that is there and may be read.
    pub fn readable_file(&mut self, key: &str) -> Option<PathBuf> {
        const FIX: &str = "write the path of a file that this user may read";
        self.parsed(key, FIX, |text| match std::fs::File::open(text).and_then(|file| file.metadata()) {
            Ok(meta) if meta.is_dir() => Err("it is a folder".to_owned()),
            Ok(_) => Ok(PathBuf::from(text)),
            Err(e) => Err(format!("cannot be read: {e}")),
        })
    }

    /// A whole number within `range`.
    pub fn number(&mut self, key: &str, range: RangeInclusive<u32>) -> Option<u32> {
        let value = self.value(key)?;
        let from_environment = matches!(layers::origin(&value), Origin::Environment(_));
        let number = match &value.kind {
            ValueKind::I64(number) => Some(*number),
            ValueKind::String(text) if from_environment => text.trim().parse().ok(),
            _ => None,
        };
        let fix = format!("write a whole number from {} to {}", range.start(), range.end());
        match number.map(u32::try_from) {
            Some(Ok(number)) if range.contains(&number) => return Some(number),
            Some(_) => self.fault(key, "out of range", fix),
            None if matches!(value.kind, ValueKind::String(_)) && !from_environment => {
                self.fault(key, "text, not a number", format!("{fix}, without quotes"));
            }
            None => self.fault(key, "not a whole number", fix),
        }
        None
    }

    /// Yes or no.
    pub fn flag(&mut self, key: &str) -> Option<bool> {
        let value = self.value(key)?;
        let from_environment = matches!(layers::origin(&value), Origin::Environment(_));
        match &value.kind {
            ValueKind::Boolean(flag) => return Some(*flag),
            ValueKind::String(text) if from_environment => {
                if let Ok(flag) = text.trim().parse() {
                    return Some(flag);
                }
            }
            _ => {}
        }
        self.fault(key, "neither true nor false", "write true or false, without quotes");
        None
    }

    /// A duration within `range`.
    pub fn duration(&mut self, key: &str, range: RangeInclusive<Duration>) -> Option<Duration> {
        let text = self.text(key, duration::HOW_TO_WRITE)?;
        match duration::parse(&text) {
            Ok(value) if range.contains(&value) => return Some(value),
            Ok(_) => {
                let (from, to) = (duration::format(*range.start()), duration::format(*range.end()));
                self.fault(key, "out of range", format!("write from \"{from}\" to \"{to}\""));
            }
            Err(e) => self.fault(key, format!("not a duration: {e}"), duration::HOW_TO_WRITE),
        }
        None
    }

    /// One of a few words.
    pub fn word<T: Copy>(&mut self, key: &str, words: &[(&str, T)]) -> Option<T> {
        let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let fix = format!("write \"{}\"", names.join("\" or \""));
        self.parsed(key, &fix, |text| {
            let word = words.iter().find(|(word, _)| *word == text);
            word.map(|(_, value)| *value).ok_or_else(|| "not one of the words for it".to_owned())
        })
    }

    /// A list of texts; from the environment, separated by commas.
    pub fn list(&mut self, key: &str) -> Option<Vec<String>> {
        const FIX: &str = "write a list of texts: [\"one\", \"two\"]";
        let value = self.value(key)?;
        let from_environment = matches!(layers::origin(&value), Origin::Environment(_));
        let texts: Option<Vec<String>> = match value.kind {
            ValueKind::String(text) if from_environment => Some(
                text.split(',').map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect(),
            ),
            ValueKind::Array(items) => items
                .into_iter()
                .map(|item| match item.kind {
                    ValueKind::String(text) if !text.trim().is_empty() => Some(text.trim().to_owned()),
                    _ => None,
                })
                .collect(),
            _ => None,
        };
        if texts.is_none() {
            self.fault(key, "not a list of texts", FIX);
        }
        texts
    }

    /// All texts of a section whose keys are anybody's choice. Blank ones are let through.
    pub fn open_section(&mut self, section: &str) -> Vec<(String, String)> {
        let Some(ValueKind::Table(table)) = self.look_up(section).map(|value| value.kind.clone()) else {
            return Vec::new();
        };
        let mut texts = Vec::new();
        for (name, value) in table {
            let key = format!("{section}.{name}");
            self.known.insert(key.clone());
            match value.kind {
                ValueKind::String(text) => texts.push((name, text)),
                _ => self.fault(&key, "not text", "write a text in quotes"),
            }
        }
        texts.sort();
        texts
    }

    /// Of two keys that say the same in two ways, the one that counts: what was set in the higher layer. Both
    /// in one layer is a fault.
    pub fn either<'k>(&mut self, one: &'k str, other: &'k str) -> Option<&'k str> {
        self.known.extend([one.to_owned(), other.to_owned()]);
        match (self.origin(one).map(|o| rank(&o)), self.origin(other).map(|o| rank(&o))) {
            (Some(a), Some(b)) if a == b => {
                let fix = format!("keep {one} or {other}");
                self.fault(other, format!("set beside {one}"), fix);
                None
            }
            (a, b) if a > b => Some(one),
            (_, Some(_)) => Some(other),
            (_, None) => None,
        }
    }

    /// The faults, with those of the keys that nobody asked for.
    pub fn finish(mut self) -> Vec<Fault> {
        let root = std::mem::replace(&mut self.root, Value::new(None, ValueKind::Nil));
        if let ValueKind::Table(table) = root.kind {
            for (name, value) in table {
                self.refuse_unknown(&name, &value);
            }
        }
        self.faults
    }

    /// The keys that were asked for.
    #[cfg(test)]
    pub fn known(&self) -> &BTreeSet<String> {
        &self.known
    }

    fn refuse_unknown(&mut self, key: &str, value: &Value) {
        if self.known.contains(key) {
            return;
        }
        let below = format!("{key}.");
        let (problem, fix) = match &value.kind {
            ValueKind::Table(table) if self.known.iter().any(|known| known.starts_with(&below)) => {
                table.iter().for_each(|(name, value)| self.refuse_unknown(&format!("{below}{name}"), value));
                return;
            }
            // An unknown section's faults are its keys: they may only be in the wrong place.
            ValueKind::Table(table) if !table.is_empty() => {
                table.iter().for_each(|(name, value)| self.refuse_unknown(&format!("{below}{name}"), value));
                return;
            }
            _ if self.known.iter().any(|known| known.starts_with(&below)) => {
                ("this is a section".to_owned(), format!("write its keys below [{key}]"))
            }
            _ => ("unknown key".to_owned(), self.suggestion(key, &layers::origin(value))),
        };
        // Whatever stands under an unknown key may be a secret.
        let fault = Fault { key: escaped(key), origin: layers::origin(value), found: None, problem, fix };
        self.faults.push(fault);
    }

    fn suggestion(&self, key: &str, origin: &Origin) -> String {
        let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
        let near = nearest(key, self.known.iter().map(String::as_str))
            .or_else(|| self.known.iter().map(String::as_str).find(|known| last(known) == last(key)));
        match (near, origin) {
            (Some(near), Origin::Environment(_)) => {
                format!("did you mean {PREFIX}{}?", near.replace('.', "__").to_uppercase())
            }
            (Some(near), _) => format!("did you mean {near}?"),
            (None, _) => "remove it; config/default.toml lists all keys".to_owned(),
        }
    }

    fn value(&mut self, key: &str) -> Option<Value> {
        self.known.insert(key.to_owned());
        self.look_up(key).cloned()
    }

    fn look_up(&self, key: &str) -> Option<&Value> {
        let mut value = &self.root;
        for name in key.split('.') {
            let ValueKind::Table(table) = &value.kind else { return None };
            value = table.get(name)?;
        }
        Some(value)
    }
}

/// The layer, higher over lower.
fn rank(origin: &Origin) -> u8 {
    match origin {
        Origin::Default => 0,
        Origin::File(_) => 1,
        Origin::Environment(_) => 2,
    }
}

/// A value in one short line, or that it is not to be shown.
fn shown(key: &str, value: &Value) -> String {
    match &value.kind {
        ValueKind::Nil => "nothing".to_owned(),
        ValueKind::Table(_) => "{…}".to_owned(),
        ValueKind::String(text) if key == "store.url" && text.starts_with("sqlite:") => quoted(text),
        _ if SECRETS.contains(&key) => NOT_SHOWN.to_owned(),
        ValueKind::Array(items) => {
            let items: Vec<String> = items.iter().map(|item| shown(key, item)).collect();
            format!("[{}]", items.join(", "))
        }
        ValueKind::String(text) => quoted(text),
        other => other.to_string(),
    }
}

/// A secret that was put under a wrong key stays one: addresses with credentials or a token are not shown.
fn quoted(text: &str) -> String {
    const LONGEST: usize = 80;
    if (text.contains("://") && text.contains('@')) || text.contains("auth_token") {
        return NOT_SHOWN.to_owned();
    }
    let more = if text.chars().nth(LONGEST).is_some() { "…" } else { "" };
    format!("{:?}", text.chars().take(LONGEST).chain(more.chars()).collect::<String>())
}

fn escaped(key: &str) -> String {
    key.chars().take(80).flat_map(char::escape_debug).collect()
}
