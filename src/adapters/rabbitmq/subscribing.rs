//! One worker at a time subscribes to the work queue. RabbitMQ tells no consumer whether it is the active one, and
//! counts only that: who counts none and then subscribes is the active one, if nobody subscribes in between.
//!
//! Who subscribes has an exclusive queue that nothing is ever published to: the broker lets one connection have it, and
//! deletes it with the connection. It is no more than politeness: who does not get it goes on without.

use std::time::Duration;

use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection};
use tokio::time::Instant;

use super::topology::short;
use super::{fault, link};
use crate::ports::BrokerError;

/// Subscribing takes milliseconds. Who takes longer has frozen in the middle, or nobody may have such a queue here.
const PATIENCE: Duration = Duration::from_secs(2);
const ASK_AGAIN: Duration = Duration::from_millis(20);
/// The broker's reply code for what another connection has.
const RESOURCE_LOCKED: u16 = 405;

/// Nobody else subscribes, until this is ended, or the connection is.
pub(super) struct Subscribing {
    /// The channel by which it was had, and the queue that it is. `None` without one.
    had: Option<(Channel, String)>,
}

impl Subscribing {
    /// Waits until others have subscribed, and for no longer than [`PATIENCE`]. A refusal costs a channel and ends
    /// nothing else.
    ///
    /// # Errors
    /// If the broker does not answer: it may give the queue later, and nobody would delete it.
    pub async fn wait(connection: &Connection, queue: &str) -> Result<Self, BrokerError> {
        let name = format!("{queue}.subscribing");
        let Ok(queue) = short(&name) else { return Ok(Self { had: None }) };
        let exclusive = QueueDeclareOptions { exclusive: true, ..Default::default() };
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            let channel = link::channel(connection).await?;
            let declared =
                async { Ok(channel.queue_declare(queue.clone(), exclusive, FieldTable::default()).await) };
            match link::answer("waiting until others have subscribed", declared).await? {
                Ok(_) => return Ok(Self { had: Some((channel, name)) }),
                Err(error) if fault::reply(&error).is_some_and(|(code, _)| code == RESOURCE_LOCKED) => {
                    tokio::time::sleep(ASK_AGAIN).await;
                }
                // As where this user may not declare it.
                Err(_) => break,
            }
        }
        Ok(Self { had: None })
    }

    /// Others may subscribe.
    ///
    /// # Errors
    /// If the broker does not let go of it: the connection has to end.
    pub async fn end(self) -> Result<(), BrokerError> {
        let Some((channel, name)) = self.had else { return Ok(()) };
        let delete = channel.queue_delete(name.into(), QueueDeleteOptions::default());
        link::answer("letting others subscribe", delete).await?;
        link::close_channel(&channel).await;
        Ok(())
    }
}
