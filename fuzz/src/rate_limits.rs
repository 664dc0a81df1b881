//! Answers of a room's server: whatever its headers say, a wait is within its bounds, tells the same however the
//! headers are spelled and whatever its clock says, and what people read of it is one short line without the token.

use std::time::Duration;

use hipchat_notifier::adapters::hipchat::classify::{Reply, classify_reply};
use hipchat_notifier::adapters::hipchat::limits::Limits;
use hipchat_notifier::adapters::hipchat::redact::Redactor;
use hipchat_notifier::domain::pacing::LONGEST_SERVER_WAIT;
use hipchat_notifier::ports::AnswerClass;
use jiff::Timestamp;
use reqwest::header::{DATE, HeaderMap, HeaderName, HeaderValue};
use secrecy::SecretString;

use crate::envelope;

const TOKEN: &str = "s3cr3tTokenOfFortyCharactersForTheRoom00";

/// A status, headers below it, an empty line, a body.
pub fn check(input: &[u8]) {
    let (head, body) = envelope::split(input);
    let mut lines = head.split(|b| *b == b'\n');
    let status =
        lines.next().and_then(|line| std::str::from_utf8(line).ok()?.trim().parse().ok()).unwrap_or(429);
    let mut headers = HeaderMap::new();
    for line in lines.take(200) {
        let Some(at) = line.iter().position(|b| *b == b':') else { continue };
        let (name, value) =
            (HeaderName::from_bytes(&line[..at]), HeaderValue::from_bytes(line[at + 1..].trim_ascii()));
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    let now = Timestamp::from_second(1_764_000_000).expect("a time");
    limits(&headers, now);
    answer(status, &headers, body, now);
}

fn limits(headers: &HeaderMap, now: Timestamp) {
    let read = Limits::read(headers, now);
    assert_eq!(read, Limits::read(headers, now));
    let mut blamed = read;
    let until = blamed.blame(now);
    let (least, most) = (now + Duration::from_secs(1), now + LONGEST_SERVER_WAIT);
    assert!(least <= until && until <= most, "waits until {until}");
    assert!(
        [blamed.room, blamed.token]
            .iter()
            .any(|hint| hint.remaining == Some(0) && hint.reset_at == Some(until))
    );
    // Blame that is laid again is the same.
    assert_eq!(
        (blamed.blame(now), blamed),
        (until, {
            let mut again = blamed;
            again.blame(now);
            again
        })
    );

    // A value that a proxy joined with another one's counts as the first.
    let mut joined = HeaderMap::new();
    for name in headers.keys() {
        let value = &headers[name];
        let dates = name == DATE || name.as_str() == "retry-after";
        let value = if dates { value.as_bytes().to_vec() } else { [value.as_bytes(), b", 7"].concat() };
        joined.insert(name, HeaderValue::from_bytes(&value).expect("both were values"));
    }
    assert_eq!(Limits::read(&joined, now), read, "joined by a proxy");

    // Without the server's clock, waits in seconds move with ours.
    if !headers.contains_key(DATE) {
        let hour = Duration::from_secs(3_600);
        let later = Limits::read(headers, now + hour);
        for (before, after) in [(read.room, later.room), (read.token, later.token)] {
            assert_eq!((before.limit, before.remaining), (after.limit, after.remaining));
            let moved = before.reset_at.and_then(|at| at.checked_add(hour).ok());
            // A Unix time stays; seconds from now that end beyond all time count as the latest.
            assert!(after.reset_at == moved || after.reset_at == before.reset_at || moved.is_none());
        }
    }
}

fn answer(status: u16, headers: &HeaderMap, body: &[u8], at: Timestamp) {
    let secret = SecretString::from(TOKEN);
    let answer = classify_reply(Reply { status, headers, body, at }, &Redactor::new(&secret));
    assert_eq!(answer.status, Some(status));
    match answer.class {
        AnswerClass::Accepted => assert!((200..300).contains(&status)),
        AnswerClass::RateLimited { until } => {
            assert!(matches!(status, 403 | 429));
            assert!(until > at && until <= at + LONGEST_SERVER_WAIT);
        }
        AnswerClass::Broken | AnswerClass::Refused => assert!((300..500).contains(&status)),
        AnswerClass::Unavailable => assert!(status < 200 || status >= 400),
    }
    let shown = format!("{answer:?}");
    assert!(!answer.detail.chars().any(char::is_control), "{:?}", answer.detail);
    assert!(answer.detail.chars().count() < 1_000, "{}", answer.detail);
    assert!(!shown.to_ascii_lowercase().contains(&TOKEN.to_ascii_lowercase()[..12]), "{shown}");
}
