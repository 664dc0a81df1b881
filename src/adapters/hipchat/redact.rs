//! Cleans what a server said before people see it: one line, no control characters, no secrets, not long.
//!
//! A server may echo what it was sent, token included, in whatever spelling; a proxy's error page often
//! shows the whole URL.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::{ExposeSecret, SecretString};

const REDACTED: &str = "[redacted]";
/// What a token is written after, in lower case. Hides also tokens that are not ours.
const MARKERS: [&str; 3] = ["auth_token=", "auth_token%3d", "bearer "];
/// A cut-off body may end within our token. Shorter beginnings than this give nothing away.
const SHORTEST_PREFIX: usize = 4;

/// Hides one room's token.
pub struct Redactor<'a> {
    token: &'a SecretString,
}

impl<'a> Redactor<'a> {
    /// For texts that may hold `token`.
    pub fn new(token: &'a SecretString) -> Self {
        Self { token }
    }

    /// `text` in one line, without control characters and tokens, shortened to `longest` characters.
    pub fn clean(&self, text: &str, longest: usize) -> String {
        // The token goes first out of the bare text, then again when characters between its parts are gone.
        let line = one_line(&self.hide(&one_line(text)));
        shorten(&hide_marked(&self.hide(&line)), longest)
    }

    fn hide(&self, text: &str) -> String {
        let token = self.token.expose_secret();
        if token.is_empty() {
            return text.to_owned();
        }
        let encoded = utf8_percent_encode(token, NON_ALPHANUMERIC).to_string();
        let mut hidden = replace_any_case(&replace_any_case(text, token), &encoded);
        let (lower_text, lower_token) = (hidden.to_ascii_lowercase(), token.to_ascii_lowercase());
        let begins =
            |length: &usize| lower_token.get(..*length).is_some_and(|part| lower_text.ends_with(part));
        let cut = (SHORTEST_PREFIX..token.len()).rev().find(begins);
        if let Some(length) = cut {
            hidden.truncate(hidden.len() - length);
            hidden.push_str(REDACTED);
        }
        hidden
    }
}

/// Replaces `needle` in any mixture of cases: host names, for one, come back in lower case.
fn replace_any_case(text: &str, needle: &str) -> String {
    let (lower, needle) = (text.to_ascii_lowercase(), needle.to_ascii_lowercase());
    let (mut shown, mut from) = (String::with_capacity(text.len()), 0);
    for (at, _) in lower.match_indices(&needle) {
        shown.push_str(&text[from..at]);
        shown.push_str(REDACTED);
        from = at + needle.len();
    }
    shown.push_str(&text[from..]);
    shown
}

/// Replaces the value after each marker, up to the next delimiter.
fn hide_marked(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let (mut shown, mut from) = (String::with_capacity(text.len()), 0);
    while let Some((start, marker)) = next_marker(&lower, from) {
        let value = start + marker.len();
        let rest = &text[value..];
        let is_delimiter =
            |c: char| c.is_whitespace() || matches!(c, '&' | '"' | '\'' | '<' | '>' | ',' | ';');
        let length = rest.find(is_delimiter).unwrap_or(rest.len());
        shown.push_str(&text[from..value]);
        if length > 0 {
            shown.push_str(REDACTED);
        }
        from = value + length;
    }
    shown.push_str(&text[from..]);
    shown
}

/// Lowering ASCII letters keeps all byte positions, so positions in `lower` hold in the text as well.
fn next_marker(lower: &str, from: usize) -> Option<(usize, &'static str)> {
    MARKERS.iter().filter_map(|marker| lower[from..].find(marker).map(|at| (from + at, *marker))).min()
}

/// White space and control characters as single spaces; zero-width and direction marks are dropped.
fn one_line(text: &str) -> String {
    let visible = text.chars().filter(|c| !is_invisible(*c));
    let spaced: String = visible.map(|c| if c.is_control() || c == '\u{fffd}' { ' ' } else { c }).collect();
    spaced.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{ad}')
}

fn shorten(text: &str, longest: usize) -> String {
    if text.chars().count() <= longest {
        return text.to_owned();
    }
    let kept: String = text.chars().take(longest.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TOKEN: &str = "Tok/en+With=Odd&Chars0123456789";

    fn clean(text: &str) -> String {
        Redactor::new(&SecretString::from(TOKEN)).clean(text, 200)
    }

    #[test]
    fn a_text_becomes_one_clean_short_line() {
        assert_eq!(clean("  a\r\n\tb\u{0}c \u{1b}[31m\u{202e}d "), "a b c [31md");
        assert_eq!(clean(&"x".repeat(500)).chars().count(), 200);
        assert!(clean(&"ö".repeat(500)).ends_with('…'));
        assert_eq!(clean(""), "");
    }

    #[test]
    fn tokens_are_hidden_in_every_spelling() {
        let encoded = utf8_percent_encode(TOKEN, NON_ALPHANUMERIC).to_string();
        let cases = [
            format!("bad token {TOKEN}!"),
            format!("bad token {encoded}!"),
            format!("bad token {}!", encoded.to_lowercase()),
            format!("bad token {}!", TOKEN.to_uppercase()),
            format!("GET /x?auth_token={encoded}&a=b"),
            format!("bad token {}", &TOKEN[..12]),
            format!("{}{}", " ".repeat(5000), &TOKEN[..20]),
            format!("bad to\u{200b}ken {}\u{200b}{}", &TOKEN[..9], &TOKEN[9..]),
            String::from("bad ?AUTH_TOKEN=AnotherOnesToken&x"),
            String::from("bad Authorization: Bearer AnotherOnesToken\" x"),
        ];
        for text in cases {
            let shown = clean(&text);
            assert!(shown.contains(REDACTED), "{shown}");
            for secret in [
                &TOKEN[..8],
                &encoded[..10],
                &encoded.to_lowercase()[..10],
                &TOKEN.to_uppercase()[..8],
                "AnotherOnes",
            ] {
                assert!(!shown.contains(secret), "{shown}");
            }
        }
        assert_eq!(clean("a ?auth_token=x&b=c, d"), "a ?auth_token=[redacted]&b=c, d");
    }

    proptest! {
        #[test]
        fn no_text_lets_the_token_through(before in ".{0,80}", after in ".{0,80}", cut in 0usize..200) {
            let text: String = format!("{before}{TOKEN}{after}").chars().take(cut).collect();
            let shown = clean(&text);
            prop_assert!(!shown.contains(&TOKEN[..6]), "{}", shown);
            prop_assert!(shown.chars().count() <= 200 && !shown.chars().any(char::is_control));
        }
    }
}
