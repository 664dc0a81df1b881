//! The composition root: the only place that builds concrete parts, joins them, and ends them.

mod integrations_file;
pub mod parts;
mod start;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;

use self::integrations_file::IntegrationsFile;
use self::parts::{Parts, dispatch_terms};
use self::start::{Gate, Prepared};
use crate::adapters::rabbitmq::{self, BrokerHealth, SessionState};
use crate::http::{Status, StatusServer};
use crate::metrics::Metrics;
use crate::ports::{BrokerError, Hint, LetterBox};
use crate::settings::Settings;
use crate::worker::burial::Burial;
use crate::worker::catalogue::Catalogue;
use crate::worker::dispatch::{Dispatch, DispatchTerms};
use crate::worker::handover::Handover;
use crate::worker::intake::{Intake, Turn};
use crate::worker::janitor::Janitor;
use crate::worker::places::Places;
use crate::worker::trouble::Trouble;
use crate::worker::wake::{Bell, Stop, StopSwitch};

/// Runs the worker until SIGTERM or SIGINT: stops taking in, lets attempts in flight finish within
/// `shutdown.grace`, gives the rest back.
///
/// # Errors
/// [`Misconfigured`] for what an operator has to change; anything else that ends the worker.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    let metrics = match settings.integrations.file {
        Some(_) => Metrics::default().with_integrations_file(),
        None => Metrics::default(),
    };
    let metrics = Arc::new(metrics);
    // From here on, so that a stop that comes during the start is a clean one too.
    let mut signals = StopSignals::new()?;
    let prepared = tokio::select! {
        prepared = start::prepare(&settings, &metrics) => prepared,
        signal = signals.next() => {
            tracing::info!(signal, "stopping: the worker was still starting");
            return Ok(());
        }
    };
    let first = match prepared {
        Err(error) if !start::is_away(&settings, &error) => return Err(error),
        other => other,
    };
    let (gate, health) = (Arc::new(Gate::new()), Arc::new(BrokerHealth::default()));
    let server = StatusServer::bind(settings.http.listen, status(&settings, &metrics, &gate, &health))
        .await
        .with_context(|| format!("can't listen on {} (http.listen)", settings.http.listen))?;
    let http = server.address()?;
    let (switch, stop) = StopSwitch::new();
    let mut tasks = JoinSet::new();
    let mut http_stop = stop.clone();
    tasks.spawn(async move {
        if let Err(error) = server.serve(async move { http_stop.wait().await }).await {
            tracing::error!(%error, "the status endpoints have ended");
        }
    });
    let prepared = match first {
        Ok(prepared) => prepared,
        Err(away) => {
            tracing::info!(%http, "worker waits for its store");
            let Some(prepared) = gate.wait(&settings, &metrics, away, &mut signals).await? else {
                return Ok(());
            };
            prepared
        }
    };
    let Prepared { parts, catalogue, file } = prepared;
    tracing::info!(
        integrations = catalogue.now().len(),
        %http,
        broker = %settings.amqp.urls.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        "worker started"
    );
    let store_trouble = Arc::new(Trouble::new("the store", parts.clock.clone()));
    let claiming = Arc::new(Trouble::new("the store", parts.clock.clone()));
    gate.open(vec![health.clone(), store_trouble.clone(), claiming.clone(), Arc::new(parts.clone())]);
    let running = Running { settings, parts, metrics, catalogue, health, store_trouble, claiming, stop };
    running.until_stopped(tasks, file, switch, signals).await
}

/// What the endpoints show.
fn status(
    settings: &Settings,
    metrics: &Arc<Metrics>,
    gate: &Arc<Gate>,
    health: &Arc<BrokerHealth>,
) -> Status {
    let health = health.clone();
    Status {
        metrics: metrics.clone(),
        readiness: vec![gate.clone()],
        refresh: Box::new(move |metrics| {
            metrics.broker_session(&SessionState::WORDS, health.state().as_str());
        }),
        bearer_token: settings.http.bearer_token.clone(),
    }
}

/// Everything that runs.
struct Running {
    settings: Settings,
    parts: Parts,
    metrics: Arc<Metrics>,
    catalogue: Arc<Catalogue>,
    health: Arc<BrokerHealth>,
    store_trouble: Arc<Trouble>,
    claiming: Arc<Trouble>,
    stop: Stop,
}

impl Running {
    async fn until_stopped(
        self,
        mut tasks: JoinSet<()>,
        file: Option<IntegrationsFile>,
        switch: StopSwitch,
        mut signals: StopSignals,
    ) -> anyhow::Result<()> {
        let (dispatch_bell, burial_bell) = (Arc::new(Bell::default()), Arc::new(Bell::default()));
        let terms = dispatch_terms(&self.settings)?;
        let handover = Handover::new(terms.claim(0, 0), terms.handed_over(), self.parts.clock.clone());
        let dispatch = self.dispatch(terms, &handover, &dispatch_bell, &burial_bell);
        tasks.spawn(dispatch.clone().run(self.stop.clone()));
        self.spawn_parts(&mut tasks, file, &dispatch_bell, &burial_bell)?;
        let consumer = self.consumer(handover, &dispatch_bell, &burial_bell)?;
        tokio::pin!(consumer);
        let consumed = tokio::select! {
            ended = &mut consumer => Some(ended.map_err(parts::from_broker)),
            signal = signals.next() => {
                tracing::info!(signal, "stopping: no more events are taken in");
                None
            }
            // Each part runs until stopped: one that ends before has panicked, and without it events would be
            // taken in and never told.
            _ = tasks.join_next() => Some(Err(anyhow::anyhow!("a part of the worker has ended; stopping the rest"))),
        };
        if let Some(Err(reason)) = &consumed {
            tracing::error!("stopping: {reason:#}");
        }
        switch.stop();
        let finish = async {
            if consumed.is_none() {
                consumer.await.map_err(parts::from_broker)?;
            }
            while tasks.join_next().await.is_some() {}
            dispatch.give_back_handed_over(&self.stop).await;
            consumed.unwrap_or(Ok(()))
        };
        let grace = self.settings.shutdown.grace;
        tokio::select! {
            ended = finish => {
                tracing::info!("worker stopped");
                return ended;
            }
            () = tokio::time::sleep(grace) => tracing::warn!(
                grace_seconds = grace.as_secs(),
                "worker stopped; what was not finished within shutdown.grace is cut off and done again after the \
                 next start"
            ),
            _ = signals.next() => tracing::warn!(
                "worker stopped by a second signal; what was not finished is done again after the next start"
            ),
        }
        Ok(())
    }

