//! Several workers on one PostgreSQL, as processes: they act as one, whatever becomes of each.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fastrand::Rng;

use super::load::{SMALL, is_full};
use super::play::Play;
use super::strikes::{Company, Stalls};
use super::workload::Scale;
use crate::support::broker::Broker;
use crate::support::postgres::Postgres;
use crate::support::process::{Site, Worker};
use crate::support::services::Services;

/// Small enough for every run of the tests, or what is promised for several workers.
#[derive(Clone, Copy)]
struct Terms {
    scale: Scale,
    /// Shorter than a freeze, and longer than two calls may take.
    lease: &'static str,
    call: &'static str,
    freeze: Duration,
    /// How often something is done to a worker or the broker, at least.
    turns: usize,
}

impl Terms {
    const SMALL: Self =
        Self { scale: SMALL, lease: "4s", call: "1s", freeze: Duration::from_secs(5), turns: 6 };
    /// With HipChat's budgets, twelve times as fast: a minute of 5 s.
    const FULL: Self = Self {
        scale: Scale {
            events: 30_000,
            integrations: 300,
            rooms: 100,
            room: (30, Duration::from_secs(5)),
            token: (500, Duration::from_secs(25)),
            publish_over: Duration::from_secs(300),
            collate: Duration::from_secs(5),
            every: Duration::from_secs(10),
            patience: Duration::from_secs(20 * 60),
        },
        lease: "9s",
        call: "4s",
        freeze: Duration::from_secs(10),
        turns: 20,
    };

    fn now() -> Self {
        if is_full() { Self::FULL } else { Self::SMALL }
    }

    fn together(self, postgres: &Postgres) -> impl FnOnce(Site) -> Site {
        move |site| {
            site.sharing(postgres)
                .with("DISPATCH__LEASE", self.lease)
                .with("HIPCHAT__TIMEOUT", self.call)
                .with("HIPCHAT__CONNECT_TIMEOUT", self.call)
                .with("AMQP__HEARTBEAT", "2s")
        }
    }
}

fn told(worker: &Worker) -> usize {
    worker.log().matches("\"message\":\"sent\"").count()
        + worker.log().matches("\"message\":\"digested\"").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_act_as_one() {
    let postgres = Postgres::fresh().await;
    // Nothing is frozen here, and on a busy machine no lease must lapse and no call be given up.
    let terms = Terms { lease: "12s", call: "5s", ..Terms::SMALL };
    let play = Play::prepare_on("two workers", 30_301, SMALL, None, terms.together(&postgres)).await;
    let workers = [play.site.start().await, play.site.start().await];
    play.publish().await;
    play.settles().await;
    let found = play.judge("two workers").await;
    assert_eq!((found.repeats, found.letters_again), (0, 0));
    let told = workers.each_ref().map(told);
    assert!(told.iter().all(|told| *told > 0), "both told rooms: {told:?}");
    let full = u64::from(play.work.scale.room.0);
    assert!(found.max_in_window + 1 >= full, "no room came near its budget");
}

/// Strikes turn by turn for as long as publishing takes, and so many times at least.
async fn strike_during(publish: impl Future<Output = ()>, turns: usize, mut strike: impl AsyncFnMut(usize)) {
    let published = AtomicBool::new(false);
    let publish = async {
        publish.await;
        published.store(true, Ordering::SeqCst);
    };
    let strikes = async {
        for turn in 0.. {
            if turn >= turns && published.load(Ordering::SeqCst) {
                return;
            }
            strike(turn).await;
        }
    };
    tokio::join!(publish, strikes);
}

/// Waits until all has ended, and judges.
async fn judge(name: &str, mut play: Play, company: Company, stalls: Stalls) {
    play.settles().await;
    println!("{name}: {}; longest stall {:?}", company.done, stalls.longest());
    play.cuts = company.done.cuts.clone();
    play.broker.reconnect().await;
    let found = play.judge(name).await;
    assert!(found.repeats <= play.cuts.len() * play.work.scale.rooms);
}

#[tokio::test(flavor = "multi_thread")]
async fn three_workers_lose_nothing_whatever_becomes_of_each() {
    let (terms, postgres) = (Terms::now(), Postgres::fresh().await);
    let set_up = terms.together(&postgres);
    let mut play = Play::prepare_on("three workers", 30_302, terms.scale, None, set_up).await;
    play.confirms_lost = true;
    let mut company = Company::of(&play.site, 3).await;
    let stalls = Stalls::watch(play.site.store().await);
    let mut rng = Rng::with_seed(play.work.seed);
    strike_during(play.publish(), terms.turns, async |turn| {
        // A random moment is what is wanted here: nothing is waited for.
        tokio::time::sleep(Duration::from_millis(rng.u64(200..700))).await;
        let whom = rng.usize(..3);
        match turn % 3 {
            0 => company.kill(&play.site, whom).await,
            1 => company.freeze(whom, terms.freeze).await,
            _ => drop(company.replace(&play.site, whom).await),
        }
    })
    .await;
    judge("three workers", play, company, stalls).await;
}

/// On services of its own, since they are killed.
#[tokio::test(flavor = "multi_thread")]
async fn workers_lose_nothing_when_the_queues_leader_dies_and_the_store_restarts() {
    let terms = Terms::now();
    let services = Services::with_nodes(3).await;
    let broker = Broker::at(services.nodes()).await;
    let postgres = Postgres::at(services.postgres()).await;
    let set_up = terms.together(&postgres);
    let mut play = Play::prepare_at("cluster", 30_304, terms.scale, broker, set_up).await;
    play.confirms_lost = true;
    let mut company = Company::of(&play.site, 3).await;
    let stalls = Stalls::watch(play.site.store().await);
    let mut rng = Rng::with_seed(play.work.seed);
    strike_during(play.publish_one_by_one(), terms.turns / 6, async |turn| {
        tokio::time::sleep(Duration::from_millis(rng.u64(500..2_000))).await;
        company.lose_the_leader(&services, &play, rng.usize(..3)).await;
        if turn > 0 {
            company.freeze(rng.usize(..3), terms.freeze).await;
        }
    })
    .await;
    judge("cluster", play, company, stalls).await;
}
