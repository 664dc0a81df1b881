//! Bad and hostile events, published straight to the exchange: what is malformed ends in the dead-letter queue byte
//! for byte, with the field that is wrong, and holds nobody up; what is accepted reaches its room as html that
//! HipChat takes.

use serde_json::{Value, json};

use crate::support::broker::eventually;
use crate::support::cli::{Lab, Worker, run_body};

/// Rooms for both kinds, and budgets that do not matter.
async fn lab() -> (Lab, Worker) {
    let lab = Lab::new().await;
    lab.apply(&(lab.integration("runs", "monitor-results") + &lab.integration("feed", "team-activity")))
        .await;
    let worker = lab.start(&[("pacing.room.messages", "10000"), ("pacing.token.calls", "10000")]);
    worker.is_ready().await;
    (lab, worker)
}

/// A body, and how the sentence about it begins.
fn malformed() -> Vec<(Vec<u8>, String)> {
    let mut cases: Vec<(Vec<u8>, String)> = vec![
        (b"".to_vec(), "body: empty; publish one event as a JSON object in UTF-8".into()),
        (b"hello".to_vec(), "body: not valid JSON: expected value (line 1, column 1)".into()),
        (b"[1]".to_vec(), "body: found an array of 1".into()),
        (b"{}".to_vec(), "body: none of the known forms".into()),
        (b"{\"monitor_uid\":\"\xff\"}".to_vec(), "body: not UTF-8 from byte 16 on".into()),
        ("[".repeat(50_000).into(), "body: nested more than 127 levels deep".into()),
        (
            br#"{"monitor_uid":"m","metrics":{"failedTests":1e400}}"#.to_vec(),
            "metrics.failedTests: found a number out of range".into(),
        ),
        (
            br#"{"monitor_uid":"m","metrics":{"failedTests":-1}}"#.to_vec(),
            "metrics.failedTests: found the number -1; send a whole number".into(),
        ),
        (
            br#"{"monitor_uid":"m","metrics":{"passedTests":18446744073709551616}}"#.to_vec(),
            "metrics.passedTests: found the number 1.8446744073709552e19".into(),
        ),
    ];
    let mut huge = run_body("m", 0).into_bytes();
    huge.resize((1 << 20) + 1, b' ');
    cases.push((huge, "body: 1048577 bytes long, over the limit of 1048576".into()));
    let wrong_types: [(Value, &[&str]); 2] = [
        (
            json!({"monitor_uid": "m", "metrics": {}}),
            &[
                "monitor_uid",
                "monitor_name",
                "collection_uid",
                "collection_name",
                "environment_uid",
                "environment_name",
                "user_id",
                "user_name",
                "run_id",
                "status",
                "region",
                "trigger",
                "started_at",
                "finished_at",
                "metrics",
            ],
        ),
        (
            json!({"action": "a", "model": "m"}),
            &[
                "action",
                "model",
                "model_name",
                "model_uid",
                "collection_uid",
                "collection_name",
                "message",
                "user_id",
                "user_name",
                "occurred_at",
                "workspace_id",
                "workspace_name",
            ],
        ),
    ];
    for (base, fields) in wrong_types {
        for field in fields {
            let mut body = base.clone();
            body[field] = json!([true]);
            cases.push((body.to_string().into(), format!("{field}: found an array of 1; ")));
        }
    }
    cases
}

