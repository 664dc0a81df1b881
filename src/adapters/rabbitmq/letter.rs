//! A letter of the dead-letter queue as an operator sees it, whoever put it there, and the filter to find it by.
//! Reads untrusted headers; never fails on them.

use jiff::Timestamp;
use lapin::message::Delivery;
use lapin::types::FieldTable;
use sha2::{Digest, Sha256};

use super::wire::{self, Death};
use crate::domain::envelope::Envelope;
use crate::domain::headers;
use crate::domain::reason::DeadLetterReason;

/// Foreign headers may be long, and summaries of all letters are held at once.
const TEXT_BYTES: usize = 1024;

/// What a letter says of itself, without its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LetterSummary {
    /// The same at every look. Letters that are equal in every byte share one, and so do the copies of a letter
    /// that was buried twice.
    pub id: String,
    /// `worker-fault` for letters that no worker wrote.
    pub reason: DeadLetterReason,
    pub detail: String,
    pub event_id: Option<String>,
    pub integration_id: Option<String>,
    pub attempts: Option<u32>,
    pub last_status: Option<u16>,
    pub first_attempt_at: Option<Timestamp>,
    pub dead_lettered_at: Option<Timestamp>,
    /// Where the event was published to.
    pub exchange: String,
    pub routing_key: String,
    /// Bytes.
    pub body_size: usize,
}

/// A letter with its event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FullLetter {
    pub summary: LetterSummary,
    pub envelope: Envelope,
}

/// Which letters. What is left out is not asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LetterFilter {
    pub ids: Vec<String>,
    pub reason: Option<DeadLetterReason>,
    pub integration: Option<String>,
    pub event: Option<String>,
    /// Dead-lettered before this. A letter whose time is not known is neither older nor newer.
    pub before: Option<Timestamp>,
    /// Dead-lettered at this time or later.
    pub since: Option<Timestamp>,
}

impl LetterFilter {
    /// Whether the letter is one of those asked for.
    pub fn matches(&self, letter: &LetterSummary) -> bool {
        let at = letter.dead_lettered_at;
        (self.ids.is_empty() || self.ids.contains(&letter.id))
            && self.reason.is_none_or(|reason| reason == letter.reason)
            && self.integration.as_ref().is_none_or(|id| Some(id) == letter.integration_id.as_ref())
            && self.event.as_ref().is_none_or(|id| Some(id) == letter.event_id.as_ref())
            && self.before.is_none_or(|before| at.is_some_and(|at| at < before))
            && self.since.is_none_or(|since| at.is_some_and(|at| at >= since))
    }
}

impl LetterSummary {
    /// Reads a letter's headers, the contract's or the broker's own.
    pub(super) fn read(delivery: &Delivery) -> Self {
        let none = FieldTable::default();
        let headers = delivery.properties.headers().as_ref().unwrap_or(&none);
        let text = |name: &str| {
            let value = headers.inner().get(name).and_then(wire::as_text)?;
            Some(wire::cut(&value, TEXT_BYTES).to_owned())
        };
        let time = |name: &str| text(name).and_then(|text| text.parse().ok());
        let last_death = wire::deaths(headers).and_then(|deaths| deaths.into_iter().next());
        let ours = text(headers::DEAD_LETTER_REASON).and_then(|text| DeadLetterReason::from_text(&text));
        let detail = match (ours, &last_death) {
            (Some(_), _) => text(headers::DEAD_LETTER_DETAIL).unwrap_or_default(),
            (None, Some(death)) => sentence(death),
            (None, None) => "put here by something else than a worker; it says no reason".into(),
        };
        let (exchange, routing_key) =
            wire::origin(Some(headers), delivery.exchange.as_str(), delivery.routing_key.as_str());
        let message_id = delivery.properties.message_id().as_ref().map(ToString::to_string);
        Self {
            id: text(headers::LETTER_ID).unwrap_or_else(|| fingerprint(delivery, headers)),
            reason: ours.unwrap_or(DeadLetterReason::WorkerFault),
            detail,
            event_id: text(headers::EVENT_ID).or(message_id),
            integration_id: text(headers::INTEGRATION_ID),
            attempts: text(headers::ATTEMPTS).and_then(|text| text.parse().ok()),
            last_status: text(headers::LAST_STATUS).and_then(|text| text.parse().ok()),
            first_attempt_at: time(headers::FIRST_ATTEMPT_AT),
            dead_lettered_at: time(headers::DEAD_LETTERED_AT).or(last_death.and_then(|death| death.at)),
            exchange,
            routing_key,
            body_size: delivery.data.len(),
        }
    }
}

/// What the broker's record means for a person.
fn sentence(death: &Death) -> String {
    let Death { reason, queue, count, .. } = death;
    let why = match reason.as_str() {
        "delivery_limit" => "it came back more often than the queue's delivery limit allows",
        "expired" => "it waited longer than a time limit on the queue or the message",
        "maxlen" => "the queue was full",
        "rejected" => "a consumer rejected it",
        _ => "for a reason of its own",
    };
    let text = format!("the broker moved it here from queue '{queue}' ({reason}, {count} times): {why}");
    wire::cut(&text, TEXT_BYTES).to_owned()
}

