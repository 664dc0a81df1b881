//! Several workers on one PostgreSQL, where the rooms are what takes time.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::{Kept, LOOK, Lab, Spent, TELL_ALL, per_100_000};
use crate::events::{self, Results};
use crate::report::SCALED;
use crate::sink::Sink;
use crate::worker::Worker;

/// How many workers share the work.
const WORKERS: [u32; 3] = [1, 2, 4];
/// How long a room takes to answer.
const LATENCY: Duration = Duration::from_millis(100);
/// Rooms that each worker is at at the same time (`dispatch.concurrency`): few enough that all of them together do not
/// fill this machine's cores, which they share with broker, database and sink.
const PLACES: u32 = 32;

impl Lab {
    /// One row for each number of workers, each with the same work for every worker.
    pub(super) async fn scaled(&mut self) -> anyhow::Result<()> {
        let mut alone = None;
        for workers in WORKERS {
            self.broker.purge().await?;
            let mut figures = self.share(workers).await.with_context(|| format!("{workers} workers"))?;
            let alone = *alone.get_or_insert(figures[0]);
            figures.insert(1, figures[0] / alone);
            let name = format!("{workers} {}", if workers == 1 { "worker" } else { "workers" });
            self.report.add(SCALED, &name, figures);
        }
        Ok(())
    }

    /// Messages a second, and CPU of workers, database and machine.
    async fn share(&self, workers: u32) -> anyhow::Result<Vec<f64>> {
        let all_at_once = u64::from(workers * PLACES);
        let events =
            (all_at_once * u64::from(self.args.scaled_seconds)) as u32 * 1000 / LATENCY.as_millis() as u32;
        let sink = Sink::slow(events, LATENCY)?;
        let mut site = self.site(Kept::Postgres, &sink.url(), TELL_ALL).await?;
        site.settings.push(("DISPATCH__CONCURRENCY", PLACES.to_string()));
        self.first_start(&site).await?;
        let mut started = Vec::new();
        for _ in 0..workers {
            started.push(Worker::start(&self.setup(&site)).await?);
        }
        let pids: Vec<u32> = started.iter().map(|worker| worker.process.pid()).collect();
        let rooms = self.args.rooms;
        self.broker.load((0..events).map(|n| events::event(n, rooms, Results::Mixed))).await?;

        // From when every place is taken to when the first may stay free.
        let (from, to) = (all_at_once, u64::from(events) - all_at_once);
        let deadline = Instant::now() + Duration::from_secs(60 + 10 * u64::from(self.args.scaled_seconds));
        let mut begun = None;
        let mut count = 0;
        while count < to {
            ensure!(Instant::now() < deadline, "{count} of {events} came through in time");
            tokio::time::sleep(LOOK).await;
            count = sink.count();
            if begun.is_none() && count >= from {
                begun = Some((Spent::so_far(&pids, site.database.as_ref())?, count));
            }
        }
        let (begun, first) = begun.context("nothing was measured")?;
        let spent = Spent::so_far(&pids, site.database.as_ref())?.since(&begun);
        let (measured, wall) = (count - first, (spent.at - begun.at).as_secs_f64());
        while sink.count() < u64::from(events) {
            ensure!(Instant::now() < deadline, "{} of {events} came through in time", sink.count());
            tokio::time::sleep(LOOK).await;
        }
        for worker in started {
            worker.stop().await?;
        }
        sink.check()?;
        site.close().await?;
        Ok(vec![
            measured as f64 / wall,
            per_100_000(Some(spent.workers), measured),
            per_100_000(spent.database, measured),
            spent.busy.as_secs_f64() / wall,
        ])
    }
}
