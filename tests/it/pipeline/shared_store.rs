//! A worker whose shared store is not there: at the start it is waited for, in the middle nothing is acknowledged, and
//! it goes on by itself.

use std::time::Duration;

use super::load::SMALL;
use super::play::Play;
use super::stage::{Stage, every_run};
use crate::support::broker::{Broker, eventually};
use crate::support::gate::Gate;
use crate::support::postgres::Postgres;
use crate::support::process::{Site, Worker};
use crate::support::rooms::client;

/// What `/readyz` says: its status and its text.
async fn readiness(http: &str) -> Option<(u16, String)> {
    let answer = client().get(format!("http://{http}/readyz")).send().await.ok()?;
    Some((answer.status().as_u16(), answer.text().await.ok()?))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_not_there_at_the_start_is_waited_for() {
    let (postgres, broker) = (Postgres::fresh().await, Broker::fresh().await);
    let gate = Gate::before(postgres.host_and_port()).await;
    gate.close();
    let url = postgres.url_by(&gate.address);
    let site = Site::on(&broker).sharing(&postgres).with("STORE__URL", &url);
    let worker = site.spawn();
    let http = eventually("it says where to ask", async || {
        let lines = worker.logged("worker waits for its store");
        Some(lines.first()?["http"].as_str()?.to_owned())
    })
    .await;
    let (status, why) = readiness(&http).await.expect("it answers");
    assert_eq!(status, 503);
    assert!(why.contains("the store: store postgres://") && why.contains("is out of reach"), "{why}");
    assert_eq!(worker.logged("can't open it").len(), 1, "one clear line");
    gate.open();
    worker.becomes_ready().await;
    let password =
        postgres.url.split_once("://notifier:").expect("a password").1.split_once('@').expect("a host").0;
    assert!(!worker.log().contains(password) && !why.contains(password));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_waits_for_its_store_can_be_stopped() {
    let (postgres, broker) = (Postgres::fresh().await, Broker::fresh().await);
    let site = Site::on(&broker).sharing(&postgres).with("STORE__URL", &postgres.url_by("127.0.0.1:1"));
    let mut worker = site.spawn();
    eventually("it waits", async || worker.logged("worker waits for its store").first().map(drop)).await;
    let (status, _) = worker.terminate().await;
    assert_eq!(status.code(), Some(0), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_goes_away_in_the_middle_stops_the_intake_and_loses_nothing() {
    let postgres = Postgres::fresh().await;
    let gate = Gate::before(postgres.host_and_port()).await;
    let url = postgres.url_by(&gate.address);
    let play = Play::prepare_on("store away", 30_303, SMALL, None, |site| {
        site.sharing(&postgres).with("STORE__URL", &url).with("DISPATCH__LEASE", "60s")
    })
    .await;
    let worker = play.site.start().await;
    let away = async {
        for _ in 0..2 {
            eventually("it works", async || (worker.logged("sent").len() > 5).then_some(())).await;
            gate.close();
            eventually("it is said", async || (!worker.logged("is out of reach").is_empty()).then_some(()))
                .await;
            tokio::time::sleep(Duration::from_secs(2)).await;
            gate.open();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::join!(away, play.publish());
    play.settles().await;
    let found = play.judge("store away").await;
    assert_eq!(found.repeats, 0);
    assert!(!worker.logged("works again").is_empty());
}

/// Longer than a lease, so that what each worker holds is anybody's when the store is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_outage_lets_no_room_hear_twice_what_was_posted_and_could_not_be_recorded() {
    const ROOMS: usize = 8;
    let postgres = Postgres::fresh().await;
    let gate = Gate::before(postgres.host_and_port()).await;
    let name = |n: usize| format!("r-{n}");
    let mut stage = Stage::sharing(&postgres, |hipchat| {
        (0..ROOMS).map(|n| every_run(hipchat, &name(n))).collect::<String>()
    })
    .await;
    let (status, _) = stage.worker.terminate().await;
    assert!(status.success(), "{status}");
    stage.hipchat.set_faults(serde_json::json!([{"kind": "answer", "latency_ms": 600}])).await;
    // On a busy machine the calls take longer still, and none may be given up.
    stage.site = stage
        .site
        .with("STORE__URL", &postgres.url_by(&gate.address))
        .with("DISPATCH__LEASE", "9s")
        .with("HIPCHAT__TIMEOUT", "4s");
    stage.worker = stage.site.start().await;
    let other = stage.site.start().await;
    stage.publish(&[("e-1", '.')]).await;
    for n in 0..ROOMS {
        eventually("it is told", async || (!stage.hipchat.messages(&name(n)).await.is_empty()).then_some(()))
            .await;
    }
    // Every room has the message by now, and no worker its answer.
    gate.close();
    tokio::time::sleep(Duration::from_secs(12)).await;
    gate.open();
    stage.site = stage.site.with("STORE__URL", &postgres.url);
    for n in 0..ROOMS {
        stage.ends("e-1", &name(n), "sent", "every-run", 1).await;
        assert_eq!(stage.hipchat.messages(&name(n)).await.len(), 1, "{}", name(n));
    }
    drop(other);
}

/// One of two workers loses the store, and it alone: refused, or without an answer to anything.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_alone_cannot_reach_the_store_lets_the_other_take_in() {
    let postgres = Postgres::fresh().await;
    let gate = Gate::before(postgres.host_and_port()).await;
    let mut stage = Stage::sharing(&postgres, |hipchat| every_run(hipchat, "ops")).await;
    // The first one on the queue is the one that loses the store.
    let (status, _) = stage.worker.terminate().await;
    assert!(status.success(), "{status}");
    let direct = postgres.url.clone();
    stage.site = stage.site.with("STORE__URL", &postgres.url_by(&gate.address));
    stage.worker = stage.site.start().await;
    stage.site = stage.site.with("STORE__URL", &direct);
    let mut other = stage.site.start().await;
    stands_by(&other, 1).await;
    let http = stage.worker.http().await;

    for (turn, [first, second, third]) in
        [["e-1", "e-2", "e-3"], ["e-4", "e-5", "e-6"]].into_iter().enumerate()
    {
        stage.publish(&[(first, '.')]).await;
        stage.ends(first, "ops", "sent", "every-run", 1).await;
        match turn {
            0 => gate.close(),
            _ => gate.stall(true),
        }
        stage.publish(&[(second, '.')]).await;
        stage.ends(second, "ops", "sent", "every-run", 1).await;
        let why = eventually("it says so", async || {
            let (status, why) = readiness(&http).await?;
            (status == 503 && why.contains("not subscribed at RabbitMQ")).then_some(why)
        })
        .await;
        assert!(why.contains("a batch could not be made durable within 4 s"), "{why}");
        assert_eq!(stage.worker.logged("giving up the place").len(), turn + 1, "one line");
        gate.open();
        gate.stall(false);
        stands_by(&stage.worker, turn + 1).await;
        stage.worker.becomes_ready().await;
        let consuming = "broker_session{state=\"consuming\"} 1";
        assert!(!metrics(&http).await.contains(consuming));
        assert!(metrics(&other.http().await).await.contains(consuming));
        // The place comes back to it, as the next in the line, when the other one goes.
        let (status, _) = other.terminate().await;
        assert!(status.success(), "{status}");
        stage.publish(&[(third, '.')]).await;
        stage.ends(third, "ops", "sent", "every-run", 1).await;
        assert!(metrics(&http).await.contains(consuming));
        other = stage.site.start().await;
        stands_by(&other, 1).await;
    }
    stage.hears_in_order("ops", &["e-1", "e-2", "e-3", "e-4", "e-5", "e-6"]).await;
}

/// Waits until a worker has said so often that it stands by.
async fn stands_by(worker: &Worker, times: usize) {
    let said = || worker.logged("standing by").len();
    eventually("it stands by", async || (said() == times).then_some(())).await;
}

/// The text of `/metrics`.
async fn metrics(http: &str) -> String {
    let answer = client().get(format!("http://{http}/metrics")).send().await.expect("it answers");
    answer.text().await.expect("text")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_verb_works_on_a_shared_store_and_none_shows_its_password() {
    let (postgres, broker) = (Postgres::fresh().await, Broker::fresh().await);
    let by_hand = Site::on(&broker).sharing(&postgres).with("STORE__MIGRATE", "false");
    let told = by_hand.run(&["check"]).await.done();
    assert!(told.stdout.contains("yet; `hipchat-notifier migrate` makes it"), "{told:?}");
    let mut refused = by_hand.spawn();
    eventually("it ends", async || refused.ended()).await;
    assert!(refused.log().contains("has no schema yet, this version needs schema"), "{}", refused.log());
    let looked = by_hand.run(&["explain", "e-1"]).await;
    assert_eq!(looked.code, Some(78), "{looked:?}");
    assert!(looked.stderr.contains("there is no store at postgres://notifier:***@"), "{looked:?}");
    for _ in 0..2 {
        let migrated = by_hand.run(&["migrate"]).await.done();
        assert!(migrated.stdout.contains("has the schema of this version"), "{migrated:?}");
    }
    let site = Site::on(&broker).sharing(&postgres);
    site.apply(
        "[[integrations]]\nid = \"one\"\nname = \"One\"\nkind = \"monitor-results\"\n\
         room_url = \"https://acme.hipchat.com/v2/room/1/notification?auth_token=abcdefabcdefabcdefabcdefabcdef\"\n",
    )
    .await;
    let listed = site.run(&["integrations", "list", "--output", "json"]).await.done();
    assert_eq!(listed.json()[0]["id"], "one");
    let worker = by_hand.start().await;
    let checked = site.run(&["check"]).await.done();
    assert!(checked.stdout.contains("on this store: one at 127.0.0.1 since 20"), "{checked:?}");
    let unknown = site.run(&["explain", "e-1"]).await;
    assert_eq!(unknown.code, Some(1), "{unknown:?}");
    site.run(&["integrations", "pause", "one"]).await.done();
    eventually("the worker hears of it", async || worker.logged("integrations changed").first().map(drop))
        .await;

    let other_key = Site::on(&broker).sharing(&postgres).with("SECRETS__KEY", &"ab".repeat(32));
    let refused = other_key.run(&["integrations", "list"]).await;
    assert_eq!(refused.code, Some(78), "{refused:?}");
    assert!(refused.stderr.contains("was begun with another key than the one in secrets.key"), "{refused:?}");
    let password =
        postgres.url.split_once("://notifier:").expect("a password").1.split_once('@').expect("a host").0;
    for ran in [told, looked, listed, checked, unknown, refused] {
        assert!(!format!("{ran:?}").contains(password), "{ran:?}");
    }
    assert!(!worker.log().contains(password));
}
