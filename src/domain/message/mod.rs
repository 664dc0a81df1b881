//! What is posted: HipChat's room notification as a value, and how notifications become one.

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
    pub label: String,
    pub value: String,
    pub style: Option<Lozenge>,
    pub url: Option<String>,
}

/// The coloured pills a card's value can be shown in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lozenge {
    Success,
    Error,
    Current,
    Complete,
    Moved,
}

impl Lozenge {
    /// HipChat's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "lozenge-success",
            Self::Error => "lozenge-error",
            Self::Current => "lozenge-current",
            Self::Complete => "lozenge-complete",
            Self::Moved => "lozenge-moved",
        }
    }
}
// placeholder
use super::{integration::Integration, reason::SendReason, story::Told};
#[derive(Debug)]
pub struct Links;
#[derive(Clone, Copy)]
pub struct Extras {
    pub expired: u32,
}
pub fn render(_i: &Integration, _t: &Told<'_>, _l: &Links, _e: Extras) -> RoomMessage {
    unimplemented!()
}
pub fn render_digest(_i: &[(&Integration, Told<'_>)], _w: SendReason, _l: &Links, _e: Extras) -> RoomMessage {
    unimplemented!()
}