    /// Starts every part but dispatch, the consumer and the endpoints.
    fn spawn_parts(
        &self,
        tasks: &mut JoinSet<()>,
        file: Option<IntegrationsFile>,
        dispatch_bell: &Arc<Bell>,
        burial_bell: &Arc<Bell>,
    ) -> anyhow::Result<()> {
        tasks.spawn(self.hearing(dispatch_bell, burial_bell));
        let (catalogue, bell, stop) = (self.catalogue.clone(), dispatch_bell.clone(), self.stop.clone());
        tasks.spawn(async move { catalogue.watch(&bell, stop).await });
        if let Some(file) = file {
            tasks.spawn(file.watch(self.catalogue.clone(), self.stop.clone()));
        }
        tasks.spawn(self.janitor().run(self.stop.clone()));
        tasks.spawn(self.burial(burial_bell)?.run(self.stop.clone()));
        Ok(())
    }

    /// Rings what other workers have made ring, until stopped.
    fn hearing(&self, dispatch: &Arc<Bell>, burial: &Arc<Bell>) -> impl Future<Output = ()> + use<> {
        let (store, catalogue, mut stop) =
            (self.parts.store.clone(), self.catalogue.clone(), self.stop.clone());
        let (dispatch, burial) = (dispatch.clone(), burial.clone());
        async move {
            let hear = move |hint| match hint {
                Hint::Rooms => dispatch.ring(),
                Hint::Letters => burial.ring(),
                Hint::Integrations => catalogue.hint(),
            };
            tokio::select! {
                () = store.attend(&hear) => {}
                () = stop.wait() => {}
            }
        }
    }

    /// Consumes until stopped, or until the broker turns out to be set up otherwise.
    fn consumer(
        &self,
        handover: Arc<Handover>,
        dispatch: &Arc<Bell>,
        burial: &Arc<Bell>,
    ) -> anyhow::Result<impl Future<Output = Result<(), BrokerError>> + use<>> {
        let intake = Arc::new(Intake {
            store: self.parts.store.clone(),
            catalogue: self.catalogue.clone(),
            metrics: self.metrics.clone(),
            trouble: self.store_trouble.clone(),
            dispatch: dispatch.clone(),
            burial: burial.clone(),
            handover: Places::are_for_handed_over(self.settings.dispatch.concurrency).then_some(handover),
            turn: Turn::default(),
        });
        let options = parts::broker_options(&self.settings)?;
        let (clock, health) = (self.parts.clock.clone(), self.health.clone());
        Ok(rabbitmq::consume(options, intake, clock, health, self.stop.receiver()))
    }

    fn janitor(&self) -> Janitor {
        Janitor {
            store: self.parts.store.clone(),
            catalogue: self.catalogue.clone(),
            clock: self.parts.clock.clone(),
            metrics: self.metrics.clone(),
            keep: self.settings.journal.keep,
        }
    }

    fn burial(&self, wake: &Arc<Bell>) -> anyhow::Result<Burial> {
        let options = parts::broker_options(&self.settings)?;
        Ok(Burial {
            store: self.parts.store.clone(),
            letter_box: Arc::new(rabbitmq::RabbitLetterBox::new(options)) as Arc<dyn LetterBox>,
            clock: self.parts.clock.clone(),
            metrics: self.metrics.clone(),
            trouble: Arc::new(Trouble::new("the dead-letter queue", self.parts.clock.clone())),
            outbox: Arc::new(Trouble::new("the store", self.parts.clock.clone())),
            wake: wake.clone(),
        })
    }

    fn dispatch(
        &self,
        terms: DispatchTerms,
        handover: &Arc<Handover>,
        wake: &Arc<Bell>,
        burial: &Arc<Bell>,
    ) -> Arc<Dispatch> {
        Arc::new(Dispatch {
            store: self.parts.store.clone(),
            catalogue: self.catalogue.clone(),
            gateway: self.parts.gateway.clone(),
            clock: self.parts.clock.clone(),
            metrics: self.metrics.clone(),
            trouble: self.store_trouble.clone(),
            claiming: self.claiming.clone(),
            unsettled: AtomicUsize::new(0),
            rate_limits: std::sync::Mutex::default(),
            places: Arc::new(Places::new(terms.concurrency)),
            terms,
            handover: handover.clone(),
            wake: wake.clone(),
            burial: burial.clone(),
        })
    }
}

/// SIGTERM and SIGINT, from its making on: one that comes between two waits is not missed.
pub struct StopSignals {
    term: Signal,
    int: Signal,
}

impl StopSignals {
    /// Takes both signals over from the system, for as long as this process lives.
    ///
    /// # Errors
    /// If the system lets no handler be set.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next of them and names it.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.int.recv() => "SIGINT",
        }
    }
}

/// Something that an operator has to change before it can go on: exit code 78.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Misconfigured(pub String);
