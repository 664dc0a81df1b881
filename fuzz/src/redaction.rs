//! What a server says is shown without the token: no eight letters or digits of it in a row, in whatever spelling
//! they come. The text is put together here from pieces of the token in many spellings and from anything else.

use arbitrary::{Result, Unstructured};
use hipchat_notifier::adapters::hipchat::redact::Redactor;
use secrecy::SecretString;

/// So many letters and digits of a token in a row give too much of it away.
const PIECE: usize = 8;
const LONGEST: usize = 200;

pub fn check(input: &[u8]) {
    let _ = check_some(&mut Unstructured::new(input));
}

fn check_some(u: &mut Unstructured<'_>) -> Result<()> {
    let token = token(u)?;
    let text = text(u, &token)?;
    let secret = SecretString::from(token.clone());
    let shown = Redactor::new(&secret).clean(&text, LONGEST);
    assert!(!shown.contains(char::is_control), "not one line: {shown:?}");
    assert!(shown.chars().count() <= LONGEST, "{} characters", shown.chars().count());
    assert_eq!(Redactor::new(&secret).clean(&shown, LONGEST), shown, "clean is clean");
    for (how, reading) in readings(&shown) {
        for piece in folded(&token).windows(PIECE) {
            let seen = reading.windows(PIECE).any(|window| window == piece);
            assert!(!seen, "{how}: {token:?} is seen in {shown:?}, which was {text:?}");
        }
    }
    if folded(&token).len() < PIECE {
        // Hidden only as it stands: its few letters are in any text.
        return Ok(());
    }
    // In both of its alphabets.
    let both: [String; 2] = [['+', '/'], ['-', '_']].map(|[plus, slash]| {
        let is_of_it = |c: &char| c.is_ascii_alphanumeric() || [plus, slash].contains(c);
        shown
            .chars()
            .filter(is_of_it)
            .map(|c| {
                if c == plus {
                    '+'
                } else if c == slash {
                    '/'
                } else {
                    c
                }
            })
            .collect()
    });
    for shift in 0..3 {
        // Eleven characters hold eight bytes; the first ones and the last hold bits of others.
        let written = base64(&["xx"[..shift].to_owned(), token.clone()].concat());
        let own = &written.as_bytes()[(8 * shift).div_ceil(6)..8 * (shift + token.len()) / 6];
        let mut all = both.iter().flat_map(|plain| plain.as_bytes().windows(11));
        let seen = all.any(|there| own.windows(11).any(|window| there == window));
        assert!(!seen, "base64: {token:?} is seen in {shown:?}, which was {text:?}");
    }
    Ok(())
}

/// Like HipChat's own (40 letters and digits), or anything that a header can hold.
fn token(u: &mut Unstructured<'_>) -> Result<String> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    const OTHERS: &[u8] = b"-_.~+/=%&;#\"'";
    let length = u.int_in_range(PIECE + 4..=60)?;
    let odd = u.ratio(1, 4)?;
    let mut token = String::new();
    for at in 0..length {
        // Different at each place, so that a piece of it is no accident.
        let byte: u8 = u.arbitrary()?;
        let alphabet = if odd && byte.is_multiple_of(7) { OTHERS } else { ALPHABET };
        token.push(char::from(alphabet[(usize::from(byte) + at * 17) % alphabet.len()]));
    }
    Ok(token)
}

fn text(u: &mut Unstructured<'_>, token: &str) -> Result<String> {
    let mut text = String::new();
    for _ in 0..u.int_in_range(1..=5)? {
        match u.int_in_range(0_u8..=3)? {
            0 => {
                let length = u.int_in_range(0..=40)?.min(u.len());
                text.push_str(&String::from_utf8_lossy(u.bytes(length)?));
            }
            1 => text.push_str(u.choose(&[
                " ",
                "?auth_token=",
                "Bearer ",
                "&",
                "\u{200b}",
                "…",
                "<a href='",
            ])?),
            _ => {
                let from = u.int_in_range(0..=token.len() - 1)?;
                let to = u.int_in_range(from..=token.len())?;
                text.push_str(&spelled(u, &token[from..to])?);
            }
        }
    }
    Ok(text)
}

