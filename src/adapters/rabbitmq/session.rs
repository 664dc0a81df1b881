//! One session: a connection, a channel, a consumer, from the first to the last. It never heals itself; when
//! anything of it ends, all of it ends, and [`super::consumer`] makes a new one.
//!
//! Events are acknowledged on the channel that they came by, after the intake has made them durable, and never
//! on another: what a lost channel held comes again. Batches are decided one after the other, but several may wait
//! to be durable; acknowledgements keep their order.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesOrdered;
use futures_util::{FutureExt, Stream, StreamExt};
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, Consumer, Event};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use super::health::{BrokerHealth, SessionState};
use super::options::{Address, BrokerOptions};
use super::topology::{self, short};
use super::turn::Turn;
use super::{fault, link, wire};
use crate::domain::envelope::Received;
use crate::ports::{BrokerError, Clock, TakeIn};

/// Bytes of one batch's bodies: they may be large, a batch is one transaction, and the intake copies them.
const BATCH_BYTES: usize = 4 << 20;
/// A larger body is taken in alone: no event that can be read is as large, so nothing else has to wait with it.
const ALONE_BYTES: usize = 1 << 20;

/// How a session ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It was asked to.
    Shutdown,
    /// What happened, for the log and `/readyz`; without the password.
    Lost(String),
    /// The batch in hand could not be made durable in time. It is given up: why.
    Yielded(String),
}

/// What a session works with.
pub(super) struct Terms<'a> {
    pub options: &'a BrokerOptions,
    pub address: &'a Address,
    pub intake: &'a Arc<dyn TakeIn>,
    pub clock: &'a Arc<dyn Clock>,
    pub health: &'a BrokerHealth,
}

type Events = Pin<Box<dyn Stream<Item = Event> + Send>>;

/// An established session.
pub(super) struct Session<'a> {
    terms: Terms<'a>,
    connection: Connection,
    channel: Channel,
    /// For questions, so that a refusal does not end deliveries.
    side: Channel,
    consumer: Consumer,
    events: Events,
    /// Came too large for the batch before it.
    ahead: Option<Delivery>,
    /// Batches that are decided and may not be durable yet, in their order: the last delivery of each, once it is,
    /// or `None` if that took too long. As many as the prefetch allows.
    in_hand: FuturesOrdered<BoxFuture<'static, Option<u64>>>,
    watch: Watchdog,
    /// Another consumer was there first: this one gets nothing until that is gone.
    pub stands_by: bool,
}

impl<'a> Session<'a> {
    /// Connects, declares and subscribes.
    pub async fn open(terms: Terms<'a>) -> Result<Self, BrokerError> {
        let connection = link::open(terms.options, terms.address, "intake").await?;
        let BrokerOptions { topology, prefetch, .. } = terms.options;
        topology::declare(&connection, topology).await?;
        // Counting and subscribing are one step, or two workers would each think that it is alone.
        let turn = Turn::wait(&connection, &topology.queue).await?;
        let side = link::channel(&connection).await?;
        // Not before the turn: being refused one is no end of the session.
        let events: Events = Box::pin(connection.events_listener());
        let standing = count(&side, &topology.queue).await?;
        let channel = link::channel(&connection).await?;
        let qos = channel.basic_qos(*prefetch, BasicQosOptions::default());
        link::answer("setting the prefetch", qos).await?;
        let consume = channel.basic_consume(
            short(&topology.queue)?,
            "intake".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        let consumer = link::answer(&format!("subscribing to queue '{}'", topology.queue), consume).await?;
        turn.end().await?;
        let alone = standing.consumers == 0;
        terms.health.set(if alone { SessionState::Consuming } else { SessionState::StandingBy });
        let (ahead, in_hand, watch) = (None, FuturesOrdered::new(), Watchdog::of(alone));
        Ok(Self { terms, connection, channel, side, consumer, events, ahead, in_hand, watch, stands_by: !alone })
    }

    /// Takes in until something ends; the broker gives back what was not acknowledged then. What is in hand is
    /// waited for, so that as little as may be comes again.
    pub async fn run(&mut self, shutdown: &mut watch::Receiver<bool>) -> End {
        let end = match self.take_in_until(shutdown).await {
            End::Lost(why) => End::Lost(self.terms.address.redact(&why)),
            end => end,
        };
        match &end {
            End::Shutdown => {
                while let Some(durable) = self.in_hand.next().await {
                    if self.acknowledge(durable).await.is_some() {
                        break;
                    }
                }
            }
            End::Lost(why) => {
                self.terms.health.connecting(why.as_str());
                while self.in_hand.next().await.is_some() {}
            }
            End::Yielded(_) => self.in_hand = FuturesOrdered::new(),
        }
        end
    }

    async fn take_in_until(&mut self, shutdown: &mut watch::Receiver<bool>) -> End {
        let look_every = self.terms.options.look_every;
        let mut look = tokio::time::interval_at(Instant::now() + look_every, look_every);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let end = tokio::select! {
                biased;
                () = stopped(shutdown) => return End::Shutdown,
                why = broken(&mut self.events, self.terms.health) => Some(End::Lost(why)),
                Some(durable) = self.in_hand.next() => self.acknowledge(durable).await,
                next = next(&mut self.ahead, &mut self.consumer) => self.deliver(next).await,
                _ = look.tick() => self.look().await.map(End::Lost),
            };
            if let Some(end) = end {
                return end;
            }
        }
    }

