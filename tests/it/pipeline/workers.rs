//! Several workers on one PostgreSQL, as processes: they act as one, whatever becomes of each.

use std::time::Duration;

use fastrand::Rng;

use super::load::{Play, SMALL, now};
use crate::support::postgres::Postgres;
use crate::support::process::{Site, Worker};

/// Shorter than a freeze below, and longer than two calls may take.
const LEASE: &str = "2500ms";
const CALL: &str = "1s";
const FREEZE: Duration = Duration::from_secs(4);

fn together(postgres: &Postgres) -> impl FnOnce(Site) -> Site {
    |site| {
        site.sharing(postgres)
            .with("DISPATCH__LEASE", LEASE)
            .with("HIPCHAT__TIMEOUT", CALL)
            .with("HIPCHAT__CONNECT_TIMEOUT", CALL)
            .with("AMQP__HEARTBEAT", "2s")
    }
}

fn told(worker: &Worker) -> usize {
    worker.log().matches("\"message\":\"sent\"").count()
        + worker.log().matches("\"message\":\"digested\"").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_act_as_one() {
    let postgres = Postgres::fresh().await;
    let play = Play::prepare_on("two workers", 30_301, SMALL, None, together(&postgres)).await;
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

/// What becomes of one worker after the other.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Killed,
    Frozen,
    Stopped,
}

#[tokio::test(flavor = "multi_thread")]
async fn three_workers_lose_nothing_whatever_becomes_of_each() {
    let postgres = Postgres::fresh().await;
    let mut play = Play::prepare_on("three workers", 30_302, SMALL, None, together(&postgres)).await;
    play.confirms_lost = true;
    let mut workers = Vec::new();
    for _ in 0..3 {
        workers.push(play.site.start().await);
    }
    let mut kills = Vec::new();
    let strike = async {
        let mut rng = Rng::with_seed(play.work.seed);
        for (turn, fate) in
            [Fate::Killed, Fate::Frozen, Fate::Stopped, Fate::Frozen, Fate::Killed, Fate::Stopped]
                .into_iter()
                .enumerate()
        {
            // A random moment is what is wanted here: nothing is waited for.
            tokio::time::sleep(Duration::from_millis(rng.u64(200..700))).await;
            let place = turn % workers.len();
            match fate {
                Fate::Killed => {
                    workers.remove(place).kill();
                    kills.push(now());
                    workers.insert(place, play.site.start().await);
                }
                Fate::Frozen => {
                    workers[place].signal("STOP");
                    kills.push(now());
                    tokio::time::sleep(FREEZE).await;
                    workers[place].signal("CONT");
                }
                Fate::Stopped => {
                    let (status, _) = workers[place].terminate().await;
                    assert_eq!(status.code(), Some(0), "{status}");
                    workers[place] = play.site.start().await;
                }
            }
        }
    };
    tokio::join!(strike, play.publish());
    play.kills = kills;
    play.settles().await;
    let found = play.judge("three workers").await;
    assert!(found.repeats <= play.kills.len() * play.work.scale.rooms);
}
