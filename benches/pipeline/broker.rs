//! The broker's side of a run: a topology of this run's own, and the loader.

use std::time::Duration;

use anyhow::{Context, ensure};
use hipchat_notifier::adapters::rabbitmq::{Topology, topology};
use lapin::options::{
    BasicPublishOptions, ConfirmSelectOptions, ExchangeDeleteOptions, QueueDeclareOptions,
    QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::types::{AMQPValue, FieldTable};
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
    /// Peers have a queue that hands events to all who consume, where the worker's has a single active consumer.
    pub peers: String,
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
        let peers = format!("bench.{tag}.peers");
        Ok(Self { names, peers, connection, loading, ticking })
    }

    /// Puts events into the queue; returns when the broker has them all.
    pub async fn load(&self, events: impl Iterator<Item = Event>) -> anyhow::Result<()> {
        self.load_by(&self.names.exchange, events).await
    }

    /// The same for the peers' queue, which is made: durable and replicated, as the worker's.
    pub async fn load_peers(&self, events: impl Iterator<Item = Event>) -> anyhow::Result<()> {
        let mut kind = FieldTable::default();
        kind.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        let durable = QueueDeclareOptions { durable: true, ..Default::default() };
        self.ticking.queue_declare(self.peers.as_str().into(), durable, kind).await?;
        // The default exchange takes a queue's name for its routing key.
        self.load_by("", events.map(|event| Event { routing_key: self.peers.clone(), ..event })).await
    }

    async fn load_by(&self, exchange: &str, events: impl Iterator<Item = Event>) -> anyhow::Result<()> {
        let mut confirms = Vec::with_capacity(WINDOW);
        for event in events {
            confirms.push(publish_on(&self.loading, exchange, &event).await?);
            if confirms.len() == WINDOW {
                settle(&mut confirms).await?;
            }
        }
        settle(&mut confirms).await
    }

    /// Publishes one event and does not wait for its confirm.
    pub async fn publish(&self, event: &Event) -> anyhow::Result<()> {
        publish_on(&self.ticking, &self.names.exchange, event).await?;
        Ok(())
    }

    /// Waits until nothing is left to be delivered, or fails after `deadline`.
    pub async fn drained(&self, deadline: Duration) -> anyhow::Result<()> {
        let empty = async {
            while self.ready(&self.names.queue).await? > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(deadline, empty).await.context("the queue is not empty")?
    }

    /// How many events of the peers' queue nobody has taken.
    pub async fn left_by_peers(&self) -> anyhow::Result<u32> {
        self.ready(&self.peers).await
    }

    async fn ready(&self, queue: &str) -> anyhow::Result<u32> {
        let passive = QueueDeclareOptions { passive: true, durable: true, ..Default::default() };
        Ok(self.ticking.queue_declare(queue.into(), passive, FieldTable::default()).await?.message_count())
    }

    /// Takes out what a failed run has left.
    pub async fn purge(&self) -> anyhow::Result<()> {
        self.ticking.queue_purge(self.names.queue.as_str().into(), QueuePurgeOptions::default()).await?;
        Ok(())
    }

    /// Deletes the peers' queue, if there is one: each makes its own, of its own kind.
    pub async fn forget_peers(&self) -> anyhow::Result<()> {
        self.ticking.queue_delete(self.peers.as_str().into(), QueueDeleteOptions::default()).await?;
        Ok(())
    }

    /// Deletes all that was declared.
    pub async fn close(self) -> anyhow::Result<()> {
        for queue in [&self.names.queue, &self.names.dead_letters] {
            self.ticking.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await?;
        }
        self.forget_peers().await?;
        for exchange in [&self.names.exchange, &self.names.dead_letters] {
            self.ticking.exchange_delete(exchange.as_str().into(), ExchangeDeleteOptions::default()).await?;
        }
        self.connection.close(200, "done".into()).await?;
        Ok(())
    }
}

async fn publish_on(
    channel: &Channel,
    exchange: &str,
    event: &Event,
) -> anyhow::Result<lapin::PublisherConfirm> {
    const PERSISTENT: u8 = 2;
    let properties = BasicProperties::default()
        .with_delivery_mode(PERSISTENT)
        .with_content_type("application/json".into())
        .with_message_id(event.id.as_str().into());
    let key = event.routing_key.as_str().into();
    Ok(channel
        .basic_publish(exchange.into(), key, BasicPublishOptions::default(), &event.body, properties)
        .await?)
}

async fn settle(confirms: &mut Vec<lapin::PublisherConfirm>) -> anyhow::Result<()> {
    for confirm in confirms.drain(..) {
        ensure!(confirm.await?.is_ack(), "the broker refused an event");
    }
    Ok(())
}
