//! Rooms that refuse, fail, limit, redirect or never answer: the contract's table of answers, seen from the
//! room, the journal and the dead-letter queue.

use serde_json::{Value, json};

use super::stage::{Stage, every_run, wish};
use crate::support::broker::eventually;
use crate::support::rooms::Hipchat;

fn two_rooms(hipchat: &Hipchat) -> String {
    every_run(hipchat, "ill") + &every_run(hipchat, "well")
}

const FIVE: [(&str, char); 5] = [("e-1", 'F'), ("e-2", 'F'), ("e-3", '.'), ("e-4", 'F'), ("e-5", '.')];
const IDS: [&str; 5] = ["e-1", "e-2", "e-3", "e-4", "e-5"];

/// While a room is out of order, the other is told; then the ill room hears the same in the same order.
async fn only_the_ill_room_waits(fault: Value, setting: Option<(&str, &str)>) {
    let mut stage = Stage::with(two_rooms).await;
    if let Some((key, value)) = setting {
        let (status, _) = stage.worker.terminate().await;
        assert!(status.success());
        stage.site = stage.site.with(key, value);
        stage.worker = stage.site.start().await;
    }
    stage.hipchat.set_faults(json!([fault])).await;
    stage.publish(&FIVE).await;
    stage.hears_in_order("well", &IDS).await;
    eventually("the ill room is tried again", async || {
        (stage.hipchat.attempts("ill").await.len() >= 3).then_some(())
    })
    .await;
    assert!(stage.hipchat.messages("ill").await.is_empty());
    let waiting = stage.outcome("e-2", "ill").await.expect("taken in");
    assert_eq!((waiting.outcome.as_str(), waiting.attempts), ("pending", 0), "only the first is tried");

    stage.hipchat.set_faults(json!([])).await;
    stage.hears_in_order("ill", &IDS).await;
    stage.ends("e-5", "ill", "sent", "recovered", 1).await;
    let first = stage.outcome("e-1", "ill").await.expect("taken in");
    assert!(first.outcome == "sent" && first.attempts >= 4, "{first:?}");
    stage.ends("e-1", "well", "sent", "every-run", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_that_answers_503_holds_only_its_own_line() {
    only_the_ill_room_waits(json!({"kind": "status", "status": 503, "room": "ill"}), None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_that_closes_the_connection_holds_only_its_own_line() {
    only_the_ill_room_waits(json!({"kind": "drop", "room": "ill"}), None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_that_never_answers_holds_only_its_own_line() {
    let hang = json!({"kind": "hang", "room": "ill"});
    only_the_ill_room_waits(hang, Some(("HIPCHAT__TIMEOUT", "1s"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_that_is_not_authorised_any_more_suspends_its_integration_and_replay_brings_all_back() {
    let stage = Stage::with(|hipchat| wish(hipchat, "ops", "changes") + &every_run(hipchat, "log")).await;
    // Late enough that what comes after it waits in the line.
    stage
        .hipchat
        .set_faults(json!([{"kind": "status", "status": 401, "room": "ops", "latency_ms": 1000}]))
        .await;
    stage.publish(&[("e-1", 'F'), ("e-2", '.')]).await;
    stage.is_in_state("ops", "suspended").await;
    let reason = stage.listed("ops").await["state_reason"].as_str().expect("a reason").to_owned();
    assert!(reason.contains("401"), "{reason}");
    stage.ends("e-1", "ops", "dead-lettered", "integration-broken", 1).await;
    stage.ends("e-2", "ops", "dead-lettered", "integration-broken", 0).await;
    stage.publish(&[("e-3", 'F')]).await;
    stage.ends("e-3", "ops", "suppressed", "integration-suspended", 0).await;
    stage.hears_in_order("log", &["e-1", "e-2", "e-3"]).await;
    let letters = stage.letters().await;
    let named = |name: &str| letters.iter().map(|letter| letter[name].clone()).collect::<Vec<_>>();
    assert_eq!(named("event_id"), ["e-1", "e-2"]);
    assert_eq!(named("integration_id"), ["ops", "ops"]);
    assert_eq!(named("reason"), ["integration-broken", "integration-broken"]);

    stage.hipchat.set_faults(json!([])).await;
    stage.site.run(&["integrations", "resume", "ops"]).await.done();
    // By the rule, neither is news any more: a replay goes past it.
    stage.site.run(&["dead-letters", "replay", "--integration", "ops", "--yes"]).await.done();
    stage.hears_in_order("ops", &["e-1", "e-2"]).await;
    stage.ends("e-1", "ops", "sent", "replayed", 1).await;
    stage.ends("e-2", "ops", "sent", "replayed", 1).await;
    assert!(stage.letters().await.is_empty());
    // Others did not hear it again.
    assert_eq!(stage.hipchat.messages("log").await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_not_followed_and_suspends_the_integration() {
    let stage = Stage::with(two_rooms).await;
    let elsewhere = stage.hipchat.room_url("elsewhere", "x");
    stage.hipchat.set_faults(json!([{"kind": "redirect", "location": elsewhere, "room": "ill"}])).await;
    stage.publish(&[("e-1", 'F')]).await;
    stage.ends("e-1", "ill", "dead-lettered", "integration-broken", 1).await;
    stage.is_in_state("ill", "suspended").await;
    stage.hears_in_order("well", &["e-1"]).await;
    let rooms = stage.hipchat.figures().await;
    assert!(rooms.iter().all(|room| room.id != "elsewhere"), "{rooms:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limit_is_waited_for_and_costs_no_attempt() {
    let stage = Stage::with(two_rooms).await;
    let limited = json!({
        "kind": "status", "status": 429, "room": "ill", "times": 1, "headers": {"Retry-After": "1"},
    });
    stage.hipchat.set_faults(json!([limited])).await;
    stage.publish(&FIVE[..1]).await;
    stage.hears_in_order("ill", &["e-1"]).await;
    stage.ends("e-1", "ill", "sent", "every-run", 1).await;
    let attempts = stage.hipchat.attempts("ill").await;
    assert_eq!(attempts.iter().map(|attempt| attempt.status).collect::<Vec<_>>(), [Some(429), Some(204)]);
    let waited = attempts[1].at.duration_since(attempts[0].at).as_millis();
    assert!(waited >= 950, "waited {waited} ms, not the second that the room asked for");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_goes_once_more_without_a_card_and_then_to_the_dead_letters() {
    let stage = Stage::with(two_rooms).await;
    // Of the first both forms, of the second the first form.
    stage.hipchat.set_faults(json!([{"kind": "status", "status": 400, "room": "ill", "times": 3}])).await;
    stage.publish(&FIVE[..3]).await;
    stage.hears_in_order("ill", &["e-2", "e-3"]).await;
    stage.ends("e-1", "ill", "dead-lettered", "rejected-by-hipchat", 2).await;
    stage.ends("e-2", "ill", "sent", "every-run", 2).await;
    stage.ends("e-3", "ill", "sent", "recovered", 1).await;
    let cards: Vec<bool> =
        stage.hipchat.messages("ill").await.iter().map(|message| message.card.is_some()).collect();
    assert_eq!(cards, [false, true]);
    let letters = stage.letters().await;
    assert_eq!(letters.len(), 1);
    assert_eq!((&letters[0]["event_id"], &letters[0]["attempts"]), (&json!("e-1"), &json!(2)));
    stage.hears_in_order("well", &["e-1", "e-2", "e-3"]).await;
}
