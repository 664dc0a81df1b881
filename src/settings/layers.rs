//! The first stage: three layers into one tree of raw values, each of which knows where it was set.
//!
//! Merging is the `config` crate's; what it is given are our own sources, because its file source does not
//! keep lines and its environment source does not keep names, and a fault has to name both.

use std::fmt;
use std::ops::Range;
use std::path::Path;

use config::{ConfigError, Map, Source, Value, ValueKind};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::faults::{Fault, Origin};
use crate::files;

/// The manual, and the lowest layer.
pub(super) const DEFAULTS: &str = include_str!("../../config/default.toml");

/// What the environment's keys begin with.
pub(super) const PREFIX: &str = "NOTIFIER__";

/// One layer, already read.
#[derive(Clone)]
pub(super) struct Layer(Map<String, Value>);

impl fmt::Debug for Layer {
    // The values may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Layer").finish_non_exhaustive()
    }
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        // `config` reads dots and brackets in the outermost names as paths and indexes; nothing of ours has any.
        let plain = |name: &String| name.replace(['.', '[', ']'], "?");
        Ok(self.0.iter().map(|(name, value)| (plain(name), value.clone())).collect())
    }
}

/// Lays the layers over one another, the later over the earlier.
pub(super) fn merge(layers: impl IntoIterator<Item = Layer>) -> Result<Value, ConfigError> {
    let mut builder = config::Config::builder();
    for layer in layers {
        builder = builder.add_source(layer);
    }
    Ok(builder.build()?.cache)
}

/// The compiled-in layer.
pub(super) fn defaults() -> Result<Layer, Vec<Fault>> {
    read_toml(DEFAULTS, &|_| Origin::Default)
}

/// A configuration file's layer, or what keeps it from being read.
pub(super) fn file(path: &Path) -> Result<Layer, Vec<Fault>> {
    let name = path.display().to_string();
    match files::read_text(path, files::LONGEST_CONFIGURATION) {
        Ok(text) => read_toml(&text, &|place| Origin::File(format!("{name}:{place}"))),
        Err(e) => Err(vec![Fault {
            key: String::new(),
            origin: Origin::File(name),
            found: None,
            problem: format!("cannot be read: {e}"),
            fix: "give the path of a TOML file that this user may read".to_owned(),
        }]),
    }
}

/// The environment's layer: variables that begin with [`PREFIX`]. Empty ones count as not set.
pub(super) fn environment(variables: impl Iterator<Item = (String, String)>) -> Layer {
    let mut root = Map::new();
    let mut variables: Vec<_> = variables.filter(|(name, _)| name.starts_with(PREFIX)).collect();
    // Of NOTIFIER__AMQP__URL and a mistaken NOTIFIER__AMQP the second comes last, so that it is noticed.
    variables.sort_by(|a, b| b.cmp(a));
    for (name, text) in variables {
        let Some(key) = name.strip_prefix(PREFIX).map(str::to_lowercase) else { continue };
        if text.is_empty() {
            continue;
        }
        let value = value(&Origin::Environment(name.clone()), ValueKind::String(text));
        let path: Vec<&str> = key.split("__").collect();
        insert(&mut root, &path, value);
    }
    Layer(root)
}

/// Puts `value` at `path`, making the tables on the way.
fn insert(table: &mut Map<String, Value>, path: &[&str], value: Value) {
    match path {
        [] => {}
        [key] => {
            table.insert((*key).to_owned(), value);
        }
        [key, rest @ ..] => {
            let below = table
                .entry((*key).to_owned())
                .or_insert_with(|| Value::new(None, Map::<String, Value>::new()));
            if !matches!(below.kind, ValueKind::Table(_)) {
                below.kind = ValueKind::Table(Map::new());
            }
            if let ValueKind::Table(below) = &mut below.kind {
                insert(below, rest, value);
            }
        }
    }
}

fn read_toml(text: &str, origin: &dyn Fn(String) -> Origin) -> Result<Layer, Vec<Fault>> {
    let (document, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        let origin_of = |span: Range<usize>| origin(line(text, span.start).to_string());
        return Ok(Layer(convert_table(document.get_ref(), &origin_of)));
    }
    Err(errors
        .iter()
        .map(|error| {
            let at = error.span().map_or(0, |span| span.start).min(text.len());
            let before = text.get(..at).unwrap_or_default();
            let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
            Fault {
                key: String::new(),
                origin: origin(format!("{}:{column}", line(text, at))),
                found: None,
                // Only the parser's message: the source line may hold a secret.
                problem: format!("not TOML: {}", error.message().replace('\n', ", ")),
                fix: String::new(),
            }
        })
        .collect())
}

fn line(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

fn convert_table(table: &DeTable<'_>, origin: &dyn Fn(Range<usize>) -> Origin) -> Map<String, Value> {
    table.iter().map(|(key, item)| (key.get_ref().to_string(), convert(item, origin))).collect()
}

fn convert(item: &Spanned<DeValue<'_>>, origin: &dyn Fn(Range<usize>) -> Origin) -> Value {
    let kind = match item.get_ref() {
        DeValue::String(text) => ValueKind::String(text.to_string()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => ValueKind::I64(number),
            // No key takes such a number; as text it is refused as what it is.
            Err(_) => ValueKind::String(number.to_string()),
        },
        DeValue::Float(number) => ValueKind::Float(number.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(value) => ValueKind::Boolean(*value),
        DeValue::Datetime(time) => ValueKind::String(time.to_string()),
        DeValue::Array(items) => ValueKind::Array(items.iter().map(|item| convert(item, origin)).collect()),
        DeValue::Table(table) => ValueKind::Table(convert_table(table, origin)),
    };
    value(&origin(item.span()), kind)
}

/// `config` keeps an origin as text; these two write and read ours.
fn value(origin: &Origin, kind: ValueKind) -> Value {
    let text = match origin {
        Origin::Default => "default".to_owned(),
        Origin::File(place) => format!("file {place}"),
        Origin::Environment(name) => format!("env {name}"),
    };
    Value::new(Some(&text), kind)
}

/// Where a value was set. A section has no place of its own after merging: it is where its last layer's keys are.
pub(super) fn origin(value: &Value) -> Origin {
    if let ValueKind::Table(table) = &value.kind
        && let Some(latest) = table.values().map(origin).max()
    {
        return latest;
    }
    match value.origin().map(|text| text.split_once(' ').unwrap_or((text, ""))) {
        Some(("file", place)) => Origin::File(place.to_owned()),
        Some(("env", name)) => Origin::Environment(name.to_owned()),
        _ => Origin::Default,
    }
}
