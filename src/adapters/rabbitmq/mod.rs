//! RabbitMQ: takes events in, buries dead letters, and lets an operator look at them, put them back or discard
//! them. The only part that names lapin. It must not parse events or decide about them.
//!
//! - [`topology`] what stands on the broker;
//! - [`consumer`] the loop that keeps a session for taking in, `session` one session, [`batches`] what the intake has of
//!   it, [`health`] what it tells;
//! - [`letters`] the way into the dead-letter queue, [`dead_letters`] the operator's ways out of it;
//! - [`publisher`] what the `publish` verb uses;
//! - `link` one connection, `transport` the bytes below it, `wire` what a message's properties mean.
//!
//! lapin logs every ordinary disconnect as an error, and whole messages that came back: give the log filter
//! `lapin=off`. All that matters is told from here.

pub mod batches;
pub mod consumer;
pub mod dead_letters;
mod fault;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod health;
pub mod letter;
pub mod letters;
mod link;
pub mod options;
mod press;
pub mod publisher;
mod session;
mod subscribing;
pub mod topology;
mod transport;
mod wire;

pub use consumer::consume;
pub use dead_letters::DeadLetters;
pub use health::{BrokerHealth, SessionState};
pub use letter::{LetterFilter, LetterSummary};
pub use letters::RabbitLetterBox;
pub use options::{Address, BrokerOptions};
pub use press::Publication;
pub use publisher::Publisher;
pub use topology::Topology;

use self::topology::Node;
use crate::ports::BrokerError;

/// What `check` finds on the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figures {
    /// Events ready in the work queue.
    pub events: u32,
    /// Workers that consume it now, which is one at most; those that stand by are not counted.
    pub workers: u32,
    /// Letters ready in the dead-letter queue.
    pub letters: u32,
    /// Exchanges and queues that are not there, which the worker declares when it starts.
    pub missing: Vec<String>,
}

/// Connects, looks at the topology and counts what waits. Changes nothing.
///
/// # Errors
/// [`BrokerError::Misconfigured`] also where something stands in another form.
pub async fn check(options: &BrokerOptions) -> Result<Figures, BrokerError> {
    let connection = link::open_any(options, "check").await?;
    let found = async {
        let missing = topology::missing(&connection, &options.topology).await?;
        let channel = link::channel(&connection).await?;
        let Topology { queue, dead_letters, .. } = &options.topology;
        let mut figures = Figures {
            events: 0,
            workers: 0,
            letters: 0,
            missing: missing.iter().map(ToString::to_string).collect(),
        };
        if !missing.contains(&Node::Queue(queue)) {
            let work = session::count(&channel, queue).await?;
            (figures.events, figures.workers) = (work.messages, work.consumers);
        }
        if !missing.contains(&Node::DeadLetterQueue(dead_letters)) {
            figures.letters = session::count(&channel, dead_letters).await?.messages;
        }
        Ok(figures)
    }
    .await;
    link::close(&connection).await;
    found
}
