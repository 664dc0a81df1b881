use proptest::prelude::*;
use reqwest::header::HeaderValue;
use secrecy::SecretString;

use super::*;

const TOKEN: &str = "s3cr3tTokenOfFortyCharactersForTheRoom00";

fn now() -> Timestamp {
    Timestamp::from_second(1_764_000_000).unwrap()
}

fn classify(status: u16, headers: &HeaderMap, body: &[u8]) -> Answer {
    let token = SecretString::from(TOKEN);
    classify_reply(Reply { status, headers, body, at: now() }, &Redactor::new(&token))
}

fn detail(status: u16, body: &str) -> String {
    classify(status, &HeaderMap::new(), body.as_bytes()).detail
}

#[test]
fn every_status_has_the_contracts_class() {
    use AnswerClass::{Accepted, Broken, Refused, Unavailable};
    let expected = |status: u16| match status {
        200..=299 => Some(Accepted),
        401 | 403 | 404 | 405 | 410 | 300..=399 => Some(Broken),
        429 => None,
        408 | 407 | 421 | 425 => Some(Unavailable),
        400..=499 => Some(Refused),
        _ => Some(Unavailable),
    };
    for status in 100..=999 {
        let answer = classify(status, &HeaderMap::new(), b"");
        match expected(status) {
            Some(class) => assert_eq!(answer.class, class, "{status}"),
            None => {
                let until = now() + jiff::SignedDuration::from_secs(60);
                assert_eq!(answer.class, AnswerClass::RateLimited { until });
                assert_eq!((answer.room_limit.remaining, answer.room_limit.reset_at), (Some(0), Some(until)));
            }
        }
        assert_eq!(answer.status, Some(status));
        assert!(answer.detail.starts_with(&format!("HipChat answered {status}")), "{}", answer.detail);
    }
}

#[test]
fn a_403_is_the_rate_limit_only_if_it_says_so() {
    let limited = [
        r#"{"error":{"code":403,"type":"Forbidden","message":"You have exceeded the rate limit. See docs"}}"#,
        "Rate Limit Exceeded",
        &format!("<html>{}rate limit</html>", "x".repeat(400)),
    ];
    for body in limited {
        let class = classify(403, &HeaderMap::new(), body.as_bytes()).class;
        assert!(matches!(class, AnswerClass::RateLimited { .. }), "{body}");
    }
    let other =
        r#"{"error":{"message":"This action requires one of the following scopes: [u'view_group']"}}"#;
    assert_eq!(classify(403, &HeaderMap::new(), other.as_bytes()).class, AnswerClass::Broken);
    assert_eq!(classify(400, &HeaderMap::new(), b"rate limit").class, AnswerClass::Refused);
}

#[test]
fn the_detail_says_what_the_server_said_and_what_to_do() {
    let cases = [
        (204, "", "HipChat answered 204"),
        (202, r#"{"success":{"code":202,"type":"Accepted","message":"ok"}}"#, "HipChat answered 202"),
        (
            400,
            r#"{"error":{"code":400,"message":"Value u'true' for field 'notify' is not of type 'boolean'"}}"#,
            "HipChat answered 400: Value u'true' for field 'notify' is not of type 'boolean'",
        ),
        (
            401,
            r#"{"error":{"message":"Invalid OAuth session"}}"#,
            "HipChat answered 401: Invalid OAuth session; the token is not accepted: make a new one in HipChat and set the new room URL",
        ),
        (500, r#"{"error":"out of order"}"#, "HipChat answered 500: out of order"),
        (500, r#"{"message":"Internal\nserver  error"}"#, "HipChat answered 500: Internal server error"),
        (
            500,
            r#"{"error":{"message":["no","text"]}}"#,
            r#"HipChat answered 500: {"error":{"message":["no","text"]}}"#,
        ),
        (502, "<html>\r\n<h1>Bad Gateway</h1>\u{0}", "HipChat answered 502: <html> <h1>Bad Gateway</h1>"),
        (503, "[1,2", "HipChat answered 503: [1,2"),
    ];
    for (status, body, expected) in cases {
        assert_eq!(detail(status, body), expected);
    }
    let long = detail(400, &format!(r#"{{"error":{{"message":"{}"}}}}"#, "ä".repeat(5000)));
    assert_eq!(long.chars().count(), "HipChat answered 400: ".len() + LONGEST_QUOTE);
    assert!(classify(429, &HeaderMap::new(), b"").detail.contains("waiting until 2025-11-24T16:01:00Z"));
}

#[test]
fn a_redirect_names_where_it_leads_but_not_the_token() {
    let mut headers = HeaderMap::new();
    let to = format!("https://new.example/v2/room/42/notification?auth_token={TOKEN}");
    headers.insert(LOCATION, HeaderValue::from_str(&to).unwrap());
    let detail = classify(301, &headers, b"").detail;
    assert!(detail.contains("leads to new.example") && !detail.contains(TOKEN), "{detail}");
    headers.insert(LOCATION, HeaderValue::from_static("/elsewhere"));
    assert!(classify(302, &headers, b"").detail.ends_with("set the room URL that is valid now"));
}

#[test]
fn a_name_that_leads_to_a_forbidden_address_is_tried_again_for_a_while_and_what_the_url_says_is_not() {
    let address = "10.0.0.5".parse().unwrap();
    let host = || String::from("chat.example");
    let mut patience = Patience::default();
    let mut class = |denied: &EgressDenied, at: i64| {
        let answer =
            denied_answer(denied, &mut patience, Timestamp::from_second(1_764_000_000 + at).unwrap());
        assert!(answer.detail.contains("egress.allow"), "{}", answer.detail);
        answer.class
    };
    for denied in [
        EgressDenied::Private { host: host() },
        EgressDenied::PlainHttp { host: host() },
        EgressDenied::OtherPort { host: host(), port: 1 },
        EgressDenied::Resolved { host: String::from("a.localhost"), address },
    ] {
        assert_eq!(class(&denied, 0), AnswerClass::Broken, "{denied}");
    }
    let resolved = EgressDenied::Resolved { host: host(), address };
    let plain = EgressDenied::PlainResolved { host: host(), address };
    assert_eq!(class(&resolved, 0), AnswerClass::Unavailable);
    assert_eq!(class(&plain, 599), AnswerClass::Unavailable);
    assert_eq!(class(&resolved, 600), AnswerClass::Broken, "it has not changed for ten minutes");
}

proptest! {
    /// Whatever the server sends: no panic, no token, one bounded line.
    #[test]
    fn any_reply_is_classified(
        status in 100u16..1000,
        mut body in prop::collection::vec(any::<u8>(), 0..600),
        at in 0usize..600,
        message in ".{0,300}",
        as_json in any::<bool>(),
    ) {
        if as_json {
            body = serde_json::json!({ "error": { "message": format!("{message}{TOKEN}{message}") } }).to_string().into();
        } else {
            let at = at.min(body.len());
            body.splice(at..at, TOKEN.bytes());
        }
        let answer = classify(status, &HeaderMap::new(), &body);
        prop_assert!(!answer.detail.contains(TOKEN));
        prop_assert!(!answer.detail.chars().any(char::is_control));
        prop_assert!(answer.detail.chars().count() < 500);
    }
}
