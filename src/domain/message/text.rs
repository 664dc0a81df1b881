//! Words: cleaning and clamping what came from outside, counting as HipChat may count, and the small grammar
//! (plurals, ordinals, times) that messages are made of.
//!
//! Plain text only. Nothing here knows HTML; escaping is `html`'s.

use jiff::Timestamp;

/// Stands at the end of what was shortened.
pub const ELLIPSIS: char = '…';

/// Length in UTF-16 code units: what HipChat's limits are kept in. Which unit its server counted is not
/// documented; code points are never more than these.
pub fn units(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { text.chars().map(char::len_utf16).sum() }
}

/// Whether [`clean`] would leave `raw` as it is, seen at a glance: most names are such, and need no look at each
/// character. ASCII without control characters, with single spaces, none of them at an end.
pub fn is_simple(raw: &str) -> bool {
    let mut before = b' ';
    let inside = raw.bytes().all(|b| {
        let double = b == b' ' && before == b' ';
        before = b;
        matches!(b, b' '..=b'~') && !double
    });
    inside && !raw.is_empty() && before != b' '
}

/// The characters of `raw` that may be shown, on one line: runs of whitespace and line ends become one space,
/// control, invisible and direction-changing characters are left out, and the ends are trimmed.
pub fn clean(raw: &str) -> impl Iterator<Item = char> + '_ {
    let mut chars = raw.chars();
    let (mut started, mut held) = (false, None);
    std::iter::from_fn(move || {
        if held.is_some() {
            return held.take();
        }
        let mut gap = false;
        loop {
            match chars.next()? {
                c if c.is_whitespace() => gap = true,
                c if is_hidden(c) => {}
                c if gap && started => {
                    held = Some(c);
                    return Some(' ');
                }
                c => {
                    started = true;
                    return Some(c);
                }
            }
        }
    })
}

/// Control characters; those that only steer the direction of text (Unicode's `Bidi_Control`: an override
/// could make a name read as another); those that show nothing (tags, too, which can carry a text that nobody
/// sees); and what is not for interchange.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{061C}' | '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
        || matches!(c, '\u{00AD}' | '\u{200B}' | '\u{2060}'..='\u{2065}' | '\u{206A}'..='\u{206F}' | '\u{FEFF}')
        || matches!(c, '\u{E0000}'..='\u{E007F}')
        || matches!(c, '\u{FFF9}'..='\u{FFFB}' | '\u{FDD0}'..='\u{FDEF}')
        || (u32::from(c) & 0xFFFE) == 0xFFFE
}

/// Joins emoji and letters and shows nothing by itself; kept in names, but it is no name alone.
fn is_joiner(c: char) -> bool {
    matches!(c, '\u{200C}' | '\u{200D}' | '\u{FE00}'..='\u{FE0F}' | '\u{3164}' | '\u{115F}' | '\u{1160}')
}

/// Whether nothing of `raw` would be seen.
pub fn is_blank(raw: &str) -> bool {
    clean(raw).all(is_joiner)
}

/// `raw`, if there is something to be seen in it.
pub fn shown(raw: Option<&str>) -> Option<&str> {
    raw.filter(|text| !is_blank(text))
}

/// Cleans `raw` and cuts it to `max` UTF-16 units with an ellipsis. Never longer than `max`.
pub fn clamp(raw: &str, max: usize) -> String {
    if raw.len() <= max && is_simple(raw) {
        return raw.to_owned();
    }
    clamp_chars(clean(raw), max)
}

/// Cuts text that is made of clean values and of our own words (so its line ends are meant).
pub fn clamp_own(text: String, max: usize) -> String {
    if units(&text) <= max {
        return text;
    }
    clamp_chars(text.chars(), max)
}

fn clamp_chars(chars: impl Iterator<Item = char>, max: usize) -> String {
    let mut out = String::new();
    let (mut used, mut safe) = (0, 0);
    for c in chars {
        if used + ELLIPSIS.len_utf16() <= max {
            safe = out.len();
        }
        used += c.len_utf16();
        if used > max {
            out.truncate(safe);
            if max > 0 {
                out.push(ELLIPSIS);
            }
            return out;
        }
        out.push(c);
    }
    out
}

