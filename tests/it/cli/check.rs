//! `check`: one line for each thing that was looked at, whatever is wrong with the others.

use std::collections::BTreeMap;

use lapin::options::{ExchangeDeclareOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, ExchangeKind};
use serde_json::json;

use crate::support::broker::eventually;
use crate::support::cli::{Lab, Ran, TOKEN, cloud_run, fixture};

fn line<'r>(ran: &'r Ran, what: &str) -> &'r str {
    let found = ran.out.lines().find(|line| line.contains(&format!(" {what}: ")));
    found.unwrap_or_else(|| panic!("no line on {what}: {ran:?}"))
}

#[tokio::test]
async fn all_is_well() {
    let lab = Lab::new().await;
    lab.declare().await;
    let file = lab.write("managed.toml", lab.integration("runs", "monitor-results"));
    let keys = [("integrations.file", file.as_str())];
    let told = lab.run_with(&["check"], &keys, b"").await.done();
    let store = lab.path("store.db");
    let store = store.display();
    assert_eq!(
        told,
        format!(
            "ok    configuration: valid\n\
             ok    links: valid\n\
             ok    integrations.file: 1 integration in {file}\n\
             ok    broker: 0 events wait, 0 active workers, 0 dead letters\n\
             ok    store: none at {store} yet; the worker or `integrations apply` makes it\n"
        )
    );
    assert!(!lab.path("store.db").exists(), "who only looks makes none");
    lab.run(&["migrate"]).await.done();
    let there = lab.run_with(&["check"], &keys, b"").await.done();
    assert!(
        there.ends_with(&format!(
            "ok    store: 0 integrations in {store}\nok    worker: none runs on this store\n"
        )),
        "{there}"
    );
    let told = lab.run_with(&["check", "--output", "json"], &keys, b"").await.json();
    assert_eq!(
        told[3],
        json!({"what": "broker", "ok": true, "detail": "0 events wait, 0 active workers, 0 dead letters"})
    );
    assert_eq!(told.as_array().expect("a list").len(), 6);
}

#[tokio::test]
async fn a_broker_that_is_away_fails_and_hides_nothing_else() {
    let lab = Lab::new().await;
    let away = lab.broker.url_by("127.0.0.1:1");
    let ran = lab.run_with(&["check"], &[("amqp.url", &away)], b"").await;
    assert_eq!(
        line(&ran, "broker"),
        "FAULT broker: RabbitMQ at amqp://127.0.0.1:1 (vhost '/') can't be reached: the connection failed: \
         Connection refused (os error 111)"
    );
    assert!(line(&ran, "store").starts_with("ok    store: none at "), "{ran:?}");
    assert_eq!(ran.complaint(1), "1 of 4 checks found a fault", "away is no fault of configuration");
}

#[tokio::test]
async fn a_wrong_password_is_a_fault_of_configuration_and_is_not_shown() {
    let lab = Lab::new().await;
    let mut url = url::Url::parse(&lab.broker.url).expect("a URL");
    url.set_password(Some("open-sesame-77")).expect("can have one");
    let ran = lab.run_with(&["check"], &[("amqp.url", url.as_str())], b"").await;
    let told = line(&ran, "broker");
    assert!(told.contains("refuses the login of user '"), "{told}");
    assert!(told.contains("check user and password in amqp.url"), "{told}");
    assert!(!format!("{ran:?}").contains("open-sesame-77"), "{ran:?}");
    assert_eq!(ran.complaint(78), "1 of 4 checks found a fault");
}

