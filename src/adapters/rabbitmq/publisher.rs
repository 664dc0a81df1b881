//! Publishing events as a producer should: persistent, mandatory, confirmed. What the `publish` verb uses.

use lapin::types::FieldTable;

use super::options::BrokerOptions;
use super::press::{Press, Publication, Sheet};
use super::topology::short;
use super::{link, topology, wire};
use crate::domain::envelope::Envelope;
use crate::ports::BrokerError;

/// A connection for publishing events.
pub struct Publisher {
    press: Press,
    exchange: String,
}

impl Publisher {
    /// Connects. Where nothing of the topology stands it is declared, so that events published before any worker ran
    /// wait for it; where it stands, it is left as it is.
    ///
    /// # Errors
    /// [`BrokerError::Misconfigured`] also where it stands in part only, or in another form.
    pub async fn open(options: &BrokerOptions) -> Result<Self, BrokerError> {
        let connection = link::open_any(options, "publish").await?;
        if topology::look(&connection, &options.topology).await? == topology::Stands::Nothing {
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