/// `1 run`, `2 runs`.
pub fn count(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// `1st`, `2nd`, `3rd`, `4th`, `11th`.
pub fn ordinal(n: u32) -> String {
    let suffix = match (n % 10, n % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{n}{suffix}")
}

/// `2026-11-22 10:00 UTC`.
pub fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M UTC").to_string()
}

/// `2026-11-22 10:00 UTC`, `2026-11-22 10:00 to 10:55 UTC`, or with both days where they differ.
pub fn span(first: Timestamp, last: Timestamp) -> String {
    let day = |at: Timestamp| at.strftime("%Y-%m-%d").to_string();
    if time(first) == time(last) {
        time(first)
    } else if day(first) == day(last) {
        format!("{} to {}", first.strftime("%Y-%m-%d %H:%M"), last.strftime("%H:%M UTC"))
    } else {
        format!("{} to {}", first.strftime("%Y-%m-%d %H:%M"), time(last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn cleaning() {
        let cases = [
            ("as it is", "Get order", "Get order"),
            ("line ends and tabs are one space", "a\r\n\tb\u{2028}c", "a b c"),
            ("ends are trimmed", "  \u{200B} a \u{0007} ", "a"),
            ("controls go", "a\u{0}\u{1b}[31mb\u{7f}\u{9b}c", "a[31mbc"),
            ("direction overrides go", "pay\u{202E}gnp.exe\u{2066}", "paygnp.exe"),
            ("tags go", "a\u{E0000}\u{E0001}\u{E0041}\u{E007F}b", "ab"),
            ("not for interchange", "a\u{FFFE}\u{1FFFF}\u{FDD0}b", "ab"),
            ("emoji sequences stay", "👩\u{200D}🚀", "👩\u{200D}🚀"),
        ];
        for (name, raw, want) in cases {
            assert_eq!(clean(raw).collect::<String>(), want, "{name}");
        }
    }

    #[test]
    fn blank_is_what_shows_nothing() {
        for raw in [
            "",
            " \n\t",
            "\u{200B}\u{FEFF}",
            "\u{200D}",
            "\u{202E}\u{202C}",
            "\u{3164}",
            "\u{E0068}\u{E0069}",
        ] {
            assert!(is_blank(raw), "{raw:?}");
        }
        assert!(!is_blank("\u{200B}x"));
    }

    #[test]
    fn clamping() {
        let cases = [
            ("abc", 3, "abc"),
            ("abcd", 3, "ab…"),
            ("😀😀", 4, "😀😀"),
            ("😀😀", 3, "😀…"),
            ("😀😀", 2, "…"),
        ];
        for (raw, max, want) in cases {
            assert_eq!(clamp(raw, max), want, "{raw} to {max}");
        }
    }

    #[test]
    fn ordinals() {
        let cases =
            [(1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (12, "12th"), (13, "13th")];
        for (n, want) in cases.into_iter().chain([(21, "21st"), (102, "102nd"), (113, "113th")]) {
            assert_eq!(ordinal(n), want);
        }
    }

    #[test]
    fn spans() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let first = at("2026-11-22T10:00:03Z");
        assert_eq!(span(first, at("2026-11-22T10:00:59Z")), "2026-11-22 10:00 UTC");
        assert_eq!(span(first, at("2026-11-22T10:55:00Z")), "2026-11-22 10:00 to 10:55 UTC");
        assert_eq!(span(first, at("2026-11-23T00:01:00Z")), "2026-11-22 10:00 to 2026-11-23 00:01 UTC");
    }

    proptest! {
        #[test]
        fn clamped_text_is_within_its_limit_and_whole_if_it_fits(raw in any::<String>(), max in 0usize..40) {
            let clean: String = clean(&raw).collect();
            let clamped = clamp(&raw, max);
            prop_assert!(units(&clamped) <= max);
            prop_assert_eq!(units(&clean) <= max, clamped == clean || max == 0 && clean.is_empty());
        }

        #[test]
        fn what_is_simple_is_clean(raw in "[ a-c<~\\x1f\\x7f\u{e9}]{0,6}") {
            let cleaned: String = clean(&raw).collect();
            let ascii = raw.bytes().all(|b| matches!(b, b' '..=b'~'));
            prop_assert_eq!(is_simple(&raw), ascii && !raw.is_empty() && cleaned == raw);
        }
    }
}
