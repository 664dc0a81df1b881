//! Makes what describes a message readable for lapin: in place and without changing a length, but for headers that are
//! larger than a frame may be.
//!
//! To AMQP a short string is bytes, and so it is to RabbitMQ, which passes on what a producer wrote. lapin takes it
//! for UTF-8, and reads tables by recursion: one message with a broken byte in its content type ended every session
//! that it came by, and one with tables nested some thousand deep ended the process. Both came again for ever, and
//! nothing behind them was taken in. So here
//!
//! - a byte that is not UTF-8 in a short string becomes `?`;
//! - a table or list nested deeper than [`DEEPEST`] becomes the bytes that it is made of (AMQP's type `x`).
//!
//! What does not fit AMQP's grammar is left as it is from there on: then the session ends, as it should.

/// Levels of tables and lists in a message's headers that stay as they are. The broker's own `x-death` has three.
const DEEPEST: u32 = 16;

/// Class and method ids of what brings a message, from the specification's `basic` class.
const DELIVER: [u8; 4] = [0, 60, 0, 60];
const GET_OK: [u8; 4] = [0, 60, 0, 71];
const RETURN: [u8; 4] = [0, 60, 0, 50];

/// The method by which the broker says how large frames may be, 0 for any size, from the `connection` class.
const TUNE: [u8; 4] = [0, 10, 0, 30];

/// What a property of a message is made of.
#[derive(Debug, Clone, Copy)]
enum Property {
    Text,
    Table,
    Bytes(usize),
}

/// `basic`'s properties from the highest flag down: content-type, content-encoding, headers, delivery-mode,
/// priority, correlation-id, reply-to, expiration, message-id, timestamp, type, user-id, app-id, cluster-id.
const PROPERTIES: [Property; 14] = {
    use Property::{Bytes, Table, Text};
    [Text, Text, Table, Bytes(1), Bytes(1), Text, Text, Text, Text, Bytes(8), Text, Text, Text, Text]
};

/// Mends the payload of a method frame, if the method brings a message.
pub(super) fn method(payload: &mut [u8]) {
    let mut walk = Walk(payload);
    let Some(method) = walk.bytes(4) else { return };
    let _ = match <[u8; 4]>::try_from(&*method) {
        // Consumer tag; delivery tag and the mark of a redelivery; exchange, routing key.
        Ok(DELIVER) => walk.texts(1).and_then(|()| walk.bytes(9)).and_then(|_| walk.texts(2)),
        // Delivery tag and the mark of a redelivery; exchange, routing key.
        Ok(GET_OK) => walk.bytes(9).and_then(|_| walk.texts(2)),
        // Reply code; reply text, exchange, routing key.
        Ok(RETURN) => walk.bytes(2).and_then(|_| walk.texts(3)),
        _ => None,
    };
}

/// The largest frame that the broker wants, in bytes, if this is the payload of the method that says so.
pub(super) fn tuned(payload: &[u8]) -> Option<usize> {
    // Behind the number of channels.
    let bytes = payload.strip_prefix(&TUNE)?.get(2..6)?;
    usize::try_from(u32::from_be_bytes(bytes.try_into().ok()?)).ok()
}

/// Mends the payload of a content header frame.
pub(super) fn header(payload: &mut [u8]) {
    let _ = Walk(payload).properties();
}

/// The payload of a content header frame without the message's headers; `None` if it has none, or does not fit AMQP's
/// grammar.
pub(super) fn without_headers(payload: &[u8]) -> Option<Vec<u8>> {
    /// The property's place in [`PROPERTIES`], and where the flags are.
    const HEADERS: usize = 2;
    const FLAGS: usize = 12;
    let mut rest = payload.to_vec();
    let mut walk = Walk(&mut rest);
    walk.bytes(FLAGS)?;
    let flags = walk.number(2)?;
    let is_there = |place: &usize| flags & (0x8000 >> place) != 0;
    if !is_there(&HEADERS) {
        return None;
    }
    walk.texts((0..HEADERS).filter(is_there).count())?;
    let from = payload.len() - walk.0.len();
    let length = walk.number(4)?;
    walk.bytes(length)?;
    let to = payload.len() - walk.0.len();
    rest.drain(from..to);
    rest[FLAGS] &= !(0x80 >> HEADERS);
    Some(rest)
}

/// What is not walked yet. Each step is `None` where there is less than it says.
struct Walk<'a>(&'a mut [u8]);

