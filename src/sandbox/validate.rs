//! Whether a request body is a room notification, judged by `schemas/room-notification.schema.json`, and what
//! HipChat would have said if not.
//!
//! Lengths: JSON Schema counts code points, and in which unit HipChat counted is not known, so a string that is
//! too long in UTF-16 code units is refused as well. It must not know of rooms, tokens or limits.

use jsonschema::error::{TypeKind, ValidationErrorKind};
use jsonschema::{Keyword, ValidationError};
use serde_json::{Map, Value, json};

const SCHEMA: &str = include_str!("../../schemas/room-notification.schema.json");

/// A request body that passed. What was left out has HipChat's default.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Notification {
    pub(super) message: String,
    pub(super) format: Format,
    pub(super) color: Color,
    pub(super) notify: bool,
    pub(super) from: Option<String>,
    pub(super) attach_to: Option<String>,
    pub(super) card: Option<Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Html,
    Text,
}

impl Format {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Html => "html",
            Self::Text => "text",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Color {
    Yellow,
    Green,
    Red,
    Purple,
    Gray,
    Random,
}

impl Color {
    const ALL: [Self; 6] = [Self::Yellow, Self::Green, Self::Red, Self::Purple, Self::Gray, Self::Random];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Yellow => "yellow",
            Self::Green => "green",
            Self::Red => "red",
            Self::Purple => "purple",
            Self::Gray => "gray",
            Self::Random => "random",
        }
    }

    /// The colour to draw: `random` is any of the others, the same one each time for the same `seed`.
    pub(super) fn drawn(self, seed: u64) -> Self {
        match self {
            Self::Random => Self::ALL[(seed % 5) as usize],
            other => other,
        }
    }
}

/// Why a body was refused: the fields of HipChat's error object beside `code` and `type`.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Rejection {
    pub(super) message: String,
    pub(super) field: Option<String>,
    pub(super) validation: Option<String>,
    pub(super) expected_type: Option<Value>,
    pub(super) value: Option<Value>,
}

/// The compiled schema.
pub(super) struct Validator(jsonschema::Validator);

impl Validator {
    pub(super) fn new() -> Self {
        let schema: Value = serde_json::from_str(SCHEMA).expect("the schema in the source is JSON");
        let validator = jsonschema::options()
            .with_keyword("maxLength", strict_max_length)
            .build(&schema)
            .expect("the schema in the source is a JSON Schema");
        Self(validator)
    }

    /// Takes a body apart.
    ///
    /// # Errors
    /// What is wrong with it, in HipChat's words; the first fault only, as HipChat did.
    pub(super) fn check(&self, body: &[u8]) -> Result<Notification, Box<Rejection>> {
        let value: Value = serde_json::from_slice(body).map_err(|fault| {
            Box::new(Rejection {
                message: format!("The request body cannot be parsed as valid JSON: {fault}"),
                ..Rejection::default()
            })
        })?;
        // Most bodies are valid, and to say only that is much cheaper than to collect errors.
        if !self.0.is_valid(&value)
            && let Some(error) = self.0.iter_errors(&value).next()
        {
            return Err(Box::new(describe(&error)));
        }
        let Value::Object(fields) = value else {
            unreachable!("the schema lets objects through only");
        };
        Ok(notification(fields))
    }
}

fn notification(mut fields: Map<String, Value>) -> Notification {
    let color = text(&mut fields, "color")
        .and_then(|name| Color::ALL.into_iter().find(|color| color.as_str() == name))
        .unwrap_or(Color::Yellow);
    let format = match text(&mut fields, "message_format").as_deref() {
        Some("text") => Format::Text,
        _ => Format::Html,
    };
    Notification {
        message: text(&mut fields, "message").unwrap_or_default(),
        format,
        color,
        notify: fields.get("notify").and_then(Value::as_bool).unwrap_or(false),
        from: text(&mut fields, "from"),
        attach_to: text(&mut fields, "attach_to"),
        card: fields.remove("card"),
    }
}

fn text(fields: &mut Map<String, Value>, name: &str) -> Option<String> {
    match fields.remove(name)? {
        Value::String(text) => Some(text),
        _ => None,
    }
}

/// `maxLength` in code points and in UTF-16 code units, whichever is more: that is always the latter.
struct StrictMaxLength(u64);