    /// Closes in bounded time. Closing, and not cancelling first, gives back the rest and the place as the
    /// active consumer in one: a successor never decides later events before earlier ones that are still here.
    pub async fn close(self) {
        link::close_channel(&self.channel).await;
        link::close(&self.connection).await;
    }

    /// Takes in one delivery and those that are here with it.
    async fn deliver(&mut self, first: Option<lapin::Result<Delivery>>) -> Option<End> {
        let Chunk { batch, last, end } = self.gather(first);
        if let Some(last) = last {
            self.watch.delivered();
            self.terms.health.set(SessionState::Consuming);
            if let Some(end) = self.take_in(batch, last).await {
                return Some(end);
            }
        }
        end.map(End::Lost)
    }

    /// What is here already, up to the size of a batch; waits for nothing.
    fn gather(&mut self, first: Option<lapin::Result<Delivery>>) -> Chunk {
        let mut chunk = Chunk { batch: Vec::new(), last: None, end: None };
        let (mut next, mut bytes) = (first, 0);
        loop {
            match next {
                Some(Ok(delivery)) if !chunk.batch.is_empty() && is_over(bytes, delivery.data.len()) => {
                    self.ahead = Some(delivery);
                    return chunk;
                }
                Some(Ok(delivery)) => {
                    bytes += delivery.data.len();
                    chunk.last = Some(delivery.delivery_tag);
                    let at = self.terms.clock.now();
                    chunk.batch.push(Received { envelope: wire::envelope(delivery), at });
                }
                Some(Err(error)) => {
                    chunk.end = Some(fault::words(&error));
                    return chunk;
                }
                None => {
                    chunk.end =
                        Some("the broker cancelled the consumer (the queue was deleted or moved)".into());
                    return chunk;
                }
            }
            let alone = chunk.batch.len() == 1 && bytes > ALONE_BYTES;
            if chunk.batch.len() >= self.terms.options.batch || bytes >= BATCH_BYTES || alone {
                return chunk;
            }
            match self.consumer.next().now_or_never() {
                Some(ready) => next = ready,
                None => return chunk,
            }
        }
    }

    /// Hands the batch over. It is waited for even if the session ends meanwhile: batches are decided one at a time.
    /// If that takes too long the batch is dropped, and not tried on while a successor has it. Returns how the
    /// session ended, if it did.
    async fn take_in(&mut self, batch: Vec<Received>, last: u64) -> Option<End> {
        let intake = Arc::clone(self.terms.intake);
        let patience = self.terms.options.yield_after;
        let mut taking = pin!(within(patience, intake.take_in(batch)));
        let (taken, lost) = tokio::select! {
            biased;
            taken = &mut taking => (taken, None),
            why = broken(&mut self.events, self.terms.health) => {
                self.terms.health.connecting(self.terms.address.redact(&why));
                (taking.await, Some(End::Lost(why)))
            }
        };
        let Some(durable) = taken else { return Some(self.given_up()) };
        self.in_hand.push_back(within(patience, durable).map(move |done| done.map(|()| last)).boxed());
        lost
    }

    /// Acknowledges a batch that is durable, and those behind it that are; or gives up one that did not get so.
    async fn acknowledge(&mut self, durable: Option<u64>) -> Option<End> {
        let mut last = durable;
        while let (Some(_), Some(Some(next))) = (last, self.in_hand.next().now_or_never()) {
            last = next;
        }
        let Some(last) = last else { return Some(self.given_up()) };
        let acked = self.channel.basic_ack(last, BasicAckOptions { multiple: true });
        let acked = link::answer("acknowledging", acked).await;
        acked.err().map(|error| End::Lost(error.to_string()))
    }

    fn given_up(&self) -> End {
        let patience = self.terms.options.yield_after.unwrap_or_default();
        End::Yielded(format!("a batch could not be made durable within {} s", patience.as_secs_f64()))
    }

