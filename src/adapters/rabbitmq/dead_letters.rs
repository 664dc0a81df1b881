//! The operator's ways to the dead-letter queue: look, put back, discard. Looking removes nothing: what is seen
//! is held unacknowledged for the time of the look and then given back, in its order.
//!
//! Letters are taken by consumers with a small prefetch, one after another on one channel, and never by
//! `basic.get`: what a quorum queue gave by that comes back in a random order. And every look goes to the end of
//! the queue: what is given back goes behind what was given back before, so a look that stopped early would move
//! the letters at the head behind the others.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::time::Duration;

use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, Consumer};
use tokio::time::Instant;

use super::letter::{FullLetter, LetterFilter, LetterSummary};
use super::options::BrokerOptions;
use super::press::{Press, Publication, Sheet};
use super::session::count;
use super::topology::short;
use super::{link, wire};
use crate::domain::headers;
use crate::ports::BrokerError;

/// Letters with their bodies that are held here at once.
const HELD: u32 = 200;
/// A quorum queue gives back what several consumers hold in the order of their names only up to this many.
const CONSUMERS: u32 = 30;
/// Passes over the queue to remove letters; the second finds none unless acknowledgements were lost.
const PASSES: u32 = 10;
/// Acknowledgements in a row before the broker is asked something, which lets it catch up.
const ACKS: usize = 16;
/// A letter that was counted and does not come within this is held by another look.
const COMES: Duration = Duration::from_secs(3);
/// How long the queue may take to have its letters back after a look.
const SETTLES: Duration = Duration::from_secs(5);

/// The dead-letter queue, for an operator. Each call has connections of its own.
#[derive(Debug, Clone)]
pub struct DeadLetters {
    options: BrokerOptions,
}

/// What became of the letters that were to be put back or discarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Removed {
    /// Gone from the dead-letter queue.
    pub letters: usize,
    /// Chosen, but not found (any more), by id.
    pub missing: usize,
}

impl DeadLetters {
    /// Connects to nothing yet.
    pub fn new(options: BrokerOptions) -> Self {
        Self { options }
    }

