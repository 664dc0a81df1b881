//! The work queue and its sessions: one consumer is active, what it has not acknowledged goes back to the head of the
//! queue when its session ends.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use hipchat_notifier::adapters::rabbitmq::batches::{Batches, Next};
use hipchat_notifier::domain::envelope::{Envelope, Received};
use hipchat_notifier::ports::TakeIn;
use hipchat_notifier::worker::intake::Intake;
use hipchat_notifier::worker::wake::Stop;

use super::life::Life;
use super::wishes::{MONITORS, REGIONS, UIDS, USERS};
use super::{BEGIN, Mutation, World, micros};

/// What an event is about, as the rulebook needs to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Means {
    /// `finished_at` in microseconds.
    Run {
        monitor: &'static str,
        region: &'static str,
        failed: bool,
        finished_at: Option<i64>,
    },
    Activity {
        user: &'static str,
        uid: &'static str,
    },
    Malformed,
}

/// The queue.
#[derive(Default)]
pub struct Queue {
    ready: VecDeque<Envelope>,
    /// Delivered and not acknowledged.
    unacked: Vec<Envelope>,
    /// The life whose session is active, and the session's number.
    active: Option<(usize, u64)>,
    sessions: u64,
}

impl Queue {
    /// Those that are not acknowledged.
    pub fn len(&self) -> usize {
        self.ready.len() + self.unacked.len()
    }

    pub fn put(&mut self, envelope: Envelope) {
        self.ready.push_back(envelope);
    }

    /// The session ends: what it has goes back to where it was. Returns how many.
    fn break_off(&mut self) -> usize {
        self.active = None;
        let returned = self.unacked.len();
        for envelope in std::mem::take(&mut self.unacked).into_iter().rev() {
            self.ready.push_front(envelope);
        }
        returned
    }

    pub fn left_by(&mut self, life: usize) -> usize {
        if self.active.is_some_and(|(active, _)| active == life) { self.break_off() } else { 0 }
    }

    /// Makes `life` the active consumer if there is none; its session's number if it is.
    fn session(&mut self, life: usize) -> Option<u64> {
        if self.active.is_none() {
            self.sessions += 1;
            self.active = Some((life, self.sessions));
        }
        self.active.filter(|(active, _)| *active == life).map(|(_, session)| session)
    }

    fn deliver(&mut self, most: usize) -> Vec<Envelope> {
        let count = most.min(self.ready.len());
        let batch: Vec<Envelope> = self.ready.drain(..count).collect();
        self.unacked.extend(batch.iter().cloned());
        batch
    }

    fn is(&self, session: u64) -> bool {
        self.active.is_some_and(|(_, active)| active == session)
    }

    fn acknowledge(&mut self, session: u64, count: usize) {
        if self.is(session) {
            self.unacked.drain(..count.min(self.unacked.len()));
        }
    }
}

/// A batch as it was delivered.
struct Delivered {
    session: u64,
    count: usize,
    ids: Vec<String>,
}

/// A worker's sessions, one after the other. Batches are acknowledged in their order when they are durable. What was begun
/// is waited for even if its session has ended, before a new one has its first.
pub async fn consume(world: Arc<World>, life: Arc<Life>, intake: Intake, stop: Stop) {
    let (mut batches, mut latest) = (Batches::new(world.plan.yield_after), None);
    let intake = Arc::new(intake);
    while !stop.is_set() {
        life.gate().await;
        let session = latest.filter(|_| !batches.are_none());
        if batches.have_room()
            && let Some((delivered, received)) = next_batch(&world, &life, session)
        {
            latest = Some(delivered.session);
            if world.options.mutation == Some(Mutation::AckBeforeCommit) {
                world.lock().queue.acknowledge(delivered.session, delivered.count);
            }
            if batches.are_decided() {
                world.lock().ledger.batch_received(life.number);
            }
            batches.add(delivered, received, &intake);
            continue;
        }
        match batches.next().await {
            None => {
                let pause = world.lock().millis(5, 200);
                tokio::time::sleep(pause).await;
            }
            // It is the next one's turn, if there is one, and its integrations are looked at now.
            Some(Next::Decided) => world.lock().ledger.batch_received(life.number),
            Some(Next::Durable(delivered)) => {
                if !acknowledge(&world, &life, &delivered).await {
                    finish(&world, &life, &mut batches, false).await;
                    let wait = world.lock().millis(50, 1_000);
                    tokio::time::sleep(wait).await;
                }
            }
            Some(Next::Overdue | Next::Undurable) => {
                give_up(&world, &life, &intake, latest.unwrap_or_default()).await;
            }
        }
    }
    finish(&world, &life, &mut batches, true).await;
}

