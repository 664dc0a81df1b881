//! One session: a connection, a channel, a consumer, from the first to the last. It never heals itself; when
//! anything of it ends, all of it ends, and [`super::consumer`] makes a new one.
//!
//! Events are acknowledged on the channel that they came by, after the intake has made them durable, and never
//! on another: what a lost channel held comes again. The intake decides batches one after the other, but while one is
//! decided the next is read, and several may wait to be durable; acknowledgements keep their order.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::{FutureExt, Stream, StreamExt};
use jiff::Timestamp;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, Consumer, Event};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use super::batches::{Batches, Next};
use super::health::{BrokerHealth, SessionState};
use super::options::{Address, BrokerOptions};
use super::subscribing::Subscribing;
use super::topology::{self, short};
use super::{fault, link, wire};
use crate::domain::envelope::Received;
use crate::ports::{BrokerError, Clock, TakeIn, Undurable};

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
    /// What has come since the latest batch was handed over.
    batch: Batch,
    /// What has come and does not fit into the batch.
    ahead: VecDeque<Delivery>,
    /// What the intake has, each by the tag of its last delivery.
    batches: Batches<u64>,
    /// The broker has cancelled the consumer, which did not just end with its channel: the queue may be gone, and what has
    /// come would not come again.
    cancelled: bool,
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
        let subscribing = Subscribing::wait(&connection, &topology.queue).await?;
        let side = link::channel(&connection).await?;
        // Not before that: being refused it is no end of the session.
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
        subscribing.end().await?;
        let alone = standing.consumers == 0;
        terms.health.set(if alone { SessionState::Consuming } else { SessionState::StandingBy });
        let batches = Batches::new(terms.options.yield_after);
        Ok(Self {
            terms,
            connection,
            channel,
            side,
            consumer,
            events,
            batch: Batch::default(),
            ahead: VecDeque::new(),
            batches,
            cancelled: false,
            watch: Watchdog::of(alone),
            stands_by: !alone,
        })
    }

    /// Takes in until something ends; the broker gives back what was not acknowledged then. What the intake has is
    /// waited for, so that as little as may be comes again, and nothing of it is tried on after that.
    pub async fn run(&mut self, shutdown: &mut watch::Receiver<bool>) -> End {
        let end = match self.take_in_until(shutdown).await {
            End::Lost(why) => End::Lost(self.terms.address.redact(&why)),
            end => end,
        };
        match &end {
            End::Shutdown => self.finish(true).await,
            End::Lost(why) => {
                self.terms.health.connecting(why.as_str());
                self.gather_rest();
                while self.cancelled && self.has_gathered() {
                    self.finish(false).await;
                    self.hand_over();
                }
                self.finish(false).await;
            }
            End::Yielded(_) => self.give_up(),
        }
        end
    }

    async fn take_in_until(&mut self, shutdown: &mut watch::Receiver<bool>) -> End {
        let look_every = self.terms.options.look_every;
        let mut look = tokio::time::interval_at(Instant::now() + look_every, look_every);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.hand_over();
            let has_room = self.ahead.is_empty() && !self.batch.is_full(self.size());
            let end = tokio::select! {
                biased;
                () = stopped(shutdown) => return End::Shutdown,
                why = broken(&mut self.events, self.terms.health) => Some(End::Lost(why)),
                Some(next) = self.batches.next() => self.follow(next).await,
                next = self.consumer.next(), if has_room => self.gather(next),
                _ = look.tick() => self.look().await.map(End::Lost),
            };
            if let Some(end) = end {
                return end;
            }
        }
    }

    /// Waits for what the intake has, and acknowledges it where that is wanted and works.
    async fn finish(&mut self, mut acknowledging: bool) {
        while let Some(next) = self.batches.next().await {
            let end = match next {
                Next::Durable(_) if !acknowledging => None,
                next => self.follow(next).await,
            };
            match end {
                None => {}
                Some(End::Yielded(_)) => return self.give_up(),
                Some(_) => acknowledging = false,
            }
        }
    }

    /// Drops all that is not durable.
    fn give_up(&mut self) {
        self.batch = Batch::default();
        self.ahead.clear();
        self.batches.give_up();
    }

    /// Events of the next batch at most.
    fn size(&self) -> usize {
        self.batches.size(self.terms.options.batch)
    }

    fn has_gathered(&self) -> bool {
        !self.ahead.is_empty() || !self.batch.events.is_empty()
    }

    /// Closes in bounded time. Closing, and not cancelling first, gives back the rest and the place as the
    /// active consumer in one: a successor never decides later events before earlier ones that are still here.
    pub async fn close(self) {
        link::close_channel(&self.channel).await;
        link::close(&self.connection).await;
    }

    /// Adds a delivery to the batch, and those that are here with it, as far as they fit; waits for nothing.
    fn gather(&mut self, first: Option<lapin::Result<Delivery>>) -> Option<End> {
        let mut next = first;
        loop {
            if let Some(Ok(_)) = next {
                if !self.watch.active {
                    let broker = self.terms.address.to_string();
                    tracing::info!(
                        broker,
                        "taking in events from RabbitMQ, since the worker that did is gone"
                    );
                }
                self.watch.delivered();
                self.terms.health.set(SessionState::Consuming);
            }
            match next {
                Some(Ok(delivery)) if !self.batch.takes(delivery.data.len()) => {
                    self.ahead.push_back(delivery);
                    return None;
                }
                Some(Ok(delivery)) => self.batch.add(delivery, self.terms.clock.now()),
                Some(Err(error)) => return Some(End::Lost(fault::words(&error))),
                None => {
                    self.cancelled = self.channel.status().connected();
                    let why = "the broker cancelled the consumer: the queue has another leader now; or it was \
                               deleted, and what waited in it is gone";
                    return Some(End::Lost(why.into()));
                }
            }
            if self.batch.is_full(self.size()) {
                return None;
            }
            next = self.consumer.next().now_or_never()?;
        }
    }

    /// Keeps what has come of a session that has ended, and finds out whether the broker has cancelled the consumer:
    /// something else may have been seen first.
    fn gather_rest(&mut self) {
        loop {
            match self.consumer.next().now_or_never() {
                Some(Some(Ok(delivery))) => self.ahead.push_back(delivery),
                Some(None) => return self.cancelled = self.channel.status().connected(),
                Some(Some(Err(_))) | None => return,
            }
        }
    }

    /// Hands the batch over where the intake has nothing else to decide, or where it is large enough to be read
    /// while another is decided: of many small ones each would cost a transaction.
    fn hand_over(&mut self) {
        let size = self.size();
        while let Some(delivery) = self
            .ahead
            .pop_front_if(|delivery| !self.batch.is_full(size) && self.batch.takes(delivery.data.len()))
        {
            self.batch.add(delivery, self.terms.clock.now());
        }
        let is_large = !self.ahead.is_empty() || self.batch.is_full(size.div_ceil(2));
        let is_wanted = self.batches.are_decided() || (self.batches.have_room() && is_large);
        if self.batch.events.is_empty() || !is_wanted {
            return;
        }
        let Batch { events, last, .. } = std::mem::take(&mut self.batch);
        self.batches.add(last, events, self.terms.intake);
    }

    /// Acknowledges a batch that is durable, with those behind it that are; or says why one is given up.
    async fn follow(&mut self, next: Next<u64>) -> Option<End> {
        let Next::Durable(mut last) = next else { return self.given_up(&next) };
        let mut end = None;
        while end.is_none()
            && let Some(next) = self.batches.durable_now()
        {
            match next {
                Next::Durable(next) => last = next,
                next => end = self.given_up(&next),
            }
        }
        let acked = self.channel.basic_ack(last, BasicAckOptions { multiple: true });
        match link::answer("acknowledging", acked).await {
            Err(error) => Some(End::Lost(error.to_string())),
            Ok(()) => end,
        }
    }

    fn given_up(&self, next: &Next<u64>) -> Option<End> {
        let why = match next {
            Next::Decided | Next::Durable(_) => return None,
            Next::Overdue => {
                let patience = self.terms.options.yield_after.unwrap_or_default();
                format!("a batch could not be made durable within {} s", patience.as_secs_f64())
            }
            Next::Undurable => Undurable.to_string(),
        };
        Some(End::Yielded(why))
    }

    /// Asks the queue whether events wait although this consumer is idle, and whether the way into it still stands. The
    /// next session declares what is missing.
    async fn look(&mut self) -> Option<String> {
        if self.has_gathered() || !self.batches.are_none() {
            // It may be all that the prefetch allows.
            self.watch.delivered();
        }
        let topology = &self.terms.options.topology;
        let found = async {
            let standing = count(&self.side, &topology.queue).await?;
            // Without exchange or bindings nothing comes, and nobody but the producers would know.
            topology::look(&self.side, topology).await?;
            Ok::<_, BrokerError>(standing)
        };
        match found.await {
            Err(error) => Some(error.to_string()),
            Ok(standing) => self.watch.starved(standing.messages).then(|| {
                format!("{} events wait, but none is delivered to the active consumer", standing.messages)
            }),
        }
    }
}

/// Deliveries that are taken in together.
#[derive(Default)]
struct Batch {
    events: Vec<Received>,
    /// Of all bodies.
    bytes: usize,
    /// The tag of the last delivery.
    last: u64,
}

impl Batch {
    fn add(&mut self, delivery: Delivery, at: Timestamp) {
        self.bytes += delivery.data.len();
        self.last = delivery.delivery_tag;
        self.events.push(Received { envelope: wire::envelope(delivery), at });
    }

    /// Whether it may have a body of so many bytes beside what it has.
    fn takes(&self, bytes: usize) -> bool {
        self.events.is_empty() || (bytes <= ALONE_BYTES && self.bytes + bytes <= BATCH_BYTES)
    }

    /// Whether it may have nothing more, with `most` events at most.
    fn is_full(&self, most: usize) -> bool {
        let alone = self.events.len() == 1 && self.bytes > ALONE_BYTES;
        self.events.len() >= most || self.bytes >= BATCH_BYTES || alone
    }
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
