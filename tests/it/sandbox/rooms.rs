//! What is listed and shown of the rooms.

use futures_util::StreamExt;

use super::*;

#[tokio::test]
async fn a_room_lists_what_it_received_in_order() {
    let sandbox = Running::open().await;
    let card = json!({"style": "application", "id": "c", "title": "t"});
    let full = json!({
        "message": "<b>one</b>", "message_format": "html", "color": "red", "notify": true,
        "from": "monitor", "attach_to": "abc", "card": card,
    });
    assert_eq!(sandbox.post("a", &full).await.status(), 204);
    assert_eq!(sandbox.post("b", &json!({"message": "elsewhere"})).await.status(), 204);
    assert_eq!(sandbox.post("a", &json!({"message": "two", "message_format": "text"})).await.status(), 204);

    let mut listed = sandbox.messages("a").await;
    let time = listed[0]["received_at"].take();
    let time = time.as_str().expect("a time");
    assert!(time.len() == 24 && time.ends_with('Z') && &time[19..20] == ".", "{time}");
    let token = listed[0]["token"].take();
    assert_eq!(token.as_str().expect("a fingerprint").len(), 8);
    let mut expected = full;
    for (name, value) in [("sequence", json!(1)), ("received_at", Value::Null), ("token", Value::Null)] {
        expected[name] = value;
    }
    assert_eq!(listed[0], expected);
    assert_eq!((&listed[1]["sequence"], &listed[1]["color"]), (&json!(3), &json!("yellow")));
    assert_eq!(listed[1]["token"], token);

    let after = sandbox.get("/sandbox/rooms/a/messages?after=1").await;
    assert_eq!(after["messages"].as_array().map(Vec::len), Some(1));
    assert_eq!((&after["room"], &after["accepted"]), (&json!("a"), &json!(2)));
    assert_eq!(sandbox.messages("not%20yet").await, Vec::<Value>::new());
    for path in ["/", "/?room=a", "/sandbox/rooms", "/sandbox/rooms/a/messages", "/sandbox/attempts"] {
        assert!(!sandbox.text(path).await.contains("secret-token"), "{path} shows a token");
    }
}

#[tokio::test]
async fn only_the_newest_are_kept_and_all_can_be_forgotten() {
    let sandbox = Running::start(SandboxOptions { keep: 3, ..SandboxOptions::default() }).await;
    for number in 1..=5 {
        assert_eq!(sandbox.post("a", &json!({"message": number.to_string()})).await.status(), 204);
    }
    let listing = sandbox.get("/sandbox/rooms/a/messages").await;
    let kept: Vec<_> =
        listing["messages"].as_array().expect("a list").iter().map(|one| &one["message"]).collect();
    assert_eq!(kept, ["3", "4", "5"]);
    assert_eq!(listing["accepted"], 5);
    let cleared = sandbox.request(Method::DELETE, "/sandbox/messages").send().await.expect("an answer");
    assert_eq!(cleared.status(), 204);
    assert_eq!(sandbox.messages("a").await.len(), 0);
    assert_eq!(sandbox.get("/sandbox/rooms").await[0]["received"], 0);
    let response = sandbox.post("a", &json!({"message": "6"})).await;
    assert_eq!(number(&response, "x-floodcontrol-remaining"), 24, "the budget is not given anew");
    assert_eq!(sandbox.messages("a").await[0]["sequence"], 6);
}

#[tokio::test]
async fn an_unknown_room_is_not_listed_where_rooms_are_given() {
    let sandbox =
        Running::start(SandboxOptions { rooms: vec![room("a", "t")], ..SandboxOptions::default() }).await;
    let response = sandbox.request(Method::GET, "/sandbox/rooms/b/messages").send().await.expect("an answer");
    assert_eq!(response.status(), 404);
    assert_eq!(json_of(response).await, json!({"error": "there is no room \"b\""}));
}

