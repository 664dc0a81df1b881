//! What is wrong with a body, as a sentence for the person who has to mend its producer.
//!
//! Must not carry whole bodies: a value is shown shortened and with its control characters made visible,
//! because the sentence ends in logs and in the header of a dead letter.

use std::fmt;

/// Characters of a value that are shown.
const SHOWN_CHARS: usize = 60;
/// Characters of a field's path that are shown; member names come from the producer and can be long.
const SHOWN_PATH_CHARS: usize = 120;

/// A body that is not an event. Displayed as one line: `field: problem; fix`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}; {fix}")]
pub struct Malformed {
    /// Where: a path like `metrics.failedTests`, `body` for the whole, or the AMQP property or header.
    pub field: String,
    /// What was found there.
    pub problem: String,
    /// What the producer should send.
    pub fix: String,
}

impl Malformed {
    /// Joins the three parts and shortens the field. Whoever words the problem shows values by [`quoted`].
    pub(super) fn new(field: impl fmt::Display, problem: impl Into<String>, fix: impl Into<String>) -> Self {
        let field = field.to_string();
        // A member may be named by blanks alone.
        let field = if field.trim().is_empty() { quoted(&field) } else { shown(&field, SHOWN_PATH_CHARS) };
        Self { field, problem: problem.into(), fix: fix.into() }
    }

    /// A required field that is not there (or is null).
    pub(super) fn missing(field: impl fmt::Display, fix: impl Into<String>) -> Self {
        Self::new(field, "missing", fix)
    }
}

/// `text` shortened to what fits in a sentence, with control characters made visible.
pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", shown(text, SHOWN_CHARS))
}

fn shown(text: &str, limit: usize) -> String {
    let mut out = String::new();

    for (count, c) in text.chars().enumerate() {
        if count == limit {
            out.push('…');
            break;
        }
        if needs_escape(c) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

/// Control characters, and those that turn the reading direction and so can make a log line lie.
fn needs_escape(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shortened_and_made_visible() {
        let cases = [
            ("plain", "\"plain\""),
            ("a\nb\u{1b}[31m", "\"a\\u{a}b\\u{1b}[31m\""),
            ("\u{202e}evil", "\"\\u{202e}evil\""),
            ("Größe 💥", "\"Größe 💥\""),
        ];
        for (text, expected) in cases {
            assert_eq!(quoted(text), expected);
        }
        assert_eq!(quoted(&"x".repeat(60)), format!("\"{}\"", "x".repeat(60)));
        assert_eq!(quoted(&"x".repeat(61)), format!("\"{}…\"", "x".repeat(60)));
    }

    #[test]
    fn the_sentence_names_field_problem_and_fix() {
        let fault = Malformed::missing("metrics", "send the run's metrics");
        assert_eq!(fault.to_string(), "metrics: missing; send the run's metrics");
        assert!(Malformed::missing("k".repeat(5_000), "x").to_string().len() < 200);
        assert_eq!(Malformed::missing(" ", "x").to_string(), "\" \": missing; x");
    }
}
