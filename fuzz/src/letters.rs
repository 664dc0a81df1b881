//! Dead letters: what is buried is read back as it was and fits into a frame; what is put back is the same event
//! for the same integration, from the place that it was published to, however often that is done; and any headers
//! at all, by whomever, are read.

use std::collections::BTreeMap;

use amq_protocol::protocol::basic::gen_properties;
use arbitrary::{Result, Unstructured};
use hipchat_notifier::adapters::rabbitmq::fuzzing::{buried, envelope, put_back, summary};
use hipchat_notifier::domain::envelope::Envelope;
use hipchat_notifier::domain::headers;
use hipchat_notifier::domain::ids::{EventId, IntegrationId};
use hipchat_notifier::domain::reason::DeadLetterReason;
use hipchat_notifier::formats::{can_be_id, identity};
use hipchat_notifier::ports::Letter;
use jiff::Timestamp;
use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldArray, FieldTable, ShortString};

/// What a header of ours may hold.
const HEADER_BYTES: usize = 1024;

const NAMES: [&str; 24] = [
    headers::INTEGRATION_ID,
    headers::EVENT_ID,
    headers::TEAM,
    headers::DEAD_LETTER_REASON,
    headers::DEAD_LETTER_DETAIL,
    headers::DEAD_LETTERED_AT,
    headers::ATTEMPTS,
    headers::LAST_STATUS,
    headers::FIRST_ATTEMPT_AT,
    headers::ORIGINAL_EXCHANGE,
    headers::ORIGINAL_ROUTING_KEY,
    headers::LETTER_ID,
    headers::HEADERS_DROPPED,
    "x-death",
    "x-first-death-queue",
    "x-delivery-count",
    "x-acquired-count",
    "CC",
    "BCC",
    "ce-id",
    "cloudEvents:type",
    "time",
    "exchange",
    "routing-keys",
];

pub fn check(input: &[u8]) {
    let _ = check_some(&mut Unstructured::new(input));
}

fn check_some(u: &mut Unstructured<'_>) -> Result<()> {
    ours(u)?;
    anybodys(u)
}

/// A letter of a worker, buried, looked at and put back.
fn ours(u: &mut Unstructured<'_>) -> Result<()> {
    let letter = letter(u)?;
    let frame_max = *u.choose(&[131_072, 8_192, 16_384])?;
    let properties = buried(&letter, frame_max);
    let frame = cookie_factory::r#gen(gen_properties(&properties), Vec::new()).expect("in memory").0;
    assert!(frame.len() + 22 <= frame_max, "{} bytes of properties", frame.len());
    let delivery = delivery_of(properties, "hipchat.dead-letters", "any", &letter.envelope.body);

    let seen = summary(&delivery);
    let cut = |text: &str| text[..text.floor_char_boundary(HEADER_BYTES)].to_owned();
    assert_eq!((seen.reason, seen.detail), (letter.reason, cut(&letter.detail)));
    assert_eq!(seen.attempts, Some(letter.attempts));
    assert_eq!((seen.last_status, seen.first_attempt_at), (letter.last_status, letter.first_attempt_at));
    assert_eq!(seen.dead_lettered_at, Some(letter.at));
    assert_eq!(seen.integration_id, letter.integration.as_ref().map(ToString::to_string));
    if let Some(event) = &letter.event {
        assert_eq!(seen.event_id.as_deref(), Some(event.as_str()));
    }
    assert_eq!(
        (&seen.exchange, &seen.routing_key),
        (&letter.envelope.exchange, &letter.envelope.routing_key)
    );

    let back = envelope(again(&delivery));
    assert_eq!(back.body, letter.envelope.body, "byte for byte");
    assert_eq!(
        (&back.exchange, &back.routing_key),
        (&letter.envelope.exchange, &letter.envelope.routing_key)
    );
    assert_eq!(
        (&back.message_id, &back.content_type),
        (&letter.envelope.message_id, &letter.envelope.content_type)
    );
    let dropped = back.headers.get(headers::HEADERS_DROPPED);
    for (name, value) in letter.envelope.headers.iter().filter(|(name, _)| is_the_events(name)) {
        let kept = back.headers.get(name) == Some(value);
        assert!(kept || dropped.is_some(), "the header {name} is lost without a word");
    }
    if let (Some(event), Some(_)) = (&letter.event, &letter.integration) {
        assert_eq!(identity(&back).as_ref(), Some(event), "a replay is the same event");
    }

    // It fails again, and is buried and put back once more.
    let letter = Letter { envelope: back, ..letter };
    let delivery =
        delivery_of(buried(&letter, frame_max), "hipchat.dead-letters", "any", &letter.envelope.body);
    let (first, second) = (&letter.envelope, envelope(again(&delivery)));
    let place = |of: &Envelope| (of.exchange.clone(), of.routing_key.clone(), of.message_id.clone());
    assert_eq!(
        (place(first), &first.body, own_headers(first)),
        (place(&second), &second.body, own_headers(&second)),
        "buried and put back twice"
    );
    Ok(())
}

