//! The bytes below lapin: what the broker sends keeps its length and its meaning, however it is cut into pieces, but for
//! headers that are larger than a frame may be; and what is good AMQP to RabbitMQ can be read by lapin's parser
//! afterwards, on the small stack of a task.

use amq_protocol::frame::parsing::parse_frame;
use hipchat_notifier::adapters::rabbitmq::fuzzing::mended;

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const END: u8 = 0xce;
/// The method that says how large a frame may be.
const TUNE: [u8; 4] = [0, 10, 0, 30];
/// A limit on frames that a content header of the fuzzer's is often over.
const SMALL: usize = 64;

/// The first byte says in how large pieces the rest comes, whether the rest is a stream of frames as it is or
/// the payload of one, and whether frames are limited.
pub fn check(input: &[u8]) {
    let Some((&first, rest)) = input.split_first() else { return };
    let framed;
    let stream = match first % 4 {
        0 => rest,
        1 => {
            framed = frame(METHOD, rest);
            &framed
        }
        _ => {
            // Class `basic`, weight 0, a body of seven bytes, and then the flags and properties.
            framed = frame(HEADER, &[&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7], rest].concat());
            &framed
        }
    };
    let agreed = if first % 4 == 3 { SMALL } else { 0 };
    let whole = mended(agreed, [stream]);
    let told = longest_told(stream);
    if agreed == 0 && !stream.windows(TUNE.len()).any(|bytes| bytes == TUNE) {
        assert_eq!(whole.len(), told, "nothing is added or lost");
    }
    assert!(whole.len() <= told, "nothing is added");
    let pieces = stream.chunks(1 + usize::from(first / 4));
    assert_eq!(mended(agreed, pieces), whole, "however it is cut");
    assert_eq!(mended(agreed, [&whole[..]]), whole, "what is mended stays as it is");
    frames(stream, &whole);
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    [&[kind, 0, 1][..], &(payload.len() as u32).to_be_bytes(), payload, &[END]].concat()
}

/// How much of `stream` is given on: all but the frame at its end that is not whole, where that has to be looked at.
fn longest_told(stream: &[u8]) -> usize {
    const LARGEST: usize = 16 << 20;
    let mut at = 0;
    while let Some(size) = stream.get(at + 3..at + 7) {
        let size = size.iter().fold(0, |size, byte| size << 8 | usize::from(*byte)) + 8;
        let is_looked_at = matches!(stream[at], METHOD | HEADER) && size <= LARGEST;
        match stream.len().checked_sub(at + size) {
            Some(_) => at += size,
            None if is_looked_at => return at,
            None => return stream.len(),
        }
    }
    at
}

/// Frame by frame, as long as both are AMQP.
fn frames(mut before: &[u8], mut after: &[u8]) {
    while let Some((kind, payload, rest)) = next(before) {
        let Some((_, mended, rest_after)) = next(after) else { return };
        match kind {
            HEADER | METHOD if is_to_rabbitmq(kind, payload) => {
                let frame = frame(kind, mended);
                let read = parse_frame(&frame[..]).map(|(rest, _)| rest.len());
                assert!(
                    matches!(read, Ok(0)),
                    "lapin can't read {mended:02x?}, which was {payload:02x?}: {read:?}"
                );
            }
            METHOD | HEADER => {}
            _ => assert_eq!(payload, mended, "a frame of kind {kind} is not to be touched"),
        }
        (before, after) = (rest, rest_after);
    }
}

/// The kind and payload of the first frame.
fn next(stream: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let size = stream.get(3..7)?.iter().fold(0, |size, byte| size << 8 | usize::from(*byte));
    let (payload, rest) = stream.get(7..)?.split_at_checked(size)?;
    match rest.split_first()? {
        (&END, rest) => Some((stream[0], payload, rest)),
        _ => None,
    }
}

/// Whether this is what RabbitMQ sends to a consumer: a method that brings a message, or a content header as it takes
/// one from a producer and passes it on. In its grammar a text is any bytes.
fn is_to_rabbitmq(kind: u8, payload: &[u8]) -> bool {
    let mut walk = Grammar(payload);
    let read = if kind == HEADER { walk.header() } else { walk.method() };
    read.is_some() && walk.0.is_empty()
}

struct Grammar<'a>(&'a [u8]);

impl<'a> Grammar<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn long(&mut self) -> Option<&'a [u8]> {
        let size = self.take(4)?.iter().fold(0, |size, byte| size << 8 | usize::from(*byte));
        self.take(size)
    }

    fn short(&mut self) -> Option<&'a [u8]> {
        let size = self.take(1)?[0];
        self.take(size.into())
    }

    /// `basic.return`, `basic.deliver` and `basic.get-ok`.
    fn method(&mut self) -> Option<()> {
        match self.take(4)? {
            [0, 60, 0, 50] => drop((self.take(2)?, self.short()?, self.short()?, self.short()?)),
            [0, 60, 0, 60] => drop((self.short()?, self.take(9)?, self.short()?, self.short()?)),
            [0, 60, 0, 71] => drop((self.take(9)?, self.short()?, self.short()?, self.take(4)?)),
            _ => return None,
        }
        Some(())
    }

    fn header(&mut self) -> Option<()> {
        if self.take(2)? != [0, 60] {
            return None;
        }
        self.take(10)?;
        let flags = u16::from_be_bytes(self.take(2)?.try_into().ok()?);
        // The lowest bit would announce more flags, and the next is of no property.
        if flags & 3 != 0 {
            return None;
        }
        for place in 0..14 {
            if flags & 0x8000 >> place == 0 {
                continue;
            }
            match place {
                2 => {
                    let table = self.long()?;
                    Grammar(table).table()?;
                }
                3 | 4 => drop(self.take(1)?),
                9 => drop(self.take(8)?),
                _ => drop(self.short()?),
            }
        }
        Some(())
    }

    fn table(&mut self) -> Option<()> {
        // A loop and a stack of its own: the deepest of tables must not end the judge.
        let mut open = vec![(self.0, true)];
        while let Some((bytes, is_table)) = open.pop() {
            let mut walk = Grammar(bytes);
            if walk.0.is_empty() {
                continue;
            }
            if is_table {
                walk.short()?;
            }
            let inner = match walk.take(1)?[0] {
                b'F' => Some((walk.long()?, true)),
                b'A' => Some((walk.long()?, false)),
                b'S' | b'x' => {
                    walk.long()?;
                    None
                }
                b'V' => None,
                b't' | b'b' | b'B' => walk.take(1).map(|_| None)?,
                b's' | b'u' => walk.take(2).map(|_| None)?,
                b'I' | b'i' | b'f' => walk.take(4).map(|_| None)?,
                b'D' => walk.take(5).map(|_| None)?,
                b'l' | b'L' | b'd' | b'T' => walk.take(8).map(|_| None)?,
                _ => return None,
            };
            open.push((walk.0, is_table));
            open.extend(inner);
        }
        Some(())
    }
}
