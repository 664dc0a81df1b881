//! JSON text as a tree that borrows from it, and where in the text or tree something is wrong.
//!
//! One tree for all body forms keeps every refusal precise to the field, at the cost of one small vector per
//! object; strings are copied only where they hold escapes. Knows nothing of any body form.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::malformed::{Malformed, quoted};

/// A JSON value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Json<'a> {
    Null,
    Bool(bool),
    Number(Number),
    Text(Cow<'a, str>),
    Array(Vec<Json<'a>>),
    Object(Members<'a>),
}

/// An object's members in the order of the text, repeated names included.
pub(super) type Members<'a> = Vec<(Cow<'a, str>, Json<'a>)>;

/// A number as exactly as JSON parsers hold it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Number {
    Whole(u64),
    Negative(i64),
    Float(f64),
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(n) => n.fmt(f),
            Self::Negative(n) => n.fmt(f),
            // Unlike `Display`, `Debug` switches to exponents: 1e300 does not become 301 digits.
            Self::Float(n) => write!(f, "{n:?}"),
        }
    }
}

impl Json<'_> {
    /// What stands here, for a sentence: the JSON type with the shortened value.
    pub(super) fn found(&self) -> String {
        match self {
            Self::Null => "found null".into(),
            Self::Bool(b) => format!("found the boolean {b}"),
            Self::Number(n) => format!("found the number {n}"),
            Self::Text(t) => format!("found the text {}", quoted(t)),
            Self::Array(items) => format!("found an array of {}", items.len()),
            Self::Object(members) => format!("found an object of {}", members.len()),
        }
    }
}

/// Where in a body: displayed as `metrics.failedTests`, `failures[3].test`, or `body` for the whole.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place<'p> {
    Body,
    Member(&'p Place<'p>, &'p str),
    Item(&'p Place<'p>, usize),
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Body => f.write_str("body"),
            Self::Member(Self::Body, name) => f.write_str(name),
            Self::Member(parent, name) => write!(f, "{parent}.{name}"),
            Self::Item(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// Reads `text` whole.
pub(super) fn parse(text: &str) -> Result<Json<'_>, Malformed> {
    parse_some(text, None)
}

/// Reads `text`, but of objects only the members with the names in `wanted`; all others are skipped without
/// being held.
pub(super) fn parse_only<'a>(text: &'a str, wanted: &[&str]) -> Result<Json<'a>, Malformed> {
    parse_some(text, Some(wanted))
}

fn parse_some<'a>(text: &'a str, wanted: Option<&[&str]>) -> Result<Json<'a>, Malformed> {
    let mut trail = Vec::new();
    let mut deserializer = serde_json::Deserializer::from_str(text);
    Tree { wanted, trail: &mut trail }
        .deserialize(&mut deserializer)
        .and_then(|tree| deserializer.end().map(|()| tree))
        .map_err(|error| syntax_error(&error, &trail))
}

/// A step from the root to where the text went wrong.
enum Step {
    Member(String),
    Item(usize),
}

fn syntax_error(error: &serde_json::Error, trail: &[Step]) -> Malformed {
    let at = format!("line {}, column {}", error.line(), error.column());
    let full = error.to_string();
    // serde_json ends its messages with the place, which is told in our own words.
    let message = full.rsplit_once(" at line ").map_or(full.as_str(), |(message, _)| message);
    match message {
        "recursion limit exceeded" => Malformed::new(
            Place::Body,
            format!("nested more than 127 levels deep ({at})"),
            "send a flat body as the contract shows it",
        ),
        "number out of range" => Malformed::new(
            path(trail),
            format!("found a number out of range ({at})"),
            "send a number that a 64-bit float can hold",
        ),
        _ => Malformed::new(
            path(trail),
            format!("not valid JSON: {message} ({at})"),
            "send one JSON object in UTF-8",
        ),
    }
}

/// The trail is collected while the error travels up, so the root comes last.
fn path(trail: &[Step]) -> String {
    let mut path = String::new();
    for step in trail.iter().rev() {
        match step {
            Step::Member(name) if path.is_empty() => path.push_str(name),
            Step::Member(name) => path.extend([".", name]),
            Step::Item(index) => path.push_str(&format!("[{index}]")),
        }
    }
    match path.as_bytes().first() {
        None => "body".into(),
        Some(b'[') => format!("body{path}"),
        Some(_) => path,
    }
}

