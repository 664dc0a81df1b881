//! Very many integrations and a very long backlog on PostgreSQL: what a claim costs, how the server finds what it
//! hands out, and what a worker takes that works it off.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures_util::future::try_join_all;
use hipchat_notifier::adapters::store::postgres::{PostgresStore, statements};
use hipchat_notifier::domain::pacing::Budget;
use hipchat_notifier::ports::{ClaimTerms, Clock, RoomLine, Settlement, Store, Then};
use tempfile::TempDir;

use super::{LOOK, Lab, Site, TELL_ALL, milliseconds};
use crate::database::Database;
use crate::events::{self, Results};
use crate::process;
use crate::report::{CLAIMS, MANY, NOT_MEASURED};
use crate::sink::Sink;
use crate::worker::{Worker, tell};

/// The short backlog.
const FEW: u32 = 1_000;
/// Notifications that wait in each line.
const IN_LINE: u32 = 10;
/// Claims of each measurement; each is given back before the next.
const CLAIMS_EACH: usize = 50;
/// Notifications in the one line that is deep.
const DEEP: u32 = 100_000;

const FOREVER: Duration = Duration::from_secs(60);
const TERMS: ClaimTerms = ClaimTerms {
    rooms: 64,
    retries: 64,
    line: 500,
    lease: Duration::from_secs(30),
    token_budget: Budget { messages: 1_000_000_000, per: FOREVER },
    room_budget: Budget { messages: 1_000_000_000, per: FOREVER },
};

impl Lab {
    /// Once: building the state takes longer than all that is measured of it.
    pub(super) async fn backlog(&mut self) -> anyhow::Result<()> {
        if self.report.has(CLAIMS) {
            return Ok(());
        }
        let (rooms, backlog) = (self.args.backlog_rooms, self.args.backlog);
        let sink = Sink::start(backlog)?;
        let mut site = self.site_of_many(&sink.url(), rooms).await?;
        self.started(&site, "no integrations").await?;
        let begun = Instant::now();
        tell(&self.setup(&site), &["integrations", "apply", "integrations.toml"])?;
        eprintln!("bench: {rooms} integrations were applied in {:.1} s", begun.elapsed().as_secs_f64());
        self.started(&site, &format!("{rooms} integrations")).await?;

        let mut waiting = 0;
        for (count, name) in [(FEW, "few"), (backlog, "many")] {
            let database = site.database.as_mut().context("a site on PostgreSQL")?;
            let rooms = (count / IN_LINE).min(rooms);
            fill(database, waiting..count, rooms).await?;
            waiting = count;
            let store = database.store().await?;
            self.claims(&store, &format!("{count} waiting in {rooms} rooms")).await?;
            for (what, plan) in plans(database).await? {
                self.report.add_plan(format!("{what}, {count} waiting"), plan);
            }
            eprintln!("bench: {name} measured");
        }
        self.works_off(&site, &sink, &format!("{rooms} integrations, {backlog} waiting")).await?;
        let database = site.database.as_mut().context("a site on PostgreSQL")?;
        deepen(database).await?;
        let store = database.store().await?;
        self.claims_of_deep(&store, database).await?;
        site.close().await
    }

    /// The integrations are applied by hand, not by a file that each worker reads.
    async fn site_of_many(&self, server: &str, rooms: u32) -> anyhow::Result<Site> {
        let home = TempDir::with_prefix("hipchat-notifier-bench")?;
        std::fs::write(home.path().join("integrations.toml"), events::integrations(rooms, server, TELL_ALL))?;
        let database = Database::fresh().await?;
        // Migrated by whoever opens it first.
        database.store().await?;
        let settings = database.settings(home.path())?;
        Ok(Site { home, database: Some(database), settings })
    }

    /// How long a start takes, and how much memory.
    async fn started(&mut self, site: &Site, name: &str) -> anyhow::Result<()> {
        let worker = Worker::start(&self.setup(site)).await?;
        let (ready, peak) = (worker.ready_after, process::peak_mib(worker.process.pid())?);
        worker.stop().await?;
        self.report.add(MANY, name, vec![milliseconds(ready), peak, NOT_MEASURED, NOT_MEASURED]);
        Ok(())
    }

