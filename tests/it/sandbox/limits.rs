//! Both rate limits, and how they are told.

use super::*;

fn limited(room: Option<(u32, Duration)>, token: Option<(u32, Duration)>) -> SandboxOptions {
    SandboxOptions { room_limit: room, token_limit: token, ..SandboxOptions::default() }
}

#[tokio::test]
async fn a_room_takes_so_many_and_others_do_not_count() {
    let minute = Duration::from_secs(60);
    let sandbox = Running::start(limited(Some((3, minute)), Some((500, 5 * minute)))).await;
    let message = json!({"message": "m"});
    for remaining in [2, 1, 0] {
        let response = sandbox.post("a", &message).await;
        assert_eq!(response.status(), 204);
        assert_eq!(number(&response, "X-FloodControl-Limit"), 3);
        assert_eq!(number(&response, "X-FloodControl-Remaining"), remaining);
        let reset = number(&response, "X-FloodControl-Reset");
        assert!((epoch_now() + 40..=epoch_now() + 61).contains(&reset), "{reset}");
    }
    let response = sandbox.post("a", &message).await;
    assert_eq!(response.status(), 429);
    assert_eq!(number(&response, "X-FloodControl-Remaining"), 0);
    assert_eq!(number(&response, "X-Ratelimit-Limit"), 500);
    assert_eq!(number(&response, "X-Ratelimit-Remaining"), 496, "the token has calls left");
    assert_eq!(header(&response, "retry-after"), None);
    assert_eq!(
        json_of(response).await,
        json!({"error": {"code": 429, "type": "Too Many Requests", "message": "Rate limit exceeded"}})
    );
    assert_eq!(sandbox.post("b", &message).await.status(), 204);
    let invalid = sandbox.post("b", &json!({})).await;
    assert_eq!(number(&invalid, "X-FloodControl-Remaining"), 2, "what is refused is not in the room");

    let rooms = sandbox.get("/sandbox/rooms").await;
    assert_eq!(rooms[0]["id"], "a");
    assert_eq!(rooms[0]["received"], 4);
    assert_eq!(rooms[0]["accepted"], 3);
    assert_eq!(rooms[0]["over_limit"], 1);
    assert_eq!(rooms[0]["max_in_window"], 4);
    assert_eq!(rooms[0]["rejected"], json!({"429": 1}));
    assert_eq!(rooms[1]["rejected"], json!({"400": 1}));
}

#[tokio::test]
async fn a_token_has_so_many_calls_over_all_rooms() {
    let sandbox = Running::start(limited(None, Some((3, Duration::from_secs(300))))).await;
    let message = json!({"message": "m"});
    assert_eq!(sandbox.post("a", &message).await.status(), 204);
    assert_eq!(sandbox.post("b", &json!({})).await.status(), 400);
    let test =
        sandbox.request(Method::POST, "/v2/room/c/notification?auth_test=true&auth_token=secret-token");
    assert_eq!(test.send().await.expect("an answer").status(), 202);
    let response = sandbox.post("d", &message).await;
    assert_eq!(response.status(), 429);
    assert_eq!(number(&response, "X-Ratelimit-Limit"), 3);
    assert_eq!(number(&response, "X-Ratelimit-Remaining"), 0);
    let reset = number(&response, "X-Ratelimit-Reset");
    assert!((epoch_now() + 250..=epoch_now() + 301).contains(&reset), "{reset}");
    assert_eq!(header(&response, "X-FloodControl-Limit"), None, "unlimited rooms say nothing");
    let other = sandbox.request(Method::POST, "/v2/room/d/notification?auth_token=another");
    let other = other.header("content-type", "application/json").body(message.to_string());
    assert_eq!(other.send().await.expect("an answer").status(), 204, "each token has its own");
}

/// Posting as fast as it goes, never more than the limit get in within any window.
#[tokio::test]
async fn the_window_slides() {
    let window = Duration::from_millis(300);
    let sandbox = Running::start(limited(Some((2, window)), None)).await;
    let started = std::time::Instant::now();
    let mut accepted = Vec::new();
    while accepted.len() < 6 {
        assert!(started.elapsed() < DEADLINE, "only {} in time", accepted.len());
        let before = started.elapsed();
        match sandbox.post("a", &json!({"message": "m"})).await.status().as_u16() {
            204 => accepted.push((before, started.elapsed())),
            429 => {}
            other => panic!("{other}"),
        }
    }
    for three in accepted.windows(3) {
        let widest = three[2].1 - three[0].0;
        assert!(widest >= window, "three within {widest:?}");
    }
}

#[tokio::test]
async fn the_reset_can_be_told_in_seconds_and_by_retry_after() {
    let sandbox = Running::start(limited(Some((1, Duration::from_secs(60))), None)).await;
    sandbox.set_faults(json!([{"kind": "answer", "reset_style": "seconds", "retry_after": true}])).await;
    let first = sandbox.post("a", &json!({"message": "m"})).await;
    assert_eq!(first.status(), 204);
    assert_eq!(header(&first, "retry-after"), None, "not limited yet");
    let second = sandbox.post("a", &json!({"message": "m"})).await;
    assert_eq!(second.status(), 429);
    assert!((30..=60).contains(&number(&second, "X-FloodControl-Reset")));
    assert!((30..=60).contains(&number(&second, "Retry-After")));
    sandbox
        .set_faults(json!([{
            "kind": "answer", "retry_after": 7,
            "headers": {"X-FloodControl-Reset": null, "X-FloodControl-Remaining": "many"},
        }]))
        .await;
    let third = sandbox.post("a", &json!({"message": "m"})).await;
    assert_eq!(number(&third, "Retry-After"), 7);
    assert_eq!(header(&third, "X-FloodControl-Reset"), None);
    assert_eq!(header(&third, "X-FloodControl-Remaining").as_deref(), Some("many"));
}