/// Many clients at once: each message is counted and listed once, in one order.
#[tokio::test]
async fn concurrent_posts_are_all_counted_once() {
    let sandbox = std::sync::Arc::new(Running::open().await);
    let posts: Vec<_> = (0..8)
        .map(|client| {
            let sandbox = std::sync::Arc::clone(&sandbox);
            tokio::spawn(async move {
                for number in 0..25 {
                    let body = json!({"message": format!("{client}-{number}")});
                    assert_eq!(
                        sandbox.post(if number % 2 == 0 { "a" } else { "b" }, &body).await.status(),
                        204
                    );
                }
            })
        })
        .collect();
    for post in posts {
        post.await.expect("posted");
    }
    let (in_a, in_b) = (sandbox.messages("a").await, sandbox.messages("b").await);
    assert_eq!((in_a.len(), in_b.len()), (104, 96));
    let mut sequences = Vec::new();
    for messages in [&in_a, &in_b] {
        let own: Vec<_> = messages.iter().map(|one| one["sequence"].as_u64().expect("a number")).collect();
        assert!(own.is_sorted());
        sequences.extend(own);
    }
    sequences.sort_unstable();
    assert_eq!(sequences, (1..=200).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_page_shows_messages_made_safe() {
    let sandbox = Running::open().await;
    let name = "%3Cscript%3Ealert(0)%3C%2Fscript%3E";
    for body in [
        json!({"message": "<b>bold</b><script>alert(1)</script><img src=x onerror=alert(2)>", "color": "red", "notify": true}),
        json!({"message": "<i>not html</i>\nsecond {{content}}", "message_format": "text", "from": "<u>label</u>"}),
        json!({"message": "fallback", "card": {
            "style": "application", "id": "c", "title": "<s>Card</s>", "url": "javascript:alert(3)",
            "description": {"value": "<b>described</b><script>alert(4)</script>", "format": "html"},
            "activity": {"html": "<b>active</b><script>alert(5)</script>"},
            "attributes": [{"label": "<l>", "value": {"label": "failed", "style": "lozenge-error", "url": "https://a.test/"}}],
        }}),
        json!({"message": "shown instead", "card": {"style": "link", "id": "c", "title": "hidden title"}}),
    ] {
        assert_eq!(sandbox.post(name, &body).await.status(), 204);
    }
    let response = sandbox.request(Method::GET, "/").send().await.expect("an answer");
    let policy = header(&response, "content-security-policy").expect("a policy");
    assert!(policy.contains("default-src 'none'") && policy.contains("script-src 'self'"), "{policy}");
    assert!(!policy.contains("http"), "nothing from elsewhere: {policy}");
    let page = response.text().await.expect("html");
    for shown in [
        "message red",
        "<b>bold</b><img>",
        "Notifies people",
        "&lt;i&gt;not html&lt;/i&gt;<br>second {{content}}",
        "&lt;u&gt;label&lt;/u&gt;",
        "&lt;s&gt;Card&lt;/s&gt;",
        "<b>described</b>",
        "<b>active</b>",
        "&lt;l&gt;",
        "lozenge lozenge-error",
        "https://a.test/",
        "shown instead",
        "&lt;script&gt;alert(0)",
    ] {
        assert!(page.contains(shown), "{shown} is missing in {page}");
    }
    for hidden in ["<script>", "onerror", "javascript:", "fallback", "hidden title"] {
        assert!(!page.contains(hidden), "{hidden} is in {page}");
    }
    let alone = sandbox.text(&format!("/?room={name}")).await;
    assert!(alone.contains("<b>bold</b>") && !alone.contains("<script>alert"));
    assert!(
        sandbox
            .text("/?room=%22%3E%3Cscript%3E")
            .await
            .contains("Nothing has been posted to room “&quot;&gt;&lt;script&gt;”")
    );
    assert!(sandbox.text("/sandbox/page.js").await.contains("EventSource"));
    assert!(sandbox.text("/sandbox/page.css").await.contains(".message.purple"));
}

/// Reads server-sent events until `count` messages came; gives their data.
async fn events(response: Response, count: usize) -> Vec<Value> {
    let (mut body, mut read) = (response.bytes_stream(), String::new());
    let data = |read: &str| -> Vec<Value> {
        let whole = read.rfind("\n\n").map_or("", |end| &read[..end]);
        let lines = whole.lines().filter_map(|line| line.strip_prefix("data: "));
        lines.map(|data| serde_json::from_str(data).expect("JSON")).collect()
    };
    while data(&read).len() < count {
        let chunk = tokio::time::timeout(DEADLINE, body.next()).await.expect("in time");
        read.push_str(&String::from_utf8_lossy(&chunk.expect("an event").expect("readable")));
    }
    data(&read)
}

#[tokio::test]
async fn pages_hear_of_messages_as_they_come_and_of_those_they_missed() {
    let sandbox = Running::open().await;
    let live = sandbox.request(Method::GET, "/sandbox/events").send().await.expect("an answer");
    assert_eq!(header(&live, "content-type").as_deref(), Some("text/event-stream"));
    for (room, text) in [("a", "<b>one</b><script>x</script>"), ("b", "two"), ("a", "three")] {
        assert_eq!(sandbox.post(room, &json!({"message": text})).await.status(), 204);
    }
    let heard = events(live, 3).await;
    assert_eq!(
        (&heard[0]["room"], &heard[0]["sequence"], &heard[0]["accepted"]),
        (&json!("a"), &json!(1), &json!(1))
    );
    let html = heard[0]["html"].as_str().expect("html");
    assert!(html.contains("<b>one</b>") && !html.contains("script"), "{html}");
    assert_eq!(heard[1]["room"], "b");

    let missed = sandbox.request(Method::GET, "/sandbox/events?after=1").send().await.expect("an answer");
    assert_eq!(sandbox.post("b", &json!({"message": "four"})).await.status(), 204);
    let sequences: Vec<_> = events(missed, 3).await.iter().map(|one| one["sequence"].clone()).collect();
    assert_eq!(sequences, [2, 3, 4]);
    let again = sandbox.request(Method::GET, "/sandbox/events?after=0").header("last-event-id", "3");
    let again = again.send().await.expect("an answer");
    assert_eq!(events(again, 1).await[0]["sequence"], 4);
    sandbox.stop().await;
}