#[tokio::test]
async fn a_topology_with_other_arguments_is_told_exactly_and_left_alone() {
    let lab = Lab::new().await;
    let exchange = lab.broker.topology.exchange.as_str();
    let channel = lab.broker.connection().create_channel().await.expect("a channel");
    let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
    let declared =
        channel.exchange_declare(exchange.into(), ExchangeKind::Direct, durable, FieldTable::default());
    declared.await.expect("an exchange of another type");

    let expected = drift(&format!("exchange '{exchange}'"), "type is 'direct'", "'topic'");
    let ran = lab.run(&["check"]).await;
    assert_eq!(line(&ran, "broker"), format!("FAULT broker: {expected}"));
    assert_eq!(ran.complaint(78), "1 of 4 checks found a fault");

    let mut worker = lab.start(&[]);
    assert_eq!(worker.ended().await.code(), Some(78));
    assert!(worker.log().contains(&format!("stopping: {expected}")), "{}", worker.log());
    assert!(worker.log().ends_with(&format!("hipchat-notifier: {expected}\n")), "{}", worker.log());
    let publish = lab.run_with(&["publish", "-"], &[], br#"{"monitor_uid":"m","metrics":{}}"#).await;
    assert_eq!(publish.complaint(78), expected);
    let declared =
        channel.exchange_declare(exchange.into(), ExchangeKind::Direct, durable, FieldTable::default());
    declared.await.expect("it stands as it stood");
}

#[tokio::test]
async fn a_queue_with_another_limit_is_told_exactly_and_keeps_what_is_in_it() {
    let lab = Lab::new().await;
    let names = &lab.broker.topology;
    let text = |value: &str| AMQPValue::LongString(value.into());
    let arguments = FieldTable::from(BTreeMap::from([
        ("x-queue-type".into(), text("quorum")),
        ("x-delivery-limit".into(), AMQPValue::LongInt(20)),
        ("x-single-active-consumer".into(), AMQPValue::Boolean(true)),
        ("x-dead-letter-exchange".into(), text(&names.dead_letters)),
        ("x-dead-letter-strategy".into(), text("at-least-once")),
        ("x-overflow".into(), text("reject-publish")),
    ]));
    let channel = lab.broker.connection().create_channel().await.expect("a channel");
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare(names.queue.as_str().into(), durable, arguments).await.expect("a queue");
    let persistent = BasicProperties::default().with_delivery_mode(2);
    lab.broker.publish_to("", &names.queue, b"{}", persistent).await;

    let expected = drift(&format!("queue '{}'", names.queue), "x-delivery-limit is '20'", "'2147483647'");
    let ran = lab.run(&["check"]).await;
    assert_eq!(line(&ran, "broker"), format!("FAULT broker: {expected}"));
    let mut worker = lab.start(&[]);
    assert_eq!(worker.ended().await.code(), Some(78));
    assert!(worker.log().ends_with(&format!("hipchat-notifier: {expected}\n")), "{}", worker.log());
    lab.broker.depth_becomes(&names.queue, 1).await;
}

/// The sentence on a thing that stands with other arguments.
fn drift(thing: &str, standing: &str, needed: &str) -> String {
    format!(
        "the {thing} stands on the broker with other arguments: {standing} there, and the worker needs {needed}. \
         Nothing was changed or deleted. Empty and delete that {thing} and start the worker again, which declares it \
         anew, or give the worker another vhost in amqp.url"
    )
}

#[tokio::test]
async fn faults_of_the_configuration_are_all_listed() {
    let lab = Lab::new().await;
    let config = fixture("config/all-at-once.toml");
    let text = std::fs::read_to_string(&config).expect("a file");
    let expected: Vec<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("#! "))
        .map(|line| line.replace("FILE", &config))
        .collect();
    for verb in ["check", "run"] {
        let mut command = crate::support::cli::program(&[verb, "--config", &config]);
        command.current_dir(lab.folder.path());
        let told = crate::support::cli::run(command, b"").await.complaint(78);
        assert_eq!(told.lines().collect::<Vec<_>>(), expected, "{verb}");
    }
}

#[tokio::test]
async fn faults_of_the_integrations_file_are_all_listed() {
    let lab = Lab::new().await;
    let file = fixture("integrations/all-at-once.toml");
    let ran = lab.run_with(&["check"], &[("integrations.file", &file)], b"").await;
    let told: Vec<&str> = ran.out.lines().collect();
    let text = std::fs::read_to_string(&file).expect("a file");
    let expected: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("#! ")).collect();
    let expected: Vec<String> = expected.into_iter().map(|line| format!("      {line}")).collect();
    assert_eq!(told[2], format!("FAULT integrations.file: {file}:"));
    assert_eq!(told[3..3 + expected.len()], expected);
    assert!(!ran.out.contains("hunter2"), "{}", ran.out);
    assert_eq!(ran.complaint(78), "1 of 5 checks found a fault");
}

