//! Between AMQP's properties and the domain's [`Envelope`]. Knows the header names of the contract; decides
//! nothing.

use std::collections::BTreeMap;

use jiff::Timestamp;
use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable, ShortString};

use crate::domain::envelope::Envelope;
use crate::domain::headers;

/// Where the broker tells why it dead-lettered a message.
const DEATHS: &str = "x-death";

/// Persistent, in AMQP's numbering.
pub(super) const PERSISTENT: u8 = 2;
/// What AMQP's short strings hold: names, routing keys, most properties.
const SHORT_BYTES: usize = u8::MAX as usize;

/// Takes a delivery apart. An event that was moved back from the dead-letter queue gets the exchange and routing
/// key that it came with at first, since the team may be read from them.
pub(super) fn envelope(delivery: Delivery) -> Envelope {
    let headers = delivery.properties.headers();
    let (exchange, routing_key) =
        origin(headers.as_ref(), delivery.exchange.as_str(), delivery.routing_key.as_str());
    Envelope {
        headers: headers.as_ref().map(texts).unwrap_or_default(),
        message_id: delivery.properties.message_id().as_ref().map(ToString::to_string),
        content_type: delivery.properties.content_type().as_ref().map(ToString::to_string),
        exchange,
        routing_key,
        body: delivery.data,
    }
}

/// The exchange and routing key that an event was published with. Anybody can write the headers that tell it, so
/// what no broker could have taken as a name is not believed.
pub(super) fn origin(headers: Option<&FieldTable>, exchange: &str, routing_key: &str) -> (String, String) {
    let is_place =
        |(exchange, key): &(String, String)| exchange.len() <= SHORT_BYTES && key.len() <= SHORT_BYTES;
    let header = |name| headers.and_then(|headers| headers.inner().get(name)).and_then(as_text);
    let ours = || header(headers::ORIGINAL_EXCHANGE).zip(header(headers::ORIGINAL_ROUTING_KEY));
    // Dead-lettered by the broker: its own record tells where from, the oldest death last.
    let brokers = || {
        let death = headers.and_then(deaths)?.pop()?;
        Some((death.exchange, death.routing_key))
    };
    ours()
        .filter(is_place)
        .or_else(|| brokers().filter(is_place))
        .unwrap_or_else(|| (exchange.to_owned(), routing_key.to_owned()))
}

/// Whether a header tells the broker to send copies elsewhere, or makes it close the channel if it is not a list:
/// what a producer asked for with it was done when the event was published.
pub(super) fn is_of_routing(name: &str) -> bool {
    matches!(name, "CC" | "BCC")
}

/// Whether a header is the broker's own record of a dead-lettering or a redelivery.
pub(super) fn is_of_a_death(name: &str) -> bool {
    const FAMILIES: [&str; 3] = [DEATHS, "x-first-death-", "x-last-death-"];
    const COUNTS: [&str; 2] = ["x-delivery-count", "x-acquired-count"];
    COUNTS.contains(&name) || FAMILIES.iter().any(|family| name.starts_with(family))
}

/// One entry of the broker's `x-death` header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Death {
    pub reason: String,
    pub queue: String,
    pub count: i64,
    pub exchange: String,
    pub routing_key: String,
    pub at: Option<Timestamp>,
}

/// The broker's record of dead-letterings, the newest first; `None` without one.
pub(super) fn deaths(headers: &FieldTable) -> Option<Vec<Death>> {
    let AMQPValue::FieldArray(entries) = headers.inner().get(DEATHS)? else { return None };
    let deaths: Vec<Death> = entries
        .as_slice()
        .iter()
        .filter_map(|entry| match entry {
            AMQPValue::FieldTable(entry) => Some(death(entry)),
            _ => None,
        })
        .collect();
    (!deaths.is_empty()).then_some(deaths)
}

fn death(entry: &FieldTable) -> Death {
    let field = |name: &str| entry.inner().get(name);
    let text = |name: &str| field(name).and_then(as_text).unwrap_or_default();
    let routing_key = match field("routing-keys") {
        Some(AMQPValue::FieldArray(keys)) => keys.as_slice().first().and_then(as_text).unwrap_or_default(),
        _ => String::new(),
    };
    let at = match field("time") {
        Some(AMQPValue::Timestamp(seconds)) => moment(*seconds),
        _ => None,
    };
    Death {
        reason: text("reason"),
        queue: text("queue"),
        count: field("count").and_then(as_text).and_then(|count| count.parse().ok()).unwrap_or(1),
        exchange: text("exchange"),
        routing_key,
        at,
    }
}

fn moment(seconds: u64) -> Option<Timestamp> {
    i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok())
}

/// Headers as text; tables, lists and bytes that are no text are left out.
fn texts(headers: &FieldTable) -> BTreeMap<String, String> {
    headers.inner().iter().filter_map(|(name, value)| Some((name.to_string(), as_text(value)?))).collect()
}

