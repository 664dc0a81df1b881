//! Faults on request: each kind, seen from a client.

use std::sync::Arc;
use std::time::Instant;

use futures_util::StreamExt;

use super::*;

fn message() -> Value {
    json!({"message": "m"})
}

#[tokio::test]
async fn a_status_as_often_as_asked_in_the_room_asked() {
    let sandbox = Running::open().await;
    sandbox
        .set_faults(json!([
            {"kind": "status", "status": 503, "room": "a", "times": 2, "headers": {"Retry-After": "9"}},
            {"kind": "status", "status": 502, "room": "a", "times": 1, "body": "<html>bad gateway</html>"},
        ]))
        .await;
    assert_eq!(sandbox.post("b", &message()).await.status(), 204);
    for _ in 0..2 {
        let response = sandbox.post("a", &message()).await;
        assert_eq!(response.status(), 503);
        assert_eq!(number(&response, "retry-after"), 9);
    }
    let response = sandbox.post("a", &message()).await;
    assert_eq!(response.status(), 502);
    assert_eq!(response.text().await.expect("a body"), "<html>bad gateway</html>");
    assert_eq!(sandbox.post("a", &message()).await.status(), 204);

    let listed = sandbox.get("/sandbox/faults").await;
    assert_eq!(listed["faults"][0]["done"], 2);
    assert_eq!(listed["faults"][1]["done"], 1);
    let rooms = sandbox.get("/sandbox/rooms").await;
    assert_eq!((&rooms[0]["received"], &rooms[0]["accepted"]), (&json!(4), &json!(1)));
    assert_eq!(rooms[0]["rejected"], json!({"502": 1, "503": 2}));
}

#[tokio::test]
async fn a_connection_is_dropped_before_or_after_the_room_has_the_message() {
    let sandbox = Running::open().await;
    for (accept, in_room) in [(false, 0), (true, 1)] {
        sandbox.set_faults(json!([{"kind": "drop", "accept": accept, "times": 1}])).await;
        let fault = sandbox.try_post("a", &message()).await.expect_err("no answer");
        assert!(!fault.is_timeout() && !fault.is_builder(), "{fault:?}");
        assert_eq!(sandbox.messages("a").await.len(), in_room, "accept = {accept}");
    }
    assert_eq!(sandbox.post("a", &message()).await.status(), 204, "the next call is served");
    let attempts = sandbox.get("/sandbox/attempts?room=a").await;
    let told: Vec<_> = attempts.as_array().expect("a list").iter().collect();
    assert_eq!(told.len(), 3);
    assert_eq!(
        (&told[0]["status"], &told[0]["fault"], &told[0]["sequence"]),
        (&Value::Null, &json!("drop"), &Value::Null)
    );
    assert_eq!(
        (&told[1]["status"], &told[1]["fault"], &told[1]["sequence"]),
        (&Value::Null, &json!("drop"), &json!(1))
    );
    assert_eq!(
        (&told[2]["status"], &told[2]["fault"], &told[2]["sequence"]),
        (&json!(204), &Value::Null, &json!(2))
    );
    assert_eq!(sandbox.get("/sandbox/rooms").await[0]["unanswered"], 2);
}

/// Posts to room `a` in the background.
fn post_aside(sandbox: &Arc<Running>) -> JoinHandle<reqwest::Result<Response>> {
    let sandbox = Arc::clone(sandbox);
    tokio::spawn(async move { sandbox.try_post("a", &message()).await })
}

/// Waits until the sandbox has noted so many calls.
async fn until_noted(sandbox: &Running, calls: usize) {
    let deadline = Instant::now() + DEADLINE;
    while sandbox.get("/sandbox/attempts").await.as_array().map(Vec::len) != Some(calls) {
        assert!(Instant::now() < deadline, "{calls} calls were not noted in time");
    }
}

#[tokio::test]
async fn a_call_that_hangs_is_never_answered_and_does_not_hold_up_the_end() {
    let sandbox = Arc::new(Running::open().await);
    let mut hanging = Vec::new();
    for (accept, in_room) in [(false, 0), (true, 1)] {
        sandbox.set_faults(json!([{"kind": "hang", "accept": accept}])).await;
        hanging.push(post_aside(&sandbox));
        until_noted(&sandbox, hanging.len()).await;
        assert_eq!(sandbox.messages("a").await.len(), in_room, "accept = {accept}");
    }
    assert!(hanging.iter().all(|call| !call.is_finished()));
    sandbox.stop().await;
    for call in hanging {
        call.await.expect("no panic").expect_err("no answer even at the end");
    }
}

