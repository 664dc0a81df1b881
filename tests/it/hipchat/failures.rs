//! Servers and networks that misbehave: each call ends within its time, as an answer of the right class.

use std::sync::Arc;
use std::time::Instant;

use super::*;

/// Well above the client's own limits, and well below patience.
const BOUND: Duration = Duration::from_secs(6);

async fn unavailable(reply: Reply, says: &str) {
    let started = Instant::now();
    let said = post_to(reply.clone()).await;
    assert_eq!((said.status, said.class), (None, AnswerClass::Unavailable), "{reply:?}");
    assert!(said.detail.contains(says), "{:?} says {}", reply, said.detail);
    assert!(started.elapsed() < BOUND, "{reply:?}");
}

#[tokio::test]
async fn a_server_that_breaks_the_protocol_is_unavailable() {
    let raw = |text: &str| Reply::Bytes(text.as_bytes().to_vec());
    unavailable(Reply::Drop, "ended before an answer").await;
    unavailable(raw("SSH-2.0-OpenSSH_9.2\r\n\r\n"), "ended before an answer").await;
    unavailable(raw("HTTP/1.1 204 No Content\r\nbad header\r\n\r\n"), "ended before an answer").await;
    unavailable(raw("HTTP/1.1 204 No Content\r\nx: \u{0}\r\n\r\n"), "ended before an answer").await;
    let headers = (0..500).map(|n| format!("x-{n}: y\r\n")).collect::<String>();
    unavailable(raw(&format!("HTTP/1.1 204 No Content\r\n{headers}\r\n")), "ended before an answer").await;
    unavailable(Reply::Endless(b"HTTP/1.1 204 No Content\r\nx: ".to_vec()), "ended before an answer").await;
}

#[tokio::test]
async fn a_server_that_does_not_answer_in_time_is_unavailable() {
    unavailable(Reply::Silence, "no answer from 127.0.0.1:").await;
    unavailable(Reply::Trickle(b"HTTP/1.1 204 No Content\r\nx: ".to_vec()), "within 1.5s").await;
}

#[tokio::test]
async fn a_body_that_never_ends_changes_nothing_and_is_not_read() {
    let head =
        |status: &str| format!("HTTP/1.1 {status}\r\ncontent-length: 99999999999\r\n\r\n").into_bytes();
    // Whether the client gives up long before its time is over.
    let cases = [
        (Reply::Trickle(head("200 OK")), 200, AnswerClass::Accepted, true),
        (Reply::Endless(head("200 OK")), 200, AnswerClass::Accepted, true),
        (Reply::Trickle(head("400 Bad Request")), 400, AnswerClass::Refused, false),
        (Reply::Endless(head("503 Busy")), 503, AnswerClass::Unavailable, true),
    ];
    let patient = Duration::from_secs(3);
    for (reply, status, class, soon) in cases {
        let server = RawServer::start(reply).await;
        let started = Instant::now();
        let gateway = gateway(HipchatOptions { timeout: patient, ..options() });
        let said = gateway.post(&room(&server), &message()).await;
        assert_eq!((said.status, said.class), (Some(status), class));
        assert!(said.detail.chars().count() < 300, "{}", said.detail);
        assert!(started.elapsed() < if soon { patient } else { BOUND }, "{status}");
        // The rest is not waited for: the connection is given up.
        server.all_closed().await;
    }
}

#[tokio::test]
async fn bodies_of_any_kind_are_quoted_shortly() {
    let big = "y".repeat(5_000_000);
    let cases = [
        ("", "HipChat answered 500"),
        (
            "<html>\n<body>Bad\tGateway</body>\n</html>",
            "HipChat answered 500: <html> <body>Bad Gateway</body> </html>",
        ),
        (
            r#"{"error":{"code":500,"type":"X","message":"Out of order"}}"#,
            "HipChat answered 500: Out of order",
        ),
        (big.as_str(), "HipChat answered 500: yyyy"),
    ];
    for (body, says) in cases {
        let said = post_to(answer("500 Internal Server Error", "", body)).await;
        assert!(said.detail.starts_with(says) && said.detail.chars().count() < 300, "{}", said.detail);
    }
    let no_text = Reply::Bytes(b"HTTP/1.1 500 X\r\ncontent-length: 4\r\n\r\n\xff\xfe\x00\x01".to_vec());
    assert_eq!(post_to(no_text).await.detail, "HipChat answered 500");
    let cut_off = Reply::Bytes(b"HTTP/1.1 400 X\r\ncontent-length: 900\r\n\r\n{\"error\":{\"mess".to_vec());
    assert_eq!(post_to(cut_off).await.class, AnswerClass::Refused);
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let other = RawServer::start(answer("204 No Content", "", "")).await;
    for status in ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"] {
        let location = format!("location: http://{}/v2/room/1/notification\r\n", other.addr);
        let said = post_to(answer(status, &location, "")).await;
        assert_eq!(said.class, AnswerClass::Broken, "{status}");
        assert!(said.detail.contains("leads to 127.0.0.1"), "{}", said.detail);
    }
    assert_eq!(other.opened(), 0);
}