fn own_headers(of: &Envelope) -> Vec<(&String, &String)> {
    of.headers.iter().filter(|(name, _)| is_the_events(name)).collect()
}

/// Whether a header is the event's own, which has to come back with it.
fn is_the_events(name: &str) -> bool {
    !NAMES[..NAMES.len() - 5].contains(&name) && !name.starts_with("x-") || name == headers::TEAM
}

/// A letter that anybody may have put there, or put back.
fn anybodys(u: &mut Unstructured<'_>) -> Result<()> {
    let mut properties = BasicProperties::default().with_headers(table(u, 3)?);
    if u.arbitrary()? {
        properties = properties.with_message_id(short(u)?).with_content_type(short(u)?);
        properties = properties.with_expiration(short(u)?).with_user_id(short(u)?);
    }
    let body = body(u)?;
    let letter = delivery_of(properties, &name(u)?, &name(u)?, &body);
    let seen = summary(&letter);
    for shown in [&seen.detail, &seen.id].into_iter().chain(&seen.event_id).chain(&seen.integration_id) {
        assert!(shown.len() <= HEADER_BYTES, "{} bytes", shown.len());
    }
    assert_eq!(seen.body_size, body.len());

    // The broker counts looks in headers of its own; to us it stays the same letter.
    let mut looked_at = copy(&letter);
    let mut counted = letter.properties.headers().clone().unwrap_or_default();
    counted.insert("x-delivery-count".into(), AMQPValue::LongLongInt(7));
    counted.insert("x-acquired-count".into(), AMQPValue::LongLongInt(9));
    looked_at.properties = letter.properties.clone().with_headers(counted);
    assert_eq!(summary(&looked_at).id, seen.id, "the same at every look");

    let (before, replayed) = (envelope(copy(&letter)), again(&letter));
    let after = envelope(copy(&replayed));
    assert_eq!((&after.exchange, &after.routing_key), (&seen.exchange, &seen.routing_key), "its place");
    assert_eq!((&before.exchange, &before.routing_key), (&seen.exchange, &seen.routing_key), "its place");
    assert_eq!(identity(&after), identity(&before), "the same event");
    assert_eq!(after.header(headers::INTEGRATION_ID), before.header(headers::INTEGRATION_ID));
    let own = &replayed.properties;
    assert!(own.expiration().is_none() && own.user_id().is_none(), "it would end or be refused");
    let names: Vec<&str> =
        own.headers().iter().flat_map(|table| table.inner().keys()).map(|n| n.as_str()).collect();
    assert!(
        names.iter().all(|name| !matches!(*name, "CC" | "BCC" | "x-death" | "x-delivery-count")),
        "{names:?}"
    );
    let more = put_back(&replayed);
    // A number that is none equals nothing, itself neither; but it is shown as it is.
    assert!(
        more == *own || format!("{more:?}") == format!("{own:?}"),
        "put back once more: {more:?}, {own:?}"
    );
    Ok(())
}

fn again(letter: &Delivery) -> Delivery {
    delivery_of(put_back(letter), "", "hipchat.events", &letter.data)
}

fn copy(of: &Delivery) -> Delivery {
    delivery_of(of.properties.clone(), of.exchange.as_str(), of.routing_key.as_str(), &of.data)
}

fn delivery_of(properties: BasicProperties, exchange: &str, key: &str, body: &[u8]) -> Delivery {
    let mut delivery = Delivery::mock(1, exchange.into(), key.into(), false, body.to_vec());
    delivery.properties = properties;
    delivery
}

fn letter(u: &mut Unstructured<'_>) -> Result<Letter> {
    let mut headers = BTreeMap::new();
    for _ in 0..u.int_in_range(0..=5)? {
        headers.insert(name(u)?, text(u)?);
    }
    let id = text(u)?;
    let integration = name(u)?;
    Ok(Letter {
        id: u.arbitrary()?,
        envelope: Envelope {
            body: body(u)?,
            message_id: if u.arbitrary()? { Some(short(u)?.to_string()) } else { None },
            content_type: if u.arbitrary()? { Some(short(u)?.to_string()) } else { None },
            headers,
            exchange: short(u)?.to_string(),
            routing_key: short(u)?.to_string(),
        },
        reason: *u.choose(DeadLetterReason::ALL)?,
        detail: text(u)?,
        event: Some(id).filter(|id| can_be_id(id) && !id.trim().is_empty()).map(EventId::new),
        integration: Some(integration).filter(|id| IntegrationId::is_valid(id)).map(IntegrationId::new),
        attempts: u.arbitrary()?,
        last_status: u.arbitrary()?,
        first_attempt_at: Timestamp::from_second(u.int_in_range(-9_999_999_999..=99_999_999_999)?).ok(),
        at: Timestamp::from_second(u.int_in_range(0..=9_999_999_999)?).unwrap_or(Timestamp::UNIX_EPOCH),
    })
}