    /// A worker that works off a part of the backlog.
    async fn works_off(&mut self, site: &Site, sink: &Sink, name: &str) -> anyhow::Result<()> {
        let worker = Worker::start(&self.setup(site)).await?;
        let (ready, at_first) = (worker.ready_after, process::peak_mib(worker.process.pid())?);
        let (begun, first) = (Instant::now(), sink.count());
        let deadline = begun + Duration::from_secs(120);
        let enough = first + u64::from(self.args.events.min(self.args.backlog / 2));
        while sink.count() < enough {
            ensure!(Instant::now() < deadline, "{} of {enough} came through in time", sink.count());
            tokio::time::sleep(LOOK).await;
        }
        let rate = (sink.count() - first) as f64 / begun.elapsed().as_secs_f64();
        let peak = process::peak_mib(worker.process.pid())?;
        worker.stop().await?;
        self.report.add(MANY, name, vec![milliseconds(ready), at_first, peak, rate]);
        Ok(())
    }

    /// Claims and gives back, as a worker would to whom nothing may be told.
    async fn claims(&mut self, store: &PostgresStore, name: &str) -> anyhow::Result<()> {
        let clock = store.clock().await?;
        let mut took: [Vec<Duration>; 4] = Default::default();
        for _ in 0..CLAIMS_EACH {
            let begun = Instant::now();
            let lines = store.claim_rooms(TERMS, clock.now()).await?;
            took[0].push(begun.elapsed());
            ensure!(lines.len() == TERMS.rooms, "{} rooms were claimed", lines.len());
            let begun = Instant::now();
            try_join_all(lines.iter().map(|line| store.settle(given_back(line, &*clock)))).await?;
            took[1].push(begun.elapsed());
            let begun = Instant::now();
            store.next_due().await?;
            took[2].push(begun.elapsed());
        }
        for _ in 0..CLAIMS_EACH / 10 {
            let begun = Instant::now();
            store.gauges(clock.now()).await?;
            took[3].push(begun.elapsed());
        }
        took.iter_mut().for_each(|times| times.sort_unstable());
        let middle = |times: &[Duration]| milliseconds(times[times.len() / 2]);
        let longest = took[0].last().copied().unwrap_or_default();
        let [claim, back, next, gauges] = took.each_ref().map(|times| middle(times));
        self.report.add(CLAIMS, name, vec![claim, milliseconds(longest), back, next, gauges]);
        Ok(())
    }

    /// Claims the one deep line, whose integration is throttled but for what stands at its end.
    async fn claims_of_deep(&mut self, store: &PostgresStore, database: &Database) -> anyhow::Result<()> {
        let clock = store.clock().await?;
        let one = ClaimTerms { rooms: 1, ..TERMS };
        let (mut claims, mut backs) = (Vec::new(), Vec::new());
        for _ in 0..CLAIMS_EACH {
            database.client.execute(FIRST_DUE, &[]).await?;
            let begun = Instant::now();
            let lines = store.claim_rooms(one, clock.now()).await?;
            claims.push(begun.elapsed());
            let line = lines.first().context("the deep line is due")?;
            ensure!(line.waiting.len() == 1, "{} are not throttled", line.waiting.len());
            let begun = Instant::now();
            store.settle(given_back(line, &*clock)).await?;
            backs.push(begun.elapsed());
        }
        [&mut claims, &mut backs].into_iter().for_each(|times| times.sort_unstable());
        let middle = |times: &[Duration]| milliseconds(times[times.len() / 2]);
        let longest = milliseconds(claims.last().copied().unwrap_or_default());
        let figures = vec![middle(&claims), longest, middle(&backs), NOT_MEASURED, NOT_MEASURED];
        self.report.add(CLAIMS, &format!("1 in 1 room behind {DEEP} throttled ones"), figures);
        Ok(())
    }
}

fn given_back(line: &RoomLine, clock: &dyn Clock) -> Settlement {
    Settlement {
        room: line.room.clone(),
        claim: line.claim,
        transitions: Vec::new(),
        state: line.state.clone(),
        calls: Vec::new(),
        throttles: Vec::new(),
        closed: Vec::new(),
        then: Then::Release { due: None },
        now: clock.now(),
    }
}

/// What waits is written past the port, as intake would have: a million through the port would take the time of all
/// the other rows together.
const FILL: &str = "WITH numbers AS (SELECT n, $5 || lpad(n::text, $6, '0') AS run, n % $3 AS at \
      FROM generate_series($1::int, $2::int) AS n), \
    new AS (INSERT INTO events (id, properties, body, received_at, open) SELECT run, \
      json_build_object('message_id', run, 'content_type', 'application/json', 'exchange', 'bench', \
        'routing_key', 'monitor.bench.' || $7 || at)::text, \
      convert_to(replace(replace($4, $5 || lpad('0', $6, '0'), run), $7 || '0\"', $7 || at || '\"'), 'UTF8'), \
      $8, 1 FROM numbers ORDER BY n RETURNING no, id) \
    INSERT INTO notifications (event, integration, room, event_no, monitor, region, state, reason, ready_at, \
      received_at, decided_at) SELECT new.id, i.id, i.room, new.no, $7 || numbers.at, 'eu-central', 'pending', \
      'every-run', $8, $8, $8 FROM new JOIN numbers ON numbers.run = new.id \
    JOIN integrations AS i ON i.id = 'bench-' || numbers.at ORDER BY new.no";