impl<'a> Walk<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a mut [u8]> {
        let (bytes, rest) = std::mem::take(&mut self.0).split_at_mut_checked(count)?;
        self.0 = rest;
        Some(bytes)
    }

    fn number(&mut self, bytes: usize) -> Option<usize> {
        Some(self.bytes(bytes)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    fn texts(&mut self, count: usize) -> Option<()> {
        (0..count).try_for_each(|_| self.text())
    }

    fn text(&mut self) -> Option<()> {
        let length = self.number(1)?;
        let text = self.bytes(length)?;
        while let Err(error) = std::str::from_utf8(text) {
            let from = error.valid_up_to();
            let to = error.error_len().map_or(text.len(), |length| from + length);
            text[from..to].fill(b'?');
        }
        Some(())
    }

    fn properties(&mut self) -> Option<()> {
        // Class, weight, size of the body.
        self.bytes(12)?;
        let flags = self.number(2)?;
        let is_there = |place: &usize| flags & (0x8000 >> place) != 0;
        for place in (0..PROPERTIES.len()).filter(is_there) {
            match PROPERTIES[place] {
                Property::Text => self.text()?,
                Property::Table => self.table(1)?,
                Property::Bytes(count) => drop(self.bytes(count)?),
            }
        }
        Some(())
    }

    fn table(&mut self, level: u32) -> Option<()> {
        let length = self.number(4)?;
        let mut fields = Walk(self.bytes(length)?);
        while !fields.0.is_empty() {
            fields.text()?;
            fields.value(level)?;
        }
        Some(())
    }

    fn list(&mut self, level: u32) -> Option<()> {
        let length = self.number(4)?;
        let mut values = Walk(self.bytes(length)?);
        while !values.0.is_empty() {
            values.value(level)?;
        }
        Some(())
    }

    /// A value in a table or list of this level, in the types that RabbitMQ knows.
    fn value(&mut self, level: u32) -> Option<()> {
        let [kind] = self.bytes(1)? else { return None };
        if matches!(kind, b'F' | b'A') && level == DEEPEST {
            *kind = b'x';
        }
        let length = match kind {
            b'F' => return self.table(level + 1),
            b'A' => return self.list(level + 1),
            b'V' => 0,
            b't' | b'b' | b'B' => 1,
            b's' | b'U' | b'u' => 2,
            b'I' | b'i' | b'f' => 4,
            b'D' => 5,
            b'L' | b'l' | b'd' | b'T' => 8,
            b'S' | b'x' => self.number(4)?,
            _ => return None,
        };
        self.bytes(length).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use lapin::types::parsing::parse_field_table;
    use lapin::types::{AMQPValue, FieldTable};
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn short(text: &[u8]) -> Vec<u8> {
        [&[text.len() as u8], text].concat()
    }

    fn long(bytes: &[u8]) -> Vec<u8> {
        [&(bytes.len() as u32).to_be_bytes(), bytes].concat()
    }

    /// A content header with a content type, headers, a delivery mode and a message id.
    fn described(content_type: &[u8], headers: &[u8], id: &[u8]) -> Vec<u8> {
        let flags = 0x8000_u16 | 0x2000 | 0x1000 | 0x0080;
        let start = [&[0, 60, 0, 0][..], &7_u64.to_be_bytes(), &flags.to_be_bytes()].concat();
        [start, short(content_type), long(headers), vec![2], short(id)].concat()
    }

    fn mended(mut payload: Vec<u8>, by: fn(&mut [u8])) -> Vec<u8> {
        by(&mut payload);
        payload
    }

    /// Tables in tables, so many levels of them below the first.
    fn nested(levels: usize) -> Vec<u8> {
        let inner = [short(b"n"), b"I\0\0\0\x01".to_vec()].concat();
        (0..levels).fold(inner, |inner, _| [short(b"k"), b"F".to_vec(), long(&inner)].concat())
    }

    #[test]
    fn a_broken_byte_becomes_a_question_mark_wherever_a_short_string_is() {
        let fields = |key: &[u8]| [short(key), b"S".to_vec(), long(b"\xff stays")].concat();
        let inner =
            |key: &[u8]| [short(b"list"), b"A".to_vec(), long(&[b"F", &long(&fields(key))[..]].concat())];
        assert_eq!(
            mended(described(b"a\xffb", &inner(b"k\xc3").concat(), b"\xe2\x82"), header),
            described(b"a?b", &inner(b"k?").concat(), b"??")
        );
        let by = |id: [u8; 4], before: &[u8], texts: &[&[u8]], after: &[u8]| {
            let texts: Vec<u8> = texts.iter().flat_map(|text| short(text)).collect();
            [&id, before, &texts, after].concat()
        };
        let cases = [
            ("deliver", DELIVER, [short(b"intake"), vec![0xff; 9]].concat(), vec![]),
            ("get-ok", GET_OK, vec![0xff; 9], vec![0xff; 4]),
            ("return", RETURN, [vec![0xff; 2], short(b"NO_ROUTE")].concat(), vec![]),
        ];
        for (name, id, before, after) in cases {
            let broken = by(id, &before, &[b"ex\xfe", b"monitor.\xffcme"], &after);
            let expected = by(id, &before, &[b"ex?", b"monitor.?cme"], &after);
            assert_eq!(mended(broken, method), expected, "{name}");
        }
        let other = by([0, 20, 0, 40], &[0xff; 2], &[b"\xff"], &[]);
        assert_eq!(mended(other.clone(), method), other, "a method that brings no message");
    }

    #[test]
    fn what_is_nested_too_deep_becomes_bytes_and_the_rest_stays() {
        let deepest = DEEPEST as usize - 1;
        let fits = described(b"", &nested(deepest), b"m");
        assert_eq!(mended(fits.clone(), header), fits);

        // As deep as one frame of 128 KiB allows.
        let headers = [nested(18_000), short(b"after\xff"), b"t\x01".to_vec()].concat();
        let payload = mended(described(b"", &headers, b"\xff"), header);
        assert_eq!(payload.last(), Some(&b'?'), "it was walked to its end");
        let (_, table) = parse_field_table(&payload[15..payload.len() - 3]).expect("lapin reads it");
        assert_eq!(table.inner().get("after?"), Some(&AMQPValue::Boolean(true)));
        let mut table = table;
        for level in 1.. {
            match table.inner().get("k") {
                Some(AMQPValue::FieldTable(deeper)) => table = deeper.clone(),
                Some(AMQPValue::ByteArray(bytes)) => {
                    assert_eq!((level, bytes.len()), (DEEPEST, nested(18_000 - DEEPEST as usize).len()));
                    break;
                }
                other => panic!("{other:?} at level {level}"),
            }
        }
    }

    fn tables() -> impl Strategy<Value = FieldTable> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(AMQPValue::Boolean),
            any::<i8>().prop_map(AMQPValue::ShortShortInt),
            any::<u8>().prop_map(AMQPValue::ShortShortUInt),
            any::<i16>().prop_map(AMQPValue::ShortInt),
            any::<u16>().prop_map(AMQPValue::ShortUInt),
            any::<i32>().prop_map(AMQPValue::LongInt),
            any::<u32>().prop_map(AMQPValue::LongUInt),
            any::<i64>().prop_map(AMQPValue::LongLongInt),
            any::<u64>().prop_map(AMQPValue::Timestamp),
            any::<f64>().prop_filter("comparable", |f| !f.is_nan()).prop_map(AMQPValue::Double),
            vec(any::<u8>(), 0..20).prop_map(|bytes| AMQPValue::LongString(bytes.into())),
            vec(any::<u8>(), 0..20).prop_map(|bytes| AMQPValue::ByteArray(bytes.into())),
            Just(AMQPValue::Void),
        ];
        let value = leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                vec(inner.clone(), 0..4).prop_map(|values| AMQPValue::FieldArray(values.into())),
                vec(("\\PC{0,8}", inner), 0..4).prop_map(|fields| AMQPValue::FieldTable(table(fields))),
            ]
        });
        vec(("\\PC{0,8}", value), 0..5).prop_map(table)
    }

    fn table(fields: Vec<(String, AMQPValue)>) -> FieldTable {
        let mut table = FieldTable::default();
        for (key, value) in fields {
            table.insert(key.into(), value);
        }
        table
    }

    proptest! {
        #[test]
        fn what_lapin_reads_stays_as_it_is(headers in tables(), content_type in "\\PC{0,40}") {
            let written = lapin::types::generation::gen_field_table(&headers);
            let buffer = cookie_factory::r#gen(written, Vec::new()).expect("in memory").0;
            let payload = described(content_type.as_bytes(), &buffer[4..], b"id");
            prop_assert_eq!(mended(payload.clone(), header), payload);
        }

        #[test]
        fn any_bytes_keep_their_length(payload in vec(any::<u8>(), 0..200), kind in 0_usize..4) {
            let start: &[u8] = [&DELIVER[..], &GET_OK, &RETURN, &[]][kind];
            let payload = [start, &payload].concat();
            let length = payload.len();
            prop_assert_eq!(mended(payload.clone(), method).len(), length);
            prop_assert_eq!(mended(payload, header).len(), length);
        }
    }
}
