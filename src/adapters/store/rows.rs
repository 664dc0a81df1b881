//! How domain values stand in columns: the forms that all stores share. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::domain::envelope::Envelope;
use crate::domain::pacing::{Learned, Meter};
use crate::domain::reason::Belief;

/// A time as it is stored: microseconds since the Unix epoch, as exact as PostgreSQL's own.
pub fn micros(at: Timestamp) -> i64 {
    at.as_microsecond()
}

/// The time that `micros` stands for; what no calendar holds becomes its end.
pub fn time(micros: i64) -> Timestamp {
    Timestamp::from_microsecond(micros).unwrap_or(if micros < 0 { Timestamp::MIN } else { Timestamp::MAX })
}

/// A duration in whole microseconds.
pub fn span(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// A word that this program does not know is from a later one: what the room believes is not known then.
pub fn belief(word: &str) -> Belief {
    Belief::from_text(word).unwrap_or(Belief::Unsure)
}

/// All of an envelope but its body.
#[derive(Serialize, Deserialize)]
struct Properties {
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<String, String>,
    exchange: String,
    routing_key: String,
}

/// An envelope's properties as JSON.
pub fn properties(envelope: &Envelope) -> String {
    let properties = Properties {
        message_id: envelope.message_id.clone(),
        content_type: envelope.content_type.clone(),
        headers: envelope.headers.clone(),
        exchange: envelope.exchange.clone(),
        routing_key: envelope.routing_key.clone(),
    };
    serde_json::to_string(&properties).expect("text and maps of text have a JSON form")
}

/// The envelope of stored properties and body; `None` if the properties are not what [`properties`] made.
pub fn envelope(properties: &str, body: Vec<u8>) -> Option<Envelope> {
    let p: Properties = serde_json::from_str(properties).ok()?;
    Some(Envelope {
        body,
        message_id: p.message_id,
        content_type: p.content_type,
        headers: p.headers,
        exchange: p.exchange,
        routing_key: p.routing_key,
    })
}

/// A meter as text: `slot_ms;newest;count,count;learned@when;blocked_until;limited`, empty for an unused one.
pub fn meter_text(meter: &Meter) -> String {
    if *meter == Meter::default() {
        return String::new();
    }
    let Meter { slot_ms, newest, limited, .. } = meter;
    let mut text = String::with_capacity(METER_TEXT);
    // Writing to a text does not fail.
    let _ = write!(text, "{slot_ms};{newest};");
    for (at, count) in meter.counts.iter().enumerate() {
        let comma = if at > 0 { "," } else { "" };
        let _ = write!(text, "{comma}{count}");
    }
    text.push(';');
    if let Some(Learned { limit, at }) = meter.learned {
        let _ = write!(text, "{limit}@{}", micros(at));
    }
    text.push(';');
    if let Some(until) = meter.blocked_until {
        let _ = write!(text, "{}", micros(until));
    }
    let _ = write!(text, ";{limited}");
    text
}

/// Bytes of most meters.
const METER_TEXT: usize = 96;

/// The meter that `text` stands for; `None` if it is not what [`meter_text`] made.
pub fn meter(text: &str) -> Option<Meter> {
    if text.is_empty() {
        return Some(Meter::default());
    }
    let mut parts = text.split(';');
    let mut next = || parts.next();
    let meter = Meter {
        slot_ms: next()?.parse().ok()?,
        newest: next()?.parse().ok()?,
        counts: parse_list(next()?)?,
        learned: parse_learned(next()?)?,
        blocked_until: parse_optional(next()?)?.map(time),
        // Written before there was such a count, it has none.
        limited: next().map_or(Some(0), |text| text.parse().ok())?,
    };
    next().is_none().then_some(meter)
}

fn parse_list(text: &str) -> Option<Vec<u32>> {
    if text.is_empty() { Some(Vec::new()) } else { text.split(',').map(|n| n.parse().ok()).collect() }
}

fn parse_learned(text: &str) -> Option<Option<Learned>> {
    if text.is_empty() {
        return Some(None);
    }
    let (limit, at) = text.split_once('@')?;
    Some(Some(Learned { limit: limit.parse().ok()?, at: time(at.parse().ok()?) }))
}

fn parse_optional<T: std::str::FromStr>(text: &str) -> Option<Option<T>> {
    if text.is_empty() { Some(None) } else { text.parse().ok().map(Some) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn meters_come_back(
            slot_ms in any::<i64>(), newest in any::<i64>(),
            counts in prop::collection::vec(any::<u32>(), 0..22),
            learned in any::<Option<(u32, i32)>>(), blocked in any::<Option<i32>>(), limited in any::<u32>(),
        ) {
            let blocked_until = blocked.map(|s| time(i64::from(s) * 1_000_001));
            let learned = learned.map(|(limit, s)| Learned { limit, at: time(i64::from(s) * 1_000_001) });
            let one = Meter { slot_ms, newest, counts, learned, blocked_until, limited };
            prop_assert_eq!(meter(&meter_text(&one)), Some(one));
        }

        #[test]
        fn envelopes_come_back(
            body in prop::collection::vec(any::<u8>(), 0..40),
            message_id in any::<Option<String>>(), content_type in any::<Option<String>>(),
            headers in prop::collection::btree_map(any::<String>(), any::<String>(), 0..4),
            exchange in any::<String>(), routing_key in any::<String>(),
        ) {
            let one = Envelope { body, message_id, content_type, headers, exchange, routing_key };
            prop_assert_eq!(envelope(&properties(&one), one.body.clone()), Some(one));
        }

        #[test]
        fn no_text_is_too_strange(text in ".*") {
            let _ = meter(&text);
            let _ = envelope(&text, Vec::new());
        }
    }

    #[test]
    fn times_are_exact_to_the_microsecond_and_never_fail() {
        let at: Timestamp = "2026-11-23T10:00:00.123456Z".parse().unwrap();
        assert_eq!(time(micros(at)), at);
        assert_eq!(time(i64::MAX), Timestamp::MAX);
        assert_eq!(time(i64::MIN), Timestamp::MIN);
    }

    #[test]
    fn an_unused_meter_takes_no_room() {
        assert_eq!(meter_text(&Meter::default()), "");
        assert_eq!(meter("1;2;3"), None);
    }
}
