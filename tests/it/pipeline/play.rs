//! A load as a whole: the services, the rooms, the integrations and the events, how they are published, and what the
//! judge says when all has ended.

use std::ops::Range;
use std::time::{Duration, Instant};

use hipchat_notifier::adapters::rabbitmq::{Publication, Publisher};
use hipchat_notifier::domain::envelope::Envelope;
use hipchat_notifier::domain::ids::EventId;
use jiff::Timestamp;
use serde_json::json;

use super::oracle::{Findings, Scene};
use super::twice::Cut;
use super::workload::{Scale, Workload};
use crate::support::broker::Broker;
use crate::support::process::Site;
use crate::support::rooms::Hipchat;

/// Events published between two pauses.
const CHUNK: usize = 20;
/// How long rooms take to answer, so that a kill has something to interrupt.
const ANSWER_MS: u64 = 15;
/// How often a long wait is told of.
const TELL: Duration = Duration::from_secs(30);

/// What must be set up for a load, and is judged after it.
pub struct Play {
    pub work: Workload,
    pub broker: Broker,
    pub hipchat: Hipchat,
    pub site: Site,
    pub cuts: Vec<Cut>,
    /// How long before a cut that which it cut off may have got into its room.
    pub reach: Duration,
    pub confirms_lost: bool,
    began: Instant,
}

impl Play {
    pub async fn prepare(name: &str, seed: u64, scale: Scale, url: Option<&str>) -> Self {
        Self::prepare_on(name, seed, scale, url, |site| site).await
    }

    /// With a site that is set up further.
    pub async fn prepare_on(
        name: &str,
        seed: u64,
        scale: Scale,
        url: Option<&str>,
        set_up: impl FnOnce(Site) -> Site,
    ) -> Self {
        let by = |site: Site| match url {
            None => site,
            Some(url) => site.with("AMQP__URL", url),
        };
        Self::prepare_at(name, seed, scale, Broker::fresh().await, |site| set_up(by(site))).await
    }

    /// At a broker that is there already.
    pub async fn prepare_at(
        name: &str,
        seed: u64,
        scale: Scale,
        broker: Broker,
        set_up: impl FnOnce(Site) -> Site,
    ) -> Self {
        let seed = std::env::var("PROVE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(seed);
        println!("{name}: seed {seed} (replay with PROVE_SEED={seed})");
        Self::drawn(seed, scale, broker, set_up).await
    }

    /// With exactly this seed.
    pub async fn drawn(seed: u64, scale: Scale, broker: Broker, set_up: impl FnOnce(Site) -> Site) -> Self {
        let hipchat = Hipchat::with_limits(Some(scale.room), Some(scale.token)).await;
        hipchat.set_faults(json!([{"kind": "answer", "latency_ms": ANSWER_MS}])).await;
        let millis = |duration: Duration| format!("{}ms", duration.as_millis());
        let site = Site::on(&broker)
            .with("PACING__ROOM__MESSAGES", &scale.room.0.to_string())
            .with("PACING__ROOM__PER", &millis(scale.room.1))
            .with("PACING__TOKEN__CALLS", &scale.token.0.to_string())
            .with("PACING__TOKEN__PER", &millis(scale.token.1));
        let site = set_up(site);
        let work = Workload::draw(seed, scale);
        site.apply(&work.integrations(&hipchat)).await;
        let (reach, began) = (Duration::from_secs(2), Instant::now());
        Self { work, broker, hipchat, site, cuts: Vec::new(), reach, confirms_lost: false, began }
    }

    /// Publishes everything, evenly over the time it may take, and has each event confirmed. What was not confirmed
    /// because a node of the broker went down is published again, as a producer has to.
    pub async fn publish(&self) {
        self.publish_by(CHUNK, |_| {}).await;
    }

    /// The same where nodes of the broker go down. Such a broker may refuse one of the events that it was sent together
    /// and take the next; published again, the refused one comes behind it. So each is confirmed before the next is
    /// sent, or nobody could say which order is the right one.
    pub async fn publish_one_by_one(&self) {
        self.publish_by(1, |_| {}).await;
    }

    /// The same, so many at a time; `confirmed` hears of each lot, by the places of its events.
    pub async fn publish_by(&self, at_a_time: usize, mut confirmed: impl FnMut(Range<usize>)) {
        let (mut publisher, mut done) = (None, 0);
        let lots = self.work.events.len().div_ceil(at_a_time) as u32;
        let mut pace = tokio::time::interval(self.work.scale.publish_over / lots);
        for lot in self.work.events.chunks(at_a_time) {
            pace.tick().await;
            let envelopes: Vec<_> = lot.iter().map(|event| event.envelope.clone()).collect();
            while let Err(why) = self.publish_lot(&mut publisher, &envelopes).await {
                assert!(self.confirms_lost, "not published: {why}");
                eprintln!("published again: {}", why.chars().take(300).collect::<String>());
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            confirmed(done..done + lot.len());
            done += lot.len();
        }
        if let Some(publisher) = publisher {
            publisher.close().await;
        }
    }

    async fn publish_lot(&self, kept: &mut Option<Publisher>, envelopes: &[Envelope]) -> Result<(), String> {
        let mut publisher = match kept.take() {
            Some(publisher) => publisher,
            None => Publisher::open(&self.broker.options()).await.map_err(|error| error.to_string())?,
        };
        let published = publisher.publish(envelopes).await.map_err(|error| error.to_string())?;
        *kept = Some(publisher);
        if published.iter().all(|one| *one == Publication::Confirmed) {
            Ok(())
        } else {
            Err(format!("{published:?}"))
        }
    }

    /// Waits until the last event is taken in and nothing is left to do.
    pub async fn settles(&self) {
        let store = self.site.store().await;
        let last = EventId::new(&self.work.events.last().expect("events").id);
        let began = Instant::now();
        let mut told = began;
        loop {
            let taken = !store.explain(&last).await.expect("the journal").is_empty();
            let gauges = store.gauges(now()).await.expect("the gauges");
            if taken && gauges.pending == 0 && gauges.letters == 0 {
                return;
            }
            assert!(
                began.elapsed() < self.work.scale.patience,
                "seed {}: not settled: {gauges:?}",
                self.work.seed
            );
            if told.elapsed() > TELL {
                told = Instant::now();
                eprintln!("{} s: {} notifications wait", began.elapsed().as_secs(), gauges.pending);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// What the judge looks at.
    pub fn scene(&self) -> Scene<'_> {
        let Self { work, site, broker, hipchat, cuts, reach, confirms_lost, .. } = self;
        Scene { work, site, broker, hipchat, cuts, reach: *reach, confirms_lost: *confirms_lost }
    }

    pub async fn judge(&self, name: &str) -> Findings {
        let took = self.began.elapsed();
        let findings = self.scene().judge().await;
        let work = &self.work;
        println!(
            "{name}: {findings} (limit {} in {:?}), {} kills and the like, {:.1} s",
            work.scale.room.0,
            work.scale.room.1,
            self.cuts.len(),
            took.as_secs_f64()
        );
        findings
    }
}

#[expect(clippy::disallowed_methods, reason = "the judge reads its own clock")]
pub fn now() -> Timestamp {
    Timestamp::now()
}
