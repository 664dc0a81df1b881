//! Seeds that a person can read: an event as a text, its properties and headers before its body.
//!
//! ```text
//! message_id: run-1
//! routing_key: monitor.acme.5852-1
//! ce-type: com.postman.monitor.run.completed
//!
//! {"monitor_uid":…}
//! ```
//! A text that begins with `{` is a body alone.

use hipchat_notifier::domain::envelope::Envelope;

/// Reads such a text. Any bytes are one.
pub fn read(input: &[u8]) -> Envelope {
    let (head, body) = split(input);
    let mut envelope = Envelope { body: body.to_vec(), ..Envelope::default() };
    for line in String::from_utf8_lossy(head).lines() {
        let (name, value) = line.split_once(": ").unwrap_or((line, ""));
        let value = value.to_owned();
        match name {
            "message_id" => envelope.message_id = Some(value),
            "content_type" => envelope.content_type = Some(value),
            "exchange" => envelope.exchange = value,
            "routing_key" => envelope.routing_key = value,
            _ => drop(envelope.headers.insert(name.to_owned(), value)),
        }
    }
    envelope
}

/// What stands before the first empty line, and after it.
pub fn split(input: &[u8]) -> (&[u8], &[u8]) {
    if input.starts_with(b"{") {
        return (b"", input);
    }
    match input.windows(2).position(|two| two == b"\n\n") {
        Some(at) => (&input[..at], &input[at + 2..]),
        None => (b"", input),
    }
}

/// Events each after a line that begins with `==`, and whether that line goes on with `|`.
pub fn several(input: &[u8]) -> Vec<(bool, &[u8])> {
    let mut events = Vec::new();
    let (mut rest, mut cut) = (input, false);
    while let Some(at) = rest.windows(3).position(|three| three == b"\n==") {
        events.push((cut, &rest[..at]));
        rest = &rest[at + 3..];
        cut = rest.first() == Some(&b'|');
        let line = rest.iter().position(|b| *b == b'\n').map_or(rest.len(), |end| end + 1);
        rest = &rest[line..];
    }
    events.push((cut, rest));
    events
}
