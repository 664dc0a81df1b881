//! Cleans what a server said before people see it: one line, no control characters, no secrets, not long.
//!
//! A server may echo what it was sent, token included, in whatever spelling; a proxy's error page often
//! shows the whole URL. A token that stands there as it is, is cut out; where a piece of it is left in some
//! other spelling (broken up, escaped, hex, base64), nothing of the text is shown.

use std::collections::HashSet;

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use secrecy::{ExposeSecret, SecretString};

const REDACTED: &str = "[redacted]";
/// What a token is written after, in lower case. Hides also tokens that are not ours.
const MARKERS: [&str; 3] = ["auth_token=", "auth_token%3d", "bearer "];
/// Stands for a text of which no part can be shown.
const WITHHELD: &str = "[not shown, as it repeats parts of the token]";
/// Letters and digits of a token that, shown together, give too much of it away. A token with fewer is hidden
/// only as it stands: its letters are in any text.
const PIECE: usize = 8;
/// How often a text may be escaped over.
const DECODINGS: usize = 3;
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
        // What most answers say.
        if text.is_empty() {
            return String::new();
        }
        // The token goes first out of the bare text, then again when characters between its parts are gone.
        let line = one_line(&self.hide(&one_line(text)));
        let shown = shorten(&hide_marked(&self.hide(&line)), longest);
        if self.is_in(&shown) { WITHHELD.to_owned() } else { shown }
    }

    /// Whether a piece of the token is in `text`, whatever stands between its letters and digits, and however it is
    /// escaped over.
    fn is_in(&self, text: &str) -> bool {
        let pieces = pieces(self.token.expose_secret());
        let mut texts = HashSet::from([half_width(text)]);
        for _ in 0..DECODINGS {
            if texts.iter().any(|text| shows(text, &pieces)) {
                return true;
            }
            let decoded = |text: &String| {
                let decoded = percent_decode_str(text).decode_utf8_lossy().into_owned();
                [unescaped(&decoded), unescaped(text), decoded]
            };
            texts = texts.iter().flat_map(decoded).collect();
        }
        false
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

/// Whether one of `pieces` is in `text` as it is, without what a browser does not show, or in hex.
fn shows(text: &str, pieces: &HashSet<Vec<u8>>) -> bool {
    let has_piece = |text: &[u8]| folded(text).windows(PIECE).any(|window| pieces.contains(window));
    // What comes after a backslash is a line break of JSON's, or itself.
    let without_backslashes = without_markup(&text.replace('\\', " "));
    let readings = [text, &without_markup(text), &without_backslashes];
    readings.iter().any(|reading| has_piece(reading.as_bytes()))
        || from_hex(text).iter().any(|reading| has_piece(reading))
}

/// All that is looked for: each run of [`PIECE`] letters and digits of the token, as it is, backwards, in hex and in
/// base64.
fn pieces(token: &str) -> HashSet<Vec<u8>> {
    if folded(token.as_bytes()).len() < PIECE {
        return HashSet::new();
    }
    let base64 = (0..3).map(|shift| base64_inside(token.as_bytes(), shift));
    let backwards = token.bytes().rev().collect();
    let bare = [token.as_bytes().to_vec(), backwards, hex::encode(token).into_bytes()];
    let spellings = bare.into_iter().chain(base64);
    let runs = |spelling: Vec<u8>| {
        let folded = folded(&spelling);
        folded.windows(PIECE).map(<[u8]>::to_vec).collect::<Vec<_>>()
    };
    spellings.flat_map(runs).collect()
}

/// The text with what Unicode has in the width of a Chinese character (`Ｚｑ７`) as ASCII.
fn half_width(text: &str) -> String {
    const WIDER_BY: u32 = 0xfee0;
    let narrow = |c: char| match c {
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(u32::from(c) - WIDER_BY).unwrap_or(c),
        _ => c,
    };
    text.chars().map(narrow).collect()
}

/// How HTML, JSON and programs write a character by its number: the beginning, the base, digits at most.
const ESCAPES: [(&str, u32, usize); 7] = [
    ("&#x", 16, 6),
    ("&#X", 16, 6),
    ("&#", 10, 7),
    ("\\u{", 16, 6),
    ("\\u", 16, 4),
    ("\\U", 16, 8),
    ("\\x", 16, 2),
];

/// The text with what is written by numbers as itself.
fn unescaped(text: &str) -> String {
    let (mut plain, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find(['&', '\\']) {
        plain.push_str(&rest[..at]);
        // What is written otherwise, such as a line break of JSON's, stays for `without_markup`.
        let itself = (char::from(rest.as_bytes()[at]), 1);
        let (character, length) = escaped(&rest[at..]).unwrap_or(itself);
        plain.push(character);
        rest = &rest[at + length..];
    }
    plain + rest
}

/// The character that is written by its number at the beginning of `text`, and in how many bytes.
fn escaped(text: &str) -> Option<(char, usize)> {
    const AGAIN: &str = "&amp;";
    if text.starts_with(AGAIN) {
        return Some(('&', AGAIN.len()));
    }
    ESCAPES.iter().find_map(|(begin, base, most)| {
        let digits = text.strip_prefix(begin)?;
        let count = digits.chars().take(*most).take_while(|c| c.is_digit(*base)).count();
        let character = char::from_u32(u32::from_str_radix(&digits[..count], *base).ok()?)?;
        let ends = usize::from(digits[count..].starts_with([';', '}']));
        Some((character, begin.len() + count + ends))
    })
}

/// The text without tags, named characters (`&nbsp;`) and line breaks as JSON writes them.
fn without_markup(text: &str) -> String {
    let (mut plain, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find(['<', '&', '\\']) {
        plain.push_str(&rest[..at]);
        let (begin, after) = (rest.as_bytes()[at], &rest[at + 1..]);
        let name = || after.trim_start_matches(|c: char| c.is_ascii_alphanumeric());
        let left = match begin {
            b'<' => after.split_once('>').map(|(_, left)| left),
            b'&' => name().strip_prefix(';'),
            _ => after.strip_prefix(['n', 'r', 't', 'b', 'f']),
        };
        rest = left.unwrap_or(after);
    }
    plain + rest
}

/// The bytes that the hexadecimal digits of `text` stand for, from the first digit on and from the second. Where
/// each has a width of its own (`0x54`, `U+0054`), that is more than `hex` writes.
fn from_hex(text: &str) -> [Vec<u8>; 2] {
    let digits: Vec<u8> = text
        .replace("0x", " ")
        .chars()
        .filter_map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect();
    [0, 1].map(|from| {
        let pairs = digits.get(from..).unwrap_or_default().chunks_exact(2);
        pairs.map(|pair| pair[0] << 4 | pair[1]).collect()
    })
}

/// Letters in lower case and digits; all else, such as what a text was broken up with, is left out.
fn folded(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().filter(|b| b.is_ascii_alphanumeric()).map(u8::to_ascii_lowercase).collect()
}

/// The base64 characters that `bytes` alone decide where `shift` other bytes (modulo 3) come before them.
fn base64_inside(bytes: &[u8], shift: usize) -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bit = |at: usize| usize::from(bytes[at / 8 - shift] >> (7 - at % 8) & 1);
    let (from, to) = ((8 * shift).div_ceil(6), 8 * (shift + bytes.len()) / 6);
    (from..to).map(|at| ALPHABET[(6 * at..6 * at + 6).fold(0, |value, at| value << 1 | bit(at))]).collect()
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
            |c: char| c.is_whitespace() || matches!(c, '&' | '"' | '\'' | '<' | '>' | ',' | ';' | '…');
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
        assert_eq!(clean("a ?auth_token=[redacted]…"), "a ?auth_token=[redacted]…", "what is clean stays so");
    }

    #[test]
    fn a_text_with_a_piece_of_the_token_in_another_spelling_is_not_shown() {
        let every = |between: &str| TOKEN.chars().map(|c| format!("{c}{between}")).collect::<String>();
        let numbers =
            |write: &dyn Fn(u32) -> String| TOKEN.chars().map(|c| write(c.into())).collect::<String>();
        let percent = |text: &str| text.bytes().map(|b| format!("%{b:02x}")).collect::<String>();
        // Made by `base64` of the token alone, and behind one and two other bytes (the last in the safe alphabet).
        let base64 = [
            "VG9rL2VuK1dpdGg9T2RkJkNoYXJzMDEyMzQ1Njc4OQ==",
            "eFRvay9lbitXaXRoPU9kZCZDaGFyczAxMjM0NTY3ODk=",
            "eHhUb2svZW4rV2l0aD1PZGQmQ2hhcnMwMTIzNDU2Nzg5",
        ];
        let mut cases = vec![
            every(" "),
            every("\n"),
            every("."),
            every("\u{7}"),
            every("<wbr>"),
            every("&nbsp;"),
            every("\\n"),
            every("<i>&#8203;"),
            numbers(&|c| format!("&#{c};")),
            numbers(&|c| format!("&#x{c:X};")),
            numbers(&|c| format!("&#x{c:04x}")),
            numbers(&|c| format!("\\u{c:04x}")),
            numbers(&|c| format!("\\x{c:02x}")),
            numbers(&|c| format!("&amp;#{c};")),
            numbers(&|c| format!("&#{c};\\n")),
            numbers(&|c| format!("&#{c};&nbsp;")),
            TOKEN.chars().map(|c| format!("<i>\\{c}</i>")).collect(),
            numbers(&|c| format!("<b>\\u{{{c:x}}}</b>")),
            percent(&numbers(&|c| format!("&#{c};"))),
            // "Chars012" where nobody takes the last of it for an escape.
            "&#67;&#104;&#97;&#114;&#115;%012".to_owned(),
            numbers(&|c| format!("\\U{c:08x}")),
            numbers(&|c| format!("\\U{c:04X}")),
            numbers(&|c| format!("<i>\\U{c:08X}</i>")),
            numbers(&|c| format!("0x{c:02x}, ")),
            numbers(&|c| format!("U+{c:04X} ")),
            percent(TOKEN),
            percent(&percent(TOKEN)),
            percent(&every(" ")),
            hex::encode(TOKEN),
            hex::encode_upper(TOKEN),
            TOKEN[5..20].to_owned(),
            format!("{} and {}", &TOKEN[..9], &TOKEN[9..]),
        ];
        cases.extend(base64.iter().map(|text| (*text).to_owned()));
        cases.extend(base64.iter().map(|text| text[8..].replace('/', "_")));
        for text in cases {
            assert_eq!(clean(&format!("you sent {text}, which is wrong")), WITHHELD, "{text}");
        }
        for text in ["you sent too much", "token expired 0123456", "req 4f2d9a1b-77e0-4c1e-9b1e-0a8f3d2c1b0a"]
        {
            assert_eq!(clean(text), text);
        }
    }

    #[test]
    fn a_short_token_is_hidden_as_it_stands_and_withholds_nothing_else() {
        let redactor = Redactor { token: &SecretString::from("t-one") };
        assert_eq!(redactor.clean("t-one is a milestone", 200), "[redacted] is a milestone");
    }

    proptest! {
        /// Whatever is put between the characters of the token, and however it is encoded over.
        #[test]
        fn no_spelling_lets_a_piece_of_the_token_through(
            token in "[a-zA-Z0-9]{40}",
            between in proptest::collection::vec("[ \\n\\t\\x00-\\x1f%;,.-]{0,2}", 40),
            before in "[ -~]{0,40}",
            spelling in 0usize..6,
        ) {
            let broken: String = token.chars().zip(&between).map(|(c, b)| format!("{c}{b}")).collect();
            let text = match spelling {
                0 => broken.clone(),
                1 => broken.bytes().map(|b| format!("%{b:02X}")).collect(),
                2 => hex::encode(&token),
                3 => token.chars().rev().collect(),
                4 => token.chars().map(|c| char::from_u32(u32::from(c) + 0xfee0).unwrap()).collect(),
                _ => String::from_utf8(base64_inside(token.as_bytes(), 0)).unwrap(),
            };
            let secret = SecretString::from(token.clone());
            let shown = Redactor::new(&secret).clean(&format!("{before}{text}"), 200);
            let seen = folded(percent_decode_str(&shown).decode_utf8_lossy().as_bytes());
            let token = folded(token.as_bytes());
            for piece in token.windows(PIECE) {
                prop_assert!(!seen.windows(PIECE).any(|window| window == piece), "{}", shown);
            }
            if spelling > 1 {
                prop_assert!(shown.len() < 40 + text.len(), "{}", shown);
                let begin: String = text.chars().take(PIECE * 2).collect();
                prop_assert!(!shown.contains(&begin), "{}", shown);
            }
        }

        #[test]
        fn no_text_lets_the_token_through(before in ".{0,80}", after in ".{0,80}", cut in 0usize..200) {
            let text: String = format!("{before}{TOKEN}{after}").chars().take(cut).collect();
            let shown = clean(&text);
            prop_assert!(!shown.contains(&TOKEN[..6]), "{}", shown);
            prop_assert!(shown.chars().count() <= 200 && !shown.chars().any(char::is_control));
        }
    }
}