#[tokio::test]
async fn latency_comes_after_the_message_and_before_the_answer() {
    let sandbox = Arc::new(Running::open().await);
    sandbox.set_faults(json!([{"kind": "answer", "latency_ms": 150}])).await;
    let started = Instant::now();
    assert_eq!(sandbox.post("a", &message()).await.status(), 204);
    assert!(started.elapsed() >= Duration::from_millis(150));
    sandbox.set_faults(json!([{"kind": "answer", "latency_ms": 3_600_000}])).await;
    let late = post_aside(&sandbox);
    until_noted(&sandbox, 2).await;
    assert_eq!(sandbox.messages("a").await.len(), 2, "the room has it already");
    assert!(!late.is_finished());
    sandbox.stop().await;
    assert_eq!(
        late.await.expect("no panic").expect("an answer").status(),
        204,
        "the end cuts the wait short"
    );
}

#[tokio::test]
async fn a_body_comes_by_the_byte() {
    let sandbox = Running::open().await;
    sandbox.set_faults(json!([{"kind": "trickle", "interval_ms": 40, "body": "slow", "times": 1}])).await;
    let started = Instant::now();
    let response = sandbox.post("a", &message()).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.text().await.expect("a body"), "slow");
    assert!(started.elapsed() >= Duration::from_millis(160));

    sandbox.set_faults(json!([{"kind": "trickle", "interval_ms": 1, "status": 500}])).await;
    let mut endless = sandbox.post("a", &message()).await.bytes_stream();
    for _ in 0..20 {
        assert!(!endless.next().await.expect("more to come").expect("readable").is_empty());
    }
    assert_eq!(sandbox.messages("a").await.len(), 1, "an error accepts nothing");
}

#[tokio::test]
async fn a_body_can_be_huge() {
    let sandbox = Running::open().await;
    sandbox.set_faults(json!([{"kind": "huge", "mib": 8}])).await;
    let mut body = sandbox.post("a", &message()).await.bytes_stream();
    let mut length = 0;
    while let Some(chunk) = body.next().await {
        length += chunk.expect("readable").len();
    }
    assert_eq!(length, 8 * 1024 * 1024);
}

#[tokio::test]
async fn a_redirect_points_where_asked_and_takes_nothing() {
    let sandbox = Running::open().await;
    sandbox.set_faults(json!([{"kind": "redirect", "location": "http://127.0.0.1:1/inside"}])).await;
    let response = sandbox.post("a", &message()).await;
    assert_eq!(response.status(), 302);
    assert_eq!(header(&response, "location").as_deref(), Some("http://127.0.0.1:1/inside"));
    assert_eq!(sandbox.messages("a").await.len(), 0);
}

#[tokio::test]
async fn an_error_can_be_answered_although_the_room_has_the_message() {
    let sandbox = Running::open().await;
    sandbox.set_faults(json!([{"kind": "status", "status": 500, "accept": true, "times": 2}])).await;
    assert_eq!(sandbox.post("a", &message()).await.status(), 500);
    assert_eq!(sandbox.messages("a").await.len(), 1);
    assert_eq!(sandbox.post("a", &json!({})).await.status(), 400, "an invalid one is refused as ever");
    let attempts = sandbox.get("/sandbox/attempts").await;
    assert_eq!((&attempts[0]["status"], &attempts[0]["fault"]), (&json!(500), &json!("status")));
    assert_eq!((&attempts[1]["status"], &attempts[1]["fault"]), (&json!(400), &Value::Null));

    sandbox.set_faults(json!([{"kind": "status", "status": 401, "room": "b"}])).await;
    let body = json_of(sandbox.post("b", &message()).await).await;
    assert_eq!(body, json!({"error": {"code": 401, "type": "Unauthorized", "message": "Unauthorized"}}));
}

#[tokio::test]
async fn faults_are_added_cleared_and_refused_whole() {
    let sandbox = Running::open().await;
    let send = async |method: Method, body: &str| {
        let request = sandbox.request(method, "/sandbox/faults").header("content-type", "application/json");
        let response = request.body(body.to_owned()).send().await.expect("an answer");
        (response.status().as_u16(), json_of(response).await)
    };
    sandbox.set_faults(json!([{"kind": "status", "status": 500, "times": 1}])).await;
    let (status, list) = send(Method::POST, r#"{"faults":[{"kind":"status","status":501}]}"#).await;
    assert_eq!((status, list["faults"].as_array().map(Vec::len)), (200, Some(2)));
    let bad = r#"{"faults":[{"kind":"drop"},{"kind":"status"}]}"#;
    let (status, fault) = send(Method::PUT, bad).await;
    assert_eq!((status, &fault["error"]), (400, &json!("faults[1]: a fault of kind status needs a status")));
    let (status, fault) = send(Method::PUT, r#"{"faults":[{"kind":"drop","oops":1}]}"#).await;
    assert_eq!(status, 400);
    assert!(fault["error"].as_str().expect("a text").contains("oops"), "{fault}");
    assert_eq!(sandbox.post("a", &message()).await.status(), 500, "the list is as it was");
    assert_eq!(sandbox.post("a", &message()).await.status(), 501);
    let (status, list) = send(Method::DELETE, "").await;
    assert_eq!((status, list), (200, json!({"faults": []})));
    assert_eq!(sandbox.post("a", &message()).await.status(), 204);
}
