//! Each status, with HipChat's body.

use super::*;

async fn guarded() -> Running {
    let spec = RoomSpec { name: Some("Ops Room #1".to_owned()), ..room("42", "token-of-42") };
    let options = SandboxOptions {
        rooms: vec![spec, room("43", "token-of-43")],
        tokens: vec!["token-of-all".to_owned()],
        ..SandboxOptions::default()
    };
    Running::start(options).await
}

#[tokio::test]
async fn who_may_post_where() {
    let sandbox = guarded().await;
    let path = "/v2/room/42/notification";
    let cases = [
        ("own token, header", "Bearer token-of-42", path, 204, ""),
        ("scheme in other letters", "bearer token-of-42", path, 204, ""),
        ("own token, query", "", "/v2/room/42/notification?auth_token=token-of-42", 204, ""),
        ("token of all rooms", "Bearer token-of-all", path, 204, ""),
        ("by name", "Bearer token-of-42", "/v2/room/Ops%20Room%20%231/notification", 204, ""),
        ("no token", "", path, 401, "Invalid OAuth session"),
        ("wrong token", "Bearer token-of-44", path, 401, "Invalid OAuth session"),
        ("other scheme", "Basic token-of-42", path, 401, "Invalid OAuth session"),
        ("another room's token", "Bearer token-of-43", path, 403, "This token is for another room"),
        ("no such room", "Bearer token-of-all", "/v2/room/44/notification", 404, "Room not found"),
        (
            "plus for space",
            "Bearer token-of-42",
            "/v2/room/Ops+Room+%231/notification",
            404,
            "Room not found",
        ),
        (
            "empty room",
            "Bearer token-of-42",
            "/v2/room//notification",
            405,
            "This method is not allowed here: use POST",
        ),
        (
            "raw #",
            "Bearer token-of-42",
            "/v2/room/Ops%20Room%20",
            405,
            "This method is not allowed here: use POST",
        ),
        ("not of the API", "Bearer token-of-42", "/v2/rooms/42/notification", 404, "Not found"),
    ];
    for (name, authorization, path, status, message) in cases {
        let mut request = sandbox.request(Method::POST, path).header("content-type", "application/json");
        if !authorization.is_empty() {
            request = request.header("authorization", authorization);
        }
        let response = request.body(r#"{"message":"m"}"#).send().await.expect("an answer");
        assert_eq!(response.status(), status, "{name}");
        if status == 204 {
            assert_eq!(response.text().await.expect("a body"), "", "{name}");
            continue;
        }
        let body = json_of(response).await;
        assert_eq!(body["error"]["code"], status, "{name}: {body}");
        assert_eq!(body["error"]["message"], message, "{name}: {body}");
        assert!(body["error"]["type"].is_string(), "{name}: {body}");
    }
    assert_eq!(sandbox.messages("42").await.len(), 5);
    assert_eq!(sandbox.messages("43").await.len(), 0);
}

#[tokio::test]
async fn only_post_is_a_method() {
    let sandbox = guarded().await;
    for method in [Method::GET, Method::PUT, Method::DELETE] {
        let request = sandbox.request(method.clone(), "/v2/room/42/notification?auth_token=token-of-42");
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status(), 405, "{method}");
        assert_eq!(header(&response, "allow").as_deref(), Some("POST"));
        assert_eq!(json_of(response).await["error"]["type"], "Method Not Allowed");
    }
}

