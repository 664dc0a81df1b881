//! The exchanges, queues and bindings of the contract, section 1: declared idempotently, never deleted.
//!
//! Only queue arguments that mean the same on RabbitMQ 3.10 to 4.x are used.

use std::fmt;

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, Connection, ExchangeKind};

use super::{fault, link};
use crate::ports::BrokerError;

/// How often a message may come back before the broker gives it up: as good as never. Without a limit, with -1
/// and with the default it depends on the broker's version. Each look at the dead-letter queue and each lost
/// session counts one; 3.10 takes any positive 64-bit number, and this is the largest that every client and the
/// management page show exactly.
pub const DELIVERY_LIMIT: i32 = i32::MAX;

/// What the work queue is bound to the exchange with.
pub const BINDINGS: [&str; 2] = ["monitor.#", "activity.#"];

/// The names on the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    /// The topic exchange that producers publish to.
    pub exchange: String,
    /// The work queue.
    pub queue: String,
    /// Both the fanout exchange and the queue of dead letters.
    pub dead_letters: String,
}

impl Default for Topology {
    fn default() -> Self {
        Self {
            exchange: "postman.events".into(),
            queue: "hipchat.events".into(),
            dead_letters: "hipchat.dead-letters".into(),
        }
    }
}

/// A name as AMQP carries it.
pub(super) fn short(name: &str) -> Result<ShortString, BrokerError> {
    ShortString::try_new(name).map_err(|_| {
        BrokerError::Misconfigured(format!(
            "a name for the broker may have 255 bytes at most, and this one has {}",
            name.len()
        ))
    })
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

fn durable_quorum() -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text("quorum"));
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongInt(DELIVERY_LIMIT));
    arguments
}

fn work_queue(topology: &Topology) -> FieldTable {
    let mut arguments = durable_quorum();
    arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
    arguments.insert("x-dead-letter-exchange".into(), text(&topology.dead_letters));
    arguments.insert("x-dead-letter-strategy".into(), text("at-least-once"));
    // At-least-once dead-lettering silently becomes at-most-once with any other overflow.
    arguments.insert("x-overflow".into(), text("reject-publish"));
    arguments
}

/// Declares everything. What stands already in the same form is left as it is; what stands in another form is
/// [`BrokerError::Misconfigured`], with what differs and what can be done.
pub async fn declare(connection: &Connection, topology: &Topology) -> Result<(), BrokerError> {
    for node in Node::all(topology) {
        node.declare(connection, topology).await?;
    }
    bind(connection, &topology.dead_letters, &topology.dead_letters, "").await?;
    for key in BINDINGS {
        bind(connection, &topology.queue, &topology.exchange, key).await?;
    }
    Ok(())
}

