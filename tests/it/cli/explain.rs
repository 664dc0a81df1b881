//! `explain` and `simulate`: what became of an event, and what would, decided alike.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::broker::eventually;
use crate::support::cli::{Lab, TOKEN, cloud_run};
use crate::support::postgres::Postgres;

fn activity(id: &str, user: &str, model: &str) -> Value {
    json!({
        "specversion": "1.0", "id": id, "source": "/test", "type": "com.postman.activity.request.update",
        "teamid": "acme",
        "data": {"action": "update", "model": "request", "model_uid": model, "model_name": model, "user_name": user},
    })
}

async fn publish(lab: &Lab, events: &[Value]) {
    let lines: Vec<String> = events.iter().map(Value::to_string).collect();
    lab.run_with(&["publish", "-"], &[], lines.join("\n").as_bytes()).await.done();
}

/// The outcomes of an event as `explain` has them now.
async fn explained(lab: &Lab, event: &str) -> Value {
    lab.run(&["explain", event, "--output", "json"]).await.json()
}

fn integration(lab: &Lab, id: &str, kind: &str, notify: &str) -> String {
    let url = lab.room_url(id, TOKEN);
    format!(
        "[[integrations]]\nid = \"{id}\"\nkind = \"{kind}\"\nteam = \"acme\"\nroom_url = \"{url}\"\n\
         [integrations.notify]\n{notify}\n"
    )
}

#[tokio::test]
async fn every_outcome_is_explained_with_the_contracts_fields() {
    let lab = Lab::new().await;
    let text = lab.integration("all", "monitor-results").replace(lab.rooms.address.as_str(), "ADDRESS");
    let broken = text.replace("\"all\"\nkind", "\"broken\"\nkind").replace("room/all", "room/broken");
    let quiet = integration(&lab, "quiet", "monitor-results", "on = \"failures-then-success\"");
    let feed = integration(&lab, "feed", "team-activity", "on = \"each\"\ncollate = \"1s\"");
    lab.apply(&((text + &broken).replace("ADDRESS", &lab.rooms.address) + &quiet + &feed)).await;
    lab.rooms
        .fail(json!([
            {"kind": "status", "status": 404, "room": "broken"},
            {"kind": "status", "status": 503, "room": "all", "skip": 1},
        ]))
        .await;
    let worker = lab.start(&[("notifications.max_age", "2s"), ("pacing.room.messages", "1000")]);
    worker.is_ready().await;
    publish(&lab, &[cloud_run("first", "m", 0)]).await;
    let ended = lab.outcomes("first").await;
    let expected = [
        ("all", "sent", "every-run"),
        ("broken", "dead-lettered", "integration-broken"),
        ("quiet", "suppressed", "still-passing"),
    ];
    let ended: Vec<_> = ended.iter().map(|(i, o, r)| (i.as_str(), o.as_str(), r.as_str())).collect();
    assert_eq!(ended, expected);

    publish(&lab, &[cloud_run("head", "m", 0)]).await;
    let pending = eventually("it was tried", async || {
        let ran = lab.run(&["explain", "head", "--output", "json"]).await;
        let pending: Value = serde_json::from_str(&ran.out).ok()?;
        pending["outcomes"][0]["attempts"].as_u64().is_some_and(|n| n > 0).then_some(pending)
    })
    .await;
    let all = &pending["outcomes"][0];
    assert_eq!(
        (&all["outcome"], &all["reason"], &all["sent_at"]),
        (&json!("pending"), &json!("every-run"), &Value::Null)
    );
    assert!(all["detail"].as_str().is_some_and(|d| d.starts_with("HipChat answered 503")), "{all}");
    assert_eq!(pending["outcomes"][1]["reason"], "integration-suspended");
    // Behind the one that is tried again and again, it gets too old.
    publish(&lab, &[cloud_run("late", "m", 0)]).await;
    let late = lab.outcomes("late").await;
    assert_eq!((late[0].1.as_str(), late[0].2.as_str()), ("expired", "max-age"));

    publish(&lab, &[activity("a-1", "Ana", "r"), activity("a-2", "Ana", "r"), activity("a-3", "Ana", "r")])
        .await;
    let feed = |outcome: &str, reason: &str| vec![("feed".to_owned(), outcome.to_owned(), reason.to_owned())];
    assert_eq!(lab.outcomes("a-1").await, feed("sent", "activity"));
    assert_eq!(lab.outcomes("a-2").await, feed("digested", "collated"));
    assert_eq!(lab.outcomes("a-3").await, feed("digested", "collated"));

    let document = explained(&lab, "first").await;
    let keys = |value: &Value| value.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&document), ["event_id", "outcomes", "received_at"]);
    let fields =
        ["attempts", "decided_at", "detail", "integration_id", "outcome", "reason", "sent_at", "wait"];
    for outcome in document["outcomes"].as_array().expect("a list") {
        assert_eq!(keys(outcome), fields);
        let time = |key: &str| outcome[key].as_str().is_none_or(|t| t.parse::<jiff::Timestamp>().is_ok());
        assert!(time("decided_at") && time("sent_at"), "{outcome}");
        assert_eq!(outcome["sent_at"].is_string(), outcome["outcome"] == "sent", "{outcome}");
    }
    let human = lab.run(&["explain", "first"]).await.done();
    let lines: Vec<&str> = human.lines().collect();
    assert!(lines[0].starts_with("event first, received 20"), "{human}");
    assert_eq!(
        lines[1].split_whitespace().collect::<Vec<_>>(),
        ["INTEGRATION", "OUTCOME", "REASON", "AT", "ATTEMPTS", "DETAIL"]
    );
    assert_eq!(lines.len(), 5, "{human}");
    worker.stop().await;
}

