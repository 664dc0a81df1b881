//! `publish`: every event is valid or none is published; what is printed can be explained later.

use lapin::options::{QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use serde_json::{Value, json};

use crate::support::cli::{Lab, cloud_run, fixture, run_body};

/// A lab whose topology stands, so that its queue can be counted.
async fn lab() -> Lab {
    let lab = Lab::new().await;
    lab.declare().await;
    lab
}

/// A queue that gets all that is published: the work queue has a single active consumer, and so knows no
/// `basic.get`.
async fn tap(lab: &Lab) -> String {
    let channel = lab.broker.connection().create_channel().await.expect("a channel");
    let exclusive = QueueDeclareOptions { exclusive: true, ..Default::default() };
    let queue = channel.queue_declare("".into(), exclusive, FieldTable::default()).await.expect("a queue");
    let (name, exchange) = (queue.name().clone(), lab.broker.topology.exchange.as_str());
    let bound = channel.queue_bind(
        name.clone(),
        exchange.into(),
        "#".into(),
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    bound.await.expect("bound");
    name.to_string()
}

#[tokio::test]
async fn one_event_an_array_and_lines_are_published_alike() {
    let lab = lab().await;
    let tap = tap(&lab).await;
    let one = lab.write("one.json", run_body("m-1", 0));
    let array =
        lab.write("array.json", format!("[{},\n {}]", cloud_run("c-1", "m.2", 1), run_body("m-3", 0)));
    let lines =
        lab.write("lines.jsonl", format!("{}\n{}\n", cloud_run("c-2", "m-4", 0), cloud_run("c-3", "m-5", 0)));
    let told = lab.run(&["publish", &one, &array, &lines, "--team", "acme"]).await.done();
    let told: Vec<Vec<&str>> = told.lines().map(|line| line.split("  ").collect()).collect();
    assert_eq!(told.len(), 5);
    assert!(told.iter().all(|line| line[0] == "confirmed"), "{told:?}");
    assert_eq!([told[1][1], told[3][1], told[4][1]], ["c-1", "c-2", "c-3"], "CloudEvents keep their ids");
    let keys: Vec<&str> = told.iter().map(|line| line[2]).collect();
    assert_eq!(
        keys,
        ["monitor.acme.m-1", "monitor.acme.m-2", "monitor.acme.m-3", "monitor.acme.m-4", "monitor.acme.m-5"]
    );
    lab.broker.depth_becomes(&lab.broker.topology.queue, 5).await;

    let delivery = lab.broker.take(&tap).await;
    assert_eq!(delivery.data, run_body("m-1", 0).as_bytes(), "byte for byte");
    let properties = &delivery.properties;
    assert_eq!(properties.message_id().as_ref().map(|id| id.as_str()), Some(told[0][1]));
    assert_eq!((*properties.delivery_mode(), properties.headers().is_some()), (Some(2), true));
    assert_eq!(properties.content_type().as_ref().map(|kind| kind.as_str()), Some("application/json"));
    let delivery = lab.broker.take(&tap).await;
    let kind = delivery.properties.content_type().as_ref().map(|kind| kind.as_str().to_owned());
    assert_eq!(kind.as_deref(), Some("application/cloudevents+json"));
}

#[tokio::test]
async fn stdin_an_id_and_a_routing_key_are_taken() {
    let lab = lab().await;
    let body = run_body("m-1", 0);
    let told = lab.run_with(&["publish", "-", "--id", "run-1"], &[], body.as_bytes()).await.done();
    assert_eq!(told, "confirmed  run-1  monitor.none.m-1\n");

    let arguments = ["publish", "-", "--id", "run-2", "--routing-key", "nobody.listens", "--output", "json"];
    let ran = lab.run_with(&arguments, &[], body.as_bytes()).await;
    let told: Value = serde_json::from_str(&ran.out).expect("one document");
    assert_eq!(told, json!([{"event_id": "run-2", "routing_key": "nobody.listens", "result": "unroutable"}]));
    assert_eq!(
        ran.complaint(1),
        "of 1 event, 1 was not taken by the broker: an unroutable one has a routing key that no queue is bound for \
         (monitor.… or activity.…), a refused one can be published again"
    );
    lab.broker.depth_becomes(&lab.broker.topology.queue, 1).await;
}

#[tokio::test]
async fn a_newman_report_becomes_one_run() {
    let lab = lab().await;
    let tap = tap(&lab).await;
    let report = fixture("events/newman-run.json");
    let arguments = [
        "publish",
        "--newman",
        &report,
        "--team",
        "acme",
        "--monitor-uid",
        "ci-7",
        "--monitor-name",
        "CI",
        "--id",
        "n-1",
    ];
    assert_eq!(lab.run(&arguments).await.done(), "confirmed  n-1  monitor.acme.ci-7\n");
    let delivery = lab.broker.take(&tap).await;
    let body: Value = serde_json::from_slice(&delivery.data).expect("JSON");
    assert_eq!((&body["monitor_uid"], &body["monitor_name"]), (&json!("ci-7"), &json!("CI")));
    assert!(body["metrics"]["requestCount"].is_u64(), "{body}");

    let told = lab.run(&["publish", "--newman", &lab.write("no.json", "{}")]).await.complaint(1);
    assert!(told.starts_with(lab.path("no.json").to_str().expect("UTF-8")), "{told}");
}

#[tokio::test]
async fn with_one_malformed_event_nothing_is_published_and_all_faults_have_places() {
    let lab = lab().await;
    let mixed = lab.write(
        "mixed.jsonl",
        [run_body("m-1", 0), r#"{"monitor_uid":[7],"metrics":{}}"#.into(), r#"{"action":"update"}"#.into()]
            .join("\n"),
    );
    let broken = lab.write("broken.json", "{\"monitor_uid\":");
    let missing = lab.path("missing.json");
    let missing = missing.to_str().expect("UTF-8");
    let good = lab.write("good.json", run_body("m-2", 0));
    let told = lab.run(&["publish", &good, &mixed, &broken, missing]).await.complaint(1);
    let expected = [
        "nothing was published; faults: 4".to_owned(),
        format!("{broken} is not JSON: EOF while parsing a value at line 1 column 15"),
        format!("can't read {missing}: No such file or directory (os error 2)"),
        format!("{mixed}, event 2: monitor_uid: found an array of 1; send text that is not empty"),
        format!("{mixed}, event 3: model: missing; send text that is not empty"),
    ];
    assert_eq!(told.lines().collect::<Vec<_>>(), expected);
    assert_eq!(lab.broker.depth(&lab.broker.topology.queue).await, 0);
}

#[tokio::test]
async fn one_id_is_for_one_event() {
    let lab = lab().await;
    let two = lab.write("two.jsonl", format!("{}\n{}", run_body("m-1", 0), run_body("m-1", 0)));
    assert_eq!(
        lab.run(&["publish", &two, "--id", "run-1"]).await.complaint(1),
        "--id names one event, but there are 2; leave it out to give each an id of its own"
    );
    let empty = lab.write("empty.json", "");
    assert_eq!(
        lab.run(&["publish", &empty]).await.complaint(1),
        format!("nothing was published; faults: 1\n{empty} holds no event")
    );
    let away = lab.broker.url_by("127.0.0.1:1");
    let ran = lab.run_with(&["publish", "-"], &[("amqp.url", &away)], run_body("m", 0).as_bytes()).await;
    assert_eq!(
        ran.complaint(1),
        "RabbitMQ at amqp://127.0.0.1:1 (vhost '/') can't be reached: the connection failed: Connection refused (os error 111)"
    );
    assert_eq!(lab.broker.depth(&lab.broker.topology.queue).await, 0);
}

#[tokio::test]
async fn events_without_a_team_are_warned_of_where_integrations_have_one() {
    let lab = Lab::new().await;
    let event = run_body("m-1", 0);
    lab.run_with(&["publish", "-"], &[], event.as_bytes()).await.done();
    let bound = |id| lab.integration(id, "monitor-results").replace("\"\nkind", "\"\nteam = \"acme\"\nkind");
    lab.apply(&(lab.integration("any", "monitor-results") + &bound("one") + &bound("two"))).await;
    let warned = lab.run_with(&["publish", "-"], &[], event.as_bytes()).await;
    assert_eq!(warned.code, Some(0));
    assert_eq!(
        warned.err,
        "hipchat-notifier: warning: not all integrations hear of the event: 2 are for team \"acme\", and the event \
         names no team (--team gives it one)\n"
    );
    lab.run_with(&["publish", "-", "--team", "acme"], &[], event.as_bytes()).await.done();
}

#[tokio::test]
async fn an_exchange_that_is_misspelt_is_not_made_and_joined_to_the_workers_queue() {
    let lab = lab().await;
    let event = cloud_run("run-1", "m", 1).to_string();
    let keys = [("amqp.exchange", "no.such.exchange")];
    for _ in 0..2 {
        let told = lab.run_with(&["publish", "-"], &keys, event.as_bytes()).await.complaint(78);
        assert!(told.starts_with("there is no exchange 'no.such.exchange', although queue '"), "{told}");
    }
    assert_eq!(lab.broker.depth(&lab.broker.topology.queue).await, 0);
}