/// An exchange or a queue of the topology, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Node<'t> {
    DeadLetterExchange(&'t str),
    DeadLetterQueue(&'t str),
    Exchange(&'t str),
    Queue(&'t str),
}

impl<'t> Node<'t> {
    fn all(topology: &'t Topology) -> [Self; 4] {
        let Topology { exchange, queue, dead_letters } = topology;
        [
            Self::DeadLetterExchange(dead_letters),
            Self::DeadLetterQueue(dead_letters),
            Self::Exchange(exchange),
            Self::Queue(queue),
        ]
    }

    /// Where it stands already, this changes nothing, and fails if it stands in another form.
    async fn declare(self, connection: &Connection, topology: &Topology) -> Result<(), BrokerError> {
        match self {
            Self::DeadLetterExchange(name) => exchange(connection, name, ExchangeKind::Fanout).await,
            Self::DeadLetterQueue(name) => queue(connection, name, durable_quorum()).await,
            Self::Exchange(name) => exchange(connection, name, ExchangeKind::Topic).await,
            Self::Queue(name) => queue(connection, name, work_queue(topology)).await,
        }
    }

    async fn stands(self, connection: &Connection) -> Result<bool, BrokerError> {
        // "Not there" closes the channel, so each question has its own.
        let channel = link::channel(connection).await?;
        let arguments = FieldTable::default();
        let asked = async {
            match self {
                Self::DeadLetterExchange(name) | Self::Exchange(name) => {
                    let options = ExchangeDeclareOptions { passive: true, ..Default::default() };
                    let kind = ExchangeKind::default();
                    channel.exchange_declare(name.into(), kind, options, arguments).await
                }
                Self::DeadLetterQueue(name) | Self::Queue(name) => {
                    let options = QueueDeclareOptions { passive: true, ..Default::default() };
                    channel.queue_declare(name.into(), options, arguments).await.map(drop)
                }
            }
        };
        let doing = format!("looking for the {self}");
        let stands = link::answer(&doing, async {
            match asked.await {
                Ok(()) => Ok(true),
                Err(error) if fault::is_not_found(&error) => Ok(false),
                Err(error) => Err(error),
            }
        })
        .await?;
        if stands {
            link::close_channel(&channel).await;
        }
        Ok(stands)
    }
}

impl fmt::Display for Node<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DeadLetterExchange(name) | Self::Exchange(name) => write!(f, "exchange '{name}'"),
            Self::DeadLetterQueue(name) | Self::Queue(name) => write!(f, "queue '{name}'"),
        }
    }
}

/// Looks at what stands, changes nothing, and tells what is missing.
///
/// # Errors
/// [`BrokerError::Misconfigured`] if something stands in another form.
pub(super) async fn missing<'t>(
    connection: &Connection,
    topology: &'t Topology,
) -> Result<Vec<Node<'t>>, BrokerError> {
    let mut missing = Vec::new();
    for node in Node::all(topology) {
        if node.stands(connection).await? {
            node.declare(connection, topology).await?;
        } else {
            missing.push(node);
        }
    }
    Ok(missing)
}

/// Looks whether the exchange that producers publish to still stands, and binds the work queue to it again, since nobody
/// can be asked whether it is bound. A refusal closes the channel.
///
/// # Errors
/// Names the exchange if it is gone.
pub(super) async fn look(channel: &Channel, topology: &Topology) -> Result<(), BrokerError> {
    let Topology { exchange, queue, .. } = topology;
    let passive = ExchangeDeclareOptions { passive: true, ..Default::default() };
    let asked =
        channel.exchange_declare(short(exchange)?, ExchangeKind::default(), passive, FieldTable::default());
    link::answer(&format!("looking for the exchange '{exchange}'"), asked).await?;
    for key in BINDINGS {
        let bound = channel.queue_bind(
            short(queue)?,
            short(exchange)?,
            short(key)?,
            QueueBindOptions::default(),
            FieldTable::default(),
        );
        link::answer(&format!("binding queue '{queue}' to exchange '{exchange}' with '{key}'"), bound)
            .await?;
    }
    Ok(())
}

async fn exchange(connection: &Connection, name: &str, kind: ExchangeKind) -> Result<(), BrokerError> {
    let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
    let channel = link::channel(connection).await?;
    let declared = channel.exchange_declare(short(name)?, kind, options, FieldTable::default());
    finish(&channel, &format!("exchange '{name}'"), "declaring", declared).await
}

async fn queue(connection: &Connection, name: &str, arguments: FieldTable) -> Result<(), BrokerError> {
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    let channel = link::channel(connection).await?;
    let declared = channel.queue_declare(short(name)?, options, arguments);
    finish(&channel, &format!("queue '{name}'"), "declaring", declared).await
}

async fn bind(connection: &Connection, queue: &str, exchange: &str, key: &str) -> Result<(), BrokerError> {
    let channel = link::channel(connection).await?;
    let options = QueueBindOptions::default();
    let bound =
        channel.queue_bind(short(queue)?, short(exchange)?, short(key)?, options, FieldTable::default());
    let thing = format!("queue '{queue}' to exchange '{exchange}' with '{key}'");
    finish(&channel, &thing, "binding", bound).await
}