#[tokio::test]
async fn what_is_pending_says_what_it_waits_for() {
    let lab = Lab::new().await;
    let queue = "[integrations.throttle]\noverflow = \"queue\"\n";
    let runs = integration(&lab, "runs", "monitor-results", "on = \"all\"") + queue;
    let down = integration(&lab, "down", "monitor-results", "on = \"all\"") + queue;
    let feed = integration(&lab, "feed", "team-activity", "on = \"each\"\ncollate = \"1h\"");
    let daily = integration(&lab, "daily", "team-activity", "on = \"digest\"\nevery = \"24h\"");
    lab.apply(&(runs + &down + &feed + &daily)).await;
    lab.rooms.fail(json!([{"kind": "status", "status": 503, "room": "down"}])).await;
    let keys = [("pacing.room.messages", "1"), ("retry.first", "1h"), ("retry.longest", "2h")];
    let worker = lab.start(&keys);
    worker.is_ready().await;
    publish(&lab, &[cloud_run("r-1", "m", 0), cloud_run("r-2", "m", 0), cloud_run("r-3", "m", 0)]).await;
    publish(&lab, &[activity("a-1", "Ana", "r"), activity("a-2", "Ana", "r")]).await;
    lab.rooms.receives("runs", 1).await;
    let waits = async |event: &str, id: &str, expected: &str| {
        eventually(&format!("{event} for {id} waits for {expected}"), async || {
            let ran = lab.run_with(&["explain", event, "--output", "json"], &keys, b"").await;
            let explained: Value = serde_json::from_str(&ran.out).ok()?;
            let outcomes = explained["outcomes"].as_array().expect("a list").clone();
            let outcome = outcomes.into_iter().find(|outcome| outcome["integration_id"] == id)?;
            (outcome["wait"]["for"] == expected).then_some(outcome)
        })
        .await
    };
    for (event, id, expected, ahead) in [
        ("r-2", "runs", "room-budget", 0),
        ("r-3", "runs", "room-budget", 1),
        ("r-1", "down", "retrying", 0),
        ("r-3", "down", "retrying", 2),
        ("a-2", "feed", "collation", 0),
        ("a-1", "daily", "digest", 0),
    ] {
        let outcome = waits(event, id, expected).await;
        let wait = &outcome["wait"];
        let time =
            |value: &Value| -> jiff::Timestamp { value.as_str().expect("a time").parse().expect("RFC 3339") };
        assert!(time(&wait["until"]) > time(&outcome["decided_at"]), "{event} for {id}: {wait}");
        assert_eq!(wait["ahead"], ahead, "{event} for {id}: {wait}");
    }
    assert_eq!(explained(&lab, "r-1").await["outcomes"][1]["wait"], Value::Null, "told");
    let told = lab.run_with(&["explain", "r-3"], &keys, b"").await.done();
    assert!(told.contains("  waits for the room's budget, until 20"), "{told}");
    assert!(told.lines().nth(3).is_some_and(|line| line.ends_with(", behind 1 other")), "{told}");
    assert!(!told.contains("no worker runs"), "{told}");
    worker.stop().await;
    let told = lab.run_with(&["explain", "r-3"], &keys, b"").await.done();
    assert!(told.ends_with("no worker runs on this store: what is pending waits for one\n"), "{told}");
}

