//! An integration's own limit, with another integration in the same room.

use jiff::Timestamp;

use super::stage::Stage;
use crate::support::rooms::Hipchat;

/// Two integrations that hear every run in one room: `slow` one message a second, each on its own.
fn slow_and_quick(hipchat: &Hipchat) -> String {
    let url = hipchat.room_url("ops", "token-of-ops");
    ["slow", "quick"]
        .map(|id| {
            let throttle = if id == "slow" { "messages = 1\nper = \"1s\"\n" } else { "" };
            format!(
                "[[integrations]]\nid = \"{id}\"\nkind = \"monitor-results\"\nteam = \"acme\"\n\
                 room_url = \"{url}\"\n[integrations.notify]\non = \"all\"\n[integrations.throttle]\n\
                 overflow = \"queue\"\n{throttle}"
            )
        })
        .concat()
}

/// When an event was told for an integration.
async fn sent_at(stage: &Stage, event: &str, integration: &str) -> Timestamp {
    let explained = stage.site.run(&["explain", event, "--output", "json"]).await.done().json();
    let outcomes = explained["outcomes"].as_array().expect("a list");
    let one = outcomes.iter().find(|outcome| outcome["integration_id"] == integration).expect("it is there");
    one["sent_at"].as_str().expect("it was told").parse().expect("RFC 3339")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throttled_integration_that_queues_is_told_one_by_one_and_holds_nobody_up() {
    let stage = Stage::with(slow_and_quick).await;
    let ids = ["e-1", "e-2", "e-3"];
    stage.publish(&ids.map(|id| (id, 'F'))).await;
    let mut told = Vec::new();
    for id in ids {
        for integration in ["slow", "quick"] {
            stage.ends(id, integration, "sent", "every-run", 1).await;
        }
        told.push((sent_at(&stage, id, "slow").await, sent_at(&stage, id, "quick").await));
    }
    assert_eq!(stage.hipchat.messages("ops").await.len(), 6, "each in a message of its own");
    let slow: Vec<Timestamp> = told.iter().map(|(slow, _)| *slow).collect();
    for pair in slow.windows(2) {
        let apart = pair[1].duration_since(pair[0]).as_millis();
        assert!(apart >= 1_000, "in order, and not more than one a second: {slow:?}");
    }
    assert!(told[2].1 < slow[1], "the other heard all three before its second: {told:?}");
}