#[tokio::test]
async fn malformed_events_are_dead_lettered_whole_and_delay_no_other() {
    let (lab, worker) = lab().await;
    let cases = malformed();
    for (n, (body, _)) in cases.iter().enumerate() {
        lab.broker
            .publish("monitor.acme.m", &format!("good-{n}"), run_body(&format!("m-{n}"), 1).as_bytes())
            .await;
        let key = if n % 2 == 0 { "monitor.acme.m" } else { "activity.acme.m.a" };
        lab.broker.publish(key, &format!("bad-{n}"), body).await;
    }
    let posted = lab.rooms.receives("runs", cases.len()).await;
    for (n, message) in posted.iter().enumerate() {
        let name = format!("<b>Monitor m-{n}</b>");
        assert!(message["message"].as_str().is_some_and(|html| html.contains(&name)), "{n}: {message}");
    }
    let letters = lab.letters(cases.len()).await;
    for (n, (letter, (_, expected))) in letters.iter().zip(&cases).enumerate() {
        assert_eq!(
            (&letter["event_id"], &letter["reason"]),
            (&json!(format!("bad-{n}")), &json!("malformed-event"))
        );
        let detail = letter["detail"].as_str().expect("a sentence");
        assert!(detail.starts_with(expected.as_str()), "{expected}\n{detail}");
        assert!(detail.contains("; "), "it says what to send: {detail}");
        worker.says(&[&format!("bad-{n}"), "dead-lettered: ", "malformed-event"]).await;
    }
    for (n, (body, _)) in cases.iter().enumerate() {
        let delivery = lab.broker.take(&lab.broker.topology.dead_letters).await;
        assert!(delivery.data == *body, "bad-{n}: byte for byte");
        let headers = delivery.properties.headers().clone().expect("headers");
        let names: Vec<&str> = headers.inner().keys().map(|name| name.as_str()).collect();
        for name in [
            "x-dead-letter-reason",
            "x-dead-letter-detail",
            "x-event-id",
            "x-dead-lettered-at",
            "x-original-exchange",
            "x-original-routing-key",
        ] {
            assert!(names.contains(&name), "{name}: {names:?}");
        }
        assert!(!names.contains(&"x-integration-id"), "no integration's notification failed");
    }
    lab.broker.depth_becomes(&lab.broker.topology.queue, 0).await;
    assert_eq!(
        worker.figure("hipchat_notifier_events_total{outcome=\"malformed\"}").await,
        Some(cases.len() as f64)
    );
    worker.stop().await;
}

/// Every tag is one that HipChat takes, with nothing in it but a link; nothing else begins with `<`.
fn check_html(html: &str) {
    assert!((1..=10_000).contains(&html.encode_utf16().count()), "{} units", html.encode_utf16().count());
    let mut rest = html;
    let mut open = Vec::new();
    while let Some(at) = rest.find('<') {
        let end = rest[at..].find('>').unwrap_or_else(|| panic!("a tag that does not end: {html}")) + at;
        let tag = &rest[at + 1..end];
        match tag {
            "br" => {}
            "b" | "i" | "em" | "strong" | "ul" | "ol" | "li" | "pre" | "code" => open.push(tag),
            closing if closing.starts_with('/') => assert_eq!(open.pop(), Some(&closing[1..]), "{html}"),
            link => {
                let url = link.strip_prefix("a href=\"").and_then(|rest| rest.strip_suffix('"'));
                let url = url.unwrap_or_else(|| panic!("<{link}>: {html}"));
                assert!(url.starts_with("https://") && !url.contains(['"', '\'', ' ']), "<{link}>");
                open.push("a");
            }
        }
        rest = &rest[end + 1..];
    }
    assert_eq!(open, [""; 0], "{html}");
}

const HOSTILE: &str =
    "</b><script>alert(1)</script><img src=x onerror=alert(2)>\" ' & &lt; \u{202e}\u{0}\u{1f4a5}@all";

/// All text members of `event` made hostile, so far as their form is free.
fn hostile(mut event: Value, kept: &[&str]) -> Value {
    for (name, value) in event.as_object_mut().expect("an object") {
        if value.is_string() && !kept.contains(&name.as_str()) {
            *value = format!("{name} {HOSTILE}").into();
        }
    }
    event
}