#[tokio::test]
async fn any_sane_token_will_do_where_none_is_set() {
    let sandbox = Running::open().await;
    let too_long = "x".repeat(129);
    for (token, status) in [("anything", 204), ("", 401), ("with%20space", 401), (&too_long, 401)] {
        let path = format!("/v2/room/new/notification?auth_token={token}");
        let request = sandbox.request(Method::POST, &path).header("content-type", "application/json");
        let response = request.body(r#"{"message":"m"}"#).send().await.expect("an answer");
        assert_eq!(response.status(), status, "{token}");
    }
}

#[tokio::test]
async fn a_token_test_posts_nothing() {
    let sandbox = guarded().await;
    let path = "/v2/room/42/notification?auth_test=true&auth_token=";
    let response =
        sandbox.request(Method::POST, &format!("{path}token-of-42")).send().await.expect("an answer");
    assert_eq!(response.status(), 202);
    assert_eq!(number(&response, "x-ratelimit-remaining"), 499, "it counts as a call");
    assert_eq!(header(&response, "x-floodcontrol-limit"), None, "and is no message");
    let body = json_of(response).await;
    assert_eq!((&body["success"]["code"], &body["success"]["type"]), (&json!(202), &json!("Accepted")));
    let response = sandbox.request(Method::POST, &format!("{path}nobodys")).send().await.expect("an answer");
    assert_eq!(response.status(), 401);
    assert_eq!(sandbox.messages("42").await.len(), 0);
    let rooms = sandbox.get("/sandbox/rooms").await;
    assert_eq!((&rooms[0]["received"], &rooms[0]["auth_tests"]), (&json!(0), &json!(2)));
}

#[tokio::test]
async fn a_refused_body_is_told_as_hipchat_told_it() {
    let sandbox = Running::open().await;
    let response = sandbox.post("42", &json!({"message": "m", "notify": "true"})).await;
    assert_eq!(response.status(), 400);
    assert_eq!(header(&response, "content-type").as_deref(), Some("application/json"));
    assert_eq!(
        json_of(response).await,
        json!({"error": {
            "code": 400, "type": "Bad Request",
            "message": "Value u'true' for field 'notify' is not of type 'boolean'",
            "field": "notify", "validation": "type", "expected_type": "boolean", "value": "true",
        }})
    );
    assert_eq!(sandbox.messages("42").await.len(), 0);
}

/// The schema file itself is the oracle: whatever it says of a body, the sandbox answers.
#[tokio::test]
async fn bodies_are_judged_by_the_schema() {
    let schema = include_str!("../../../schemas/room-notification.schema.json");
    let oracle = jsonschema::validator_for(&serde_json::from_str(schema).expect("JSON")).expect("a schema");
    let sandbox = Running::open().await;
    let card = |more: Value| {
        let mut card = json!({"style": "link", "id": "1", "title": "t"});
        card.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        json!({"message": "m", "card": card})
    };
    let bodies = [
        json!({"message": "x".repeat(10_000)}),
        json!({"message": "x".repeat(10_001)}),
        json!({"message": ""}),
        json!({}),
        json!([]),
        json!(null),
        json!({"message": ["m"]}),
        json!({"message": "m", "color": "gray", "notify": true, "message_format": "text", "from": "x".repeat(64)}),
        json!({"message": "m", "color": "grey"}),
        json!({"message": "m", "from": "x".repeat(65)}),
        json!({"message": "m", "room_id": 42}),
        card(json!({})),
        card(json!({"id": 1})),
        card(json!({"title": "x".repeat(501)})),
        card(json!({"description": "x".repeat(1_000)})),
        card(json!({"description": {"value": "v", "format": "markdown"}})),
        card(json!({"attributes": []})),
        card(json!({"attributes": [{"label": "l", "value": {"label": "v", "style": "lozenge-error"}}]})),
        card(json!({"activity": {"html": "x", "extra": 1}})),
        card(json!({"date": 1_500_000_000})),
    ];
    for body in bodies {
        let expected = if oracle.is_valid(&body) { 204 } else { 400 };
        assert_eq!(sandbox.post("42", &body).await.status(), expected, "{body:.200}");
    }
}

#[tokio::test]
async fn what_is_not_json_or_too_large_is_refused() {
    let sandbox = Running::open().await;
    let send = async |kind: &str, body: Vec<u8>| {
        let request = sandbox.request(Method::POST, "/v2/room/42/notification?auth_token=t");
        let request = if kind.is_empty() { request } else { request.header("content-type", kind) };
        let response = request.body(body).send().await.expect("an answer");
        (response.status().as_u16(), json_of(response).await)
    };
    let valid = br#"{"message":"m"}"#.to_vec();
    let padded = |length: usize| [valid.clone(), vec![b' '; length - valid.len()]].concat();
    for (name, kind, body, status) in [
        ("no type", "", valid.clone(), 400),
        ("a form", "application/x-www-form-urlencoded", b"message=m".to_vec(), 400),
        ("text", "text/plain", valid.clone(), 400),
        ("empty", "application/json", Vec::new(), 400),
        ("cut off", "application/json", b"{\"message\":\"m".to_vec(), 400),
        ("raw newline", "application/json", b"{\"message\":\"a\nb\"}".to_vec(), 400),
        ("not UTF-8", "application/json", b"{\"message\":\"\xff\"}".to_vec(), 400),
        ("nested deep", "application/json", vec![b'['; 500_000], 400),
        ("1 MiB and 1", "application/json", padded(1024 * 1024 + 1), 413),
        ("9 MiB", "application/json", padded(9 * 1024 * 1024), 413),
    ] {
        let (answered, body) = send(kind, body).await;
        assert_eq!(answered, status, "{name}: {body}");
        assert_eq!(body["error"]["code"], status, "{name}: {body}");
    }
    for kind in ["application/json; charset=utf-8", "Application/JSON"] {
        let request = sandbox.request(Method::POST, "/v2/room/42/notification?auth_token=t");
        let response = request.header("content-type", kind).body(padded(1024 * 1024)).send().await;
        assert_eq!(response.expect("an answer").status(), 204, "{kind}");
    }
}

#[tokio::test]
async fn it_listens_beyond_loopback_only_when_told() {
    let options = SandboxOptions { listen: "0.0.0.0:0".parse().expect("valid"), ..SandboxOptions::default() };
    let fault = Sandbox::bind(options.clone()).await.expect_err("refused").to_string();
    assert!(fault.contains("0.0.0.0:0") && fault.contains("loopback"), "{fault}");
    Sandbox::bind(SandboxOptions { allow_remote: true, ..options }).await.expect("allowed");
}

#[tokio::test]
async fn options_that_contradict_themselves_are_refused() {
    let base = SandboxOptions::default();
    for (options, says) in [
        (SandboxOptions { rooms: vec![room("1", "a"), room("1", "b")], ..base.clone() }, "given twice"),
        (SandboxOptions { rooms: vec![room("", "a")], ..base.clone() }, "1 to 100"),
        (SandboxOptions { rooms: vec![room("1", "a secret")], ..base.clone() }, "visible ASCII"),
        (SandboxOptions { tokens: vec![String::new()], ..base.clone() }, "visible ASCII"),
        (SandboxOptions { room_limit: Some((1, Duration::ZERO)), ..base.clone() }, "room limit"),
    ] {
        let fault = Sandbox::bind(options).await.expect_err(says).to_string();
        assert!(fault.contains(says) && !fault.contains("a secret"), "{fault}");
    }
    let options = SandboxOptions { rooms: vec![room("1", "hush")], tokens: vec!["hush".into()], ..base };
    assert!(!format!("{options:?}").contains("hush"));
}
