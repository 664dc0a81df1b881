//! A rolling restart: workers are replaced one after the other while events go on coming. Each room hears everything
//! once and in order, and at full size, on a machine of its own, none waits for longer than a worker may take to stop.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::load::is_full;
use super::play::now;
use super::stage::{Stage, every_run};
use super::strikes::Company;
use crate::support::postgres::Postgres;
use crate::support::rooms::Hipchat;

/// `shutdown.grace`: a worker that takes longer to stop is cut off.
const GRACE: Duration = Duration::from_secs(10);
const ROOMS: [&str; 3] = ["r-1", "r-2", "r-3"];
/// Slow enough that calls are on their way whenever a worker is told to stop.
const ANSWER_MS: u64 = 60;
const BETWEEN_EVENTS: Duration = Duration::from_millis(400);

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_loses_nothing_and_stalls_no_room() {
    let (lasts, between) = match is_full() {
        true => (Duration::from_secs(240), Duration::from_secs(3)),
        false => (Duration::from_secs(12), Duration::from_secs(1)),
    };
    let postgres = Postgres::fresh().await;
    let rooms = |hipchat: &Hipchat| ROOMS.iter().map(|room| every_run(hipchat, room)).collect::<String>();
    let mut stage = Stage::set_up(rooms, |site| {
        site.sharing(&postgres)
            .with("PACING__ROOM__MESSAGES", "100000")
            .with("PACING__TOKEN__CALLS", "100000")
            .with("SHUTDOWN__GRACE", &format!("{}s", GRACE.as_secs()))
    })
    .await;
    stage.hipchat.set_faults(serde_json::json!([{"kind": "answer", "latency_ms": ANSWER_MS}])).await;
    let mut company = Company::of(&stage.site, 3).await;
    let (status, _) = stage.worker.terminate().await;
    assert!(status.success(), "{status}");
    let (began, mut published) = (Instant::now(), Vec::new());
    let publish = async {
        let mut pace = tokio::time::interval(BETWEEN_EVENTS);
        while began.elapsed() < lasts {
            pace.tick().await;
            let id = format!("e-{}", published.len() + 1);
            published.push((id.clone(), now()));
            stage.publish(&[(&id, '.')]).await;
        }
    };
    let mut slowest = Duration::ZERO;
    let replace = async {
        for turn in 0.. {
            if began.elapsed() >= lasts {
                return;
            }
            tokio::time::sleep(between).await;
            slowest = slowest.max(company.replace(&stage.site, turn % 3).await);
        }
    };
    tokio::join!(publish, replace);

    let ids: Vec<&str> = published.iter().map(|(id, _)| id.as_str()).collect();
    let mut stalls = Vec::new();
    for room in ROOMS {
        stage.hears_in_order(room, &ids).await;
        let heard: Vec<Timestamp> =
            stage.hipchat.messages(room).await.iter().map(|message| message.received_at).collect();
        let waited = published.iter().zip(heard).map(|((_, from), to)| to.duration_since(*from));
        stalls.extend(waited.filter_map(|wait| Duration::try_from(wait).ok()));
    }
    stalls.sort();
    let longest = stalls.last().copied().expect("messages");
    println!(
        "rolling restart: {} events to {} rooms in {:.0} s; {}; slowest to stop {slowest:?}; from the event to its \
         room: median {:?}, longest {longest:?}",
        ids.len(),
        ROOMS.len(),
        lasts.as_secs_f64(),
        company.done,
        stalls[stalls.len() / 2]
    );
    // On a machine that runs the other tests too, time says nothing.
    assert!(!is_full() || longest < GRACE, "a room waited for {longest:?}");
}