/// Waits for what the intake has.
async fn finish(world: &World, life: &Life, batches: &mut Batches<Delivered>, acknowledging: bool) {
    while let Some(next) = batches.next().await {
        match next {
            Next::Overdue | Next::Undurable => {}
            Next::Decided => world.lock().ledger.batch_received(life.number),
            Next::Durable(delivered) => {
                if acknowledging {
                    acknowledge(world, life, &delivered).await;
                }
            }
        }
    }
}

/// What the broker has for `life`, if it is the active one; while something of `session` is in hand that may wait, and
/// what comes by another one does.
fn next_batch(world: &World, life: &Life, session: Option<u64>) -> Option<(Delivered, Vec<Received>)> {
    let mut inner = world.lock();
    if session.is_some_and(|session| !inner.queue.is(session) || inner.rng.bool()) {
        return None;
    }
    let session = inner.queue.session(life.number)?;
    let most = inner.rng.usize(1..=world.plan.batch);
    let batch = inner.queue.deliver(most);
    let ids = batch.iter().filter_map(|envelope| envelope.message_id.clone()).collect();
    let delivered = Delivered { session, count: batch.len(), ids };
    let received = batch.into_iter().map(|envelope| Received { envelope, at: world.now() }).collect();
    (delivered.count > 0).then_some((delivered, received))
}

/// Where others stand by, a batch that can't be made durable is given up, and the place with it.
async fn give_up(world: &World, life: &Life, intake: &Intake, session: u64) {
    {
        let mut inner = world.lock();
        let returned = if inner.queue.is(session) { inner.queue.break_off() } else { 0 };
        world.note(&mut inner, || format!("{life} gives up its place: {returned} come again"));
    }
    intake.able().await;
}

/// Acknowledges a batch, or loses its session in doing so. Returns whether it is acknowledged.
async fn acknowledge(world: &World, life: &Life, delivered: &Delivered) -> bool {
    world.strike(life);
    life.gate().await;
    let lost = {
        let mut inner = world.lock();
        let lost = inner.chance(world.plan.rates.session) || !inner.queue.is(delivered.session);
        if !lost {
            for id in inner.ledger.told_and_unwritten(&delivered.ids) {
                world.fault(&mut inner, format!("{id} is acknowledged, and nothing of it is written"));
            }
            inner.queue.acknowledge(delivered.session, delivered.count);
        } else if inner.queue.is(delivered.session) {
            let returned = inner.queue.break_off();
            world.note(&mut inner, || format!("an acknowledgement of {life} is lost: {returned} come again"));
        }
        lost
    };
    world.strike(life);
    !lost
}

/// Sessions break off, also in the middle of a batch.
pub async fn disturb(world: Arc<World>) {
    loop {
        let wait = world.lock().millis(100, 2_000);
        tokio::time::sleep(wait).await;
        let mut inner = world.lock();
        if inner.calm {
            return;
        }
        if inner.chance(world.plan.rates.session) {
            let returned = inner.queue.break_off();
            world.note(&mut inner, || {
                format!("the session with the broker breaks off: {returned} come again")
            });
        }
    }
}

