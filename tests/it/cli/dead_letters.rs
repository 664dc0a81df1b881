//! `dead-letters …`: looking, filtering, putting back and discarding, whoever put the letter there.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use serde_json::{Value, json};

use crate::support::broker::eventually;
use crate::support::cli::{Lab, Worker, cloud_run, run_body};

fn column<'l>(letters: &'l [Value], key: &str) -> Vec<&'l str> {
    letters.iter().map(|letter| letter[key].as_str().unwrap_or("-")).collect()
}

/// Two integrations of which one is broken by its room, a malformed event, and the three letters of that.
async fn three_letters() -> (Lab, Worker, Vec<Value>) {
    let lab = Lab::new().await;
    lab.apply(&(lab.integration("good", "monitor-results") + &lab.integration("gone", "monitor-results")))
        .await;
    lab.rooms.fail(json!([{"kind": "status", "status": 404, "room": "gone"}])).await;
    let worker = lab.worker().await;
    lab.broker.publish("monitor.acme.m", "bad-1", b"{\"monitor_uid\": 7}").await;
    lab.letters(1).await;
    lab.run_with(&["publish", "-"], &[], cloud_run("run-1", "m", 1).to_string().as_bytes()).await.done();
    lab.rooms.receives("good", 1).await;
    lab.letters(2).await;
    lab.broker.publish("monitor.acme.m", "bad-2", b"nothing").await;
    let letters = lab.letters(3).await;
    (lab, worker, letters)
}

#[tokio::test]
async fn letters_are_listed_counted_filtered_and_shown() {
    let (lab, worker, letters) = three_letters().await;
    assert_eq!(column(&letters, "event_id"), ["bad-1", "run-1", "bad-2"]);
    assert_eq!(column(&letters, "integration_id"), ["-", "gone", "-"]);
    assert_eq!(column(&letters, "reason"), ["malformed-event", "integration-broken", "malformed-event"]);
    assert_eq!(
        letters[0]["detail"],
        "metrics: missing; send the run's metrics as an object with passedTests, failedTests and errors"
    );
    assert_eq!((&letters[1]["attempts"], &letters[1]["last_status"]), (&json!(1), &json!(404)));
    for letter in &letters {
        for key in ["id", "reason", "detail", "event_id", "integration_id", "attempts", "dead_lettered_at"] {
            assert!(letter.get(key).is_some(), "{key}: {letter}");
        }
        assert!(letter["dead_lettered_at"].as_str().is_some_and(|at| at.parse::<jiff::Timestamp>().is_ok()));
    }
    assert_eq!(
        lab.run(&["dead-letters", "list"]).await.done(),
        "LETTERS  REASON              INTEGRATION\n\
         2        malformed-event     -\n\
         1        integration-broken  gone\n"
    );
    assert_eq!(
        lab.run(&["dead-letters", "list", "--output", "json"]).await.json()[0],
        json!({"reason": "malformed-event", "integration_id": null, "count": 2})
    );
    let last = letters[2]["dead_lettered_at"].as_str().expect("a time");
    let cases: [(&[&str], &[&str]); 8] = [
        (&["--reason", "malformed-event"], &["bad-1", "bad-2"]),
        (&["--integration", "gone"], &["run-1"]),
        (&["--event", "bad-2"], &["bad-2"]),
        (&["--since", last], &["bad-2"]),
        (&["--until", last], &["bad-1", "run-1"]),
        (&["--limit", "1"], &["bad-1"]),
        (&["--reason", "malformed-event", "--integration", "gone"], &[]),
        (&["--event", "nobody"], &[]),
    ];
    for (filter, expected) in cases {
        let arguments: Vec<&str> =
            ["dead-letters", "list", "--each", "--output", "json"].iter().chain(filter).copied().collect();
        let found = lab.run(&arguments).await.json();
        assert_eq!(column(found.as_array().expect("a list"), "event_id"), expected, "{filter:?}");
    }
    for arguments in
        [&["dead-letters", "list", "--event", "x"][..], &["dead-letters", "list", "--each", "--event", "x"]]
    {
        assert_eq!(lab.run(arguments).await.done(), "no dead letter is there, or none that matches\n");
    }
    let id = letters[0]["id"].as_str().expect("an id");
    let shown = lab.run(&["dead-letters", "show", id, "--output", "json"]).await.json();
    assert_eq!((&shown["body"], &shown["id"]), (&json!("{\"monitor_uid\": 7}"), &letters[0]["id"]));
    assert_eq!(shown["headers"]["x-dead-letter-reason"], "malformed-event");
    let human = lab.run(&["dead-letters", "show", id]).await.done();
    assert!(human.contains("\nreason                malformed-event\n"), "{human}");
    assert!(human.ends_with("\n\n{\"monitor_uid\": 7}\n"), "{human}");
    assert_eq!(
        lab.run(&["dead-letters", "show", "nobody"]).await.complaint(1),
        "there is no dead letter \"nobody\"; `dead-letters list --each` shows all"
    );
    assert_eq!(lab.letters(3).await, letters, "looking has moved nothing");
    worker.stop().await;
}