#[tokio::test]
async fn a_replay_for_one_changes_nothing_of_when_the_event_came() {
    let lab = Lab::new().await;
    let both = lab.integration("a-gone", "monitor-results") + &lab.integration("b-good", "monitor-results");
    lab.apply(&both).await;
    lab.rooms.fail(json!([{"kind": "status", "status": 404, "room": "a-gone", "times": 1}])).await;
    let worker = lab.worker().await;
    publish(&lab, &[cloud_run("e-1", "m", 1)]).await;
    lab.outcomes("e-1").await;
    lab.letters(1).await;
    let before = explained(&lab, "e-1").await["received_at"].clone();
    lab.run(&["integrations", "resume", "a-gone"]).await.done();
    lab.run(&["dead-letters", "replay", "--integration", "a-gone", "--yes"]).await.done();
    lab.rooms.receives("a-gone", 1).await;
    let after = eventually("it is recorded", async || {
        let told = explained(&lab, "e-1").await;
        (told["outcomes"][0]["reason"] == "replayed" && told["outcomes"][0]["outcome"] == "sent")
            .then_some(told)
    })
    .await;
    assert_eq!(after["received_at"], before);
    worker.stop().await;
}

/// On a shared store what is still to come is judged by the database's clock, as the workers do.
#[tokio::test]
async fn waits_are_told_by_the_clock_of_the_store() {
    let (lab, postgres) = (Lab::new().await, Postgres::fresh().await);
    let ahead = "CREATE FUNCTION clock_timestamp() RETURNS timestamptz LANGUAGE sql AS \
                 $$ SELECT pg_catalog.clock_timestamp() + interval '300 seconds' $$";
    postgres.run(ahead).await;
    let url = postgres.url.replace(&postgres.schema, &format!("{}%2Cpg_catalog", postgres.schema));
    let key = "ab".repeat(32);
    let keys = [("store.url", url.as_str()), ("secrets.key", key.as_str())];
    lab.run_with(&["migrate"], &keys, b"").await.done();
    postgres
        .run(
            "INSERT INTO events (id, properties, body, received_at, open) VALUES ('e-1', '{}', '', 0, 1); \
             INSERT INTO notifications (event, integration, room, event_no, state, reason, ready_at, received_at, \
               decided_at) SELECT id, 'a', 'r', no, 'pending', 'failure', 0, 0, 0 FROM events; \
             INSERT INTO rooms (room, due_at) \
               SELECT 'r', (extract(epoch FROM pg_catalog.clock_timestamp()) + 100) * 1000000",
        )
        .await;
    let told = lab.run_with(&["explain", "e-1", "--output", "json"], &keys, b"").await.json();
    let wait = &told["outcomes"][0]["wait"];
    assert_eq!((&wait["for"], &wait["until"]), (&json!("worker"), &Value::Null), "{told}");
}

#[tokio::test]
async fn an_id_that_is_not_known_exits_1_and_says_why_that_may_be() {
    let lab = Lab::new().await;
    for (id, argument) in
        [("never-seen", "never-seen"), ("with\u{1b}[31m colour", "'with\u{fffd}[31m colour'")]
    {
        lab.run(&["migrate"]).await.done();
        let ran = lab.run(&["explain", id, "--output", "json"]).await;
        assert_eq!(ran.out, "", "no document about nothing");
        assert!(!ran.err.contains('\u{1b}'), "{ran:?}");
        assert_eq!(
            ran.complaint(1),
            format!(
                "event {id:?} is not in the journal: it was never seen, or waits in the broker still (`check` says how \
                 many do), no integration wanted it (`simulate` says why), it could not be read (`dead-letters list \
                 --each --event {argument}` shows its letter), or it is older than 7d (journal.keep)"
            )
        );
    }
}