/// Each step has a channel of its own, since a refusal closes the channel.
async fn finish<T>(
    channel: &Channel,
    thing: &str,
    doing: &str,
    step: impl Future<Output = lapin::Result<T>>,
) -> Result<(), BrokerError> {
    let doing = format!("{doing} {thing}");
    let done = link::answer(&doing, async {
        match step.await {
            Ok(_) => Ok(None),
            Err(error) => match fault::reply(&error).and_then(|(_, text)| Drift::read(&text)) {
                Some(drift) => Ok(Some(drift)),
                None => Err(error),
            },
        }
    })
    .await?;
    match done {
        None => {
            link::close_channel(channel).await;
            Ok(())
        }
        Some(drift) => Err(BrokerError::Misconfigured(drift.sentence(thing))),
    }
}

/// What RabbitMQ says when a thing stands with other arguments.
#[derive(Debug, PartialEq, Eq)]
struct Drift {
    argument: String,
    wanted: String,
    standing: String,
}

impl Drift {
    /// Reads `… inequivalent arg 'A' for queue 'Q' in vhost '/': received W but current is S`, where W and S are
    /// `'value'`, `none`, or `the value 'value' of type 'type'`. The broker may cut the text at 255 bytes.
    fn read(text: &str) -> Option<Self> {
        let (_, rest) = text.split_once("inequivalent arg '")?;
        let (argument, rest) = rest.split_once('\'')?;
        let (wanted, standing) = match rest.split_once("received ") {
            Some((_, values)) => values.split_once(" but current is ").unwrap_or((values, "")),
            None => ("", ""),
        };
        Some(Self { argument: argument.into(), wanted: Self::value(wanted), standing: Self::value(standing) })
    }

    fn value(text: &str) -> String {
        match text.trim() {
            "" => "something else".into(),
            "none" => "not set".into(),
            text => match text.split('\'').nth(1) {
                Some(value) => format!("'{value}'"),
                None => text.to_owned(),
            },
        }
    }

    fn sentence(&self, thing: &str) -> String {
        let Self { argument, wanted, standing } = self;
        format!(
            "the {thing} stands on the broker with other arguments: {argument} is {standing} there, and the worker \
             needs {wanted}. Nothing was changed or deleted. Empty and delete that {thing} and start the worker \
             again, which declares it anew, or give the worker another vhost in amqp.url"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_brokers_words_on_drift_are_read() {
        let cases = [
            (
                "both set",
                "PRECONDITION_FAILED - inequivalent arg 'x-delivery-limit' for queue 'q' in vhost '/': received '7' but current is '20'",
                Some(("x-delivery-limit", "'7'", "'20'")),
            ),
            (
                "not set there",
                "PRECONDITION_FAILED - inequivalent arg 'x-overflow' for queue 'q' in vhost '/': received the value 'reject-publish' of type 'longstr' but current is none",
                Some(("x-overflow", "'reject-publish'", "not set")),
            ),
            (
                "an exchange's type",
                "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'e' in vhost '/': received 'topic' but current is 'direct'",
                Some(("type", "'topic'", "'direct'")),
            ),
            (
                "cut short",
                "PRECONDITION_FAILED - inequivalent arg 'x-overflow' for queue 'qqqq",
                Some(("x-overflow", "something else", "something else")),
            ),
            ("another refusal", "PRECONDITION_FAILED - unknown delivery tag 7", None),
        ];
        for (name, text, expected) in cases {
            let expected = expected.map(|(argument, wanted, standing): (&str, &str, &str)| Drift {
                argument: argument.into(),
                wanted: wanted.into(),
                standing: standing.into(),
            });
            assert_eq!(Drift::read(text), expected, "{name}");
        }
    }
}
