//! Publishing events as a producer should: persistent, mandatory, confirmed. What the `publish` verb uses.

use lapin::types::FieldTable;

use super::options::BrokerOptions;
use super::press::{Press, Publication, Sheet};
use super::topology::{Node, Topology, short};
use super::{link, topology, wire};
use crate::domain::envelope::Envelope;
use crate::ports::BrokerError;

/// A connection for publishing events.
pub struct Publisher {
    press: Press,
    exchange: String,
}

impl Publisher {
    /// Connects, and declares what is missing of the topology, so that events published before any worker ran wait
    /// for it.
    ///
    /// # Errors
    /// [`BrokerError::Misconfigured`] where something stands in another form, or where the exchange is missing
    /// although the work queue is there: its name is wrong, and a new one would be joined to a running worker's queue.
    pub async fn open(options: &BrokerOptions) -> Result<Self, BrokerError> {
        let connection = link::open_any(options, "publish").await?;
        let Topology { exchange, queue, .. } = &options.topology;
        let missing = topology::missing(&connection, &options.topology).await?;
        if missing.contains(&Node::Exchange(exchange)) && !missing.contains(&Node::Queue(queue)) {
            return Err(BrokerError::Misconfigured(format!(
                "there is no exchange '{exchange}', although queue '{queue}' is there: check amqp.exchange; if it is \
                 right, start the worker, which declares it"
            )));
        }
        if !missing.is_empty() {
            topology::declare(&connection, &options.topology).await?;
        }
        Ok(Self { press: Press::new(connection).await?, exchange: options.topology.exchange.clone() })
    }

    /// Publishes to the topology's exchange, or to the one that an event names; waits for every confirm. The
    /// answers are in the order of the events. After an error it is not known which of them arrived; publishing
    /// them again with the same ids does no harm.
    pub async fn publish(&mut self, events: &[Envelope]) -> Result<Vec<Publication>, BrokerError> {
        let mut sheets = Vec::with_capacity(events.len());
        for event in events {
            let mut headers = FieldTable::default();
            event.headers.iter().for_each(|(name, value)| wire::set(&mut headers, name, value));
            let exchange = if event.exchange.is_empty() { &self.exchange } else { &event.exchange };
            sheets.push(Sheet {
                exchange: short(exchange)?,
                routing_key: short(&event.routing_key)?,
                properties: wire::properties(
                    event.message_id.as_deref(),
                    event.content_type.as_deref(),
                    headers,
                ),
                body: &event.body,
            });
        }
        self.press.print(&sheets).await.all()
    }

    /// Ends the connection.
    pub async fn close(self) {
        self.press.close().await;
    }
}