/// An id for a letter that carries none: made of all that stays the same from look to look.
fn fingerprint(delivery: &Delivery, headers: &FieldTable) -> String {
    /// Counted up by the broker at every look.
    const CHANGING: [&str; 2] = ["x-delivery-count", "x-acquired-count"];
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    part(delivery.exchange.as_str().as_bytes());
    part(delivery.routing_key.as_str().as_bytes());
    part(delivery.properties.message_id().as_ref().map_or("", |id| id.as_str()).as_bytes());
    part(&delivery.data);
    for (name, value) in headers.inner() {
        if !CHANGING.contains(&name.as_str()) {
            part(name.as_str().as_bytes());
            part(format!("{value:?}").as_bytes());
        }
    }
    hex::encode(&hash.finalize()[..8])
}

#[cfg(test)]
mod tests {
    use lapin::BasicProperties;
    use lapin::types::AMQPValue;

    use super::*;

    fn delivery(headers: &[(&str, AMQPValue)]) -> Delivery {
        let mut table = FieldTable::default();
        for (name, value) in headers {
            table.insert((*name).into(), value.clone());
        }
        let mut delivery = Delivery::mock(1, "dead".into(), "monitor.a".into(), false, b"body".to_vec());
        delivery.properties = BasicProperties::default().with_headers(table).with_message_id("m-1".into());
        delivery
    }

    fn text(text: &str) -> AMQPValue {
        AMQPValue::LongString(text.into())
    }

    #[test]
    fn a_worker_s_letter_is_read_whole() {
        let letter = LetterSummary::read(&delivery(&[
            ("x-letter-id", text("abc")),
            ("x-dead-letter-reason", text("retries-exhausted")),
            ("x-dead-letter-detail", text("no answer for 24 h")),
            ("x-event-id", text("e-1")),
            ("x-integration-id", text("ops")),
            ("x-attempts", text("7")),
            ("x-last-status", AMQPValue::LongInt(503)),
            ("x-dead-lettered-at", text("2026-01-02T03:04:05Z")),
        ]));
        assert_eq!((letter.id.as_str(), letter.reason), ("abc", DeadLetterReason::RetriesExhausted));
        assert_eq!((letter.attempts, letter.last_status), (Some(7), Some(503)));
        assert_eq!(letter.event_id.as_deref(), Some("e-1"));
        assert_eq!(letter.dead_lettered_at, "2026-01-02T03:04:05Z".parse().ok());
        assert_eq!((letter.body_size, letter.routing_key.as_str()), (4, "monitor.a"));
    }

    #[test]
    fn a_foreign_letter_has_an_id_that_looking_does_not_change() {
        let first = LetterSummary::read(&delivery(&[("a", text("b"))]));
        let again = LetterSummary::read(&delivery(&[
            ("a", text("b")),
            ("x-delivery-count", AMQPValue::LongLongInt(3)),
        ]));
        let other = LetterSummary::read(&delivery(&[("a", text("c"))]));
        assert_eq!(first.id, again.id);
        assert_ne!(first.id, other.id);
        assert_eq!((first.reason, first.event_id.as_deref()), (DeadLetterReason::WorkerFault, Some("m-1")));
        assert_eq!((first.attempts, first.dead_lettered_at), (None, None));
    }

    #[test]
    fn nonsense_in_headers_is_no_fault() {
        let letter = LetterSummary::read(&delivery(&[
            ("x-dead-letter-reason", text("because")),
            ("x-attempts", text("-1")),
            ("x-last-status", text("99999")),
            ("x-dead-lettered-at", text("yesterday")),
            ("x-event-id", text(&"e".repeat(100_000))),
            ("x-death", AMQPValue::Boolean(true)),
        ]));
        assert_eq!((letter.attempts, letter.last_status, letter.dead_lettered_at), (None, None, None));
        assert_eq!(letter.event_id.map(|id| id.len()), Some(TEXT_BYTES));
    }

    #[test]
    fn filters_are_joined_by_and() {
        let letter = LetterSummary::read(&delivery(&[
            ("x-letter-id", text("abc")),
            ("x-dead-letter-reason", text("malformed-event")),
            ("x-integration-id", text("ops")),
            ("x-dead-lettered-at", text("2026-01-02T00:00:00Z")),
        ]));
        let at = |text: &str| text.parse::<Timestamp>().ok();
        let cases = [
            ("nothing asked", LetterFilter::default(), true),
            ("its id", LetterFilter { ids: vec!["x".into(), "abc".into()], ..Default::default() }, true),
            ("another id", LetterFilter { ids: vec!["x".into()], ..Default::default() }, false),
            ("its event", LetterFilter { event: Some("m-1".into()), ..Default::default() }, true),
            (
                "another integration",
                LetterFilter { integration: Some("x".into()), ..Default::default() },
                false,
            ),
            ("since then", LetterFilter { since: at("2026-01-02T00:00:00Z"), ..Default::default() }, true),
            ("before then", LetterFilter { before: at("2026-01-02T00:00:00Z"), ..Default::default() }, false),
            (
                "one right, one wrong",
                LetterFilter {
                    reason: Some(DeadLetterReason::MalformedEvent),
                    event: Some("x".into()),
                    ..Default::default()
                },
                false,
            ),
        ];
        for (name, filter, expected) in cases {
            assert_eq!(filter.matches(&letter), expected, "{name}");
        }
    }
}
