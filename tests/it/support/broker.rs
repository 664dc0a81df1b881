//! A real RabbitMQ with names of a test's own on it, deleted when the test is over.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::StreamExt;
use hipchat_notifier::adapters::rabbitmq::{Address, BrokerOptions, Topology, topology};
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, ExchangeDeleteOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};

use super::log;

/// How long a test waits for what must come.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Polls until `holds` gives something, or fails with `what`.
pub async fn eventually<T>(what: &str, mut holds: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        if let Some(value) = holds().await {
            return value;
        }
        assert!(tokio::time::Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The broker of `NOTIFIER__AMQP__URL`, and a topology that nobody else has.
pub struct Broker {
    /// Of the first node where there are several.
    pub url: String,
    /// Of all nodes.
    pub urls: Vec<String>,
    pub topology: Topology,
    producer: Producer,
}

/// Somebody who publishes, on a connection of its own.
pub struct Producer {
    connection: Connection,
    channel: Channel,
}

impl Producer {
    /// Connects, perhaps by a proxy.
    pub async fn at(url: &str) -> Self {
        let connection = Connection::connect(url, ConnectionProperties::default())
            .await
            .expect("RabbitMQ answers at NOTIFIER__AMQP__URL");
        let channel = connection.create_channel().await.expect("a channel");
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
        Self { connection, channel }
    }

    /// Publishes anything anywhere and waits for the confirm.
    pub async fn publish_to(&self, exchange: &str, key: &str, body: &[u8], properties: BasicProperties) {
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let published = self.channel.basic_publish(exchange.into(), key.into(), options, body, properties);
        let confirmed = published.await.expect("published").await.expect("confirmed");
        assert!(confirmed.is_ack() && confirmed.take_message().is_none(), "not routed: {exchange} {key}");
    }
}

impl Broker {
    /// With the topology declared.
    pub async fn fresh() -> Self {
        let broker = Self::bare().await;
        topology::declare(broker.connection(), &broker.topology).await.expect("the topology can be declared");
        broker
    }

    /// With nothing declared.
    pub async fn bare() -> Self {
        let url = std::env::var("NOTIFIER__AMQP__URL").unwrap_or_else(|_| {
            panic!("this test needs RabbitMQ: run scripts/test, or eval \"$(scripts/services up)\"")
        });
        Self::at(vec![url]).await
    }

    /// On the nodes of a cluster, with nothing declared.
    pub async fn at(urls: Vec<String>) -> Self {
        // Before any session, whichever test has the first.
        log::listen();
        let url = urls[0].clone();
        let tag = uuid::Uuid::now_v7().simple().to_string();
        let topology = Topology {
            exchange: format!("test.{tag}.events"),
            queue: format!("test.{tag}.work"),
            dead_letters: format!("test.{tag}.dead-letters"),
        };
        let producer = Producer::at(&url).await;
        Self { url, urls, topology, producer }
    }

    /// Connects anew: a node that was killed has taken the test's own connection along.
    pub async fn reconnect(&mut self) {
        self.producer = Producer::at(&self.url).await;
    }

    /// The test's own connection.
    pub fn connection(&self) -> &Connection {
        &self.producer.connection
    }

    /// Options for this broker's address.
    pub fn options(&self) -> BrokerOptions {
        let addresses = self.urls.iter().map(|url| url.parse().expect("a valid address")).collect();
        BrokerOptions { topology: self.topology.clone(), ..BrokerOptions::new(addresses) }
    }

    /// Options for another way to this broker.
    pub fn options_by(&self, url: &str) -> BrokerOptions {
        let address: Address = url.parse().expect("a valid address");
        BrokerOptions { topology: self.topology.clone(), ..BrokerOptions::new(vec![address]) }
    }

    /// `host:port` of the broker.
    pub fn host_and_port(&self) -> String {
        let url = url::Url::parse(&self.url).expect("a URL");
        format!("{}:{}", url.host_str().expect("a host"), url.port().unwrap_or(5672))
    }

    /// The address with another host and port in it.
    pub fn url_by(&self, host_and_port: &str) -> String {
        self.url.replacen(&self.host_and_port(), host_and_port, 1)
    }

    /// Publishes an event with an id to the topology's exchange and waits for the confirm.
    pub async fn publish(&self, key: &str, id: &str, body: &[u8]) {
        let properties = BasicProperties::default().with_delivery_mode(2).with_message_id(id.into());
        self.publish_to(&self.topology.exchange, key, body, properties).await;
    }

    /// Publishes anything anywhere and waits for the confirm.
    pub async fn publish_to(&self, exchange: &str, key: &str, body: &[u8], properties: BasicProperties) {
        self.producer.publish_to(exchange, key, body, properties).await;
    }

    /// Messages ready in a queue.
    pub async fn depth(&self, queue: &str) -> u32 {
        let passive = QueueDeclareOptions { passive: true, ..Default::default() };
        let channel = self.connection().create_channel().await.expect("a channel");
        let found =
            channel.queue_declare(queue.into(), passive, FieldTable::default()).await.expect("a queue");
        found.message_count()
    }

    /// Waits until a queue has exactly so many messages ready.
    pub async fn depth_becomes(&self, queue: &str, expected: u32) {
        eventually(&format!("{queue} has {expected} messages"), async || {
            (self.depth(queue).await == expected).then_some(())
        })
        .await;
    }

    /// Takes the first message of a queue away.
    pub async fn take(&self, queue: &str) -> Delivery {
        eventually(&format!("a message in {queue}"), async || {
            let options = BasicGetOptions { no_ack: true };
            self.producer
                .channel
                .basic_get(queue.into(), options)
                .await
                .expect("basic.get")
                .map(|got| got.delivery)
        })
        .await
    }

    /// Takes the first event of the work queue away, which gives nothing but to its one active consumer.
    pub async fn take_event(&self) -> Delivery {
        let channel = self.connection().create_channel().await.expect("a channel");
        channel.basic_qos(1, BasicQosOptions::default()).await.expect("a prefetch");
        let (queue, options) = (self.topology.queue.as_str().into(), BasicConsumeOptions::default());
        let subscribed = channel.basic_consume(queue, "taker".into(), options, FieldTable::default());
        let mut consumer = subscribed.await.expect("subscribed");
        let next = tokio::time::timeout(DEADLINE, consumer.next()).await;
        let event = next.expect("an event in time").expect("still subscribed").expect("an event");
        event.ack(BasicAckOptions::default()).await.expect("acknowledged");
        channel.close(200, "done".into()).await.expect("closed");
        event
    }

    /// The bodies in a queue by message id (empty where there is none); they stay in it.
    pub async fn bodies(&self, queue: &str) -> HashMap<String, Vec<Vec<u8>>> {
        let channel = self.connection().create_channel().await.expect("a channel");
        let mut bodies: HashMap<String, Vec<Vec<u8>>> = HashMap::new();
        let options = BasicGetOptions { no_ack: false };
        while let Some(got) = channel.basic_get(queue.into(), options).await.expect("basic.get") {
            let id = got.delivery.properties.message_id().as_ref().map(ToString::to_string);
            bodies.entry(id.unwrap_or_default()).or_default().push(got.delivery.data);
        }
        channel.close(200, "seen".into()).await.expect("closed");
        bodies
    }

    /// Deletes a queue.
    pub async fn delete_queue(&self, queue: &str) {
        self.producer
            .channel
            .queue_delete(queue.into(), QueueDeleteOptions::default())
            .await
            .expect("deleted");
    }
}

impl Drop for Broker {
    /// On a thread of its own, since a test's runtime may be single-threaded or ending.
    fn drop(&mut self) {
        let (url, names) = (self.url.clone(), self.topology.clone());
        let cleaning = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let clean = async {
                let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
                let channel = connection.create_channel().await?;
                for queue in [&names.queue, &names.dead_letters] {
                    channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await?;
                }
                for exchange in [&names.exchange, &names.dead_letters] {
                    channel
                        .exchange_delete(exchange.as_str().into(), ExchangeDeleteOptions::default())
                        .await?;
                }
                connection.close(200, "done".into()).await
            };
            let _ = runtime.block_on(async { tokio::time::timeout(DEADLINE, clean).await });
        });
        let _ = cleaning.join();
    }
}
