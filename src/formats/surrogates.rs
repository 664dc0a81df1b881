//! Escapes of half a surrogate pair, which JSON's grammar allows and its parsers refuse.

use std::borrow::Cow;

/// `text` with each escape of half a surrogate pair made that of the replacement character. JSON's grammar allows
/// half ones and JavaScript writes them, where a name was cut within an emoji; but no text can hold one. The length
/// stays, and with it the places that errors tell.
pub(super) fn mended(text: &str) -> Cow<'_, str> {
    let mut mended: Option<String> = None;
    let mut from = 0;
    while let Some(found) = text[from..].find('\\') {
        let at = from + found;
        let (length, half) = match (surrogate(text, at), surrogate(text, at + ESCAPE)) {
            (Some(Half::High), Some(Half::Low)) => (2 * ESCAPE, false),
            (Some(_), _) => (ESCAPE, true),
            // Whatever is escaped, a backslash for one, begins nothing.
            (None, _) => (1 + text[at + 1..].chars().next().map_or(0, char::len_utf8), false),
        };
        if half {
            let mended = mended.get_or_insert_with(|| text.to_owned());
            mended.replace_range(at..at + ESCAPE, "\\ufffd");
        }
        from = at + length;
    }
    mended.map_or(Cow::Borrowed(text), Cow::Owned)
}

/// Bytes of an escape by number.
const ESCAPE: usize = r"\u0000".len();

/// Which half of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Half {
    High,
    Low,
}

/// The half of a surrogate pair that is escaped at `at`, if it is one.
fn surrogate(text: &str, at: usize) -> Option<Half> {
    let digits = text.get(at..at + ESCAPE)?.strip_prefix("\\u")?;
    // `from_str_radix` would also read a sign.
    let number =
        digits.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u16::from_str_radix(digits, 16).ok())??;
    match number {
        0xd800..0xdc00 => Some(Half::High),
        0xdc00..0xe000 => Some(Half::Low),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::json::{Json, parse};
    use super::*;

    #[test]
    fn half_a_surrogate_pair_is_read_as_the_replacement_character() {
        let cases = [
            (r#""caf\u00e9 \ud83d\udca5 \\ud83d""#, "caf\u{e9} \u{1f4a5} \\ud83d"),
            (r#""\ud83d""#, "\u{fffd}"),
            (r#""a\uD83Db\uDCA5c""#, "a\u{fffd}b\u{fffd}c"),
            (r#""\ud83d\ud83d\udca5\udca5""#, "\u{fffd}\u{1f4a5}\u{fffd}"),
            (r#""\\\ud83d\n""#, "\\\u{fffd}\n"),
            (r#""\ud83d\u0041""#, "\u{fffd}A"),
        ];
        for (text, expected) in cases {
            let mended = mended(text);
            assert_eq!(mended.len(), text.len(), "{text}");
            assert_eq!(parse(&mended).expect(text), Json::Text(expected.into()), "{text}");
        }
        for whole in [
            r#""\ud83d\udca5""#,
            r#"{"a":"\\"}"#,
            "\"\\",
            "\"\\u12",
            "\\\u{1f4a5}",
            "\"\\u\u{1f4a5}\"",
            r#""\u+fff""#,
        ] {
            assert!(matches!(mended(whole), Cow::Borrowed(_)), "{whole}");
        }
    }

    proptest::proptest! {
        /// Whatever the text: what could be read is left as it is, and what is mended reads no worse.
        #[test]
        fn mending_changes_only_what_could_not_be_read(text in "(\\\\|u|d8|dc|00|3d|\"|n|\u{1f4a5}){0,30}") {
            let quoted = format!("\"{text}\"");
            let mended = mended(&quoted);
            proptest::prop_assert_eq!(mended.len(), quoted.len());
            if parse(&quoted).is_ok() {
                proptest::prop_assert!(matches!(mended, Cow::Borrowed(_)));
            }
            if let Err(error) = parse(&mended) {
                proptest::prop_assert!(!error.to_string().contains("lone"), "{}", error);
            }
        }
    }
}