fn strict_max_length<'a>(
    _parent: &'a Map<String, Value>,
    limit: &'a Value,
    _path: jsonschema::paths::Location,
) -> Result<Box<dyn for<'i> Keyword<'i>>, ValidationError<'a>> {
    let limit = limit.as_u64().ok_or_else(|| ValidationError::custom("maxLength is not a whole number"))?;
    Ok(Box::new(StrictMaxLength(limit)))
}

impl<'i> Keyword<'i> for StrictMaxLength {
    fn validate(&self, instance: &'i Value) -> Result<(), ValidationError<'i>> {
        if self.is_valid(instance) {
            return Ok(());
        }
        Err(ValidationError::custom(format!("must be less than or equal to {}", self.0)))
    }

    fn is_valid(&self, instance: &'i Value) -> bool {
        let Some(text) = instance.as_str() else { return true };
        // No string has more code units than bytes.
        let fits = |length: usize| u64::try_from(length).is_ok_and(|length| length <= self.0);
        fits(text.len()) || fits(text.encode_utf16().count())
    }
}

/// Puts a schema error into the words of HipChat's own validator.
fn describe(error: &ValidationError<'_>) -> Rejection {
    let value = error.instance().as_ref();
    let shown = python_repr(value);
    let mut field = error.instance_path().as_str().trim_start_matches('/').replace('/', ".");
    let (message, expected) = match error.kind() {
        ValidationErrorKind::Required { property } => {
            let name = property.as_str().unwrap_or_default();
            field = if field.is_empty() { name.to_owned() } else { format!("{field}.{name}") };
            (format!("Required field '{field}' is missing"), None)
        }
        ValidationErrorKind::AdditionalProperties { unexpected } => {
            let name = unexpected.first().map_or("", String::as_str);
            field = if field.is_empty() { name.to_owned() } else { format!("{field}.{name}") };
            (format!("Unexpected field '{field}'"), None)
        }
        ValidationErrorKind::Type { kind } => {
            let expected = match kind {
                TypeKind::Single(one) => json!(one.to_string()),
                TypeKind::Multiple(many) => json!(many.iter().map(|one| one.to_string()).collect::<Vec<_>>()),
            };
            let name = expected.as_str().map_or_else(|| expected.to_string(), str::to_owned);
            (format!("Value {shown} for field '{field}' is not of type '{name}'"), Some(expected))
        }
        ValidationErrorKind::Enum { options } => (
            format!("Value {shown} for field '{field}' is not in the enumeration: {}", python_repr(options)),
            Some((**options).clone()),
        ),
        ValidationErrorKind::MinLength { limit } => (
            format!("Length of value {shown} for field '{field}' must be greater than or equal to {limit}"),
            None,
        ),
        ValidationErrorKind::Custom { message, .. } => {
            (format!("Length of value {shown} for field '{field}' {message}"), None)
        }
        ValidationErrorKind::MinItems { limit } => {
            (format!("Number of items of field '{field}' must be greater than or equal to {limit}"), None)
        }
        ValidationErrorKind::MaxItems { limit } => {
            (format!("Number of items of field '{field}' must be less than or equal to {limit}"), None)
        }
        _ => (format!("Value {shown} for field '{field}' has none of the forms that are allowed"), None),
    };
    Rejection {
        message,
        field: (!field.is_empty()).then_some(field),
        validation: Some(error.kind().keyword().to_owned()),
        expected_type: expected,
        value: Some(value.clone()),
    }
}

/// A value as the server, which was written in Python 2, showed it; cut short, since `value` has it whole.
fn python_repr(value: &Value) -> String {
    const SHOWN: usize = 120;
    let whole = match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => {
            let start: String = text.chars().take(SHOWN).collect();
            format!("u'{}'", start.escape_debug())
        }
        Value::Array(items) => {
            format!("[{}]", items.iter().take(SHOWN).map(python_repr).collect::<Vec<_>>().join(", "))
        }
        Value::Object(_) => "{...}".to_owned(),
    };
    if whole.chars().count() <= 2 * SHOWN {
        return whole;
    }
    whole.chars().take(2 * SHOWN).chain("...".chars()).collect()
}

#[cfg(test)]
mod tests;
