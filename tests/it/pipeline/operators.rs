//! What operators do beside a running worker: change integrations, stop it, start another by mistake.

use std::time::{Duration, Instant};

use serde_json::json;

use super::stage::{Stage, TWO_SECONDS, every_run};
use crate::support::broker::eventually;

/// Publishes events until the journal says `outcome` of one for the integration; fails after two seconds.
async fn takes_effect(stage: &Stage, name: &str, integration: &str, outcome: &str) {
    let changed = Instant::now();
    let mut tick = tokio::time::interval(Duration::from_millis(200));
    for n in 0.. {
        tick.tick().await;
        let id = format!("{name}-{n}");
        stage.publish(&[(&id, 'F')]).await;
        let taken = eventually("the event is taken in", async || stage.outcome(&id, "known").await).await;
        assert_ne!(taken.outcome, "dead-lettered");
        if stage.outcome(&id, integration).await.is_some_and(|found| found.outcome == outcome) {
            return;
        }
        assert!(changed.elapsed() < TWO_SECONDS, "{name}: no {outcome} within two seconds");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_integrations_takes_effect_in_a_running_worker_within_two_seconds() {
    let stage = Stage::with(|hipchat| every_run(hipchat, "known")).await;
    stage.publish(&[("before", 'F')]).await;
    stage.hears_in_order("known", &["before"]).await;
    stage.site.apply(&every_run(&stage.hipchat, "added")).await;
    takes_effect(&stage, "applied", "added", "sent").await;
    stage.site.run(&["integrations", "pause", "added"]).await.done();
    takes_effect(&stage, "paused", "added", "suppressed").await;
    stage.site.run(&["integrations", "resume", "added"]).await.done();
    takes_effect(&stage, "resumed", "added", "sent").await;
    stage.site.run(&["integrations", "remove", "added", "--yes"]).await.done();
    eventually("the worker has let it go", async || {
        let gone = stage.worker.logged("integrations changed");
        gone.last().is_some_and(|line| line["integrations"] == 1).then_some(())
    })
    .await;
    stage.publish(&[("after", 'F')]).await;
    eventually("it is taken in", async || stage.outcome("after", "known").await).await;
    assert_eq!(stage.outcome("after", "added").await, None);
    assert_eq!(stage.outcome("before", "added").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_worker_on_the_same_store_is_refused_and_harms_nothing() {
    let stage = Stage::with(|hipchat| every_run(hipchat, "known")).await;
    let second = stage.site.run(&["run"]).await;
    assert_eq!(second.code, Some(78), "{second:?}");
    assert!(second.stderr.contains("worker.db") && second.stderr.contains("worker"), "{second:?}");
    stage.publish(&[("e-1", 'F')]).await;
    stage.hears_in_order("known", &["e-1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_worker_ends_what_is_in_flight_and_gives_back_the_rest() {
    let mut stage = Stage::with(|hipchat| every_run(hipchat, "slow")).await;
    stage.hipchat.set_faults(json!([{"kind": "answer", "latency_ms": 1500}])).await;
    stage.publish(&[("e-1", 'F'), ("e-2", 'F'), ("e-3", '.')]).await;
    // In the room, and not answered yet.
    stage.hears("slow", 1).await;
    let (status, took) = stage.worker.terminate().await;
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    let outcomes = [stage.outcome("e-1", "slow").await, stage.outcome("e-2", "slow").await];
    let words = outcomes.map(|outcome| outcome.expect("taken in").outcome);
    assert_eq!(words, ["sent", "pending"]);
    stage.hipchat.set_faults(json!([])).await;
    stage.worker = stage.site.start().await;
    stage.hears_in_order("slow", &["e-1", "e-2", "e-3"]).await;
    for (id, reason) in [("e-1", "every-run"), ("e-2", "every-run"), ("e-3", "recovered")] {
        stage.ends(id, "slow", "sent", reason, 1).await;
    }
}
