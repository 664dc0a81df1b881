//! Others, on the same broker and into the same sink.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::{Counter, LOOK, Lab, bare_room, course};
use crate::args::Row;
use crate::events::{self, Results};
use crate::peer::{Peer, Running};
use crate::report::THROUGHPUT;
use crate::sink::Sink;

impl Lab {
    /// Installs the peers that are asked for. The rows of those that can't be had fall out, and the report says so.
    pub(super) fn without_missing_peers(&mut self, mut rows: Vec<Row>) -> anyhow::Result<Vec<Row>> {
        for peer in rows.clone().into_iter().filter_map(Row::peer) {
            let (share, all) = (peer.share(self.args.events), self.args.events);
            if !peer.install()? {
                self.report.remark(peer.row(), "left out, since it could not be installed here");
                rows.retain(|row| row.peer() != Some(peer));
            } else if share < all {
                self.report.remark(peer.row(), &format!("of {share} events"));
            }
        }
        Ok(rows)
    }

    /// One peer's run, from a queue that has been filled.
    pub(super) async fn peer(&mut self, peer: Peer) -> anyhow::Result<()> {
        let events = peer.share(self.args.events);
        let sink = Sink::start(events)?;
        self.broker.forget_peers().await?;
        self.fill(peer, events).await?;
        let mut running = peer.start(&self.broker.peers, &bare_room(&sink))?;
        let figures = self.watch(&mut running, &sink, events).await;
        let figures = figures.with_context(|| format!("its log ends:\n{}", running.last_words()))?;
        self.report.add(THROUGHPUT, peer.row(), figures);
        Ok(())
    }

    async fn watch(&self, running: &mut Running, sink: &Sink, events: u32) -> anyhow::Result<Vec<f64>> {
        let figures = course(running.process.pid(), None, Counter::Sink(sink), events.into()).await?;
        running.stop().await?;
        sink.check_all_came()?;
        // What was posted and not acknowledged is back.
        let left = self.broker.left_by_peers().await?;
        ensure!(left == 0, "{left} events were not acknowledged");
        Ok(figures)
    }

    async fn fill(&self, peer: Peer, events: u32) -> anyhow::Result<()> {
        let rooms = self.args.rooms;
        let all = (0..events).map(|n| events::event(n, rooms, Results::Mixed));
        match peer {
            Peer::Node | Peer::AioPika => self.broker.load_peers(all).await?,
            Peer::Celery => peer.produce(&self.broker.peers, all.map(|event| event.body).collect()).await?,
        }
        // Celery's producer gets no confirms.
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.broker.left_by_peers().await? < events {
            ensure!(Instant::now() < deadline, "the queue does not hold all {events} events");
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }
}