    /// The letters that match, the oldest in the queue first, `limit` at most.
    pub async fn list(
        &self,
        filter: &LetterFilter,
        limit: Option<usize>,
    ) -> Result<Vec<LetterSummary>, BrokerError> {
        let mut found = Vec::new();
        self.each(filter, |letter, _| {
            if limit.is_none_or(|limit| found.len() < limit) {
                found.push(letter);
            }
            match limit {
                Some(limit) if found.len() >= limit => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        })
        .await?;
        Ok(found)
    }

    /// Shows each letter that matches to `visit`, with how many were looked at so far, until it breaks.
    pub async fn each(
        &self,
        filter: &LetterFilter,
        mut visit: impl FnMut(LetterSummary, usize) -> ControlFlow<()> + Send,
    ) -> Result<(), BrokerError> {
        let mut look = Look::open(&self.options).await?;
        let (mut seen, mut wanted) = (0, true);
        while let Some(letter) = look.next().await? {
            seen += 1;
            if wanted {
                let summary = LetterSummary::read(&letter);
                wanted = !filter.matches(&summary) || visit(summary, seen).is_continue();
            }
        }
        look.close().await;
        Ok(())
    }

    /// One letter with its event; `None` if no letter has this id.
    pub async fn show(&self, id: &str) -> Result<Option<FullLetter>, BrokerError> {
        let mut look = Look::open(&self.options).await?;
        let mut found = None;
        while let Some(letter) = look.next().await? {
            let summary = LetterSummary::read(&letter);
            if found.is_none() && summary.id == id {
                found = Some(FullLetter { summary, envelope: wire::envelope(letter) });
            }
        }
        look.close().await;
        Ok(found)
    }

    /// Puts the letters with these ids back into the work queue. Each is removed only after the work queue has
    /// it: if this ends in between, a letter is in both, and never in neither. `progress` is told how many are
    /// done so far.
    pub async fn replay(
        &self,
        ids: &HashSet<String>,
        progress: impl FnMut(usize) + Send,
    ) -> Result<Removed, BrokerError> {
        let press = Press::new(link::open_any(&self.options, "replay").await?).await?;
        let removed = self.remove(ids, Some(&press), progress).await;
        press.close().await;
        removed
    }

    /// Removes the letters with these ids for good.
    pub async fn discard(
        &self,
        ids: &HashSet<String>,
        progress: impl FnMut(usize) + Send,
    ) -> Result<Removed, BrokerError> {
        self.remove(ids, None, progress).await
    }

    /// Passes over the queue until none of the chosen is found any more: the broker may lose acknowledgements
    /// that are under way when a channel closes, and never says so. What was put back is not put back again.
    async fn remove(
        &self,
        ids: &HashSet<String>,
        press: Option<&Press>,
        mut progress: impl FnMut(usize) + Send,
    ) -> Result<Removed, BrokerError> {
        let mut found = HashSet::new();
        let mut letters = 0;
        for pass in 0..PASSES {
            let mut look = Look::open(&self.options).await?;
            let press = press.filter(|_| pass == 0);
            let done = self.remove_once(&mut look, ids, press, &mut found, &mut progress).await;
            look.close().await;
            match done? {
                0 => return Ok(Removed { letters, missing: ids.len() - found.len() }),
                count if pass == 0 => letters = count,
                _ => {}
            }
        }
        Err(BrokerError::Unavailable(
            "RabbitMQ did not remove all of the letters from the dead-letter queue; some may be in both queues".into(),
        ))
    }

    async fn remove_once(
        &self,
        look: &mut Look,
        ids: &HashSet<String>,
        press: Option<&Press>,
        found: &mut HashSet<String>,
        progress: &mut (impl FnMut(usize) + Send),
    ) -> Result<usize, BrokerError> {
        let again = !found.is_empty();
        let (mut chosen, mut done): (Vec<Delivery>, Vec<u64>) = (Vec::new(), Vec::new());
        loop {
            let next = look.next().await?;
            let last = next.is_none();
            if let Some(letter) = next {
                let id = LetterSummary::read(&letter).id;
                // A letter that came only after the first pass was not put back, and stays.
                if if again { found.contains(&id) } else { ids.contains(&id) } {
                    found.insert(id);
                    chosen.push(letter);
                }
            }
            if last || chosen.len() >= HELD as usize {
                if let Some(press) = press {
                    self.put_back(press, &chosen).await?;
                }
                done.extend(chosen.drain(..).map(|letter| letter.delivery_tag));
                if !again {
                    progress(done.len());
                }
            }
            if last {
                // Not before: a removed letter gives its consumer credit for another, which nobody reads.
                look.remove(&done).await?;
                return Ok(done.len());
            }
        }
    }

    async fn put_back(&self, press: &Press, letters: &[Delivery]) -> Result<(), BrokerError> {
        let queue = &self.options.topology.queue;
        let mut sheets = Vec::with_capacity(letters.len());
        for letter in letters {
            sheets.push(Sheet {
                exchange: "".into(),
                routing_key: short(queue)?,
                properties: replayed(letter),
                body: &letter.data,
            });
        }
        let publications = press.print(&sheets).await.all()?;
        if publications.contains(&Publication::Unroutable) {
            return Err(BrokerError::Misconfigured(format!(
                "queue '{queue}' is not there, so no letter was put back; start the worker once, which declares it"
            )));
        }
        if publications.contains(&Publication::Refused) {
            return Err(BrokerError::Unavailable(format!(
                "RabbitMQ could not store all letters in queue '{queue}'; none of them was removed from the \
                 dead-letter queue, try again"
            )));
        }
        Ok(())
    }
}

/// What the event came with, persistent, and where it came from at first. What speaks to the broker stays behind:
/// a `user_id` that is not ours is refused, an `expiration` would end the event again, and `CC` and `BCC` would
/// send copies to others. The broker's own record of deaths would grow with each round.
pub(super) fn replayed(letter: &Delivery) -> BasicProperties {
    let own = &letter.properties;
    let mut headers = FieldTable::default();
    for (name, value) in own.headers().iter().flat_map(FieldTable::inner) {
        if !wire::is_of_routing(name.as_str()) && !wire::is_of_a_death(name.as_str()) {
            headers.insert(name.clone(), value.clone());
        }
    }
    let (exchange, routing_key) =
        wire::origin(own.headers().as_ref(), letter.exchange.as_str(), letter.routing_key.as_str());
    wire::set(&mut headers, headers::ORIGINAL_EXCHANGE, &exchange);
    wire::set(&mut headers, headers::ORIGINAL_ROUTING_KEY, &routing_key);
    let mut properties =
        BasicProperties::default().with_delivery_mode(wire::PERSISTENT).with_headers(headers);
    if let Some(id) = own.message_id() {
        properties = properties.with_message_id(id.clone());
    }
    if let Some(kind) = own.content_type() {
        properties = properties.with_content_type(kind.clone());
    }
    if let Some(encoding) = own.content_encoding() {
        properties = properties.with_content_encoding(encoding.clone());
    }
    if let Some(app) = own.app_id() {
        properties = properties.with_app_id(app.clone());
    }
    match own.timestamp() {
        Some(at) => properties.with_timestamp(*at),
        None => properties,
    }
}

/// One pass over the letters that were ready when it began.
struct Look {
    connection: Connection,
    channel: Channel,
    queue: String,
    /// Letters ready at the beginning.
    standing: u32,
    /// Taken so far.
    taken: u32,
    /// Of these, removed for good.
    removed: u32,
    chunk: u32,
    /// How many letters the consumer may still give.
    credit: u32,
    /// All stay subscribed to the end: the queue gives back in order what open consumers hold, and shuffles
    /// what cancelled ones do.
    consumers: Vec<Consumer>,
}

impl Look {
    async fn open(options: &BrokerOptions) -> Result<Self, BrokerError> {
        let connection = link::open_any(options, "dead letters").await?;
        let channel = link::channel(&connection).await?;
        let queue = options.topology.dead_letters.clone();
        let standing = count(&channel, &queue).await?.messages;
        let chunk = standing.div_ceil(CONSUMERS).clamp(HELD, u32::from(u16::MAX));
        let (taken, removed, credit) = (0, 0, 0);
        Ok(Self {
            connection,
            channel,
            queue,
            standing,
            taken,
            removed,
            chunk,
            credit,
            consumers: Vec::new(),
        })
    }