#[tokio::test]
async fn rooms_are_asked_and_nothing_is_posted() {
    let lab = Lab::new().await;
    let room = |id: &str, room: &str, token: &str| {
        format!(
            "[[integrations]]\nid = \"{id}\"\nkind = \"monitor-results\"\nroom_url = \"{}\"\n",
            lab.room_url(room, token)
        )
    };
    let long = "n".repeat(101);
    let wrong = "wrongToken0123456789abcdefghijklmnopqrst";
    lab.apply(&(room("good", "42", TOKEN) + &room("unknown", &long, TOKEN) + &room("wrong", "42", wrong)))
        .await;
    let ran = lab.run(&["check", "--rooms"]).await;
    let address = &lab.rooms.address;
    assert_eq!(
        line(&ran, "room of good"),
        format!("ok    room of good: http://{address}/v2/room/42 takes messages")
    );
    let told = line(&ran, "room of wrong");
    assert!(told.starts_with("FAULT room of wrong: HipChat answered 401"), "{told}");
    let told = line(&ran, "room of unknown");
    assert!(told.starts_with("FAULT room of unknown: HipChat answered 404"), "{told}");
    assert!(!ran.out.contains(wrong) && !ran.out.contains(TOKEN), "{}", ran.out);
    assert_eq!(lab.rooms.messages("42").await, Vec::<serde_json::Value>::new());
    assert_eq!(
        ran.complaint(1),
        "2 of 8 checks found a fault",
        "the rooms' servers say so, no file is wrong"
    );

    let json = lab.run(&["check", "--rooms", "--output", "json"]).await;
    assert_eq!(json.code, Some(1));
    let told: serde_json::Value = serde_json::from_str(&json.out).expect("one document");
    let ok: Vec<bool> = told.as_array().expect("a list").iter().map(|f| f["ok"] == true).collect();
    assert_eq!(ok, [true, true, true, true, true, true, false, false]);
}

#[tokio::test]
async fn a_suspended_integration_is_seen_with_what_to_do_and_so_is_the_worker() {
    let lab = Lab::new().await;
    lab.apply(&(lab.integration("gone", "monitor-results") + &lab.integration("good", "monitor-results")))
        .await;
    lab.rooms.fail(json!([{"kind": "status", "status": 404, "room": "gone", "times": 1}])).await;
    let worker = lab.worker().await;
    assert_eq!(worker.figure("hipchat_notifier_broker_session{state=\"consuming\"}").await, Some(1.0));
    assert_eq!(worker.figure("hipchat_notifier_broker_session{state=\"blocked\"}").await, Some(0.0));
    lab.run_with(&["publish", "-"], &[], cloud_run("e-1", "m", 1).to_string().as_bytes()).await.done();
    lab.outcomes("e-1").await;
    let ran = lab.run(&["check"]).await;
    assert_eq!(
        line(&ran, "worker"),
        format!("ok    worker: 1 worker runs on this store: process {}", worker.id())
    );
    let told = line(&ran, "integration gone");
    assert!(told.starts_with("FAULT integration gone: suspended: HipChat answered 404"), "{told}");
    assert!(told.ends_with("; mend that, then `integrations resume gone`"), "{told}");
    assert_eq!(ran.complaint(1), "1 of 6 checks found a fault");
    let ran = lab.run(&["check", "--rooms"]).await;
    assert!(line(&ran, "room of gone").starts_with("ok "), "the room is mended: {ran:?}");
    assert_eq!(ran.complaint(1), "1 of 8 checks found a fault");
    for (state, expected) in [("active", 1.0), ("suspended", 1.0), ("paused", 0.0)] {
        let series = format!("hipchat_notifier_integrations{{state=\"{state}\"}}");
        eventually(&series, async || (worker.figure(&series).await == Some(expected)).then_some(())).await;
    }

    assert_eq!(
        lab.run(&["integrations", "resume", "gone"]).await.done(),
        "gone is active\n1 notification of it ended in the dead-letter queue: `dead-letters replay --integration gone` \
         shows how many are there still, and puts them back with --yes\n"
    );
    worker.stop().await;
    let told = lab.run(&["check"]).await.done();
    assert!(told.contains("ok    worker: none runs on this store\n"), "{told}");
}

#[tokio::test]
async fn what_is_not_declared_yet_is_named_and_not_made() {
    let lab = Lab::new().await;
    lab.declare().await;
    let keys = [("amqp.queue", "no.such.queue")];
    for _ in 0..2 {
        let told = lab.run_with(&["check"], &keys, b"").await.done();
        let expected = "0 dead letters; not there until the worker declares it: queue 'no.such.queue'\n";
        assert!(told.contains(expected), "{told}");
    }
}