    /// Asks the queue whether events wait although this consumer is idle.
    async fn look(&mut self) -> Option<String> {
        match count(&self.side, &self.terms.options.topology.queue).await {
            Err(error) => Some(error.to_string()),
            Ok(standing) => self.watch.starved(standing.messages).then(|| {
                format!("{} events wait, but none is delivered to the active consumer", standing.messages)
            }),
        }
    }
}

/// What `work` gives, or `None` if it takes longer than `patience`, if there is a limit.
async fn within<T>(patience: Option<Duration>, work: impl Future<Output = T>) -> Option<T> {
    match patience {
        None => Some(work.await),
        Some(patience) => tokio::time::timeout(patience, work).await.ok(),
    }
}

/// The next delivery. Nothing is lost if this is dropped before it is done.
async fn next(ahead: &mut Option<Delivery>, consumer: &mut Consumer) -> Option<lapin::Result<Delivery>> {
    match ahead.take() {
        Some(delivery) => Some(Ok(delivery)),
        None => consumer.next().await,
    }
}

/// Whether a body of `more` bytes is too large for a batch that has `bytes` already.
fn is_over(bytes: usize, more: usize) -> bool {
    more > ALONE_BYTES || bytes + more > BATCH_BYTES
}

struct Chunk {
    batch: Vec<Received>,
    /// The tag of the last delivery in `batch`.
    last: Option<u64>,
    /// Why nothing comes after it.
    end: Option<String>,
}

/// Notices a consumer that is subscribed and gets nothing while the queue grows. Whoever stands by gets nothing
/// either, and RabbitMQ tells nobody that he does.
#[derive(Debug)]
struct Watchdog {
    /// Since the latest look.
    delivered: bool,
    /// Found no other when it subscribed, or has had a delivery: the broker gives them to one consumer until that
    /// goes.
    active: bool,
    idle_looks: u32,
}

impl Watchdog {
    /// Looks in a row without a delivery before the session is given up.
    const PATIENCE: u32 = 2;

    fn of(active: bool) -> Self {
        Self { delivered: false, active, idle_looks: 0 }
    }

    fn delivered(&mut self) {
        self.delivered = true;
        self.active = true;
    }

    /// With so many events ready at this look.
    fn starved(&mut self, ready: u32) -> bool {
        let idle = !std::mem::take(&mut self.delivered) && ready > 0 && self.active;
        self.idle_looks = if idle { self.idle_looks + 1 } else { 0 };
        self.idle_looks >= Self::PATIENCE
    }
}

/// What a queue says of itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Count {
    /// Ready to be delivered.
    pub messages: u32,
    /// Active ones: of a queue with a single active consumer RabbitMQ counts none of those that stand by.
    pub consumers: u32,
}

/// Asks a queue without changing it.
pub(super) async fn count(channel: &Channel, queue: &str) -> Result<Count, BrokerError> {
    let passive = QueueDeclareOptions { passive: true, durable: true, ..Default::default() };
    let asked = channel.queue_declare(short(queue)?, passive, FieldTable::default());
    let found = link::answer(&format!("looking at queue '{queue}'"), asked).await?;
    Ok(Count { messages: found.message_count(), consumers: found.consumer_count() })
}

/// Waits until the connection or a channel of it breaks, and says how.
async fn broken(events: &mut Events, health: &BrokerHealth) -> String {
    loop {
        match events.next().await {
            Some(Event::Error(error)) => return fault::words(&error),
            Some(Event::ConnectionBlocked(reason)) => {
                tracing::warn!(%reason, "RabbitMQ has blocked the connection; waiting until it goes on");
                health.set(SessionState::Blocked { reason });
            }
            Some(Event::ConnectionUnblocked) => {
                tracing::info!("RabbitMQ has unblocked the connection");
                health.unblocked();
            }
            Some(_) => {}
            None => return "the connection is closed".into(),
        }
    }
}

/// Waits for the word to stop; a sender that is gone is one.
pub(super) async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    let _ = shutdown.wait_for(|stop| *stop).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_barks_only_when_the_active_consumer_starves() {
        let cases = [
            ("nothing waits", true, 0, false),
            ("it stands by", false, 5, false),
            ("starving", true, 5, true),
        ];
        for (name, active, ready, expected) in cases {
            let mut watchdog = Watchdog::of(active);
            assert!(!watchdog.starved(ready), "{name}: never at the first look");
            assert_eq!(watchdog.starved(ready), expected, "{name}");
        }
        let mut watchdog = Watchdog::of(false);
        watchdog.delivered();
        assert!(!watchdog.starved(5));
        watchdog.delivered();
        assert!(!watchdog.starved(5), "a delivery starts the count anew");
        assert!(!watchdog.starved(5));
        assert!(watchdog.starved(5), "it has become the active one, and no other is while it is there");
    }
}