/// A header's value as text. Times become RFC 3339.
pub(super) fn as_text(value: &AMQPValue) -> Option<String> {
    Some(match value {
        AMQPValue::Boolean(value) => value.to_string(),
        AMQPValue::ShortShortInt(value) => value.to_string(),
        AMQPValue::ShortShortUInt(value) => value.to_string(),
        AMQPValue::ShortInt(value) => value.to_string(),
        AMQPValue::ShortUInt(value) => value.to_string(),
        AMQPValue::LongInt(value) => value.to_string(),
        AMQPValue::LongUInt(value) => value.to_string(),
        AMQPValue::LongLongInt(value) => value.to_string(),
        AMQPValue::Float(value) => value.to_string(),
        AMQPValue::Double(value) => value.to_string(),
        AMQPValue::Timestamp(value) => moment(*value)?.to_string(),
        AMQPValue::ShortString(value) => value.to_string(),
        AMQPValue::LongString(value) => std::str::from_utf8(value.as_bytes()).ok()?.to_owned(),
        AMQPValue::DecimalValue(_)
        | AMQPValue::FieldArray(_)
        | AMQPValue::FieldTable(_)
        | AMQPValue::ByteArray(_)
        | AMQPValue::Void => return None,
    })
}

/// Persistent properties with these headers. What is too long for its field is left out; it can't have come
/// from a broker.
pub(super) fn properties(
    message_id: Option<&str>,
    content_type: Option<&str>,
    headers: FieldTable,
) -> BasicProperties {
    let mut properties = BasicProperties::default().with_delivery_mode(PERSISTENT).with_headers(headers);
    if let Some(id) = message_id.and_then(|id| ShortString::try_new(id).ok()) {
        properties = properties.with_message_id(id);
    }
    if let Some(kind) = content_type.and_then(|kind| ShortString::try_new(kind).ok()) {
        properties = properties.with_content_type(kind);
    }
    properties
}

/// Sets a text header; a name that AMQP can't carry is left out.
pub(super) fn set(headers: &mut FieldTable, name: &str, value: &str) {
    if let Ok(name) = ShortString::try_new(name) {
        headers.insert(name, AMQPValue::LongString(value.into()));
    }
}

/// A text as a short string, without what does not fit.
pub(super) fn shortened(text: &str) -> ShortString {
    ShortString::try_new(cut(text, SHORT_BYTES)).unwrap_or_default()
}

/// Cuts a text to a number of bytes, at a character's end.
pub(super) fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(pairs: &[(&str, AMQPValue)]) -> FieldTable {
        let mut table = FieldTable::default();
        for (name, value) in pairs {
            table.insert((*name).into(), value.clone());
        }
        table
    }

    fn long(text: &str) -> AMQPValue {
        AMQPValue::LongString(text.into())
    }

    #[test]
    fn headers_that_are_text_numbers_or_booleans_become_text() {
        let headers = table(&[
            ("text", long("ä")),
            ("number", AMQPValue::LongLongInt(-7)),
            ("flag", AMQPValue::Boolean(true)),
            ("time", AMQPValue::Timestamp(0)),
            ("table", AMQPValue::FieldTable(FieldTable::default())),
            ("bytes", AMQPValue::LongString(vec![0xff, 0xfe].into())),
        ]);
        let expected = [("flag", "true"), ("number", "-7"), ("text", "ä"), ("time", "1970-01-01T00:00:00Z")];
        let texts = texts(&headers);
        assert_eq!(texts.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn an_event_keeps_the_place_it_was_published_to() {
        let death = |exchange: &str, key: &str| {
            let keys = AMQPValue::FieldArray(vec![long(key)].into());
            AMQPValue::FieldTable(table(&[("exchange", long(exchange)), ("routing-keys", keys)]))
        };
        let deaths = AMQPValue::FieldArray(vec![death("", "work"), death("events", "monitor.a.b")].into());
        let ours = [
            (headers::ORIGINAL_EXCHANGE, long("events")),
            (headers::ORIGINAL_ROUTING_KEY, long("monitor.a")),
        ];
        let huge = "k".repeat(256);
        let no_key =
            [(headers::ORIGINAL_EXCHANGE, long("events")), (headers::ORIGINAL_ROUTING_KEY, long(&huge))];
        let no_exchange =
            [(headers::ORIGINAL_EXCHANGE, long(&huge)), (headers::ORIGINAL_ROUTING_KEY, long("monitor.a"))];
        let no_death = AMQPValue::FieldArray(vec![death("events", &huge)].into());
        let cases = [
            ("new", table(&[]), ("now", "key")),
            ("buried by a worker", table(&ours), ("events", "monitor.a")),
            ("dead-lettered by the broker", table(&[("x-death", deaths)]), ("events", "monitor.a.b")),
            ("a record that is none", table(&[("x-death", long("?"))]), ("now", "key")),
            ("a key that is none", table(&no_key), ("now", "key")),
            ("an exchange that is none", table(&no_exchange), ("now", "key")),
            ("a death at no key", table(&[("x-death", no_death)]), ("now", "key")),
        ];
        for (name, headers, (exchange, key)) in cases {
            assert_eq!(origin(Some(&headers), "now", "key"), (exchange.into(), key.into()), "{name}");
        }
    }
}