#[tokio::test]
async fn replay_and_discard_want_yes_and_do_only_what_was_asked() {
    let (lab, worker, letters) = three_letters().await;
    let table = "LETTERS  REASON              INTEGRATION\n1        integration-broken  gone\n";
    assert_eq!(
        lab.run(&["dead-letters", "replay", "--integration", "gone"]).await.done(),
        format!("{table}1 letter would be put back into the work queue; add --yes to do it\n")
    );
    assert_eq!(
        lab.run(&["dead-letters", "discard", "--integration", "gone"]).await.done(),
        format!("{table}1 letter would be removed for good; add --yes to do it\n")
    );
    let counted = lab.run(&["dead-letters", "discard", "--output", "json"]).await.json();
    assert_eq!(counted, json!({"would_act_on": 3}));
    for verb in ["replay", "discard"] {
        assert_eq!(
            lab.run(&["dead-letters", verb, "--event", "nobody", "--yes"]).await.complaint(1),
            "no dead letter matches; `dead-letters list --each` shows all"
        );
    }
    assert_eq!(lab.letters(3).await, letters, "nothing was done yet");

    // The room is mended, the integration resumed: its letter goes to it alone, past the rule.
    lab.rooms.fail(json!([])).await;
    lab.run(&["integrations", "resume", "gone"]).await.done();
    worker.says(&["integrations changed"]).await;
    eventually("the worker knows that it is resumed", async || {
        (worker.log().matches("integrations changed").count() >= 2).then_some(())
    })
    .await;
    assert_eq!(
        lab.run(&["dead-letters", "replay", "--integration", "gone", "--yes", "--rate", "5"]).await.done(),
        "1 letter replayed\n"
    );
    lab.rooms.receives("gone", 1).await;
    let outcomes = lab.outcomes("run-1").await;
    let told: Vec<_> = outcomes.iter().map(|(i, o, r)| (i.as_str(), o.as_str(), r.as_str())).collect();
    assert_eq!(told, [("gone", "sent", "replayed"), ("good", "sent", "every-run")]);
    assert_eq!(lab.rooms.messages("good").await.len(), 1, "it was told long ago");

    let id = letters[0]["id"].as_str().expect("an id");
    let done = lab.run(&["dead-letters", "discard", id, "--yes", "--output", "json"]).await.json();
    assert_eq!(done, json!({"discarded": 1, "missing": 0}));
    let rest = lab.letters(1).await;
    assert_eq!(rest[0], letters[2]);
    assert_eq!(lab.run(&["dead-letters", "replay", "--yes"]).await.done(), "1 letter replayed\n");
    let again = eventually("still malformed, it comes back", async || {
        let letters = lab.letters(1).await;
        (letters[0]["dead_lettered_at"] != rest[0]["dead_lettered_at"]).then_some(letters)
    })
    .await;
    assert_eq!(column(&again, "event_id"), ["bad-2"]);
    worker.stop().await;
}

