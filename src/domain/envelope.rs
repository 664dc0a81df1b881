//! An event as it travelled: the producer's bytes and the AMQP properties that came with them.
//!
//! Kept whole until every notification of the event has its outcome, because a dead letter's body must be
//! the event's, byte for byte, and binary CloudEvents keep half of themselves in the headers.

use std::collections::BTreeMap;

use jiff::Timestamp;

/// A message taken from the broker, or read from a file, before anything is known of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Envelope {
    pub body: Vec<u8>,
    pub message_id: Option<String>,
    pub content_type: Option<String>,
    /// AMQP headers whose values are text, numbers or booleans, as text; others are left out.
    pub headers: BTreeMap<String, String>,
    pub exchange: String,
    pub routing_key: String,
}

impl Envelope {
    /// A header by its exact name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// An envelope with the time at which this worker got it. Postman's own bodies carry no time, so this is
/// what an event's age is counted from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    pub envelope: Envelope,
    pub at: Timestamp,
}
