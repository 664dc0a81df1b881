//! HTML that is right by construction: a [`Phrase`] can only be made of escaped text and closed tags, and
//! [`page`] puts whole phrases together and stops before the limit. Nothing ever cuts finished HTML.
//!
//! Tags used: `a b i br ul li`, all allowed by HipChat. In cards only `a b i` may stand, so a phrase holds
//! nothing else; `br`, `ul` and `li` are the page's.

use super::links::Href;
use super::text::{self, ELLIPSIS};

/// HipChat's limit on a message, counted after escaping. Source: "HipChat API v2, send room notification".
pub const MESSAGE_LIMIT: usize = 10_000;

/// A piece of one line, in both forms that a room gets: HTML with every value escaped and every tag closed,
/// and the same as plain text for cards.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Phrase {
    html: String,
    /// Of `html`, in UTF-16 units.
    units: usize,
    plain: String,
}

impl Phrase {
    /// The worker's own words.
    pub fn text(words: &str) -> Self {
        Self::default().say(words)
    }

    /// Nothing yet, with room for a line.
    pub fn line() -> Self {
        let text = || String::with_capacity(USUAL_LINE);
        Self { html: text(), units: 0, plain: text() }
    }

    /// A value from outside: cleaned, escaped, and cut with an ellipsis to `max` UTF-16 units of HTML.
    pub fn value(raw: &str, max: usize) -> Self {
        // A text that is too long by its bytes need not be looked through to its end.
        if raw.len() <= max && text::is_simple(raw) {
            let whole = Self::text(raw);
            if whole.units <= max {
                return whole;
            }
        }
        let mut phrase = Self::default();
        let (mut safe_html, mut safe_plain) = (0, 0);
        for c in text::clean(raw) {
            if phrase.units < max {
                (safe_html, safe_plain) = (phrase.html.len(), phrase.plain.len());
            }
            phrase.push(c);
            if phrase.units > max {
                phrase.html.truncate(safe_html);
                phrase.plain.truncate(safe_plain);
                phrase.units = text::units(&phrase.html);
                phrase.push(ELLIPSIS);
                break;
            }
        }
        phrase
    }

    fn push(&mut self, c: char) {
        self.plain.push(c);
        match escaped(c) {
            Some(entity) => {
                self.html.push_str(entity);
                self.units += entity.len();
            }
            None => {
                self.html.push(c);
                self.units += c.len_utf16();
            }
        }
    }

    /// In bold.
    #[must_use]
    pub fn bold(self) -> Self {
        self.wrapped(&["<b>"], "</b>")
    }

    /// In italics.
    #[must_use]
    pub fn italic(self) -> Self {
        self.wrapped(&["<i>"], "</i>")
    }

    /// As a link, where there is somewhere to go.
    #[must_use]
    pub fn link(self, to: Option<&Href>) -> Self {
        match to {
            Some(href) => self.wrapped(&["<a href=\"", href.escaped(), "\">"], "</a>"),
            None => self,
        }
    }

    /// Tags around nothing would be nothing to see, so there are none.
    fn wrapped(mut self, open: &[&str], close: &str) -> Self {
        if self.is_empty() {
            return self;
        }
        let tags = || open.iter().chain([&close]);
        self.units += tags().map(|part| text::units(part)).sum::<usize>();
        self.html.reserve(tags().map(|part| part.len()).sum());
        open.iter().rev().for_each(|part| self.html.insert_str(0, part));
        self.html.push_str(close);
        self
    }

    /// This, then that.
    #[must_use]
    pub fn then(mut self, next: Phrase) -> Self {
        if self.is_empty() {
            return next;
        }
        self.html.push_str(&next.html);
        self.plain.push_str(&next.plain);
        self.units += next.units;
        self
    }

