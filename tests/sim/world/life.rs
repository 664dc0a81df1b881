//! A worker's life: started with empty hands, killed between any two effects, stopped and let go on.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hipchat_notifier::adapters::hipchat::{self, Egress};
use hipchat_notifier::domain::message::Links;
use hipchat_notifier::formats::integrations;
use hipchat_notifier::ports::{Clock, Store};
use hipchat_notifier::worker::burial::Burial;
use hipchat_notifier::worker::catalogue::{Catalogue, Opened};
use hipchat_notifier::worker::dispatch::{Dispatch, DispatchTerms};
use hipchat_notifier::worker::handover::Handover;
use hipchat_notifier::worker::intake::{Intake, Turn};
use hipchat_notifier::worker::janitor::Janitor;
use hipchat_notifier::worker::places::Places;
use hipchat_notifier::worker::trouble::Trouble;
use hipchat_notifier::worker::wake::{Bell, StopSwitch};
use secrecy::ExposeSecret;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::backend::at_once;
use super::gateway::SimRooms;
use super::letters::SimLetterBox;
use super::store::SimStore;
use super::{Mutation, World, broker};

/// What was reached of a worker between its start and its end.
pub struct Life {
    pub worker: usize,
    pub number: usize,
    alive: AtomicBool,
    died: Notify,
    /// It is asked to stop in good order.
    stops: Notify,
    frozen_until: Mutex<Option<Instant>>,
}

impl Life {
    fn new(worker: usize, number: usize) -> Arc<Self> {
        Arc::new(Self {
            worker,
            number,
            alive: AtomicBool::new(true),
            died: Notify::new(),
            stops: Notify::new(),
            frozen_until: Mutex::default(),
        })
    }

    pub fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Relaxed)
    }

    /// Until when the process is stopped, if it is.
    fn stopped_until(&self) -> Option<Instant> {
        let until = *self.frozen_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.filter(|until| *until > Instant::now())
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped_until().is_some()
    }

    /// Passes when the process runs: never for one that is dead, later for one that is stopped.
    pub async fn gate(&self) {
        loop {
            self.living().await;
            match self.stopped_until() {
                None => return,
                Some(until) => tokio::time::sleep_until(until).await,
            }
        }
    }

    /// Passes for whoever is alive.
    pub async fn living(&self) {
        if !self.is_alive() {
            std::future::pending::<()>().await;
        }
    }
}

impl std::fmt::Display for Life {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "w{}.{}", self.worker, self.number)
    }
}

impl World {
    /// Ends a life at this very moment.
    pub(super) fn crash(&self, life: &Life) {
        if life.alive.swap(false, Ordering::Relaxed) {
            let mut inner = self.lock();
            inner.figures.crashes += 1;
            self.note(&mut inner, || format!("{life} dies"));
            inner.server.crashed(life.number);
            let returned = inner.queue.left_by(life.number);
            self.note(&mut inner, || format!("{returned} events go back to the queue"));
            life.died.notify_one();
        }
    }

    /// A life has ended in good order.
    fn ended(&self, life: &Life) {
        life.alive.store(false, Ordering::Relaxed);
        let mut inner = self.lock();
        self.note(&mut inner, || format!("{life} has stopped"));
        let left = inner.server.left_open(life.number);
        if left > 0 {
            self.fault(&mut inner, format!("{life} has stopped with {left} calls not noted"));
        }
        inner.queue.left_by(life.number);
    }

    /// Perhaps ends it, or stops it for a while.
    pub(super) fn strike(&self, life: &Life) {
        let (crash, freeze) = {
            let mut inner = self.lock();
            (inner.chance(self.plan.rates.crash), inner.chance(self.plan.rates.freeze))
        };
        if crash {
            return self.crash(life);
        }
        if freeze && life.is_alive() {
            let mut inner = self.lock();
            let longest = u64::try_from(self.plan.lease.as_millis()).unwrap_or(u64::MAX) * 3;
            let long = inner.millis(50, longest);
            inner.figures.freezes += 1;
            inner.ledger.disturbed += 1;
            self.note(&mut inner, || format!("{life} is stopped for {long:?}"));
            *life.frozen_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + long);
        }
    }
}

/// Starts a worker, and the next when it has died.
pub async fn supervise(world: Arc<World>, worker: usize) {
    // They are not started at the same moment.
    tokio::time::sleep(Duration::from_millis(worker as u64 * 7)).await;
    loop {
        let life = {
            let mut inner = world.lock();
            let life = Life::new(worker, inner.lives.len());
            inner.lives.push(life.clone());
            world.note(&mut inner, || format!("{life} starts"));
            life
        };
        if !world.plan.shared {
            world.backend.restart();
            world.lock().ledger.claims_voided();
        }
        at_once(world.store().look_again(world.now())).expect("the store is there");
        let mut tasks = JoinSet::new();
        tasks.spawn(begin(world.clone(), life.clone()));
        let stop = tokio::spawn(stop_some_time(world.clone(), life.clone()));
        tokio::select! {
            biased;
            () = life.died.notified() => {}
            // Stopped in good order: all its parts have ended.
            _ = tasks.join_next() => world.ended(&life),
        }
        stop.abort();
        drop(tasks);
        let rest = world.lock().millis(1, 3_000);
        tokio::time::sleep(rest).await;
    }
}