/// Integrations of all rules, and events that bring out their differences.
fn story(lab: &Lab) -> (String, Vec<Value>) {
    let rules = [
        ("all", "on = \"all\""),
        ("postman", "on = \"failures-then-success\"\nfailures = 2"),
        ("failures", "on = \"failures\""),
        ("recovery", "on = \"failures-and-recovery\""),
        ("after", "on = \"after-failures\"\nfailures = 2"),
        ("changes", "on = \"changes\""),
    ];
    let mut text: String =
        rules.iter().map(|(id, notify)| integration(lab, id, "monitor-results", notify)).collect();
    text += &integration(lab, "feed", "team-activity", "on = \"each\"\ncollate = \"0s\"");
    let elsewhere = integration(lab, "elsewhere", "monitor-results", "on = \"all\"");
    text += &elsewhere.replace("team = \"acme\"", "team = \"others\"");
    let mut events = Vec::new();
    for (n, failed) in [0, 1, 1, 1, 0, 0, 1, 0, 1, 1, 0].into_iter().enumerate() {
        let mut event = cloud_run(&format!("run-{n}"), "m-1", failed);
        let minute = if n == 6 { 1 } else { n + 10 };
        event["data"]["finished_at"] = json!(format!("2026-01-01T00:{minute:02}:00Z"));
        events.push(event);
        events.push(cloud_run(&format!("other-{n}"), "m-2", 1 - failed));
    }
    events.push(activity("activity-1", "Ana", "r-1"));
    events.push(activity("activity-2", "Ana", "r-1"));
    events.push(cloud_run("run-3", "m-1", 0));
    (text, events)
}

#[tokio::test]
async fn simulate_needs_no_room_url() {
    let lab = Lab::new().await;
    let at = |id: &str, url: &str| {
        format!(
            "[[integrations]]\nid = \"{id}\"\nname = \"{id}\"\nkind = \"monitor-results\"\nnotify.on = \"all\"\n{url}\n"
        )
    };
    let text =
        at("from-env", "room_url_env = \"NO_SUCH_VARIABLE\"") + &at("from-file", "room_url_file = \"none\"");
    let file = lab.write("integrations.toml", &text);
    let event = lab.write("event.json", cloud_run("run-1", "m", 1).to_string());
    let arguments = ["simulate", "--integrations", &file, "--output", "json", &event];
    let decided = lab.run(&arguments).await.json();
    let decisions: Vec<&Value> =
        decided.as_array().expect("a list").iter().map(|one| &one["decision"]).collect();
    assert_eq!(decisions, ["send", "send"], "{decided}");
    lab.run(&["integrations", "apply", &file]).await.complaint(78);
}

#[tokio::test]
async fn simulate_decides_as_the_worker_does() {
    let lab = Lab::new().await;
    let (text, events) = story(&lab);
    let file = lab.write("integrations.toml", &text);
    let lines: Vec<String> = events.iter().map(Value::to_string).collect();
    let lines = lab.write("events.jsonl", lines.join("\n"));
    let arguments = ["simulate", "--integrations", &file, "--output", "json", &lines];
    let away = lab.broker.url_by("127.0.0.1:1");
    let nowhere = [("amqp.url", away.as_str()), ("store.url", "sqlite:/nonexistent/store.db")];
    let simulated = lab.run_with(&arguments, &nowhere, b"").await.json();
    assert!(!simulated.to_string().contains(TOKEN));

    lab.apply(&text).await;
    let budget = [("pacing.room.messages", "1000"), ("pacing.token.calls", "10000")];
    let worker = lab.start(&budget);
    worker.is_ready().await;
    publish(&lab, &events).await;
    let mut by_event: BTreeMap<String, Vec<(String, String, String)>> = BTreeMap::new();
    let mut posts: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for line in simulated.as_array().expect("a list") {
        let text = |key: &str| line[key].as_str().expect(key).to_owned();
        let fields: Vec<&str> = line.as_object().expect("an object").keys().map(String::as_str).collect();
        assert_eq!(fields, ["decision", "detail", "event_id", "integration_id", "message", "reason"]);
        let outcome = match text("decision").as_str() {
            "send" => "sent",
            "suppress" => "suppressed",
            other => panic!("{other}"),
        };
        assert_eq!(line["message"].is_object(), outcome == "sent", "{line}");
        if outcome == "sent" {
            posts.entry(text("integration_id")).or_default().push(line["message"].clone());
        }
        let decided = (text("integration_id"), outcome.to_owned(), text("reason"));
        by_event.entry(text("event_id")).or_default().push(decided);
    }
    assert_eq!(by_event.len(), events.len() - 1, "the same id twice is one event");
    for (event, decided) in &by_event {
        assert_eq!(&lab.outcomes(event).await, decided, "{event}");
    }
    let reasons: std::collections::BTreeSet<&str> =
        by_event.values().flatten().map(|(_, _, reason)| reason.as_str()).collect();
    for reason in
        ["failures-already-told", "stale", "below-threshold", "threshold-reached", "recovered", "activity"]
    {
        assert!(reasons.contains(reason), "the story has {reason}: {reasons:?}");
    }
    for (room, expected) in posts {
        let posted = lab.rooms.receives(&room, expected.len()).await;
        for (posted, expected) in posted.iter().zip(&expected) {
            for key in ["color", "message", "notify", "message_format"] {
                assert_eq!(posted[key], expected[key], "{room}: {posted}\n{expected}");
            }
        }
    }
    worker.stop().await;
}

