//! The card: the facts of a message again, for clients that show cards. Builds within the limits of every part.

use std::borrow::Cow;

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use super::html::Phrase;
use super::links::Href;
use super::text;
use super::{Attribute, Card, Lozenge};
use crate::domain::ids::{EventId, IntegrationId};

/// The server's limits, kept in UTF-16 units. Source: the card's schema as its clients carried it.
const TITLE: usize = 500;
const DESCRIPTION: usize = 1_000;
const ATTRIBUTES: usize = 10;
pub(super) const LABEL: usize = 50;
/// Ours: a value is one line beside its label.
const VALUE: usize = 200;
/// Ours: the collapsed line is one line.
const ACTIVITY_HTML: usize = 1_000;

/// What a card is made of, before the limits.
pub(super) struct Parts<'a> {
    pub id: String,
    pub title: &'a Phrase,
    pub url: Option<&'a Href>,
    /// Plain text, line by line.
    pub description: Vec<String>,
    pub attributes: Vec<Option<Attribute>>,
    pub date: Option<Timestamp>,
}

impl Parts<'_> {
    /// The card, with every part within its limit and no part empty.
    pub fn card(self) -> Card {
        let description = text::clamp_own(self.description.join("\n"), DESCRIPTION);
        let mut attributes: Vec<_> = self.attributes.into_iter().flatten().collect();
        attributes.truncate(ATTRIBUTES);
        Card {
            id: self.id,
            title: text::clamp_own(self.title.plain().to_owned(), TITLE),
            url: self.url.map(|href| href.as_str().to_owned()),
            description: (!text::is_blank(&description)).then_some(description),
            activity_html: collapsed(self.title),
            attributes,
            date: self.date,
        }
    }
}

/// The title as the collapsed line; a title that is too long for it with its links stands without.
fn collapsed(title: &Phrase) -> String {
    if title.units() <= ACTIVITY_HTML {
        return title.html().to_owned();
    }
    Phrase::value(title.plain(), ACTIVITY_HTML).html().to_owned()
}

/// The same notifications have the same card however often they are sent, and others never do.
pub(super) fn id<'a>(of: impl IntoIterator<Item = (&'a IntegrationId, &'a EventId)>) -> String {
    let mut hash = Sha256::new();
    for (integration, event) in of {
        for part in [integration.as_str(), event.as_str()] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
    }
    hex::encode(&hash.finalize()[..16])
}

/// `label: value`, if the value has something to show. A label that is not our own word is within [`LABEL`].
pub(super) fn attribute(label: impl Into<Cow<'static, str>>, value: Option<&str>) -> Option<Attribute> {
    Some(labelled(label.into(), text::clamp(text::shown(value)?, VALUE)))
}

fn labelled(label: Cow<'static, str>, value: String) -> Attribute {
    Attribute { label, value, style: None, url: None }
}

/// A number, if it is known.
pub(super) fn number(label: &'static str, value: Option<u64>) -> Option<Attribute> {
    value.map(|n| labelled(label.into(), n.to_string()))
}

impl Attribute {
    pub(super) fn linked(self, to: Option<&Href>) -> Self {
        Self { url: to.map(|href| href.as_str().to_owned()), ..self }
    }

    pub(super) fn styled(self, style: Lozenge) -> Self {
        Self { style: Some(style), ..self }
    }
}
