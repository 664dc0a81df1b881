//! `run`: when it starts, when it does not, and what it shows of itself.

use std::net::SocketAddr;

use serde_json::json;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

use crate::support::broker::eventually;
use crate::support::cli::{Lab, cloud_run};

/// A loopback address at which nothing listens.
async fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address")
}

/// Lets clients of `at` through to the broker, from now on.
async fn bridge(at: SocketAddr, broker: String) {
    let listener = TcpListener::bind(at).await.expect("still free");
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut server = TcpStream::connect(&broker).await.expect("the broker listens");
            tokio::spawn(async move { copy_bidirectional(&mut client, &mut server).await });
        }
    });
}

#[tokio::test]
async fn a_broker_that_is_away_is_waited_for() {
    let lab = Lab::new().await;
    lab.apply(&lab.integration("runs", "monitor-results")).await;
    let address = free_address().await;
    let url = lab.broker.url_by(&address.to_string());
    let worker = lab.start(&[("amqp.url", &url)]);
    let expected = format!(
        "RabbitMQ at amqp://{address} (vhost '/') can't be reached: the connection failed: Connection refused"
    );
    let why = worker.is_not_ready().await;
    assert!(why.starts_with("no session with RabbitMQ for "), "{why}");
    worker.says(&[&expected, "trying again"]).await;
    let why = worker.is_not_ready().await;
    assert!(why.contains(&expected), "{why}");
    assert_eq!(worker.get("/healthz").await, (200, "alive\n".into()));

    bridge(address, lab.broker.host_and_port()).await;
    worker.is_ready().await;
    assert_eq!(worker.get("/readyz").await, (200, "ready\n".into()));
    worker.says(&["taking in events from RabbitMQ"]).await;
    assert_eq!(worker.log().matches("trying again").count(), 1, "an outage is told once: {}", worker.log());
    lab.run_with(&["publish", "-"], &[], cloud_run("e-1", "m", 1).to_string().as_bytes()).await.done();
    lab.rooms.receives("runs", 1).await;
    worker.stop().await;
}

#[tokio::test]
async fn it_stops_cleanly_when_asked() {
    let lab = Lab::new().await;
    for signal in ["TERM", "INT"] {
        let mut worker = lab.worker().await;
        worker.signal(signal);
        assert_eq!(worker.ended().await.code(), Some(0), "{signal}");
        worker.says(&["stopping: no more events are taken in", &format!("SIG{signal}")]).await;
        worker.says(&["worker stopped"]).await;
    }
    let mut waiting = lab.start(&[("amqp.url", &lab.broker.url_by("127.0.0.1:1"))]);
    waiting.is_not_ready().await;
    waiting.signal("TERM");
    assert_eq!(waiting.ended().await.code(), Some(0), "also while it waits for the broker");

    // A store that takes the connection and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("postgres://notifier@{}/notifier", silent.local_addr().expect("bound"));
    let mut starting = lab.start(&[("store.url", &url), ("secrets.key", &"0".repeat(64))]);
    let _held = silent.accept().await.expect("it asks");
    starting.signal("TERM");
    assert_eq!(starting.ended().await.code(), Some(0), "also while it starts");
    starting.says(&["stopping: the worker was still starting", "SIGTERM"]).await;
}

#[tokio::test]
async fn every_figure_of_the_contract_is_there() {
    let lab = Lab::new().await;
    lab.apply(&(lab.integration("runs", "monitor-results") + &lab.integration("gone", "monitor-results")))
        .await;
    lab.rooms.fail(json!([{"kind": "status", "status": 404, "room": "gone"}])).await;
    let worker = lab.worker().await;
    lab.run_with(&["publish", "-"], &[], cloud_run("e-1", "m", 1).to_string().as_bytes()).await.done();
    lab.broker.publish("monitor.a.b", "bad", b"").await;
    lab.letters(2).await;
    lab.outcomes("e-1").await;
    let (status, text) = worker.get("/metrics").await;
    assert_eq!(status, 200);
    for (series, expected) in [
        ("events_total{outcome=\"taken\"}", Some(1.0)),
        ("events_total{outcome=\"malformed\"}", Some(1.0)),
        ("events_total{outcome=\"unwanted\"}", Some(0.0)),
        ("notifications_total{outcome=\"sent\",reason=\"every-run\"}", Some(1.0)),
        ("notifications_total{outcome=\"dead-lettered\",reason=\"integration-broken\"}", Some(1.0)),
        ("attempts_total{result=\"accepted\"}", Some(1.0)),
        ("attempts_total{result=\"broken\"}", Some(1.0)),
        ("dead_letters_total{reason=\"malformed-event\"}", Some(1.0)),
        ("dead_letters_total{reason=\"integration-broken\"}", Some(1.0)),
        ("time_to_room_seconds_count", Some(1.0)),
        ("time_to_room_seconds_bucket{le=\"+Inf\"}", Some(1.0)),
        ("broker_session{state=\"consuming\"}", Some(1.0)),
        ("broker_session{state=\"connecting\"}", Some(0.0)),
        // Read every few seconds, so only their being there can be said.
        ("pending_notifications ", None),
        ("oldest_due_seconds ", None),
        ("integrations{state=\"suspended\"}", None),
    ] {
        let found = worker.figure(&format!("hipchat_notifier_{series}")).await;
        assert!(found.is_some(), "{series}: {text}");
        assert!(expected.is_none() || found == expected, "{series}: {found:?}");
    }
    assert!(!text.contains("integrations_file"), "there is none: {text}");
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        assert!(line.starts_with("hipchat_notifier_"), "{line}");
        assert!(!line.contains("runs") && !line.contains("e-1"), "no ids in labels: {line}");
    }
    worker.stop().await;
}

