//! Durations as people write them in the configuration: `100ms`, `1s`, `5m`, `24h`, `7d`, `1h30m`.
//!
//! Stricter than general-purpose parsers on purpose: a whole number and a unit, larger units first, no blanks,
//! no fractions, no bare numbers whose unit one has to guess. A day is 24 hours.

use std::fmt::Write;
use std::time::Duration;

/// Why a text is no duration. The sentence says what is wrong; [`HOW_TO_WRITE`] says what to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotADuration {
    #[error("it is empty")]
    Empty,
    #[error("it is negative")]
    Negative,
    #[error("a number in it has no unit")]
    NoUnit,
    #[error("it is not whole numbers with the units ms, s, m, h or d")]
    Malformed,
    #[error("its units are not in order, each at most once, the largest first")]
    Order,
    #[error("it is too long")]
    TooLong,
}

/// What to write instead, for the end of a fault.
pub const HOW_TO_WRITE: &str = "write a duration like \"100ms\", \"1s\", \"5m\", \"24h\" or \"7d\"";

/// Units in milliseconds, largest first.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// The longest duration that is read: a hundred years. Keeps sums with times far from any overflow.
const LONGEST_MS: u64 = 100 * 365 * 86_400_000;

/// Reads a duration.
///
/// # Errors
/// Says what keeps `text` from being one.
pub fn parse(text: &str) -> Result<Duration, NotADuration> {
    if text.is_empty() {
        return Err(NotADuration::Empty);
    }
    if text.starts_with('-') {
        return Err(NotADuration::Negative);
    }
    let (mut rest, mut total, mut smallest) = (text, 0u64, None);
    while !rest.is_empty() {
        let (number, after) = split_where(rest, |c| !c.is_ascii_digit());
        let (unit, after) = split_where(after, |c| c.is_ascii_digit());
        if number.is_empty() {
            return Err(NotADuration::Malformed);
        }
        if unit.is_empty() {
            return Err(NotADuration::NoUnit);
        }
        let rank = UNITS.iter().position(|(name, _)| *name == unit).ok_or(NotADuration::Malformed)?;
        if smallest.is_some_and(|smallest| rank <= smallest) {
            return Err(NotADuration::Order);
        }
        let number: u64 = number.parse().map_err(|_| NotADuration::TooLong)?;
        let part = number.checked_mul(UNITS[rank].1).ok_or(NotADuration::TooLong)?;
        total = total.checked_add(part).filter(|t| *t <= LONGEST_MS).ok_or(NotADuration::TooLong)?;
        (rest, smallest) = (after, Some(rank));
    }
    Ok(Duration::from_millis(total))
}

/// Writes a duration so that [`parse`] reads the same, to the millisecond.
pub fn format(duration: Duration) -> String {
    let mut left = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if left == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (unit, ms) in UNITS {
        if left >= ms {
            // Writing to a String cannot fail.
            let _ = write!(text, "{}{unit}", left / ms);
            left %= ms;
        }
    }
    text
}

fn split_where(text: &str, at: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(at).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_read_and_what_is_not() {
        let ms = |ms| Ok(Duration::from_millis(ms));
        let cases = [
            ("100ms", ms(100)),
            ("1s", ms(1_000)),
            ("5m", ms(300_000)),
            ("24h", ms(86_400_000)),
            ("7d", ms(604_800_000)),
            ("0s", ms(0)),
            ("1h30m", ms(5_400_000)),
            ("1m500ms", ms(60_500)),
            ("", Err(NotADuration::Empty)),
            ("-5m", Err(NotADuration::Negative)),
            ("30", Err(NotADuration::NoUnit)),
            ("1m30", Err(NotADuration::NoUnit)),
            ("5 m", Err(NotADuration::Malformed)),
            ("1.5s", Err(NotADuration::Malformed)),
            ("m", Err(NotADuration::Malformed)),
            ("5min", Err(NotADuration::Malformed)),
            ("5M", Err(NotADuration::Malformed)),
            ("٣s", Err(NotADuration::Malformed)),
            ("30m1h", Err(NotADuration::Order)),
            ("1s1s", Err(NotADuration::Order)),
            ("99999999999999999999s", Err(NotADuration::TooLong)),
            ("18446744073709551615d", Err(NotADuration::TooLong)),
            ("36501d", Err(NotADuration::TooLong)),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_duration_is_written_in_its_largest_units() {
        for text in ["0s", "100ms", "1s", "5m", "1d", "7d", "1h30m", "1m500ms"] {
            assert_eq!(format(parse(text).unwrap()), text);
        }
        assert_eq!(format(Duration::from_secs(86_400)), "1d");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(ms in 0..=LONGEST_MS) {
            let duration = Duration::from_millis(ms);
            prop_assert_eq!(parse(&format(duration)), Ok(duration));
        }

        #[test]
        fn no_text_panics(text in "\\PC*|[0-9dhms]{0,30}") {
            let _ = parse(&text);
        }
    }
}