    /// The next letter, held until the look ends; `None` after those that were there when it began.
    async fn next(&mut self) -> Result<Option<Delivery>, BrokerError> {
        if self.taken >= self.standing {
            return Ok(None);
        }
        if self.credit == 0 {
            self.subscribe().await?;
        }
        let Some(consumer) = self.consumers.last_mut() else { return Ok(None) };
        let doing = format!("reading queue '{}'", self.queue);
        match tokio::time::timeout(COMES, consumer.next()).await {
            Err(_) => Ok(None),
            Ok(Some(Ok(letter))) => {
                self.taken += 1;
                self.credit -= 1;
                Ok(Some(letter))
            }
            Ok(Some(Err(error))) => Err(super::fault::during(&doing, &error)),
            Ok(None) => Err(BrokerError::Unavailable(format!("the broker ended {doing}; was it deleted?"))),
        }
    }

    /// Another consumer, with credit for the next letters; those before it keep what they hold.
    async fn subscribe(&mut self) -> Result<(), BrokerError> {
        let prefetch = u16::try_from(self.chunk).unwrap_or(u16::MAX);
        let qos = self.channel.basic_qos(prefetch, BasicQosOptions::default());
        link::answer("setting the prefetch", qos).await?;
        // The queue gives back in the order of these names.
        let name = format!("look-{:06}", self.consumers.len());
        let consume = self.channel.basic_consume(
            short(&self.queue)?,
            name.as_str().into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        let doing = format!("reading queue '{}'", self.queue);
        self.consumers.push(link::answer(&doing, consume).await?);
        self.credit = u32::from(prefetch);
        Ok(())
    }

    async fn remove(&mut self, tags: &[u64]) -> Result<(), BrokerError> {
        for group in tags.chunks(ACKS) {
            for tag in group {
                let acked = self.channel.basic_ack(*tag, BasicAckOptions::default());
                link::answer("removing a dead letter", acked).await?;
                self.removed += 1;
            }
            count(&self.channel, &self.queue).await?;
        }
        Ok(())
    }

    /// Gives back what is held and waits until the queue has it, so that the next look sees it.
    async fn close(self) {
        link::close_channel(&self.channel).await;
        if let Ok(channel) = link::channel(&self.connection).await {
            let expected = self.standing - self.removed.min(self.standing);
            let deadline = Instant::now() + SETTLES;
            while Instant::now() < deadline
                && count(&channel, &self.queue).await.is_ok_and(|count| count.messages < expected)
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        link::close(&self.connection).await;
    }
}
