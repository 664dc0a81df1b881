//! The runs: who is started, what is published, when the stopwatch is looked at.

mod backlog;
mod peers;
mod scaled;

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tempfile::TempDir;

use crate::args::{Args, Row};
use crate::broker::Broker;
use crate::database::Database;
use crate::events::{self, Results};
use crate::peer::Peer;
use crate::process;
use crate::report::{BARE_POST, LATENCY, NOT_MEASURED, Report, START, THROUGHPUT};
use crate::sink::Sink;
use crate::worker::{Bare, Sandbox, Setup, Worker};

/// Between two looks at how far a run has come.
const LOOK: Duration = Duration::from_millis(5);
/// Events a second of the latency runs.
const RATES: [u32; 2] = [100, 1_000];
/// The rule under which every run is told, and the default.
const TELL_ALL: &str = "all";
const DEFAULT_RULE: &str = "failures-then-success";

/// One benchmark from beginning to end.
pub struct Lab {
    args: Args,
    broker: Broker,
    report: Report,
}

/// Where a worker keeps what it must remember.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    Sqlite,
    Postgres,
}

impl Kept {
    /// The row's name for it; SQLite, as the default, is not named.
    fn named(self, row: &str) -> String {
        match self {
            Self::Sqlite => row.to_owned(),
            Self::Postgres => format!("{row}, PostgreSQL"),
        }
    }
}

/// A place for workers that have not been started yet.
struct Site {
    home: TempDir,
    database: Option<Database>,
    settings: Vec<(&'static str, String)>,
}

impl Site {
    async fn close(self) -> anyhow::Result<()> {
        match self.database {
            Some(database) => database.close().await,
            None => Ok(()),
        }
    }
}

/// What processes have spent since a moment.
struct Spent {
    at: Instant,
    workers: Duration,
    database: Option<Duration>,
    busy: Duration,
}

impl Spent {
    fn so_far(pids: &[u32], database: Option<&Database>) -> anyhow::Result<Self> {
        Ok(Self {
            at: Instant::now(),
            workers: pids.iter().map(|pid| process::cpu_of_family(*pid)).sum::<Result<_, _>>()?,
            database: database.map(Database::cpu).transpose()?.flatten(),
            busy: process::busy()?,
        })
    }

    fn since(self, before: &Self) -> Self {
        Self {
            at: self.at,
            workers: self.workers.saturating_sub(before.workers),
            database: self.database.zip(before.database).map(|(now, then)| now.saturating_sub(then)),
            busy: self.busy.saturating_sub(before.busy),
        }
    }
}

/// What a throughput run's progress is read from.
enum Counter<'a> {
    Sink(&'a Sink),
    Bare(&'a Bare),
    Outcome(&'a Worker, &'static str),
}

impl Counter<'_> {
    async fn read(&self) -> anyhow::Result<u64> {
        match self {
            Self::Sink(sink) => Ok(sink.count()),
            Self::Bare(bare) => Ok(bare.count()),
            Self::Outcome(worker, outcome) => worker.ended_as(outcome).await,
        }
    }
}

impl Lab {
    /// Connects to the broker and declares a topology of its own.
    pub async fn open(args: Args) -> anyhow::Result<Self> {
        let broker = Broker::open().await?;
        let report = Report::new(&args)?;
        Ok(Self { args, broker, report })
    }

    /// Runs every row as often as asked for, in turns, so that what disturbs the machine disturbs all rows.
    pub async fn measure(&mut self) -> anyhow::Result<Report> {
        let rows = self.without_missing_peers(self.args.rows())?;
        for run in 1..=self.args.runs {
            for row in &rows {
                eprintln!("bench: run {run} of {}: {row:?}", self.args.runs);
                self.broker.purge().await?;
                self.row(*row).await.with_context(|| format!("run {run}, row {row:?}"))?;
            }
        }
        Ok(self.report.clone())
    }

    /// Leaves nothing on the broker.
    pub async fn close(self) -> anyhow::Result<()> {
        self.broker.close().await
    }

    async fn row(&mut self, row: Row) -> anyhow::Result<()> {
        match row {
            Row::Parse => self.parse().await,
            Row::Suppressed => self.suppressed(Kept::Sqlite).await,
            Row::SuppressedPostgres => self.suppressed(Kept::Postgres).await,
            Row::Post => self.post().await,
            Row::Sent => self.sent(Kept::Sqlite).await,
            Row::SentPostgres => self.sent(Kept::Postgres).await,
            Row::Sandbox => self.sandbox().await,
            Row::Node => self.peer(Peer::Node).await,
            Row::AioPika => self.peer(Peer::AioPika).await,
            Row::Celery => self.peer(Peer::Celery).await,
            Row::Latency => {
                for rate in RATES {
                    self.bare_latency(rate).await?;
                    self.worker_latency(rate).await?;
                }
                Ok(())
            }
            Row::Scaled => self.scaled().await,
            Row::Backlog => self.backlog().await,
        }
    }