    /// This, then our own words.
    #[must_use]
    pub fn say(mut self, words: &str) -> Self {
        let before = self.html.len();
        if before == 0 {
            // Most get some more behind them, or around them.
            self.html.reserve(words.len() + USUAL_REST);
            self.plain.reserve(words.len() + USUAL_REST);
        }
        escape_into(&mut self.html, words);
        self.units += text::units(&self.html[before..]);
        self.plain.push_str(words);
        self
    }

    /// This, then our own words in bold.
    #[must_use]
    pub fn say_bold(mut self, words: &str) -> Self {
        let (open, close) = ("<b>", "</b>");
        self.html.push_str(open);
        self.units += open.len() + close.len();
        let mut all = self.say(words);
        all.html.push_str(close);
        all
    }

    /// This with `separator` behind it, if there is anything to separate.
    #[must_use]
    pub fn and(self, separator: &str) -> Self {
        if self.is_empty() { self } else { self.say(separator) }
    }

    /// The parts that have something in them, with `separator` between.
    pub fn joined(parts: impl IntoIterator<Item = Phrase>, separator: &str) -> Self {
        let mut parts = parts.into_iter().filter(|part| !part.is_empty());
        let mut first = parts.next().unwrap_or_default();
        first.html.reserve(USUAL_LINE);
        first.plain.reserve(USUAL_LINE);
        parts.fold(first, |all, part| all.say(separator).then(part))
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.html.is_empty()
    }

    /// As HTML.
    pub fn html(&self) -> &str {
        &self.html
    }

    /// As plain text.
    pub fn plain(&self) -> &str {
        &self.plain
    }

    /// Length of the HTML in UTF-16 units.
    pub fn units(&self) -> usize {
        self.units
    }
}

/// Bytes that usually follow the first words of a phrase, and of a whole line: less often grown, less often copied.
const USUAL_REST: usize = 32;
const USUAL_LINE: usize = 192;

/// The entity that stands for a character with a meaning in HTML.
fn escaped(c: char) -> Option<&'static str> {
    match c {
        '&' => Some("&amp;"),
        '<' => Some("&lt;"),
        '>' => Some("&gt;"),
        '"' => Some("&quot;"),
        '\'' => Some("&#39;"),
        _ => None,
    }
}

/// `text` escaped for an attribute's value or for text.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 8);
    escape_into(&mut out, text);
    out
}

fn escape_into(out: &mut String, text: &str) {
    let mut rest = text;
    // What has to be escaped is of one byte, so that what lies between is copied in one piece.
    while let Some(at) = rest.bytes().position(|b| matches!(b, b'&' | b'<' | b'>' | b'"' | b'\'')) {
        out.push_str(&rest[..at]);
        out.push_str(escaped(rest.as_bytes()[at].into()).unwrap_or_default());
        rest = &rest[at + 1..];
    }
    out.push_str(rest);
}

/// A part of a page from top to bottom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Block {
    /// A line of its own.
    Line(Phrase),
    /// An item of a list, and how many of the things counted it tells of.
    Item(Phrase, u64),
}

impl Block {
    /// What it says.
    pub fn phrase(&self) -> &Phrase {
        match self {
            Self::Line(phrase) | Self::Item(phrase, _) => phrase,
        }
    }
}

/// Puts `blocks` together in at most `limit` UTF-16 units of HTML: lines and lists, cut between two blocks
/// where the next does not fit. `total` is how many things there are to tell of; what the items did not tell
/// is counted at the end ("and 7 more"). `tail` always stands last.
///
/// `limit` must leave room for the tail and that ending; the callers' are a few hundred units.
pub fn page(
    blocks: impl IntoIterator<Item = Block>,
    total: u64,
    tail: Option<Phrase>,
    limit: usize,
) -> String {
    let tail = tail.filter(|phrase| !phrase.is_empty());
    let more = |left: u64| Phrase::text(&format!("and {left} more")).italic();
    // The widest ending: a number has never more digits than the total. Most messages need none.
    let ending =
        more_units(total).max(text::units(CUT_SHORT) + ITALIC) + tail.as_ref().map_or(0, Phrase::units);

    let mut page = Page { html: String::with_capacity(USUAL), units: 0, place: Place::Start };
    let (told, cut) = page.fill(blocks, limit.saturating_sub(ending + ENDING_TAGS));
    match (total.saturating_sub(told), cut) {
        (0, false) => {}
        (0, true) => page.line(&Phrase::text(CUT_SHORT).italic()),
        (left, _) if page.place == Place::InList => page.item(&more(left)),
        (left, _) => page.line(&more(left)),
    }
    if let Some(tail) = tail {
        page.line(&tail);
    }
    page.finish()
}