#[tokio::test]
async fn a_letter_that_any_tool_moves_back_is_a_replay() {
    let (lab, worker, _) = three_letters().await;
    lab.rooms.fail(json!([])).await;
    lab.run(&["integrations", "resume", "gone"]).await.done();
    eventually("the worker knows that it is resumed", async || {
        (worker.log().matches("integrations changed").count() >= 2).then_some(())
    })
    .await;
    let names = &lab.broker.topology;
    let first = lab.broker.take(&names.dead_letters).await;
    assert_eq!(first.properties.message_id().as_ref().map(|id| id.as_str()), Some("bad-1"));
    let letter = lab.broker.take(&names.dead_letters).await;
    // As the management page and a shovel do: the same properties, by the default exchange, to the queue.
    lab.broker.publish_to("", &names.queue, &letter.data, letter.properties.clone()).await;
    lab.rooms.receives("gone", 1).await;
    assert_eq!(lab.rooms.messages("good").await.len(), 1, "to that integration alone");

    // Its integration was removed meanwhile: it comes back, and still knows for whom it is.
    lab.run(&["integrations", "remove", "gone"]).await.done();
    eventually("the worker knows that it is removed", async || {
        (worker.figure("hipchat_notifier_integrations{state=\"active\"}").await == Some(1.0)).then_some(())
    })
    .await;
    lab.broker.publish_to("", &names.queue, &letter.data, letter.properties).await;
    let letters = lab.letters(2).await;
    assert_eq!(column(&letters, "event_id"), ["bad-2", "run-1"]);
    assert_eq!(
        (&letters[1]["integration_id"], &letters[1]["reason"]),
        (&json!("gone"), &json!("integration-broken"))
    );
    assert_eq!(
        letters[1]["detail"],
        "replayed for integration \"gone\", which does not exist (any more); create it and replay, or remove the header \
         x-integration-id to offer the event to all"
    );
    assert_eq!(lab.rooms.messages("good").await.len(), 1);
    worker.stop().await;
}

#[tokio::test]
async fn what_the_broker_itself_dead_letters_is_listed_and_can_be_replayed() {
    let lab = Lab::new().await;
    lab.apply(&lab.integration("runs", "monitor-results")).await;
    lab.declare().await;
    let names = &lab.broker.topology;
    let headers = FieldTable::from(std::collections::BTreeMap::from([(
        "team".into(),
        AMQPValue::LongString("acme".into()),
    )]));
    let soon = BasicProperties::default()
        .with_delivery_mode(2)
        .with_message_id("expired-1".into())
        .with_headers(headers)
        .with_expiration("1".into());
    lab.broker.publish_to(&names.exchange, "monitor.acme.m", run_body("m", 1).as_bytes(), soon).await;
    let letters = lab.letters(1).await;
    assert_eq!(
        (&letters[0]["event_id"], &letters[0]["reason"]),
        (&json!("expired-1"), &json!("worker-fault"))
    );
    assert_eq!(
        letters[0]["detail"],
        format!(
            "the broker moved it here from queue '{}' (expired, 1 times): it waited longer than a time limit on the \
             queue or the message",
            names.queue
        )
    );
    assert_eq!(letters[0]["original_routing_key"], "monitor.acme.m");
    let worker = lab.worker().await;
    assert_eq!(lab.run(&["dead-letters", "replay", "--yes"]).await.done(), "1 letter replayed\n");
    lab.rooms.receives("runs", 1).await;
    assert_eq!(lab.outcomes("expired-1").await[0].1, "sent");
    lab.letters(0).await;
    worker.stop().await;
}