    async fn parse(&mut self) -> anyhow::Result<()> {
        self.load(Results::Successes).await?;
        let bare = Bare::start(&self.broker.names, self.args.events, None)?;
        let figures = self.throughput(bare.process.pid(), None, Counter::Bare(&bare)).await?;
        self.report.add(THROUGHPUT, "bare: consume, parse, ack", figures);
        Ok(())
    }

    async fn suppressed(&mut self, kept: Kept) -> anyhow::Result<()> {
        // Nothing is posted; the port of "discard" answers nobody.
        let site = self.site(kept, "http://127.0.0.1:9", DEFAULT_RULE).await?;
        self.first_start(&site).await?;
        self.load(Results::Successes).await?;
        let worker = Worker::start(&self.setup(&site)).await?;
        let counter = Counter::Outcome(&worker, "suppressed");
        let figures = self.throughput(worker.process.pid(), site.database.as_ref(), counter).await?;
        worker.stop().await?;
        self.report.add(THROUGHPUT, &kept.named("worker: suppressed"), figures);
        site.close().await
    }

    async fn post(&mut self) -> anyhow::Result<()> {
        let sink = Sink::start(self.args.events)?;
        self.load(Results::Mixed).await?;
        let bare = Bare::start(&self.broker.names, self.args.events, Some(&bare_room(&sink)))?;
        let figures = self.throughput(bare.process.pid(), None, Counter::Sink(&sink)).await?;
        sink.check()?;
        self.report.add(THROUGHPUT, BARE_POST, figures);
        Ok(())
    }

    async fn sent(&mut self, kept: Kept) -> anyhow::Result<()> {
        let sink = Sink::start(self.args.events)?;
        let site = self.site(kept, &sink.url(), TELL_ALL).await?;
        self.first_start(&site).await?;
        self.load(Results::Mixed).await?;
        let worker = Worker::start(&self.setup(&site)).await?;
        let counter = Counter::Sink(&sink);
        let figures = self.throughput(worker.process.pid(), site.database.as_ref(), counter).await?;
        worker.stop().await?;
        sink.check()?;
        self.report.add(THROUGHPUT, &kept.named("worker: sent"), figures);
        site.close().await
    }

    async fn sandbox(&mut self) -> anyhow::Result<()> {
        let sandbox = Sandbox::start(&self.args.worker)?;
        let site = self.site(Kept::Sqlite, &sandbox.url, TELL_ALL).await?;
        self.first_start(&site).await?;
        self.load(Results::Mixed).await?;
        let worker = Worker::start(&self.setup(&site)).await?;
        let figures = self.throughput(worker.process.pid(), None, Counter::Outcome(&worker, "sent")).await?;
        worker.stop().await?;
        let messages = sandbox.messages().await?;
        ensure!(messages == u64::from(self.args.events), "the sandbox has {messages} messages");
        self.report.add(THROUGHPUT, "worker: sent, to the sandbox", figures);
        Ok(())
    }

    async fn bare_latency(&mut self, rate: u32) -> anyhow::Result<()> {
        let sink = Sink::start(self.latency_events(rate))?;
        let bare = Bare::start(&self.broker.names, self.latency_events(rate), Some(&bare_room(&sink)))?;
        let figures = self.latency(bare.process.pid(), &sink, rate).await?;
        self.report.add(LATENCY, &format!("bare: post, {rate}/s"), figures);
        Ok(())
    }

    async fn worker_latency(&mut self, rate: u32) -> anyhow::Result<()> {
        let sink = Sink::start(self.latency_events(rate))?;
        let site = self.site(Kept::Sqlite, &sink.url(), TELL_ALL).await?;
        let first = self.first_start(&site).await?;
        let worker = Worker::start(&self.setup(&site)).await?;
        let start = vec![milliseconds(first), milliseconds(worker.ready_after)];
        let figures = self.latency(worker.process.pid(), &sink, rate).await?;
        worker.stop().await?;
        self.report.add(LATENCY, &format!("worker: sent, {rate}/s"), figures);
        self.report.add(START, "worker", start);
        Ok(())
    }

    /// The figures of a run that works off the queue.
    async fn throughput(
        &self,
        pid: u32,
        database: Option<&Database>,
        counter: Counter<'_>,
    ) -> anyhow::Result<Vec<f64>> {
        let figures = course(pid, database, counter, self.args.events.into()).await?;
        self.broker.drained(Duration::from_secs(10)).await?;
        Ok(figures)
    }