#[tokio::test]
async fn a_port_with_nobody_behind_it_is_unavailable() {
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = server.local_addr().unwrap();
    drop(server);
    let said = gateway(options()).post(&room_at(&format!("http://{addr}")), &message()).await;
    assert_eq!((said.status, said.class), (None, AnswerClass::Unavailable));
    assert!(said.detail.starts_with(&format!("no connection to {addr}: ")), "{}", said.detail);
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_unavailable() {
    let said = gateway(options()).post(&room_at("https://rooms.invalid"), &message()).await;
    assert_eq!((said.status, said.class), (None, AnswerClass::Unavailable));
    assert!(said.detail.contains("rooms.invalid"), "{}", said.detail);
}

/// The URL was fine when it was stored; what counts is what holds when the connection is made.
#[tokio::test]
async fn an_address_that_is_not_allowed_is_never_connected_to() {
    let server = RawServer::start(answer("204 No Content", "", "")).await;
    let port = server.addr.port();
    let cases = [
        (format!("http://127.0.0.1:{port}"), vec![], "room host 127.0.0.1 is a private or reserved address"),
        (format!("https://127.0.0.1:{port}"), vec!["10.0.0.0/8"], "room host 127.0.0.1 is a private"),
        (format!("http://127.0.0.1:{port}"), vec!["127.0.0.1:1"], "not with port"),
        // Names are decided on by the resolver, in the middle of the call.
        (
            format!("http://localhost:{port}"),
            vec!["10.0.0.0/8"],
            "room host localhost is reached by plain http and resolves to",
        ),
        (format!("https://localhost:{port}"), vec!["10.0.0.0/8"], "room host localhost resolves to"),
    ];
    for (base, allow, says) in cases {
        let egress = Egress::from_entries(&allow).unwrap();
        let gateway = HipchatGateway::new(options(), egress, Arc::new(StoppedClock)).unwrap();
        let said = gateway.post(&room_at(&base), &message()).await;
        assert_eq!((said.status, said.class), (None, AnswerClass::Broken), "{base}: {}", said.detail);
        assert!(
            said.detail.starts_with("room host") && said.detail.contains(says),
            "{base}: {}",
            said.detail
        );
        assert!(said.detail.contains("egress.allow"), "{}", said.detail);
    }
    assert_eq!(server.opened(), 0);
    let named = gateway(options()).post(&room_at(&format!("http://localhost:{port}")), &message()).await;
    assert_eq!(named.class, AnswerClass::Accepted, "a name in an allowed network: {}", named.detail);
}

fn proxied(proxy: &RawServer, allow: &[&str], no_proxy: &[&str]) -> HipchatGateway {
    // By name: the operator's proxy may be reached wherever it is.
    let url = format!("http://worker:pr0xyPass@localhost:{}", proxy.addr.port());
    let options = HipchatOptions {
        proxy: Some(url.parse().unwrap()),
        no_proxy: no_proxy.iter().map(ToString::to_string).collect(),
        ..options()
    };
    let shown = format!("{options:?}");
    assert!(!shown.contains("pr0xyPass") && shown.contains("http://localhost:"), "{shown}");
    let egress = Egress::from_entries(allow).unwrap();
    HipchatGateway::new(options, egress, Arc::new(StoppedClock)).unwrap()
}

#[tokio::test]
async fn a_proxy_is_used_but_for_the_exceptions() {
    let proxy = RawServer::start(answer("204 No Content", "", "")).await;
    let gateway = proxied(&proxy, &["chat.example", "127.0.0.1"], &["127.0.0.1"]);
    let mut target = room_at("https://chat.example");
    target.endpoint = "http://chat.example/v2/room/42/notification".parse().unwrap();
    assert_eq!(gateway.post(&target, &message()).await.class, AnswerClass::Accepted);
    let request = proxy.requests().remove(0);
    assert_eq!(request.line(), "POST http://chat.example/v2/room/42/notification HTTP/1.1");
    assert!(request.header("proxy-authorization").unwrap().starts_with("Basic "));

    let direct = RawServer::start(answer("204 No Content", "", "")).await;
    assert_eq!(gateway.post(&room(&direct), &message()).await.class, AnswerClass::Accepted);
    assert_eq!((direct.requests().len(), proxy.requests().len()), (1, 1));
}

#[tokio::test]
async fn a_proxy_that_refuses_the_tunnel_is_unavailable_and_never_sees_the_token() {
    let refusing = answer("407 Proxy Authentication Required", "", "");
    let proxy = RawServer::start(refusing).await;
    let said = proxied(&proxy, &[], &[]).post(&room_at("https://chat.example"), &message()).await;
    assert_eq!((said.status, said.class), (None, AnswerClass::Unavailable));
    assert!(said.detail.contains("chat.example") && said.detail.contains("proxy"), "{}", said.detail);
    assert!(!said.detail.contains("pr0xyPass"));
    let request = proxy.requests().remove(0);
    assert_eq!(request.line(), "CONNECT chat.example:443 HTTP/1.1");
    assert!(!request.head.contains(TOKEN));
}
