//! Reads an object's members as the values that events are made of, by the same leniency in every body form.
//!
//! Null means missing. Of a name that stands twice the last one counts, as in JavaScript. Optional text that
//! is empty is missing; a number where text is expected is taken as text, since ids are numbers in the wild;
//! a text where a number is expected is refused.

use std::borrow::Cow;

use jiff::Timestamp;
use jiff::civil::{Date, date};
use jiff::fmt::temporal::DateTimeParser;

use super::json::{Json, Members, Number, Place};
use super::malformed::{Malformed, quoted};
use crate::domain::web_address::WebAddress;

/// Bytes at most of an identity: the event's, and those that the store keeps streaks by. As many as AMQP's own
/// `message_id` holds, so that every event can be published under its id.
pub const MAX_ID_BYTES: usize = 255;
/// Bytes at most of a link. Longer ones work in few browsers and would crowd out the message.
const MAX_LINK_BYTES: usize = 2048;
/// From here on a time may lie beyond what a [`Timestamp`] holds, which keeps a day's distance for its zones.
const LAST_DAYS: Date = date(9999, 12, 30);
/// 2^64: the first float that is too large for a count.
const BEYOND_U64: f64 = 18_446_744_073_709_551_616.0;

/// An object, and where it stands in the body.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'j, 'a> {
    members: &'j Members<'a>,
    place: Place<'j>,
}

impl<'j, 'a> Fields<'j, 'a> {
    /// `value` at `place`, which must be an object.
    pub(super) fn of(value: &'j Json<'a>, place: Place<'j>) -> Result<Self, Malformed> {
        match value {
            Json::Object(members) => Ok(Self { members, place }),
            Json::Array(_) if matches!(place, Place::Body) => {
                Err(Malformed::new(place, value.found(), "publish one event per message, as a JSON object"))
            }
            _ => Err(Malformed::new(place, value.found(), "send a JSON object")),
        }
    }

    /// Where the object stands.
    pub(super) fn place(&self) -> Place<'j> {
        self.place
    }

    /// Where the member `name` stands.
    pub(super) fn at<'s>(&'s self, name: &'s str) -> Place<'s> {
        Place::Member(&self.place, name)
    }

    /// The member `name`, unless it is missing or null.
    pub(super) fn get(&self, name: &str) -> Option<&'j Json<'a>> {
        let (_, value) = self.members.iter().rev().find(|(member, _)| member == name)?;
        (*value != Json::Null).then_some(value)
    }

    /// All members, in the order of the text.
    pub(super) fn members(&self) -> impl Iterator<Item = (&'j str, &'j Json<'a>)> {
        self.members.iter().map(|(name, value)| (&**name, value))
    }

    /// Whether there is any of `names`.
    pub(super) fn has_any(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.get(name).is_some())
    }

    /// An optional object.
    pub(super) fn object<'s>(&'s self, name: &'s str) -> Result<Option<Fields<'s, 'a>>, Malformed> {
        self.get(name).map(|value| Fields::of(value, self.at(name))).transpose()
    }

    /// Calls `each` for every object of an optional array, with its index.
    pub(super) fn each_object(
        &self,
        name: &str,
        mut each: impl FnMut(Fields<'_, 'a>) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        let place = self.at(name);
        match self.get(name) {
            None => Ok(()),
            Some(Json::Array(items)) => items
                .iter()
                .enumerate()
                .try_for_each(|(index, item)| each(Fields::of(item, Place::Item(&place, index))?)),
            Some(other) => Err(Malformed::new(place, other.found(), "send an array of objects")),
        }
    }

    /// Optional text.
    pub(super) fn text(&self, name: &str) -> Result<Option<String>, Malformed> {
        Ok(self.exact_text(name)?.map(without_nul))
    }

    /// Optional text with every character that it came with, for identities.
    pub(super) fn exact_text(&self, name: &str) -> Result<Option<String>, Malformed> {
        match self.get(name) {
            None => Ok(None),
            Some(Json::Text(text)) => Ok((!text.trim().is_empty()).then(|| text.clone().into_owned())),
            Some(Json::Number(number)) => Ok(Some(number.to_string())),
            Some(other) => Err(Malformed::new(self.at(name), other.found(), "send text, or leave it out")),
        }
    }

    /// Text that must be there.
    pub(super) fn required_text(&self, name: &str) -> Result<String, Malformed> {
        self.exact_required_text(name).map(without_nul)
    }

    fn exact_required_text(&self, name: &str) -> Result<String, Malformed> {
        const FIX: &str = "send text that is not empty";
        let found = match self.get(name) {
            None => return Err(Malformed::missing(self.at(name), FIX)),
            Some(value @ (Json::Bool(_) | Json::Array(_) | Json::Object(_))) => value.found(),
            Some(value) => match self.exact_text(name)? {
                Some(text) => return Ok(text),
                None => value.found(),
            },
        };
        Err(Malformed::new(self.at(name), found, FIX))
    }

    /// Text that the store keeps things by: short, and without control characters.
    pub(super) fn key(&self, name: &str) -> Result<Option<String>, Malformed> {
        self.exact_text(name)?.map(|text| checked_id(self.at(name), text)).transpose()
    }

    /// [`Self::key`] that must be there.
    pub(super) fn required_key(&self, name: &str) -> Result<String, Malformed> {
        checked_id(self.at(name), self.exact_required_text(name)?)
    }

    /// A count under the first of `names` that is there.
    pub(super) fn count(&self, names: &[&str]) -> Result<Option<u64>, Malformed> {
        const FIX: &str = "send a whole number, 0 or more (below 2^64), without quotes";
        let Some((name, value)) = names.iter().find_map(|name| Some((*name, self.get(name)?))) else {
            return Ok(None);
        };
        match value {
            Json::Number(Number::Whole(n)) => Ok(Some(*n)),
            Json::Number(Number::Float(n)) if *n >= 0.0 && *n < BEYOND_U64 && n.fract() == 0.0 => {
                Ok(Some(*n as u64))
            }
            other => Err(Malformed::new(self.at(name), other.found(), FIX)),
        }
    }

    /// Milliseconds that may have a fraction, rounded.
    pub(super) fn millis(&self, name: &str) -> Result<Option<u64>, Malformed> {
        match self.get(name) {
            Some(Json::Number(Number::Float(n))) if *n >= 0.0 && *n < BEYOND_U64 => {
                Ok(Some(n.round() as u64))
            }
            Some(Json::Number(Number::Whole(n))) => Ok(Some(*n)),
            None => Ok(None),
            Some(other) => Err(Malformed::new(
                self.at(name),
                other.found(),
                "send milliseconds as a number, 0 or more (below 2^64)",
            )),
        }
    }

    /// An optional time.
    pub(super) fn time(&self, name: &str) -> Result<Option<Timestamp>, Malformed> {
        const FIX: &str = "send an RFC 3339 time such as 2026-11-22T10:00:02Z";
        match self.get(name) {
            None => Ok(None),
            Some(Json::Text(text)) if text.trim().is_empty() => Ok(None),
            Some(value @ Json::Text(text)) => match instant(text) {
                Some(time) => Ok(Some(time)),
                None => Err(Malformed::new(self.at(name), value.found(), FIX)),
            },
            Some(other) => Err(Malformed::new(self.at(name), other.found(), FIX)),
        }
    }

    /// An optional link. One that must not reach a room is left out rather than refused: a wrong link is no
    /// reason to lose the event, and links can be built without it.
    pub(super) fn link(&self, name: &str) -> Option<WebAddress> {
        match self.get(name)? {
            Json::Text(text) => safe_link(text),
            _ => None,
        }
    }
}

