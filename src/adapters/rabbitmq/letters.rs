//! The way into the dead-letter queue: the event's body byte for byte, with headers that say what happened.

use async_trait::async_trait;
use lapin::BasicProperties;
use lapin::types::FieldTable;
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;

use super::options::BrokerOptions;
use super::press::{Press, Printed, Publication, Sheet};
use super::topology::short;
use super::{link, topology, wire};
use crate::domain::envelope::Envelope;
use crate::domain::headers;
use crate::ports::{BrokerError, Buried, Letter, LetterBox};

/// What a header of ours may hold: headers share one frame, and a person reads them.
const HEADER_BYTES: usize = 1024;
/// Room in the frame for our own headers and AMQP's framing.
const RESERVED_BYTES: usize = 16 << 10;

/// Puts letters into the dead-letter queue by a connection of its own, opened when it is first needed: a
/// connection that publishes may be blocked by the broker, and one that consumes must not be.
pub struct RabbitLetterBox {
    options: BrokerOptions,
    press: Mutex<Option<Press>>,
}

impl RabbitLetterBox {
    /// Connects to nothing yet.
    pub fn new(options: BrokerOptions) -> Self {
        Self { options, press: Mutex::new(None) }
    }

    async fn open(&self) -> Result<Press, BrokerError> {
        let connection = link::open_any(&self.options, "letters").await?;
        // Whatever was taken away since the last time stands again, so a letter finds its queue.
        topology::declare(&connection, &self.options.topology).await?;
        Press::new(connection).await
    }

    async fn print(&self, press: &Press, letters: &[&Letter]) -> Buried {
        let exchange = match short(&self.options.topology.dead_letters) {
            Ok(exchange) => exchange,
            Err(error) => return Buried { confirmed: Vec::new(), failed: Some(error) },
        };
        let mut sheets = Vec::with_capacity(letters.len());
        for letter in letters {
            let envelope = &letter.envelope;
            sheets.push(Sheet {
                exchange: exchange.clone(),
                // A letter that can't be built would keep all others from being buried.
                routing_key: wire::shortened(&envelope.routing_key),
                properties: properties(letter, press.frame_max()),
                body: &envelope.body,
            });
        }
        let Printed { publications, failed } = press.print(&sheets).await;
        let is_confirmed = |(_, publication): &(_, &Publication)| **publication == Publication::Confirmed;
        let confirmed =
            letters.iter().zip(&publications).filter(is_confirmed).map(|(letter, _)| letter.id).collect();
        Buried { confirmed, failed: failed.or_else(|| self.refusal(&publications)) }
    }

    /// What is wrong where the broker answered, but did not take all.
    fn refusal(&self, publications: &[Publication]) -> Option<BrokerError> {
        let count = |publication| publications.iter().filter(|v| **v == publication).count();
        match (count(Publication::Unroutable), count(Publication::Refused)) {
            (0, 0) => None,
            (0, refused) => Some(BrokerError::Unavailable(format!(
                "RabbitMQ could not store {refused} of {} dead letters; look for alarms on the broker",
                publications.len()
            ))),
            (_, _) => Some(BrokerError::Unavailable(format!(
                "exchange '{}' leads to no queue; it is declared anew",
                self.options.topology.dead_letters
            ))),
        }
    }
}

#[async_trait]
impl LetterBox for RabbitLetterBox {
    async fn bury(&self, letters: &[Letter]) -> Buried {
        let mut buried = Buried::default();
        if letters.is_empty() {
            return buried;
        }
        let mut rest: Vec<&Letter> = letters.iter().collect();
        let mut kept = self.press.lock().await;
        // Taken out while in use: a round that is dropped in its middle leaves no half-used press behind.
        if let Some(press) = kept.take().filter(Press::usable) {
            buried = self.print(&press, &rest).await;
            if buried.failed.is_none() {
                *kept = Some(press);
                return buried;
            }
            rest.retain(|letter| !buried.confirmed.contains(&letter.id));
        }
        // A broken connection is noticed by its use, and one that was gone already says nothing of the broker.
        match self.open().await {
            Err(error) => buried.failed = Some(error),
            Ok(press) => {
                let again = self.print(&press, &rest).await;
                buried.confirmed.extend(again.confirmed);
                buried.failed = again.failed;
                if buried.failed.is_none() {
                    *kept = Some(press);
                }
            }
        }
        buried
    }

    async fn close(&self) {
        if let Some(press) = self.press.lock().await.take() {
            press.close().await;
        }
    }
}