#[tokio::test]
async fn hostile_events_reach_their_rooms_as_harmless_html() {
    let (lab, worker) = lab().await;
    let names = json!({
        "monitor_uid": "m", "monitor_name": "", "collection_uid": "", "collection_name": "", "environment_uid": "",
        "environment_name": "", "user_id": "", "user_name": "", "run_id": "", "region": "<b>eu", "trigger": "",
        "monitor_url": "", "run_url": "",
        "metrics": {"passedTests": 1, "failedTests": u64::MAX, "errors": 0, "requestCount": 0, "totalLatency": u64::MAX},
        "failures": [{"request": HOSTILE, "test": HOSTILE, "message": HOSTILE.repeat(2_000)}],
    });
    let failures: Vec<Value> = (0..5_000)
        .map(|n| json!({"request": format!("Request {n}"), "test": format!("<b>test {n}"), "message": "expected 200 but got 500"}))
        .collect();
    let many = json!({
        "monitor_uid": "many", "monitor_name": "x".repeat(100_000),
        "metrics": {"passedTests": 0, "failedTests": 5_000, "errors": 0}, "failures": failures,
    });
    let mut links = json!({"monitor_uid": "l", "metrics": {"failedTests": 1}});
    links["monitor_url"] = "javascript:alert(1)".into();
    links["run_url"] = "https://ok.example/\"><script>".into();
    for (id, body) in
        [("names", hostile(names, &["monitor_uid", "region"])), ("many", many), ("links", links)]
    {
        lab.broker.publish("monitor.acme.m", id, body.to_string().as_bytes()).await;
    }
    let activity = json!({
        "action": "", "model": "", "model_name": "", "model_uid": "", "collection_uid": "", "collection_name": "",
        "message": "", "user_id": "", "user_name": "", "workspace_id": "", "workspace_name": "", "model_url": "",
        "collection_url": "",
    });
    let unknown =
        json!({"action": "teleport", "model": "spaceship", "user_name": "Ana", "model_name": "Enterprise"});
    for (id, body) in [("activity", hostile(activity, &[])), ("unknown", unknown)] {
        lab.broker.publish("activity.acme.m.a", id, body.to_string().as_bytes()).await;
    }
    let runs = lab.rooms.receives("runs", 3).await;
    let feed = lab.rooms.receives("feed", 2).await;
    for message in runs.iter().chain(&feed) {
        let html = message["message"].as_str().expect("html");
        assert_eq!(message["message_format"], "html");
        check_html(html);
        assert!(!html.contains('\u{202e}') && !html.contains('\u{0}'), "{html}");
    }
    let text = |message: &Value| message["message"].as_str().expect("html").to_owned();
    assert!(text(&runs[0]).contains("&lt;script&gt;alert(1)&lt;/script&gt;"), "{}", text(&runs[0]));
    assert!(text(&runs[1]).contains("4995 more"), "{}", text(&runs[1]));
    assert!(!text(&runs[2]).contains("javascript:"), "{}", text(&runs[2]));
    assert!(
        text(&feed[1]).contains("teleport") && text(&feed[1]).contains("Enterprise"),
        "{}",
        text(&feed[1])
    );
    lab.letters(0).await;
    worker.stop().await;
}

#[tokio::test]
async fn an_event_without_an_id_gets_one_and_that_is_said_once() {
    let (lab, worker) = lab().await;
    let anonymous = lapin::BasicProperties::default().with_delivery_mode(2);
    for n in 0..3 {
        let body = run_body(&format!("m-{n}"), 1);
        let exchange = &lab.broker.topology.exchange;
        lab.broker.publish_to(exchange, "monitor.acme.m", body.as_bytes(), anonymous.clone()).await;
    }
    lab.rooms.receives("runs", 3).await;
    worker.says(&["an event came without message_id or CloudEvents id"]).await;
    let long = "i".repeat(255);
    lab.broker.publish("monitor.acme.m", &long, run_body("long", 1).as_bytes()).await;
    lab.rooms.receives("runs", 4).await;
    eventually("it can be explained", async || {
        (lab.run(&["explain", &long]).await.code == Some(0)).then_some(())
    })
    .await;
    let log = worker.stop().await;
    assert_eq!(log.matches("without message_id").count(), 1, "{log}");
}
