//! The broker's side of a run: a topology of this run's own, and the loader.

use std::time::Duration;

use anyhow::{Context, ensure};
use hipchat_notifier::adapters::rabbitmq::{Topology, topology};
use lapin::options::{
    BasicPublishOptions, ConfirmSelectOptions, ExchangeDeleteOptions, QueueDeclareOptions,
    QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};

use crate::events::Event;

/// Publishes whose confirms are waited for together.
const WINDOW: usize = 500;

/// The broker's address.
pub fn url() -> anyhow::Result<String> {
    std::env::var("NOTIFIER__AMQP__URL")
        .context("NOTIFIER__AMQP__URL is not set: run scripts/bench, or eval \"$(scripts/services up)\"")
}

/// A connection, and names that nobody else has.
pub struct Broker {
    pub names: Topology,
    connection: Connection,
    /// With confirms.
    loading: Channel,
    /// Without: a confirm for each event would be work of the broker that is not asked about.
    ticking: Channel,
}

impl Broker {
    /// Connects and declares what the worker would declare.
    pub async fn open() -> anyhow::Result<Self> {
        let tag = uuid::Uuid::now_v7().simple().to_string();
        let names = Topology {
            exchange: format!("bench.{tag}.events"),
            queue: format!("bench.{tag}.work"),
            dead_letters: format!("bench.{tag}.dead-letters"),
        };
        let connection = Connection::connect(&url()?, ConnectionProperties::default())
            .await
            .context("no RabbitMQ answers at NOTIFIER__AMQP__URL")?;
        topology::declare(&connection, &names).await?;
        let loading = connection.create_channel().await?;
        loading.confirm_select(ConfirmSelectOptions::default()).await?;
        let ticking = connection.create_channel().await?;
        Ok(Self { names, connection, loading, ticking })
    }

    /// Puts events into the queue; returns when the broker has them all.
    pub async fn load(&self, events: impl Iterator<Item = Event>) -> anyhow::Result<()> {
        let mut confirms = Vec::with_capacity(WINDOW);
        for event in events {
            confirms.push(self.publish_on(&self.loading, &event).await?);
            if confirms.len() == WINDOW {
                settle(&mut confirms).await?;
            }
        }
        settle(&mut confirms).await
    }

    /// Publishes one event and does not wait for its confirm.
    pub async fn publish(&self, event: &Event) -> anyhow::Result<()> {
        self.publish_on(&self.ticking, event).await?;
        Ok(())
    }

    async fn publish_on(&self, channel: &Channel, event: &Event) -> anyhow::Result<lapin::PublisherConfirm> {
        const PERSISTENT: u8 = 2;
        let properties = BasicProperties::default()
            .with_delivery_mode(PERSISTENT)
            .with_content_type("application/json".into())
            .with_message_id(event.id.as_str().into());
        let exchange = self.names.exchange.as_str().into();
        let key = event.routing_key.as_str().into();
        Ok(channel
            .basic_publish(exchange, key, BasicPublishOptions::default(), &event.body, properties)
            .await?)
    }

    /// Waits until nothing is left to be delivered, or fails after `deadline`.
    pub async fn drained(&self, deadline: Duration) -> anyhow::Result<()> {
        let empty = async {
            while self.ready().await? > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(deadline, empty).await.context("the queue is not empty")?
    }

    async fn ready(&self) -> anyhow::Result<u32> {
        let passive = QueueDeclareOptions { passive: true, durable: true, ..Default::default() };
        let queue = self.names.queue.as_str().into();
        Ok(self.ticking.queue_declare(queue, passive, FieldTable::default()).await?.message_count())
    }

    /// Takes out what a failed run has left.
    pub async fn purge(&self) -> anyhow::Result<()> {
        self.ticking.queue_purge(self.names.queue.as_str().into(), QueuePurgeOptions::default()).await?;
        Ok(())
    }

    /// Deletes all that was declared.
    pub async fn close(self) -> anyhow::Result<()> {
        for queue in [&self.names.queue, &self.names.dead_letters] {
            self.ticking.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await?;
        }
        for exchange in [&self.names.exchange, &self.names.dead_letters] {
            self.ticking.exchange_delete(exchange.as_str().into(), ExchangeDeleteOptions::default()).await?;
        }
        self.connection.close(200, "done".into()).await?;
        Ok(())
    }
}

async fn settle(confirms: &mut Vec<lapin::PublisherConfirm>) -> anyhow::Result<()> {
    for confirm in confirms.drain(..) {
        ensure!(confirm.await?.is_ack(), "the broker refused an event");
    }
    Ok(())
}