#[tokio::test]
async fn simulate_says_what_it_would_do_with_what_is_malformed_unwanted_and_gathered() {
    let lab = Lab::new().await;
    let runs = integration(&lab, "runs", "monitor-results", "on = \"all\"");
    let daily = integration(&lab, "daily", "team-activity", "on = \"digest\"\nevery = \"24h\"");
    let file = lab.write("integrations.toml", runs + &daily);
    let plain = r#"{"monitor_uid":"m","metrics":{"failedTests":1}}"#;
    let lines = [
        plain,
        r#"{"monitor_uid":"m"}"#,
        &activity("a-1", "Ana", "x").to_string(),
        &activity("a-2", "Bo", "y").to_string(),
    ];
    let events = lab.write("events.jsonl", lines.join("\n"));
    let base = ["simulate", "--integrations", file.as_str(), events.as_str()];

    let told = lab.run(&base).await.done();
    let why = format!(
        "1 event is wanted by no integration ({events}, event 1): 1 is for team-activity; 1 is for team \"acme\", and \
         the event names no team (--team gives it one)\n"
    );
    assert!(told.ends_with(&why), "{told}");
    let arguments: Vec<&str> = base.into_iter().chain(["--team", "acme", "--output", "json"]).collect();
    let told = lab.run(&arguments).await.json();
    let decisions: Vec<_> = told
        .as_array()
        .expect("a list")
        .iter()
        .map(|line| {
            [&line["event_id"], &line["integration_id"], &line["decision"], &line["reason"]]
                .map(|v| v.as_str().unwrap_or("-"))
        })
        .collect();
    let (first, second) = (format!("{events}, event 1"), format!("{events}, event 2"));
    assert_eq!(
        decisions,
        [
            [first.as_str(), "runs", "send", "every-run"],
            [second.as_str(), "-", "dead-letter", "malformed-event"],
            ["a-1", "daily", "digest", "scheduled-digest"],
            ["a-2", "daily", "digest", "scheduled-digest"],
        ]
    );
    assert_eq!((&told[2]["message"], told[3]["message"].is_object()), (&Value::Null, true), "{told}");
    assert_eq!(
        told[1]["detail"],
        "metrics: missing; send the run's metrics as an object with passedTests, failedTests and errors"
    );

    let broken = lab.write("broken.toml", "[[integrations]]\nid = \"x\"\n");
    let told = lab.run(&["simulate", "--integrations", &broken, &events]).await.complaint(78);
    assert!(told.starts_with(&format!("{broken}:\nline 1: integration \"x\": ")), "{told}");
    assert!(!lab.path("store.db").exists(), "nothing but the files is touched");
}

#[tokio::test]
async fn an_event_is_simulated_however_long_its_files_name_is() {
    let lab = Lab::new().await;
    let file = lab.write("integrations.toml", integration(&lab, "runs", "monitor-results", "on = \"all\""));
    // With ", event 1" behind it, one byte longer than an id can be.
    let name = "e".repeat(256 - ", event 1".len() - lab.path("").to_string_lossy().len());
    let events = lab.write(&name, crate::support::cli::run_body("m", 1));
    let arguments = ["simulate", "--integrations", &file, "--team", "acme", "--output", "json", &events];
    let rows = lab.run(&arguments).await.json();
    assert_eq!(rows[0]["decision"], "send", "{rows}");
}
