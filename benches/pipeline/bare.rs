//! The ceilings: loops that take from the same queue with the same libraries and keep no promise at all.
//!
//! No state, no rules, no order, no retry, nothing on disk. Both acknowledge in batches, as the worker does.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hipchat_notifier::domain::envelope::Envelope;
use hipchat_notifier::domain::ids::EventId;
use hipchat_notifier::formats;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties, Consumer};

use crate::args::BareArgs;
use crate::broker;

/// Posts in flight at the same time; as many as the worker's `dispatch.concurrency`.
const IN_FLIGHT: usize = 64;
/// Deliveries handed out before the first is acknowledged; the worker's `amqp.prefetch`.
const PREFETCH: u16 = 1_000;
/// Deliveries that one acknowledgement covers; the worker's `amqp.batch`.
const BATCH: u64 = 256;
/// The longest that a finished delivery waits for its acknowledgement.
const ACK_WITHIN: Duration = Duration::from_millis(5);

/// Runs until it is killed. Says on stdout when it consumes, and after each acknowledgement how many there were.
pub async fn run(args: BareArgs) -> anyhow::Result<()> {
    let connection = Connection::connect(&broker::url()?, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    let consumer = channel
        .basic_consume(
            args.queue.as_str().into(),
            "bare".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await?;
    let tally = Tally { channel, events: args.events, next: 1, done: BTreeSet::new(), acknowledged: 0 };
    println!("0");
    match args.post_to {
        Some(url) => post(consumer, tally, &url).await,
        None => parse(consumer, tally).await,
    }
}

/// Parses with the worker's own parser, so that the difference is all that comes after.
async fn parse(mut consumer: Consumer, mut tally: Tally) -> anyhow::Result<()> {
    loop {
        let delivery = consumer.next().await.context("the consumer has ended")??;
        let tag = delivery.delivery_tag;
        let event = formats::read_event(&envelope(delivery), || EventId::new("made"))?;
        std::hint::black_box(event);
        tally.finish(tag);
        // Nobody waits for a delivery that fills the batch here: only the preloaded queue is worked off.
        if tally.behind() >= BATCH || tally.is_complete() {
            tally.acknowledge().await?;
        }
    }
}

fn envelope(delivery: Delivery) -> Envelope {
    Envelope {
        body: delivery.data,
        message_id: delivery.properties.message_id().as_ref().map(ToString::to_string),
        content_type: delivery.properties.content_type().as_ref().map(ToString::to_string),
        headers: Default::default(),
        exchange: delivery.exchange.to_string(),
        routing_key: delivery.routing_key.to_string(),
    }
}

/// Posts the event's bytes as they are.
async fn post(mut consumer: Consumer, mut tally: Tally, url: &str) -> anyhow::Result<()> {
    hipchat_notifier::adapters::tls::ensure_crypto_provider();
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build()?;
    let mut posts = FuturesUnordered::new();
    let mut flush = tokio::time::interval(ACK_WITHIN);
    loop {
        tokio::select! {
            biased;
            Some(tag) = posts.next(), if !posts.is_empty() => tally.finish(tag?),
            delivery = consumer.next(), if posts.len() < IN_FLIGHT => {
                let delivery = delivery.context("the consumer has ended")??;
                posts.push(post_one(&client, url, delivery));
            }
            _ = flush.tick(), if tally.behind() > 0 => tally.acknowledge().await?,
        }
        if tally.behind() >= BATCH || tally.is_complete() {
            tally.acknowledge().await?;
        }
    }
}

async fn post_one(client: &reqwest::Client, url: &str, delivery: Delivery) -> anyhow::Result<u64> {
    let tag = delivery.delivery_tag;
    let request = client.post(url).header("content-type", "application/json").bearer_auth("token");
    let response = request.body(delivery.data).send().await?;
    ensure!(response.status().is_success(), "the sink answered {}", response.status());
    response.bytes().await?;
    Ok(tag)
}

/// What is finished and what is acknowledged. Deliveries finish out of order, and one acknowledgement covers all
/// up to its tag.
struct Tally {
    channel: Channel,
    events: u64,
    /// The first tag that is not finished.
    next: u64,
    /// Finished ones beyond `next`.
    done: BTreeSet<u64>,
    acknowledged: u64,
}

impl Tally {
    fn finish(&mut self, tag: u64) {
        self.done.insert(tag);
        while self.done.remove(&self.next) {
            self.next += 1;
        }
    }

    /// How many are finished and not acknowledged.
    fn behind(&self) -> u64 {
        self.next - 1 - self.acknowledged
    }

    fn is_complete(&self) -> bool {
        self.next > self.events && self.behind() > 0
    }

    async fn acknowledge(&mut self) -> anyhow::Result<()> {
        let last = self.next - 1;
        self.channel.basic_ack(last, BasicAckOptions { multiple: true }).await?;
        self.acknowledged = last;
        println!("{last}");
        Ok(())
    }
}
