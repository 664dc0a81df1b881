//! The HipChat client against servers on loopback: what it sends, how it takes every kind of answer and
//! failure, and that no token gets out.

mod failures;
pub mod raw;
mod secrets;
mod tls;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use hipchat_notifier::adapters::hipchat::{Egress, HipchatGateway, HipchatOptions, TokenIn, parse_room_url};
use hipchat_notifier::domain::message::{Color, RoomMessage};
use hipchat_notifier::domain::pacing::LimitHint;
use hipchat_notifier::ports::{Answer, AnswerClass, Clock, RoomGateway, RoomTarget};
use jiff::Timestamp;
use raw::{RawServer, Reply, answer};

const TOKEN: &str = "s3cr3tTokenOfFortyCharactersForTheRoom00";
const NOW: i64 = 1_764_000_000;

struct StoppedClock;

impl Clock for StoppedClock {
    fn now(&self) -> Timestamp {
        at(0)
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(NOW + seconds).unwrap()
}

/// Short, so that a test of a timeout takes no time.
fn options() -> HipchatOptions {
    HipchatOptions {
        connect_timeout: Duration::from_millis(1_500),
        timeout: Duration::from_millis(1_500),
        ..HipchatOptions::default()
    }
}

fn loopback() -> Egress {
    Egress::from_entries(&["127.0.0.0/8", "::1"]).unwrap()
}

fn gateway(options: HipchatOptions) -> HipchatGateway {
    HipchatGateway::new(options, loopback(), Arc::new(StoppedClock)).unwrap()
}

/// A room at `base` (scheme, host and port), given as people paste it.
fn room_at(base: &str) -> RoomTarget {
    let text = format!("{base}/v2/room/Ops%20%23%31/notification?auth_token={TOKEN}");
    parse_room_url(&text, &loopback()).unwrap()
}

fn room(server: &RawServer) -> RoomTarget {
    room_at(&format!("http://{}", server.addr))
}

fn message() -> RoomMessage {
    RoomMessage {
        html: String::from("<b>Checkout</b> failed – 3 of 5"),
        color: Color::Red,
        notify: true,
        from: None,
        card: None,
    }
}

/// Posts once to a server that answers with `reply`.
async fn post_to(reply: Reply) -> Answer {
    let server = RawServer::start(reply).await;
    gateway(options()).post(&room(&server), &message()).await
}

#[tokio::test]
async fn the_request_is_exactly_what_hipchat_wants() {
    let server = RawServer::start(answer("204 No Content", "", "")).await;
    let answer = gateway(options()).post(&room(&server), &message()).await;
    assert_eq!((answer.status, answer.class), (Some(204), AnswerClass::Accepted));
    let requests = server.requests();
    let [request] = requests.as_slice() else { panic!("one request, not {}", requests.len()) };
    assert_eq!(request.line(), "POST /v2/room/Ops%20%23%31/notification HTTP/1.1");
    assert_eq!(request.header("authorization"), Some(&*format!("Bearer {TOKEN}")));
    assert_eq!(request.header("content-type"), Some("application/json"));
    assert_eq!(request.header("host"), Some(&*server.addr.to_string()));
    assert!(request.header("user-agent").unwrap().starts_with("hipchat-notifier/"));
    assert_eq!(
        String::from_utf8(request.body.clone()).unwrap(),
        r#"{"message":"<b>Checkout</b> failed – 3 of 5","message_format":"html","color":"red","notify":true}"#
    );
}

#[tokio::test]
async fn the_token_goes_into_the_query_where_that_is_set() {
    let server = RawServer::start(answer("204 No Content", "", "")).await;
    let gateway = gateway(HipchatOptions { token_in: TokenIn::Query, ..options() });
    assert_eq!(gateway.post(&room(&server), &message()).await.class, AnswerClass::Accepted);
    let request = server.requests().remove(0);
    assert_eq!(
        request.line(),
        format!("POST /v2/room/Ops%20%23%31/notification?auth_token={TOKEN} HTTP/1.1")
    );
    assert_eq!(request.header("authorization"), None);
}

#[tokio::test]
async fn a_token_test_posts_nothing_and_expects_202() {
    let body = r#"{"success":{"code":202,"type":"Accepted","message":"This token may be used"}}"#;
    let server = RawServer::start(answer("202 Accepted", "", body)).await;
    let said = gateway(options()).auth_test(&room(&server)).await;
    assert_eq!((said.class, &*said.detail), (AnswerClass::Accepted, "HipChat answered 202"));
    let line = server.requests()[0].line().to_owned();
    assert_eq!(line, "POST /v2/room/Ops%20%23%31/notification?auth_test=true HTTP/1.1");

    let server = RawServer::start(answer("204 No Content", "", "")).await;
    let said = gateway(options()).auth_test(&room(&server)).await;
    assert!(said.detail.contains("instead of 202"), "{}", said.detail);

    let server = RawServer::start(answer("401 Unauthorized", "", "")).await;
    assert_eq!(gateway(options()).auth_test(&room(&server)).await.class, AnswerClass::Broken);
}

#[tokio::test]
async fn every_status_is_classified_as_the_contract_says() {
    use AnswerClass::{Accepted, Broken, Refused, Unavailable};
    let limited = AnswerClass::RateLimited { until: at(60) };
    let cases = [
        (200, Accepted),
        (201, Accepted),
        (202, Accepted),
        (204, Accepted),
        (299, Accepted),
        (300, Broken),
        (301, Broken),
        (302, Broken),
        (303, Broken),
        (304, Broken),
        (307, Broken),
        (308, Broken),
        (400, Refused),
        (401, Broken),
        (402, Refused),
        (403, Broken),
        (404, Broken),
        (405, Broken),
        (406, Refused),
        (407, Unavailable),
        (408, Unavailable),
        (409, Refused),
        (410, Broken),
        (411, Refused),
        (413, Refused),
        (414, Refused),
        (415, Refused),
        (418, Refused),
        (421, Unavailable),
        (422, Refused),
        (425, Unavailable),
        (429, limited),
        (431, Refused),
        (451, Refused),
        (500, Unavailable),
        (501, Unavailable),
        (502, Unavailable),
        (503, Unavailable),
        (504, Unavailable),
        (599, Unavailable),
        (999, Unavailable),
    ];
    let gateway = gateway(options());
    for (status, class) in cases {
        let server = RawServer::start(answer(&format!("{status} Whatever"), "location: /x\r\n", "")).await;
        let said = gateway.post(&room(&server), &message()).await;
        assert_eq!((said.status, said.class), (Some(status), class), "{status}");
        assert_eq!(server.requests().len(), 1, "{status} is asked for once");
    }
    let text = r#"{"error":{"code":403,"message":"You have exceeded the rate limit"}}"#;
    assert_eq!(post_to(answer("403 Forbidden", "", text)).await.class, limited);
}

#[tokio::test]
async fn rate_limit_headers_arrive_as_hints() {
    let headers = "X-RateLimit-Limit: 500\r\nX-Ratelimit-Remaining: 499\r\nX-Ratelimit-Reset: 1764000300\r\n\
                   X-FloodControl-Limit: 30\r\nx-floodcontrol-remaining: 0\r\nX-FloodControl-Reset: 42\r\n";
    let token = LimitHint { limit: Some(500), remaining: Some(499), reset_at: Some(at(300)) };
    let room = LimitHint { limit: Some(30), remaining: Some(0), reset_at: Some(at(42)) };
    let said = post_to(answer("204 No Content", headers, "")).await;
    assert_eq!((said.class, said.token_limit, said.room_limit), (AnswerClass::Accepted, token, room));
    let said = post_to(answer("429 Too Many Requests", headers, "")).await;
    assert_eq!(said.class, AnswerClass::RateLimited { until: at(42) });
    assert_eq!((said.token_limit, said.room_limit), (token, room));
}

#[tokio::test]
async fn one_connection_serves_many_messages() {
    let server = RawServer::start(answer("200 OK", "", r#"{"id":"1"}"#)).await;
    let (gateway, room) = (gateway(options()), room(&server));
    for _ in 0..5 {
        assert_eq!(gateway.post(&room, &message()).await.class, AnswerClass::Accepted);
    }
    assert_eq!((server.requests().len(), server.opened()), (5, 1));
}

/// So there is no small answer that becomes a huge one.
#[tokio::test]
async fn a_compressed_answer_is_neither_asked_for_nor_unpacked() {
    let server = RawServer::start(answer("500 Oops", "content-encoding: gzip\r\n", "as it came")).await;
    let said = gateway(options()).post(&room(&server), &message()).await;
    assert_eq!(said.detail, "HipChat answered 500: as it came");
    assert_eq!(server.requests()[0].header("accept-encoding"), None);
}
