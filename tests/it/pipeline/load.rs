//! The promises under load: nothing lost, nothing twice, in order, within the budgets; undisturbed, with the
//! worker killed ten times, and with it stopped and the broker's connections cut on the way.

use std::time::Duration;

use fastrand::Rng;
use serde_json::json;

use super::play::{Play, now};
use super::twice::Cut;
use super::workload::Scale;
use crate::support::broker::Broker;
use crate::support::process::Worker;
use crate::support::proxy::Proxy;

const KILLS: usize = 10;

/// Small enough for every run of the tests: budgets short, so that they are used up all the time.
pub const SMALL: Scale = Scale {
    events: 1_000,
    integrations: 40,
    rooms: 12,
    room: (10, Duration::from_secs(2)),
    token: (1_000, Duration::from_secs(10)),
    publish_over: Duration::from_secs(6),
    collate: Duration::from_secs(1),
    every: Duration::from_secs(2),
    patience: Duration::from_secs(120),
};

/// What is promised, with HipChat's own budgets but six times as fast: a minute of 10 s. At their own pace the
/// integrations that want nothing merged would queue for more than an hour.
const FULL: Scale = Scale {
    events: 10_000,
    integrations: 200,
    rooms: 50,
    room: (30, Duration::from_secs(10)),
    token: (500, Duration::from_secs(50)),
    publish_over: Duration::from_secs(75),
    collate: Duration::from_secs(5),
    every: Duration::from_secs(10),
    // Some 600 wait for an integration that wants none merged and no more than 15 in 10 s.
    patience: Duration::from_secs(20 * 60),
};

fn scale() -> Scale {
    if is_full() { FULL } else { SMALL }
}

/// Whether the promises are to be proved at full size.
pub fn is_full() -> bool {
    std::env::var("PROVE").is_ok_and(|size| size == "full")
}

/// Kills the worker at ten moments drawn from the seed, and starts it again each time.
async fn kill_and_restart(play: &Play, mut worker: Worker) -> (Worker, Vec<Cut>) {
    let mut rng = Rng::with_seed(play.work.seed);
    let share = play.work.scale.publish_over.as_secs_f64() / KILLS as f64;
    let mut kills = Vec::new();
    for _ in 0..KILLS {
        // A random moment is what is wanted here: nothing is waited for.
        tokio::time::sleep(Duration::from_secs_f64(share * (0.2 + rng.f64()))).await;
        worker.kill();
        kills.push(Cut::at(now()));
        worker = play.site.start().await;
    }
    (worker, kills)
}

#[tokio::test(flavor = "multi_thread")]
async fn under_load_all_is_told_once_in_order_and_within_the_budgets() {
    let play = Play::prepare("load", 20_261, scale(), None).await;
    let _worker = play.site.start().await;
    play.publish().await;
    play.settles().await;
    let found = play.judge("load").await;
    assert_eq!(found.repeats, 0);
    // The load must have been one: budgets used up, and some of everything.
    let full = u64::from(play.work.scale.room.0);
    assert!(found.max_in_window + 1 >= full, "no room came near its budget");
    assert!(found.merged > 0 && found.sent > 0 && found.suppressed > 0 && found.malformed > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn rooms_that_often_fail_hear_all_in_order_and_nothing_merged_while_budgets_last() {
    const AMPLE: Scale =
        Scale { room: (100_000, Duration::from_secs(2)), token: (100_000, Duration::from_secs(2)), ..SMALL };
    let mut play = Play::prepare("failing rooms", 20_265, AMPLE, None).await;
    play.site = play.site.with("RETRY__FIRST", "20ms").with("RETRY__LONGEST", "100ms");
    let failing = json!([
        {"kind": "status", "status": 503, "probability": 0.2, "seed": play.work.seed},
        {"kind": "drop", "probability": 0.1, "seed": play.work.seed},
        {"kind": "status", "status": 429, "headers": {"Retry-After": "0"}, "probability": 0.05},
    ]);
    play.hipchat.set_faults(failing).await;
    let _worker = play.site.start().await;
    play.publish().await;
    play.settles().await;
    let found = play.judge("failing rooms").await;
    assert_eq!((found.repeats, found.merged), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_ten_times_it_loses_nothing_and_repeats_only_what_was_in_flight() {
    let mut play = Play::prepare("kill -9", 20_262, scale(), None).await;
    let worker = play.site.start().await;
    let (_worker, kills) = tokio::join!(kill_and_restart(&play, worker), play.publish()).0;
    play.cuts = kills;
    play.confirms_lost = true;
    play.settles().await;
    let found = play.judge("kill -9").await;
    assert!(found.repeats <= KILLS * play.work.scale.rooms);
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_and_restarted_under_load_it_repeats_nothing() {
    let play = Play::prepare("SIGTERM", 20_263, SMALL, None).await;
    let stop_and_restart = async {
        let mut rng = Rng::with_seed(play.work.seed);
        let mut worker = play.site.start().await;
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(rng.u64(600..1_800))).await;
            let (status, took) = worker.terminate().await;
            assert_eq!(status.code(), Some(0), "{status}");
            // Nothing in flight takes longer than a room's answer, so there is no need for the grace time.
            assert!(took < Duration::from_secs(5), "{took:?}");
            worker = play.site.start().await;
        }
        worker
    };
    let (_worker, ()) = tokio::join!(stop_and_restart, play.publish());
    play.settles().await;
    assert_eq!(play.judge("SIGTERM").await.repeats, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_its_connections_cut_under_load_it_heals_and_repeats_nothing() {
    let to_broker = Broker::bare().await;
    let proxy = Proxy::before(to_broker.host_and_port()).await;
    let url = to_broker.url_by(&proxy.address);
    let mut play = Play::prepare("cut connections", 20_264, SMALL, Some(&url)).await;
    play.confirms_lost = true;
    let worker = play.site.start().await;
    let cut = async {
        let mut rng = Rng::with_seed(play.work.seed);
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_millis(rng.u64(500..1_500))).await;
            proxy.cut();
        }
    };
    tokio::join!(cut, play.publish());
    play.settles().await;
    let again = worker.logged("taking in events from RabbitMQ").len();
    assert!(again >= 2, "the cuts did not reach the worker's session");
    let found = play.judge("cut connections").await;
    assert_eq!(found.repeats, 0);
}
