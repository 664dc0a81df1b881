//! What is posted: HipChat's room notification as a value, and how notifications become one.
//!
//! [`render`] tells one notification, [`render_digest`] several, [`render_test`] none. All are pure and take any
//! event whatever: values are cleaned, escaped and clamped, and a message is within HipChat's limits because it
//! is only ever put together from whole phrases that fit (`html`). `tests` tries to break that.
//!
//! Reading order: `run` and `activity` (what a message looks like), `digest` with `tally` and `repeats`, then
//! `html`, `links`, `card`, `text`.

mod activity;
mod card;
mod digest;
mod html;
mod links;
mod repeats;
mod run;
mod tally;
#[cfg(test)]
mod tests;
mod text;

use std::borrow::Cow;

pub use links::{Href, LinkTemplateError, Links, VARIABLES as LINK_VARIABLES};
pub use text::count;

use super::event::Subject;
use super::integration::{Integration, Ping};
use super::reason::SendReason;
use super::story::Told;
use activity::ActivityText;
use html::{Block, MESSAGE_LIMIT, Phrase};
use run::RunText;

/// HipChat's limit on `from`, kept in UTF-16 units.
const FROM_LIMIT: usize = 64;

/// Whose message it is and where its links go.
#[derive(Debug, Clone, Copy)]
pub struct Style<'a> {
    pub integration: &'a Integration,
    pub links: &'a Links,
}

/// What a message has to say beside its notifications.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extras {
    /// Notifications of this room, others than those told here, that expired untold since its latest message.
    pub expired: u32,
    /// What is told together does not fit into one message; the next one goes on.
    pub continues: bool,
}

impl Extras {
    fn line(self) -> Option<Phrase> {
        let continues = self.continues.then(|| "The next message tells more of this.".to_owned());
        let expired = match self.expired {
            0 => None,
            1 => Some("1 other notification was not sent: it waited longer than allowed.".to_owned()),
            n => Some(format!("{n} other notifications were not sent: they waited longer than allowed.")),
        };
        let words: Vec<String> = continues.into_iter().chain(expired).collect();
        (!words.is_empty()).then(|| Phrase::text(&words.join(" ")).italic())
    }
}

/// The message that tells one notification of `integration`.
pub fn render(integration: &Integration, told: &Told<'_>, links: &Links, extras: Extras) -> RoomMessage {
    let style = Style { integration, links };
    let (html, color, card) = match &told.event.subject {
        Subject::Run(run) => {
            let text = RunText::new(style, told, run);
            let card = text.card(extras);
            (text.html(extras), run::color(run.result), card)
        }
        Subject::Activity(activity) => {
            let text = ActivityText::new(style, told, activity);
            (text.html(extras), activity::color(activity), text.card(extras))
        }
    };
    let (notify, from) = (pings(integration, told), sender([integration]));
    RoomMessage { html, color, notify, from, card: Some(card) }
}

/// The message that tells several notifications of one room, in the order of its line. `why` is
/// `OverBudget`, `Collated` or `ScheduledDigest`. A single one that is merged for no other reason than the
/// budget is told as if it stood alone.
pub fn render_digest(
    items: &[(&Integration, Told<'_>)],
    links: &Links,
    extras: Extras,
    why: SendReason,
) -> RoomMessage {
    match items {
        [(integration, told)] if why == SendReason::OverBudget => render(integration, told, links, extras),
        _ => digest::render(items, links, extras, why),
    }
}

/// A message that says of itself that it is a test and tells nothing else. Purple, which no other message is.
pub fn render_test(integration: &Integration) -> RoomMessage {
    let name = Phrase::value(label(integration), run::NAME).bold();
    let line = Phrase::text("Test message").bold().say(" of the integration ").then(name);
    let lines = [
        line,
        Phrase::text("This room is set up. Nothing has happened: no run failed and nobody changed anything."),
    ];
    RoomMessage {
        html: html::page(lines.into_iter().map(Block::Line), 0, None, MESSAGE_LIMIT),
        color: Color::Purple,
        notify: integration.message.ping == Ping::All,
        from: sender([integration]),
        card: None,
    }
}

/// Whether this notification wakes people.
fn pings(integration: &Integration, told: &Told<'_>) -> bool {
    match integration.message.ping {
        Ping::All => true,
        Ping::Failures => matches!(&told.event.subject, Subject::Run(run) if run.result.is_failed()),
        Ping::Never => false,
    }
}

/// `from`: the integration's name, always, since several may speak in one room; of a digest of several the
/// first one's with the number of the others.
fn sender<'a>(integrations: impl IntoIterator<Item = &'a Integration>) -> Option<String> {
    let mut integrations = integrations.into_iter();
    let first = integrations.next()?;
    let others: std::collections::HashSet<_> =
        integrations.map(|integration| &integration.id).filter(|id| **id != first.id).collect();
    let (first, others) = match others.len() {
        0 => (label(first), String::new()),
        n => (label(first), format!(" and {n} more")),
    };
    Some(text::clamp(first, FROM_LIMIT - others.len()) + &others)
}

fn label(integration: &Integration) -> &str {
    text::shown(Some(&integration.name)).unwrap_or(integration.id.as_str())
}

/// HipChat's room notification. Every text is within HipChat's limits by the time it is in here.
#[derive(Debug, Clone, PartialEq)]
pub struct RoomMessage {
    /// The message itself, as HTML that stands alone without the card.
    pub html: String,
    pub color: Color,
    /// HipChat's `notify`: whether people are woken.
    pub notify: bool,
    /// A label beside the sender's name, at most 64 characters.
    pub from: Option<String>,
    /// The same facts for clients that show cards.
    pub card: Option<Card>,
}

impl RoomMessage {
    /// The same message for a server that refused the first form: no card.
    #[must_use]
    pub fn plain(self) -> Self {
        Self { card: None, ..self }
    }
}

/// Background colours. `random` is left out on purpose: a colour means something here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Color {
    Yellow,
    Green,
    Red,
    Purple,
    Gray,
}

impl Color {
    /// HipChat's word. It is `gray`; `grey` is refused.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Yellow => "yellow",
            Self::Green => "green",
            Self::Red => "red",
            Self::Purple => "purple",
            Self::Gray => "gray",
        }
    }
}

/// An `application` card.
#[derive(Debug, Clone, PartialEq)]
pub struct Card {
    /// Lets HipChat recognise the same card sent more than once.
    pub id: String,
    pub title: String,
    pub url: Option<String>,
    /// Plain text, shown under the title.
    pub description: Option<String>,
    /// The one line of HTML shown while the card is collapsed.
    pub activity_html: String,
    /// At most 10.
    pub attributes: Vec<Attribute>,
    /// The event's time.
    pub date: Option<jiff::Timestamp>,
}

/// `label: value` below a card.
#[derive(Debug, Clone, PartialEq)]
pub struct Attribute {
    /// At most 50 characters.
    pub label: Cow<'static, str>,
    pub value: String,
    pub style: Option<Lozenge>,
    pub url: Option<String>,
}

/// The coloured pills that a card's value is shown in here; HipChat has two more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lozenge {
    Success,
    Error,
    Current,
}

impl Lozenge {
    /// HipChat's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "lozenge-success",
            Self::Error => "lozenge-error",
            Self::Current => "lozenge-current",
        }
    }
}