/// Publishes what there is to publish, each confirmed in the end.
pub async fn publish(world: Arc<World>) {
    let mut draw = Draw { rng: Rng::with_seed(world.plan.seed ^ 0xe7e2), failing: [[false; 2]; 3] };
    let longest = world.plan.trouble.mul_f64(1.8) / u32::try_from(world.plan.events).unwrap_or(1);
    let mut again: Vec<Envelope> = Vec::new();
    for n in 0..world.plan.events {
        let wait = longest.mul_f64(draw.rng.f64());
        // Often several at once.
        if draw.rng.u8(..3) > 0 {
            tokio::time::sleep(wait).await;
        }
        let (envelope, means) = draw.one(n, world.elapsed());
        let mut inner = world.lock();
        let id = envelope.message_id.clone().unwrap_or_default();
        world.note(&mut inner, || format!("published {id}: {means:?}"));
        inner.ledger.published(&id, means);
        inner.queue.put(envelope.clone());
        inner.figures.events += 1;
        if inner.chance(world.plan.rates.published_again) {
            again.push(envelope);
        }
        if draw.rng.bool() {
            for envelope in again.drain(..) {
                let id = envelope.message_id.clone().unwrap_or_default();
                world.note(&mut inner, || format!("published once more: {id}"));
                inner.queue.put(envelope);
            }
        }
        inner.published += 1;
    }
}

/// Events, drawn.
struct Draw {
    rng: Rng,
    failing: [[bool; 2]; 3],
}

impl Draw {
    fn one(&mut self, n: usize, elapsed: i64) -> (Envelope, Means) {
        let id = format!("e{n}");
        let (body, means) = match self.rng.u8(..20) {
            0 => ("{\"monitor_uid\":7}".to_owned(), Means::Malformed),
            1..=6 => self.activity(),
            _ => self.run(&id, elapsed),
        };
        let envelope = Envelope {
            body: body.into_bytes(),
            message_id: Some(id),
            exchange: "postman.events".to_owned(),
            routing_key: "monitor.acme.m".to_owned(),
            ..Envelope::default()
        };
        (envelope, means)
    }

    fn activity(&mut self) -> (String, Means) {
        let (user, uid) = (USERS[self.rng.usize(..2)], UIDS[self.rng.usize(..2)]);
        let body = format!(
            r#"{{"action":"update","model":"request","model_uid":"{uid}","model_name":"{uid}","user_id":"{user}","user_name":"{user}"}}"#
        );
        (body, Means::Activity { user, uid })
    }

    fn run(&mut self, id: &str, elapsed: i64) -> (String, Means) {
        let (m, r) = (self.rng.usize(..MONITORS.len()), self.rng.usize(..REGIONS.len()));
        if self.rng.u8(..3) == 0 {
            self.failing[m][r] = !self.failing[m][r];
        }
        let (monitor, region, failed) = (MONITORS[m], REGIONS[r], self.failing[m][r]);
        let finished_at = match self.rng.u8(..8) {
            0 | 1 => None,
            2 => Some(BEGIN + elapsed - self.rng.i64(1..30_000_000)),
            3 => Some(BEGIN + elapsed + self.rng.i64(1..90_000_000)),
            _ => Some(BEGIN + elapsed),
        };
        let region_field = if region.is_empty() { String::new() } else { format!(r#""region":"{region}","#) };
        let finished =
            finished_at.map_or_else(String::new, |at| format!(r#""finished_at":"{}","#, micros(at)));
        let body = format!(
            r#"{{"monitor_uid":"{monitor}","monitor_name":"{monitor}",{region_field}{finished}"run_url":"https://go.example/{id}/","metrics":{{"failedTests":{},"passedTests":1}}}}"#,
            u8::from(failed)
        );
        (body, Means::Run { monitor, region, failed, finished_at })
    }
}

/// The longest between two deeds of an operator.
pub const DEEDS: Duration = Duration::from_secs(6);