/// What is left, in italics: `and 7 more`.
fn more_units(left: u64) -> usize {
    let digits = left.checked_ilog10().map_or(1, |tens| tens as usize + 1);
    "and  more".len() + digits + ITALIC
}

const CUT_SHORT: &str = "… (shortened)";
/// What the tags around italics take.
const ITALIC: usize = "<i></i>".len();

/// Bytes of most messages: less often grown, less often copied.
const USUAL: usize = 1_024;

/// The most that an ending's own tags take: an item or a line for what is left, and a line for the tail.
const ENDING_TAGS: usize = 32;
const LINE_END: &str = "<br>";
const ITEM: (&str, &str) = ("<li>", "</li>");
const LIST: (&str, &str) = ("<ul>", "</ul>");

/// HTML in the making. `units` counts an open list as closed.
struct Page {
    html: String,
    units: usize,
    place: Place,
}

#[derive(PartialEq, Eq, Clone, Copy)]
enum Place {
    Start,
    AfterLine,
    InList,
}

impl Page {
    /// Puts in what fits into `room`, from the first block on. Gives back how many things the items tell of,
    /// and whether anything was left out.
    fn fill(&mut self, blocks: impl IntoIterator<Item = Block>, room: usize) -> (u64, bool) {
        let mut told = 0;
        // A line goes in with the item below it, so that no heading stands alone above "and 7 more".
        let mut held: Option<Phrase> = None;
        // The `None` at the end lets go of the last line.
        for block in blocks.into_iter().map(Some).chain([None]) {
            let (line, item) = match block {
                Some(Block::Line(line)) => (held.replace(line), None),
                Some(Block::Item(item, count)) => (held.take(), Some((item, count))),
                None => (held.take(), None),
            };
            let of_line = line.as_ref().map_or(0, Self::line_units);
            let of_item = item.as_ref().map_or(0, |(item, _)| Self::item_units(item));
            if self.units + of_line + of_item > room {
                return (told, true);
            }
            if let Some(line) = line {
                self.line(&line);
            }
            if let Some((item, count)) = item {
                self.item(&item);
                told += count;
            }
        }
        (told, false)
    }

    /// The most that a line can add.
    fn line_units(line: &Phrase) -> usize {
        LINE_END.len() + line.units()
    }

    /// The most that an item can add.
    fn item_units(item: &Phrase) -> usize {
        LIST.0.len() + ITEM.0.len() + item.units() + ITEM.1.len() + LIST.1.len()
    }

    fn line(&mut self, line: &Phrase) {
        match self.place {
            Place::Start => {}
            Place::AfterLine => self.push(LINE_END, LINE_END.len()),
            Place::InList => self.push(LIST.1, 0),
        }
        self.push(line.html(), line.units());
        self.place = Place::AfterLine;
    }

    fn item(&mut self, item: &Phrase) {
        if self.place != Place::InList {
            self.push(LIST.0, LIST.0.len() + LIST.1.len());
        }
        self.push(ITEM.0, ITEM.0.len());
        self.push(item.html(), item.units());
        self.push(ITEM.1, ITEM.1.len());
        self.place = Place::InList;
    }

    fn push(&mut self, html: &str, units: usize) {
        self.html.push_str(html);
        self.units += units;
    }

    fn finish(mut self) -> String {
        if self.place == Place::InList {
            self.push(LIST.1, 0);
        }
        self.html
    }
}