/// Anything, or an event that brings its id along.
fn body(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    if u.ratio(3, 4)? {
        return Ok(text(u)?.into_bytes());
    }
    Ok(serde_json::json!({"specversion": "1.0", "id": text(u)?, "data": {}}).to_string().into_bytes())
}

/// What fits a short string of AMQP.
fn name(u: &mut Unstructured<'_>) -> Result<String> {
    if u.ratio(3, 4)? {
        return Ok((*u.choose(&NAMES)?).to_owned());
    }
    Ok(short(u)?.to_string())
}

fn short(u: &mut Unstructured<'_>) -> Result<ShortString> {
    let text = text(u)?;
    Ok(ShortString::try_new(&text[..text.floor_char_boundary(255)]).expect("it is short"))
}

fn text(u: &mut Unstructured<'_>) -> Result<String> {
    let length = u.int_in_range(0..=60)?.min(u.len());
    let text = String::from_utf8_lossy(u.bytes(length)?).into_owned();
    let times = if u.ratio(1, 12)? { u.int_in_range(2..=4_000)? } else { 1 };
    Ok(text.repeat(times))
}

fn table(u: &mut Unstructured<'_>, depth: u32) -> Result<FieldTable> {
    let mut table = FieldTable::default();
    for _ in 0..u.int_in_range(0..=6)? {
        let name = name(u)?;
        let value = if name == "x-death" && u.ratio(3, 4)? { deaths(u)? } else { value(u, depth)? };
        table.insert(ShortString::try_new(name).expect("it is short"), value);
    }
    Ok(table)
}

fn value(u: &mut Unstructured<'_>, depth: u32) -> Result<AMQPValue> {
    Ok(match u.int_in_range(0_u8..=13)? {
        0 => AMQPValue::Boolean(u.arbitrary()?),
        1 => AMQPValue::ShortShortInt(u.arbitrary()?),
        2 => AMQPValue::LongInt(u.arbitrary()?),
        3 => AMQPValue::LongLongInt(u.arbitrary()?),
        4 => AMQPValue::Double(u.arbitrary()?),
        5 => AMQPValue::Timestamp(u.arbitrary()?),
        6 => AMQPValue::Void,
        7 => {
            let length = u.int_in_range(0..=20)?.min(u.len());
            AMQPValue::LongString(u.bytes(length)?.to_vec().into())
        }
        8 => AMQPValue::ByteArray(text(u)?.into_bytes().into()),
        9 if depth > 0 => AMQPValue::FieldTable(table(u, depth - 1)?),
        10 if depth > 0 => {
            let mut list = FieldArray::default();
            for _ in 0..u.int_in_range(0..=3)? {
                list.push(value(u, depth - 1)?);
            }
            AMQPValue::FieldArray(list)
        }
        _ => AMQPValue::LongString(text(u)?.into()),
    })
}

/// The broker's record, as it writes it, of a few dead-letterings.
fn deaths(u: &mut Unstructured<'_>) -> Result<AMQPValue> {
    let mut deaths = FieldArray::default();
    for _ in 0..u.int_in_range(1..=3)? {
        let mut death = FieldTable::default();
        let reason = match u.ratio(3, 4)? {
            true => (*u.choose(&["rejected", "expired", "maxlen", "delivery_limit"])?).to_owned(),
            false => text(u)?,
        };
        for (name, text) in [("reason", reason), ("queue", text(u)?), ("exchange", short(u)?.to_string())] {
            death.insert(name.into(), AMQPValue::LongString(text.into()));
        }
        death.insert("count".into(), AMQPValue::LongLongInt(u.arbitrary()?));
        death.insert("time".into(), AMQPValue::Timestamp(u.arbitrary()?));
        let key = AMQPValue::LongString(short(u)?.to_string().into());
        death.insert("routing-keys".into(), AMQPValue::FieldArray(vec![key].into()));
        deaths.push(AMQPValue::FieldTable(death));
    }
    Ok(AMQPValue::FieldArray(deaths))
}