#[tokio::test]
async fn beyond_loopback_only_with_a_token() {
    let lab = Lab::new().await;
    let mut refused = lab.start(&[("http.listen", "0.0.0.0:0")]);
    assert_eq!(refused.ended().await.code(), Some(78));
    refused
        .says(&[
            "hipchat-notifier: http.listen = \"0.0.0.0:0\" (NOTIFIER__HTTP__LISTEN): reachable from other machines \
             without authentication; set http.bearer_token or http.bearer_token_file, or listen at 127.0.0.1",
        ])
        .await;

    let worker = lab.start(&[("http.bearer_token", "a-long-random-bearer-token")]);
    worker.is_ready().await;
    assert_eq!(worker.get("/metrics").await, (401, "bearer token wanted\n".into()));
    assert_eq!(worker.get("/healthz").await.0, 200, "probes carry no token");
    let address = worker.address().await;
    let asked = crate::support::cli::client().get(format!("http://{address}/metrics"));
    let answer = asked.bearer_auth("a-long-random-bearer-token").send().await.expect("an answer");
    assert_eq!(answer.status(), 200);
    assert!(!worker.stop().await.contains("a-long-random-bearer-token"));
}

#[tokio::test]
async fn what_another_worker_uses_is_refused() {
    let lab = Lab::new().await;
    let first = lab.worker().await;
    let mut second = lab.start(&[]);
    assert_eq!(second.ended().await.code(), Some(78));
    let told = second.says(&["another worker is using"]).await;
    assert!(told.contains("one SQLite file serves one worker: stop that one"), "{told}");

    let taken = first.address().await;
    let store = format!("sqlite:{}", lab.path("other.db").display());
    let mut third = lab.start(&[("store.url", &store), ("http.listen", &taken)]);
    assert_eq!(third.ended().await.code(), Some(1));
    third.says(&[&format!("can't listen on {taken} (http.listen): Address already in use")]).await;
    first.stop().await;
}

#[tokio::test]
async fn a_room_that_does_not_answer_holds_a_stopping_worker_for_the_grace_time_or_until_a_second_signal() {
    let lab = Lab::new().await;
    lab.apply(&lab.integration("runs", "monitor-results")).await;
    // A grace time that no test waits for is cut short by the second signal.
    for (calls, grace, again) in [(1, "1s", false), (2, "1h", true)] {
        let id = format!("e-{calls}");
        lab.rooms.fail(json!([{"kind": "hang", "room": "runs"}])).await;
        let mut worker = lab.start(&[("shutdown.grace", grace)]);
        worker.is_ready().await;
        lab.run_with(&["publish", "-"], &[], cloud_run(&id, "m", 1).to_string().as_bytes()).await.done();
        eventually("it is taken in", async || {
            (lab.run(&["explain", &id]).await.code == Some(0)).then_some(())
        })
        .await;
        lab.rooms.is_asked("runs", calls).await;
        worker.signal("TERM");
        worker.says(&["stopping: no more events are taken in"]).await;
        if again {
            assert_eq!(worker.exit(), None, "the call in flight may end");
            worker.signal("TERM");
        }
        assert_eq!(worker.ended().await.code(), Some(0), "{grace}");
        let how = if again { "by a second signal" } else { "within shutdown.grace" };
        worker.says(&["worker stopped", how]).await;
    }
    lab.rooms.fail(json!([])).await;
    let worker = lab.worker().await;
    lab.rooms.receives("runs", 2).await;
    worker.stop().await;
}

#[tokio::test]
async fn lines_about_a_notification_carry_its_ids() {
    let lab = Lab::new().await;
    lab.apply(&lab.integration("gone", "monitor-results")).await;
    lab.rooms.fail(json!([{"kind": "status", "status": 404, "room": "gone"}])).await;
    let worker = lab.start(&[("log.format", "json"), ("log.level", "warn,hipchat_notifier::app=info")]);
    worker.is_ready().await;
    lab.run_with(&["publish", "-"], &[], cloud_run("e-1", "m", 1).to_string().as_bytes()).await.done();
    for (said, named) in [
        ("integration suspended: ", &["event_id", "integration_id", "room"][..]),
        ("dead-lettered: ", &["event_id", "integration_id"]),
    ] {
        let line = worker.says(&[said]).await;
        let line: serde_json::Value = serde_json::from_str(&line).expect("a line is an object");
        for name in named {
            let value = line[name].as_str().unwrap_or_default();
            let expected = match *name {
                "event_id" => "e-1",
                "integration_id" => "gone",
                _ => "/v2/room/gone",
            };
            assert!(value.ends_with(expected), "{name} in {line}");
        }
    }
    worker.stop().await;
}