    /// p50, p99 and the longest time from publish to post, and the share of one core.
    async fn latency(&self, pid: u32, sink: &Sink, rate: u32) -> anyhow::Result<Vec<f64>> {
        let events = self.latency_events(rate);
        let begun = (Instant::now(), process::cpu(pid)?);
        let published = self.publish_at(rate, events).await?;
        let deadline = Instant::now() + Duration::from_secs(30);
        while sink.count() < u64::from(events) && Instant::now() < deadline {
            tokio::time::sleep(LOOK).await;
        }
        let share = (process::cpu(pid)? - begun.1).as_secs_f64() / begun.0.elapsed().as_secs_f64();
        sink.check()?;
        let mut waits: Vec<Duration> = Vec::new();
        for (event, published) in published.iter().enumerate().skip(events as usize / 5) {
            let arrived = sink.arrival(event as u32).context("a message is missing")?;
            waits.push(arrived.saturating_duration_since(*published));
        }
        waits.sort_unstable();
        let percentile = |p: f64| milliseconds(waits[((waits.len() - 1) as f64 * p).round() as usize]);
        Ok(vec![percentile(0.5), percentile(0.99), percentile(1.0), share])
    }

    /// Publishes at a steady rate and says when each event was.
    async fn publish_at(&self, rate: u32, events: u32) -> anyhow::Result<Vec<Instant>> {
        let mut published = Vec::with_capacity(events as usize);
        let start = tokio::time::Instant::now();
        for number in 0..events {
            let event = events::event(number, self.args.rooms, Results::Mixed);
            tokio::time::sleep_until(start + Duration::from_secs(u64::from(number)) / rate).await;
            published.push(Instant::now());
            self.broker.publish(&event).await?;
        }
        Ok(published)
    }

    fn latency_events(&self, rate: u32) -> u32 {
        rate * self.args.latency_seconds
    }

    async fn load(&self, results: Results) -> anyhow::Result<()> {
        let rooms = self.args.rooms;
        self.broker.load((0..self.args.events).map(|n| events::event(n, rooms, results))).await
    }

    /// A place for fresh workers, with the integrations of all rooms.
    async fn site(&self, kept: Kept, server: &str, rule: &str) -> anyhow::Result<Site> {
        let home = TempDir::with_prefix("hipchat-notifier-bench")?;
        let file = events::integrations(self.args.rooms, server, rule);
        std::fs::write(home.path().join("integrations.toml"), file)?;
        let database = match kept {
            Kept::Sqlite => None,
            Kept::Postgres => Some(Database::fresh().await?),
        };
        let mut settings = vec![("INTEGRATIONS__FILE", "integrations.toml".to_owned())];
        if let Some(database) = &database {
            settings.extend(database.settings(home.path())?);
        }
        Ok(Site { home, database, settings })
    }

    /// The first start makes the store and encrypts every room's URL; it is not part of any other figure.
    async fn first_start(&self, site: &Site) -> anyhow::Result<Duration> {
        let worker = Worker::start(&self.setup(site)).await?;
        let ready_after = worker.ready_after;
        worker.stop().await?;
        Ok(ready_after)
    }

    fn setup<'a>(&'a self, site: &'a Site) -> Setup<'a> {
        let Args { worker, log_level, .. } = &self.args;
        Setup {
            binary: worker,
            home: site.home.path(),
            names: &self.broker.names,
            log_level,
            settings: &site.settings,
        }
    }
}

/// Rate, CPU seconds per 100,000, peak memory and the database's CPU seconds per 100,000, from the first event that came
/// through to the last; of the process and its children.
async fn course(
    pid: u32,
    database: Option<&Database>,
    counter: Counter<'_>,
    events: u64,
) -> anyhow::Result<Vec<f64>> {
    let deadline = Instant::now() + Duration::from_secs(60) + Duration::from_millis(events);
    let (mut begun, mut count) = (None, 0);
    while count < events {
        ensure!(Instant::now() < deadline, "{count} of {events} came through in time");
        tokio::time::sleep(LOOK).await;
        count = counter.read().await?;
        if begun.is_none() && count > 0 {
            begun = Some((Spent::so_far(&[pid], database)?, count));
        }
    }
    let (begun, first) = begun.context("nothing was measured")?;
    let spent = Spent::so_far(&[pid], database)?.since(&begun);
    let peak = process::peak_mib_of_family(pid)?;
    let measured = events - first;
    let rate = measured as f64 / (spent.at - begun.at).as_secs_f64();
    Ok(vec![rate, per_100_000(Some(spent.workers), measured), peak, per_100_000(spent.database, measured)])
}

/// Seconds of CPU for each 100,000; what was not measured has none.
fn per_100_000(spent: Option<Duration>, measured: u64) -> f64 {
    spent.map_or(NOT_MEASURED, |spent| spent.as_secs_f64() * 100_000.0 / measured as f64)
}

fn bare_room(sink: &Sink) -> String {
    format!("{}/v2/room/0/notification", sink.url())
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}
