//! `GET /sandbox/transcript`: what each room received, as plain text, for terminals and for shells without a
//! JSON reader.
//!
//! A room starts with `# NAME (N messages)`. Each message is a line `[COLOUR] TIME SENDER` and its text below
//! it, indented by two. Nothing received can look like such a line or steer a terminal.

use std::collections::HashSet;
use std::fmt::Write;
use std::sync::LazyLock;

use ammonia::Builder;

use super::room::{Message, Room, rfc3339};
use super::validate::Format;

/// Keeps the tags that break lines, and no attribute at all.
static STRUCTURE: LazyLock<Builder<'static>> = LazyLock::new(|| {
    let mut builder = Builder::empty();
    builder
        .tags(HashSet::from(["br", "ul", "ol", "li", "tr", "td", "th", "pre", "table"]))
        .clean_content_tags(HashSet::from(["script", "style"]));
    builder
});

/// Writes a room with the messages that are kept of it.
pub(super) fn write(out: &mut String, room: &Room) {
    let count = room.accepted();
    let noun = if count == 1 { "message" } else { "messages" };
    let name = visible(room.name.as_deref().unwrap_or(&room.id));
    // Writing to a string can't fail.
    let _ = writeln!(out, "# {name} ({count} {noun})\n");
    for message in room.messages(0, usize::MAX) {
        tell(out, &message);
    }
}

fn tell(out: &mut String, message: &Message) {
    let content = &message.content;
    let at = rfc3339(message.received_at);
    let clock = at.get(11..19).unwrap_or(&at);
    let color = content.color.drawn(message.sequence).as_str();
    let _ = write!(out, "[{color}] {clock} UTC");
    if let Some(from) = content.from.as_deref().filter(|from| !from.is_empty()) {
        let _ = write!(out, "  {}", visible(from));
    }
    out.push_str(if content.notify { "  (notifies people)\n" } else { "\n" });
    let lines = match content.format {
        Format::Html => lines_of(&content.message),
        Format::Text => content.message.lines().map(str::to_owned).collect(),
    };
    for line in lines {
        let _ = writeln!(out, "{}", format!("  {}", visible(&line)).trim_end());
    }
    out.push('\n');
}

/// The lines that a person reads of an html message: links by their words, list items with a dot.
fn lines_of(html: &str) -> Vec<String> {
    let clean = STRUCTURE.clean(html).to_string();
    let mut page = Page::default();
    let mut rest = clean.as_str();
    // Cleaned html has no attribute, and `<` in text is escaped: every `<` starts a tag that ends at `>`.
    while let Some((text, tagged)) = rest.split_once('<') {
        page.say(text);
        let (tag, after) = tagged.split_once('>').unwrap_or((tagged, ""));
        page.tag(tag);
        rest = after;
    }
    page.say(rest);
    page.end_line();
    page.lines
}

#[derive(Default)]
struct Page {
    lines: Vec<String>,
    line: String,
    /// Within `pre`, where white space counts.
    verbatim: bool,
}

impl Page {
    fn tag(&mut self, tag: &str) {
        match tag {
            "br" => self.lines.push(std::mem::take(&mut self.line)),
            "li" => {
                self.end_line();
                self.line.push_str("• ");
            }
            "td" | "th" => {}
            "/td" | "/th" => self.line.push_str("  "),
            _ => {
                self.end_line();
                self.verbatim = tag == "pre" || (self.verbatim && tag != "/pre");
            }
        }
    }

    fn say(&mut self, text: &str) {
        // `&amp;` last, so that nothing is decoded twice.
        let text =
            text.replace("&nbsp;", " ").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
        if self.verbatim {
            let mut lines = text.split('\n');
            self.line.push_str(lines.next().unwrap_or_default());
            for line in lines {
                self.lines.push(std::mem::replace(&mut self.line, line.to_owned()));
            }
            return;
        }
        for letter in text.chars() {
            if !letter.is_ascii_whitespace() {
                self.line.push(letter);
            } else if !self.line.is_empty() && !self.line.ends_with(' ') {
                self.line.push(' ');
            }
        }
    }

    /// Ends a line that has something on it.
    fn end_line(&mut self) {
        if !self.line.trim().is_empty() {
            self.lines.push(std::mem::take(&mut self.line));
        }
        self.line.clear();
    }
}

/// With control characters made visible.
fn visible(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '\u{fffd}' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn html_is_read_line_by_line() {
        for (html, lines) in [
            (
                "<a href=\"https://a.test/?a>b\"><b>Orders</b></a> failed: 2 of 12<br>Passed 10",
                &["Orders failed: 2 of 12", "Passed 10"][..],
            ),
            (
                "Failed:<ul><li>one</li><li>two <b>x</b></li></ul>after",
                &["Failed:", "• one", "• two x", "after"],
            ),
            ("a<br><br>b", &["a", "", "b"]),
            ("1 &lt; 2 &amp;amp; 3&nbsp;4", &["1 < 2 &amp; 3 4"]),
            ("one\n   two", &["one two"]),
            ("<pre>a\n  b</pre>c", &["a", "  b", "c"]),
            ("<table><tr><td>a</td><td>b</td></tr><tr><td>c</td></tr></table>", &["a  b  ", "c  "]),
            ("a<script>alert(1)</script>b<img src='x' alt='y'>", &["ab"]),
            ("", &[]),
        ] {
            assert_eq!(lines_of(html), lines, "{html}");
        }
    }

    #[test]
    fn control_characters_are_shown_and_not_obeyed() {
        assert_eq!(visible("a\u{1b}[2Jb\r\n"), "a\u{fffd}[2Jb\u{fffd}\u{fffd}");
    }
}