/// Whether a header tells of an earlier burial and must not stand beside the newest, or is for the broker.
fn stays_behind(name: &str) -> bool {
    const OURS: [&str; 8] = [
        headers::EVENT_ID,
        headers::INTEGRATION_ID,
        headers::ATTEMPTS,
        headers::LAST_STATUS,
        headers::FIRST_ATTEMPT_AT,
        headers::ORIGINAL_EXCHANGE,
        headers::ORIGINAL_ROUTING_KEY,
        headers::LETTER_ID,
    ];
    const FAMILIES: [&str; 2] = [headers::DEAD_LETTER, headers::HEADERS_DROPPED];
    wire::is_of_routing(name)
        || wire::is_of_a_death(name)
        || OURS.contains(&name)
        || FAMILIES.iter().any(|family| name.starts_with(family))
}

/// What a letter travels with, on a connection with frames of at most `frame_max` bytes.
pub(super) fn properties(letter: &Letter, frame_max: usize) -> BasicProperties {
    let Envelope { message_id, content_type, .. } = &letter.envelope;
    wire::properties(message_id.as_deref(), content_type.as_deref(), headers(letter, frame_max))
}

/// The event's own headers, and the contract's (section 1, dead letters).
fn headers(letter: &Letter, frame_max: usize) -> FieldTable {
    let mut headers = FieldTable::default();
    let envelope = &letter.envelope;
    let mut own: Vec<(&str, &str)> = envelope
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .filter(|(name, _)| !stays_behind(name))
        .collect();
    let dropped = drop_what_does_not_fit(&mut own, frame_max.saturating_sub(RESERVED_BYTES));
    own.iter().for_each(|(name, value)| wire::set(&mut headers, name, value));

    let mut set = |name: &str, value: Option<&str>| {
        if let Some(value) = value {
            wire::set(&mut headers, name, wire::cut(value, HEADER_BYTES));
        }
    };
    set(headers::HEADERS_DROPPED, (!dropped.is_empty()).then(|| dropped.join(", ")).as_deref());
    set(headers::DEAD_LETTER_REASON, Some(letter.reason.as_str()));
    set(headers::DEAD_LETTER_DETAIL, Some(&letter.detail));
    set(headers::EVENT_ID, letter.event.as_ref().map(|id| id.as_str()));
    set(headers::INTEGRATION_ID, letter.integration.as_ref().map(|id| id.as_str()));
    set(headers::ATTEMPTS, Some(&letter.attempts.to_string()));
    set(headers::LAST_STATUS, letter.last_status.map(|status| status.to_string()).as_deref());
    set(headers::FIRST_ATTEMPT_AT, letter.first_attempt_at.map(|at| at.to_string()).as_deref());
    set(headers::DEAD_LETTERED_AT, Some(&letter.at.to_string()));
    set(headers::ORIGINAL_EXCHANGE, Some(&envelope.exchange));
    set(headers::ORIGINAL_ROUTING_KEY, Some(&envelope.routing_key));
    set(headers::LETTER_ID, Some(&letter_id(letter)));
    headers
}

/// AMQP sends all headers in one frame, and the broker ends the connection over one that is too large. So of an
/// event that came with that much, the largest headers stay behind, and their names are told.
fn drop_what_does_not_fit<'a>(own: &mut Vec<(&'a str, &'a str)>, room: usize) -> Vec<&'a str> {
    /// A name's length, a type, a value's length.
    const FRAMING: usize = 6;
    let size = |header: &(&str, &str)| header.0.len() + header.1.len() + FRAMING;
    let mut total: usize = own.iter().map(size).sum();
    let mut dropped = Vec::new();
    while total > room {
        let Some(largest) = (0..own.len()).max_by_key(|i| size(&own[*i])) else { break };
        let header = own.swap_remove(largest);
        total -= size(&header);
        dropped.push(header.0);
    }
    dropped
}

/// The same letter, buried again because its confirm was lost, has the same id.
fn letter_id(letter: &Letter) -> String {
    let mut hash = Sha256::new();
    let text = |id: Option<&str>| id.unwrap_or_default().to_owned();
    let parts = [
        letter.id.to_string(),
        text(letter.event.as_ref().map(|id| id.as_str())),
        text(letter.integration.as_ref().map(|id| id.as_str())),
        text(letter.envelope.message_id.as_deref()),
        letter.at.to_string(),
    ];
    for part in parts {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    hash.update(&letter.envelope.body);
    hex::encode(&hash.finalize()[..8])
}