/// Asks a worker to stop in good order, perhaps, and cuts off what it has not ended in time.
async fn stop_some_time(world: Arc<World>, life: Arc<Life>) {
    let (stops, after) = {
        let mut inner = world.lock();
        (inner.chance(world.plan.rates.stop), inner.millis(100, 20_000))
    };
    tokio::time::sleep(after).await;
    if !stops || world.lock().calm {
        return;
    }
    world.note(&mut world.lock(), || format!("{life} is asked to stop"));
    life.stops.notify_one();
    let grace = world.plan.timeout * 2;
    tokio::time::sleep(grace).await;
    world.note(&mut world.lock(), || format!("{life} is cut off"));
    world.crash(&life);
}

/// The worker's parts, joined as `app` joins them.
async fn begin(world: Arc<World>, life: Arc<Life>) {
    let plan = &world.plan;
    let short = world.options.mutation == Some(Mutation::ShortLease);
    let clock: Arc<dyn Clock> = world.clone();
    let store = Arc::new(SimStore::new(world.clone(), life.clone()));
    let seen: Arc<dyn Store> = store.clone();
    let egress = Egress::default();
    let catalogue = Arc::new(Catalogue::new(
        store,
        Box::new(move |stored| {
            let url = stored.definition.room_url.expose_secret();
            let target = hipchat::parse_room_url(url, &egress).map_err(|error| error.to_string());
            Ok(Opened { integration: integrations::integration_from(stored)?, target })
        }),
    ));
    while catalogue.load().await.is_err() {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let metrics = world.metrics.clone();
    let trouble = |with| Arc::new(Trouble::new(with, clock.clone()));
    let (dispatch_bell, burial_bell) = (Arc::new(Bell::default()), Arc::new(Bell::default()));
    let (switch, stop) = StopSwitch::new();
    let terms = DispatchTerms {
        rules: plan.rules,
        token_budget: plan.token_budget,
        concurrency: plan.concurrency,
        line: plan.line,
        lease: if short { plan.timeout + Duration::from_secs(1) } else { plan.lease },
        shared: plan.shared,
        links: links(),
    };
    let handover = Handover::new(terms.claim(0, 0), terms.handed_over(), clock.clone());
    let intake = Intake {
        store: seen.clone(),
        catalogue: catalogue.clone(),
        metrics: metrics.clone(),
        trouble: trouble("the store"),
        dispatch: dispatch_bell.clone(),
        burial: burial_bell.clone(),
        handover: (plan.straight && Places::are_for_handed_over(terms.concurrency)).then(|| handover.clone()),
        turn: Turn::default(),
    };
    let dispatch = Dispatch {
        store: seen.clone(),
        catalogue: catalogue.clone(),
        gateway: Arc::new(SimRooms::new(world.clone(), life.clone())),
        clock: clock.clone(),
        metrics: metrics.clone(),
        trouble: trouble("the store"),
        claiming: trouble("the store"),
        unsettled: AtomicUsize::new(0),
        rate_limits: Mutex::default(),
        handover,
        places: Arc::new(Places::new(terms.concurrency)),
        terms,
        wake: dispatch_bell.clone(),
        burial: burial_bell.clone(),
    };
    let burial = Burial {
        store: seen.clone(),
        letter_box: Arc::new(SimLetterBox::new(world.clone(), life.clone())),
        clock: clock.clone(),
        metrics: metrics.clone(),
        trouble: trouble("the dead-letter queue"),
        outbox: trouble("the store"),
        wake: burial_bell,
    };
    let janitor = Janitor {
        store: seen,
        catalogue: catalogue.clone(),
        clock,
        metrics,
        keep: Duration::from_secs(7 * 24 * 3600),
    };
    let mut tasks = JoinSet::new();
    let consumer = broker::consume(world.clone(), life.clone(), intake, stop.clone());
    tasks.spawn(consumer);
    tasks.spawn(burial.run(stop.clone()));
    tasks.spawn(janitor.run(stop.clone()));
    let (dispatch, stopped) = (Arc::new(dispatch), stop.clone());
    tasks.spawn(dispatch.clone().run(stop.clone()));
    tasks.spawn(async move { catalogue.watch(&dispatch_bell, stop).await });
    tokio::select! {
        biased;
        () = life.stops.notified() => switch.stop(),
        _ = tasks.join_next() => {}
    }
    while tasks.join_next().await.is_some() {}
    dispatch.give_back_handed_over(&stopped).await;
}

fn links() -> Arc<Links> {
    thread_local! {
        static LINKS: Arc<Links> = Arc::new(Links::postman());
    }
    LINKS.with(Arc::clone)
}