/// A piece of the token as somebody may have written it.
fn spelled(u: &mut Unstructured<'_>, piece: &str) -> Result<String> {
    let between = *u.choose(&[
        "",
        " ",
        "\n",
        "\u{200b}",
        "-",
        ".",
        "\u{0}",
        "\u{ad}",
        "  ",
        "<wbr>",
        "&nbsp;",
        "\\n",
        "</b><b class='x'>",
    ])?;
    let each = |write: &dyn Fn(char) -> String| piece.chars().map(|c| write(c) + between).collect::<String>();
    let upper = u.arbitrary()?;
    let mut spelled = match u.int_in_range(0_u8..=10)? {
        0 => each(&|c| c.to_string()),
        1 => each(&|c| format!("%{:02x}", u32::from(c))),
        2 => each(&|c| format!("%25{:02X}", u32::from(c))),
        3 => each(&|c| format!("{:02x}", u32::from(c))),
        4 => each(&|c| c.to_uppercase().to_string()),
        5 => each(&|c| format!("&#{};", u32::from(c))),
        6 => each(&|c| format!("&#x{:x};", u32::from(c))),
        7 => each(&|c| format!("\\u{:04x}", u32::from(c))),
        8 => each(&|c| format!("0x{:02x}", u32::from(c))),
        9 => each(&|c| format!("\\U{:08x}", u32::from(c))),
        _ => {
            let written = base64(&[&"xx"[..u.int_in_range(0..=2)?], piece].concat());
            if u.arbitrary()? { written.replace('+', "-").replace('/', "_") } else { written }
        }
    };
    if upper {
        spelled = spelled.to_ascii_uppercase();
    }
    Ok(spelled)
}

fn base64(text: &str) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bits: Vec<u8> =
        text.bytes().flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1)).collect();
    bits.resize(bits.len().next_multiple_of(6), 0);
    bits.chunks(6)
        .map(|six| char::from(ALPHABET[six.iter().fold(0, |n, bit| n << 1 | usize::from(*bit))]))
        .collect()
}

/// What a person who tries can read in what is shown, as letters and digits.
fn readings(shown: &str) -> Vec<(&'static str, Vec<u8>)> {
    let once = percent_decoded(shown.as_bytes());
    let twice = percent_decoded(&once);
    let digits: Vec<u8> = shown.replace("0x", " ").bytes().filter(u8::is_ascii_hexdigit).collect();
    let hex = |from: usize| {
        let pairs = digits.get(from..).unwrap_or_default().chunks_exact(2);
        pairs
            .filter_map(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok())
            .collect::<Vec<u8>>()
    };
    vec![
        ("as it is", folded(shown)),
        ("percent-decoded", folded_bytes(&once)),
        ("percent-decoded twice", folded_bytes(&twice)),
        ("without markup", folded(&without_markup(shown))),
        ("percent-decoded, without markup", folded(&without_markup(&String::from_utf8_lossy(&once)))),
        ("from hex", folded_bytes(&hex(0))),
        ("from hex at an odd place", folded_bytes(&hex(1))),
    ]
}

/// As a browser or a reader of JSON shows it: without tags and names of characters, numbers as what they stand for.
fn without_markup(text: &str) -> String {
    let (mut plain, mut rest) = (String::new(), text);
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        let numbered =
            [("&#x", 16, 6), ("&#X", 16, 6), ("&#", 10, 7), ("\\u", 16, 4), ("\\U", 16, 8), ("\\x", 16, 2)];
        let number = numbered.iter().find_map(|(begin, base, most)| {
            let digits = rest.strip_prefix(begin)?;
            let count = digits.chars().take(*most).take_while(|c| c.is_digit(*base)).count();
            let number = u32::from_str_radix(&digits[..count], *base).ok()?;
            Some((char::from_u32(number)?, digits[count..].trim_start_matches(';')))
        });
        let named = || after.trim_start_matches(|c: char| c.is_ascii_alphanumeric()).strip_prefix(';');
        rest = match (number, c) {
            (Some((character, left)), _) => {
                plain.push(character);
                left
            }
            (None, '<') => after.split_once('>').map_or(after, |(_, left)| left),
            (None, '&') => named().unwrap_or(after),
            (None, '\\') => after.strip_prefix(['n', 'r', 't']).unwrap_or(after),
            (None, c) => {
                plain.push(c);
                after
            }
        };
    }
    plain
}

fn percent_decoded(bytes: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let digits = bytes.get(at + 1..at + 3).and_then(|two| std::str::from_utf8(two).ok());
        match digits.and_then(|two| u8::from_str_radix(two, 16).ok()).filter(|_| bytes[at] == b'%') {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    decoded
}

fn folded(text: &str) -> Vec<u8> {
    folded_bytes(text.as_bytes())
}

fn folded_bytes(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().filter(|b| b.is_ascii_alphanumeric()).map(u8::to_ascii_lowercase).collect()
}