/// Builds a [`Json`]; on an error leaves in `trail` where it was.
struct Tree<'s> {
    wanted: Option<&'s [&'s str]>,
    trail: &'s mut Vec<Step>,
}

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Json<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Json<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json<'de>, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json<'de>, E> {
        Ok(Json::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json<'de>, E> {
        Ok(Json::Number(Number::Whole(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json<'de>, E> {
        Ok(Json::Number(u64::try_from(value).map_or(Number::Negative(value), Number::Whole)))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json<'de>, E> {
        Ok(Json::Number(Number::Float(value)))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Borrowed(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Owned(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Json<'de>, A::Error> {
        let mut items = Vec::new();
        loop {
            match access.next_element_seed(Tree { wanted: self.wanted, trail: self.trail }) {
                Ok(Some(item)) => items.push(item),
                Ok(None) => return Ok(Json::Array(items)),
                Err(error) => {
                    self.trail.push(Step::Item(items.len()));
                    return Err(error);
                }
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Json<'de>, A::Error> {
        let mut members = Vec::new();
        while let Some(name) = access.next_key_seed(Name)? {
            if self.wanted.is_some_and(|wanted| !wanted.contains(&&*name)) {
                access.next_value::<IgnoredAny>()?;
                continue;
            }
            match access.next_value_seed(Tree { wanted: self.wanted, trail: self.trail }) {
                Ok(value) => members.push((name, value)),
                Err(error) => {
                    self.trail.push(Step::Member(name.into_owned()));
                    return Err(error);
                }
            }
        }
        Ok(Json::Object(members))
    }
}

/// A member's name, borrowed where it holds no escapes.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member's name")
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(value.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str) -> String {
        parse(text).expect_err("refused").to_string()
    }

    #[test]
    fn strings_are_borrowed_unless_escaped() {
        let Json::Object(members) = parse(r#"{"a":"x","b":"\u0041"}"#).expect("JSON") else {
            panic!("an object")
        };
        assert!(matches!(&members[0], (Cow::Borrowed("a"), Json::Text(Cow::Borrowed("x")))));
        assert_eq!(members[1].1, Json::Text("A".into()));
    }

    #[test]
    fn numbers_keep_their_value() {
        let cases = [
            ("0", Number::Whole(0)),
            ("18446744073709551615", Number::Whole(u64::MAX)),
            ("18446744073709551616", Number::Float(18_446_744_073_709_551_616.0)),
            ("-1", Number::Negative(-1)),
            ("1.5", Number::Float(1.5)),
        ];
        for (text, number) in cases {
            assert_eq!(parse(text).expect(text), Json::Number(number), "{text}");
        }
        assert_eq!(Number::Float(1e300).to_string(), "1e300");
    }

    #[test]
    fn syntax_errors_name_the_member_and_the_place() {
        let json = "send one JSON object in UTF-8";
        let cases = [
            ("{\"a\": {\"b\": [1, x]}}", format!("a.b[1]: not valid JSON: expected value (line 1, column 17); {json}")),
            ("{\"a\": 1} x", format!("body: not valid JSON: trailing characters (line 1, column 10); {json}")),
            ("{\"a\": 1,\n}", format!("body: not valid JSON: trailing comma (line 2, column 1); {json}")),
            ("[1, ", format!("body[1]: not valid JSON: EOF while parsing a value (line 1, column 4); {json}")),
            (
                "{\"a\": \"x",
                format!("a: not valid JSON: EOF while parsing a string (line 1, column 8); {json}"),
            ),
            (
                "{\"a\": 1e400}",
                "a: found a number out of range (line 1, column 11); send a number that a 64-bit float can hold"
                    .into(),
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(fault(text), expected, "{text}");
        }
    }

    #[test]
    fn unwanted_members_are_not_held() {
        let tree = parse_only(r#"{"a":{"stream":[1,2,1e400],"b":1},"c":[{"a":null}]}"#, &["a", "b"]);
        let expected = parse(r#"{"a":{"b":1}}"#);
        assert_eq!(tree, expected);
    }
}