const WAKE: &str = "INSERT INTO rooms (room, due_at) SELECT room, min(ready_at) FROM notifications \
    WHERE state = 'pending' GROUP BY room ON CONFLICT (room) DO UPDATE SET due_at = excluded.due_at";

/// Lets the notifications of events `numbers` wait, spread evenly over the first `rooms` rooms.
async fn fill(database: &mut Database, numbers: std::ops::Range<u32>, rooms: u32) -> anyhow::Result<()> {
    let begun = Instant::now();
    let template = String::from_utf8(events::event(0, rooms, Results::Mixed).body)?;
    let (digits, rooms) = (events::DIGITS as i32, i32::try_from(rooms)?);
    let now = database.store().await?.clock().await?.now().as_microsecond();
    let tx = database.client.transaction().await?;
    let mut from = i32::try_from(numbers.start)?;
    let end = i32::try_from(numbers.end)?;
    while from < end {
        let to = end.min(from + 100_000) - 1;
        tx.execute(FILL, &[&from, &to, &rooms, &template, &events::MARK, &digits, &events::UID, &now])
            .await?;
        from = to + 1;
    }
    tx.execute(WAKE, &[]).await?;
    tx.commit().await?;
    // As the server's own housekeeping does within a minute.
    database.client.batch_execute("VACUUM ANALYZE").await?;
    eprintln!("bench: {end} wait, after {:.1} s", begun.elapsed().as_secs_f64());
    Ok(())
}

/// Puts [`DEEP`] notifications of one throttled integration before one of another into the first room's line.
async fn deepen(database: &mut Database) -> anyhow::Result<()> {
    database
        .client
        .batch_execute(&format!(
            "UPDATE integrations SET room = (SELECT room FROM integrations WHERE id = 'bench-0') WHERE id = 'bench-1'; \
             DELETE FROM notifications WHERE event_no IS NOT NULL AND integration IN ('bench-0', 'bench-1'); \
             INSERT INTO throttles (integration, closed_until) VALUES ('bench-0', 9000000000000000); \
             INSERT INTO notifications (event, integration, room, event_no, state, reason, ready_at, received_at, \
               decided_at) SELECT 'deep-' || n, CASE WHEN n <= {DEEP} THEN 'bench-0' ELSE 'bench-1' END, i.room, \
               e.no, 'pending', 'every-run', e.received_at, e.received_at, e.received_at \
               FROM generate_series(1, {DEEP} + 1) AS n, integrations AS i, \
               (SELECT no, received_at FROM events ORDER BY no DESC LIMIT 1) AS e WHERE i.id = 'bench-0' ORDER BY n"
        ))
        .await?;
    // By itself: it runs in no transaction.
    Ok(database.client.batch_execute("VACUUM ANALYZE").await?)
}

const FIRST_DUE: &str =
    "UPDATE rooms SET due_at = 0 WHERE room = (SELECT room FROM integrations WHERE id = 'bench-0')";

/// What a claim asks, and the give-back after it, by the server's plan for it.
async fn plans(database: &mut Database) -> anyhow::Result<Vec<(&'static str, String)>> {
    let now = database.store().await?.clock().await?.now().as_microsecond();
    let (rooms, line) = (TERMS.rooms as i64, TERMS.line as i64);
    let due: Vec<String> = database
        .client
        .query("SELECT room FROM rooms WHERE due_at <= $1 ORDER BY due_at, room LIMIT $2", &[&now, &rooms])
        .await?
        .iter()
        .map(|row| row.try_get(0))
        .collect::<Result<_, _>>()?;
    let nows = vec![now; due.len()];
    Ok(vec![
        ("rooms that are due", database.plan(statements::DUE, &[&now, &rooms]).await?),
        ("rooms to be retried", database.plan(statements::DUE_FOR_RETRY, &[&now, &rooms]).await?),
        ("heads of their lines", database.plan(statements::HEADS, &[&due, &line, &now]).await?),
        ("what is left in them", database.plan(statements::LEFT, &[&due, &nows]).await?),
        ("the next that is due", database.plan(statements::NEXT_DUE, &[]).await?),
    ])
}