/// An RFC 3339 time. The last day of the calendar, which stands for "never" or "unknown" in places, reaches beyond
/// what a [`Timestamp`] can hold in some zones; it counts as the latest that it can.
pub(super) fn instant(text: &str) -> Option<Timestamp> {
    static PARSER: DateTimeParser = DateTimeParser::new();
    let text = &*in_nanoseconds(text.trim());
    text.parse().ok().or_else(|| {
        let pieces = PARSER.parse_pieces(text).ok()?;
        let is_whole = pieces.time().is_some() && pieces.offset().is_some();
        (is_whole && pieces.date() >= LAST_DAYS).then_some(Timestamp::MAX)
    })
}

/// A time without the digits of its second that are finer than a nanosecond. RFC 3339 allows any number of them, and
/// parsers do not.
fn in_nanoseconds(text: &str) -> Cow<'_, str> {
    let Some((whole, rest)) = text.split_once('.') else { return text.into() };
    let zone = rest.trim_start_matches(|digit: char| digit.is_ascii_digit());
    match rest.len() - zone.len() {
        0..=9 => text.into(),
        _ => format!("{whole}.{}{zone}", &rest[..9]).into(),
    }
}

/// `text` as an identity, or what is wrong with it.
pub(super) fn checked_id(field: impl std::fmt::Display, text: String) -> Result<String, Malformed> {
    const FIX: &str = "send at most 255 bytes without control characters";
    if text.len() > MAX_ID_BYTES {
        Err(Malformed::new(field, format!("found {} bytes, {}", text.len(), quoted(&text)), FIX))
    } else if text.chars().any(char::is_control) {
        Err(Malformed::new(field, format!("found control characters in {}", quoted(&text)), FIX))
    } else {
        Ok(text)
    }
}

/// Text as events carry it, or `None` if it is blank.
pub(super) fn clean(text: &str) -> Option<String> {
    (!text.trim().is_empty()).then(|| without_nul(text.to_owned()))
}

/// PostgreSQL's text can't hold NUL and no room can show it, so it becomes the replacement character.
fn without_nul(text: String) -> String {
    if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text }
}

/// An address that is no longer than the contract allows.
fn safe_link(text: &str) -> Option<WebAddress> {
    let short = |text: &str| text.len() <= MAX_LINK_BYTES;
    Some(text)
        .filter(|text| short(text))
        .and_then(|text| WebAddress::parse(text.trim()))
        .filter(|url| short(url.as_str()))
}
