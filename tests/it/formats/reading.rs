//! Good bodies, and how lenient the parser is with them.

use hipchat_notifier::domain::event::{Activity, FailedTest, MonitorRun, RunMetrics, RunResult};
use hipchat_notifier::domain::web_address::WebAddress;
use serde_json::{Value, json};

use super::{activity_of, fixture, run_of};

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn failed(request: &str, test: &str, message: Option<&str>) -> FailedTest {
    FailedTest { request: some(request), test: some(test), message: message.map(str::to_owned) }
}

/// The smallest run with `extra` members.
fn run_with(extra: &Value) -> MonitorRun {
    let mut body = json!({"monitor_uid": "m", "metrics": {}});
    for (name, value) in extra.as_object().expect("an object") {
        body[name] = value.clone();
    }
    run_of(body.to_string())
}

#[test]
fn a_monitor_webhook_body_with_every_field() {
    let expected = MonitorRun {
        monitor_uid: "5852-1e6b8957".into(),
        monitor_name: some("Checkout <b>health</b> & \"more\""),
        collection_uid: some("5852-1d3daef4"),
        collection_name: some("Checkout"),
        environment_uid: some("5852-77aa2b1c"),
        environment_name: some("prod"),
        user_id: some("5852"),
        user_name: some("Ana"),
        result: RunResult::Failure,
        metrics: RunMetrics {
            passed_tests: Some(10),
            failed_tests: Some(2),
            errors: Some(0),
            warnings: Some(1),
            request_count: Some(7),
            total_latency_ms: Some(1423),
        },
        run_id: some("1e6ba2e3-1aaf"),
        region: Some("eu-central".into()),
        trigger: some("schedule"),
        started_at: "2026-11-22T09:59:58Z".parse().ok(),
        finished_at: "2026-11-22T10:00:02.25Z".parse().ok(),
        monitor_url: WebAddress::parse("https://go.postman.co/monitors/1e6b8957"),
        run_url: WebAddress::parse("https://go.postman.co/monitors/1e6b8957?job=1e6ba2e3-1aaf"),
        failures: vec![
            failed("Get order", "status is 200", Some("expected 200 but got 404")),
            failed("Pay", "fast enough", None),
        ],
    };
    assert_eq!(run_of(fixture("monitor-webhook-full.json")), expected);
}

#[test]
fn an_api_run_is_read_as_its_published_sample_has_it() {
    let run = run_of(fixture("postman-api-run.json"));
    assert_eq!(&*run.monitor_uid, "1e6b8970-fd13-4480-b011-f3b3a0c6b4d7");
    assert_eq!(run.monitor_name, some("Sample Collection monitor 1 #56"));
    assert_eq!(run.run_id, some("1e6ba2e3-1aaf-4c10-bd5f-905943284b2a"));
    assert_eq!(run.collection_uid, some("5852-1d3daef4-2037-4584-ab86-bafd8c8f8a45"));
    assert_eq!(run.finished_at, "2016-12-04T14:30:26Z".parse().ok());
    assert_eq!(run.result, RunResult::Failure);
    let expected = RunMetrics {
        passed_tests: Some(0),
        failed_tests: Some(1),
        errors: Some(0),
        warnings: None,
        request_count: Some(3),
        // One of three requests is listed, so nothing is known of their sum.
        total_latency_ms: None,
    };
    assert_eq!(run.metrics, expected);
    assert_eq!(run.failures, [failed("Sample GET Request", "Status code is 400", None)]);
}

#[test]
fn an_api_run_with_errors_and_messages() {
    let run = run_of(fixture("postman-api-run-errors.json"));
    assert_eq!(run.result, RunResult::Error);
    assert_eq!(run.environment_uid, some("5852-77aa2b1c"));
    let expected = RunMetrics {
        passed_tests: Some(2),
        failed_tests: Some(1),
        errors: Some(1),
        warnings: None,
        request_count: Some(2),
        total_latency_ms: Some(100),
    };
    assert_eq!(run.metrics, expected);
    let failures = [
        failed("Get order", "status is 200", Some("expected 200 but got 404")),
        failed("Pay", "TypeError", Some("Cannot read property 'id' of undefined")),
    ];
    assert_eq!(run.failures, failures);
}

#[test]
fn an_api_runs_result_by_status_and_numbers() {
    use RunResult::{Abort, Error, Failure, Success};
    let cases = [
        (json!("success"), json!({}), Success),
        (json!("Failed"), json!({}), Failure),
        (
            json!("failed"),
            json!({"assertions": {"total": 2, "failed": 1}, "requests": {"failed": 1}}),
            Failure,
        ),
        (json!("failed"), json!({"assertions": {"total": 2, "failed": 1}, "errorCount": 1}), Error),
        (json!("failed"), json!({"assertions": {"total": 2, "failed": 0}, "requests": {"failed": 1}}), Error),
        (json!("failed"), json!({"abortedCount": 1}), Abort),
        (json!("aborted"), json!({}), Abort),
        (json!("error"), json!({}), Error),
        (Value::Null, json!({"assertions": {"total": 2, "failed": 1}}), Failure),
        (Value::Null, json!({"errorCount": 1}), Error),
        (Value::Null, json!({}), Success),
    ];
    for (status, stats, expected) in cases {
        let body = json!({"run": {"info": {"monitorId": "m", "status": status}, "stats": stats}});
        assert_eq!(run_of(body.to_string()).result, expected, "{body}");
    }
}

#[test]
fn an_activity_with_every_field() {
    let expected = Activity {
        action: "publish".into(),
        model: "collection".into(),
        model_uid: some("5852-1d3daef4"),
        model_name: some("Orders <script>"),
        collection_uid: some("5852-1d3daef4"),
        collection_name: some("Orders <script>"),
        message: some("Ana published Orders"),
        user_id: some("5852"),
        user_name: some("Ana"),
        occurred_at: "2026-11-22T10:00:00Z".parse().ok(),
        workspace_id: some("w-1"),
        workspace_name: some("Payments"),
        model_url: WebAddress::parse("https://go.postman.co/collection/5852-1d3daef4"),
        collection_url: WebAddress::parse("https://go.postman.co/collection/5852-1d3daef4"),
    };
    assert_eq!(activity_of(fixture("activity-webhook-full.json")), expected);
}

#[test]
fn unknown_actions_and_models_are_passed_on() {
    let activity = activity_of(fixture("activity-webhook-unknown.json"));
    assert_eq!((activity.action.as_str(), activity.model.as_str()), ("teleport", "flux-capacitor"));
}

#[test]
fn the_result_without_a_status_is_that_of_the_numbers() {
    use RunResult::{Abort, Error, Failure, Success};
    let cases = [
        (json!({"metrics": {"errors": 1, "failedTests": 2}}), Error),
        (json!({"metrics": {"errors": 0, "failedTests": 2}}), Failure),
        (json!({"metrics": {"errors": 0, "failedTests": 0}}), Success),
        (json!({"metrics": {}}), Success),
        (json!({"metrics": {"errorCount": 3}}), Error),
        (json!({"metrics": {"failedTestCount": 3}}), Failure),
        (json!({"metrics": {"failedTests": null, "failedTestCount": 3}}), Failure),
        (json!({"metrics": {"failedTests": 0, "failedTestCount": 3}}), Success),
        (json!({"metrics": {"errors": 1}, "status": null}), Error),
        (json!({"metrics": {"errors": 1}, "status": ""}), Error),
        (json!({"metrics": {"errors": 1}, "status": "Success"}), Success),
        (json!({"metrics": {}, "status": "FAILURE"}), Failure),
        (json!({"metrics": {}, "status": "abort"}), Abort),
    ];
    for (extra, expected) in cases {
        assert_eq!(run_with(&extra).result, expected, "{extra}");
    }
}

#[test]
fn counts_may_be_written_as_any_whole_number() {
    let cases =
        [("0", 0), ("7", 7), ("7.0", 7), ("7e2", 700), ("-0.0", 0), ("18446744073709551615", u64::MAX)];
    for (text, expected) in cases {
        let run = run_of(format!(r#"{{"monitor_uid":"m","metrics":{{"requestCount":{text}}}}}"#));
        assert_eq!(run.metrics.request_count, Some(expected), "{text}");
    }
}

#[test]
fn text_is_taken_leniently() {
    let cases = [
        (json!("Ana"), some("Ana")),
        (json!(""), None),
        (json!("  "), None),
        (Value::Null, None),
        (json!(5852), some("5852")),
        (json!(-1), some("-1")),
        (json!("a\u{0}b"), some("a\u{fffd}b")),
        (json!("<img src=x onerror=alert(1)>"), some("<img src=x onerror=alert(1)>")),
    ];
    for (value, expected) in cases {
        assert_eq!(run_with(&json!({"user_name": value})).user_name, expected, "{value}");
    }
    assert_eq!(&*run_with(&json!({"monitor_uid": 5852})).monitor_uid, "5852");
}

#[test]
fn a_name_that_was_cut_within_an_emoji_is_read_with_a_replacement_character() {
    let body =
        r#"{"monitor_uid":"m","monitor_name":"Checkout \ud83d","user_name":"\ud83d\udca5","metrics":{}}"#;
    let run = run_of(body);
    assert_eq!(run.monitor_name, some("Checkout \u{fffd}"));
    assert_eq!(run.user_name, some("\u{1f4a5}"));
}

#[test]
fn a_time_at_the_end_of_the_calendar_is_the_latest_there_is() {
    for time in ["9999-12-31T23:59:59Z", "9999-12-30T23:00:00.5-02:00", " 9999-12-31T23:59:59-11:30 "] {
        let run = run_with(&json!({"finished_at": time}));
        assert_eq!(run.finished_at, Some(jiff::Timestamp::MAX), "{time}");
    }
    assert_eq!(
        run_with(&json!({"finished_at": "9999-12-30T00:00:00Z"})).finished_at,
        "9999-12-30T00:00:00Z".parse().ok()
    );
}

#[test]
fn a_second_may_have_any_number_of_digits() {
    for (time, read) in [
        ("2026-11-22T10:00:02.1234567899Z", "2026-11-22T10:00:02.123456789Z"),
        ("2026-11-22T10:00:02.00099999999666666666669999999999+02:00", "2026-11-22T08:00:02.000999999Z"),
        ("2026-11-22T10:00:02.5Z", "2026-11-22T10:00:02.5Z"),
    ] {
        assert_eq!(run_with(&json!({"finished_at": time})).finished_at, read.parse().ok(), "{time}");
    }
}

#[test]
fn of_a_repeated_name_the_last_counts() {
    let run =
        run_of(r#"{"monitor_uid":"a","metrics":{"errors":1},"monitor_uid":"b","metrics":{"errors":0}}"#);
    assert_eq!((&*run.monitor_uid, run.result), ("b", RunResult::Success));
}

#[test]
fn a_byte_order_mark_is_skipped() {
    let run = run_of("\u{feff}{\"monitor_uid\":\"m\",\"metrics\":{}}");
    assert_eq!(&*run.monitor_uid, "m");
}

#[test]
fn links_that_must_not_reach_a_room_are_left_out() {
    let cases = [
        (json!("https://go.postman.co/m?a=1#b"), some("https://go.postman.co/m?a=1#b")),
        (json!("HTTP://Example.com"), some("http://example.com/")),
        (json!(" https://example.com/a b\"c "), some("https://example.com/a%20b%22c")),
        (json!("javascript:alert(1)"), None),
        (json!("java\nscript:alert(1)"), None),
        (json!("data:text/html,<script>"), None),
        (json!("file:///etc/passwd"), None),
        (json!("//example.com/x"), None),
        (json!("/monitors/1"), None),
        (json!("https://"), None),
        (json!("https://postman.co@evil.example/"), None),
        (json!("https://a:b@evil.example/"), None),
        (json!(format!("https://example.com/{}", "x".repeat(2_048))), None),
        (json!(format!("https://example.com/{}", "ä".repeat(500))), None),
        (json!(17), None),
        (json!(["https://example.com/"]), None),
    ];
    for (link, expected) in cases {
        let run = run_with(&json!({"monitor_url": link, "run_url": link}));
        let text = |url: Option<WebAddress>| url.map(|url| url.as_str().to_owned());
        let links = [text(run.monitor_url), text(run.run_url)];
        assert_eq!(links, [expected.clone(), expected.clone()], "{link}");
        let body = json!({"action": "a", "model": "m", "model_url": link, "collection_url": link});
        let activity = activity_of(body.to_string());
        let links = [text(activity.model_url), text(activity.collection_url)];
        assert_eq!(links, [expected.clone(), expected], "{link}");
    }
}

#[test]
fn five_thousand_failed_tests_are_read() {
    let failures: Vec<_> = (0..5_000).map(|n| json!({"request": "r", "test": format!("t{n}")})).collect();
    let run = run_with(&json!({"metrics": {"failedTests": 5_000}, "failures": failures}));
    assert_eq!(run.failures.len(), 5_000);
    assert_eq!(run.failures[4_999].test, some("t4999"));

    let tests: serde_json::Map<_, _> = (0..5_000).map(|n| (format!("t{n}"), json!(false))).collect();
    let body = json!({"run": {"info": {"monitorId": "m"}, "executions": [{"assertions": tests}]}});
    let run = run_of(body.to_string());
    assert_eq!((run.failures.len(), run.metrics.failed_tests), (5_000, Some(5_000)));
}

#[test]
fn of_failed_tests_without_number_ten_thousand_are_kept() {
    let failures = "{},".repeat(300_000);
    let body = format!(
        "{{\"monitor_uid\":\"m\",\"metrics\":{{\"failedTests\":300001}},\"failures\":[{failures}{{}}]}}"
    );
    let run = run_of(body);
    assert_eq!((run.failures.len(), run.metrics.failed_tests), (10_000, Some(300_001)));

    let body = format!(
        "{{\"run\":{{\"info\":{{\"monitorId\":\"m\"}},\"executions\":[{{\"errors\":[{failures}{{}}]}}]}}}}"
    );
    let run = run_of(body);
    assert_eq!((run.failures.len(), run.metrics.errors), (10_000, Some(300_001)));
}

#[test]
fn a_long_request_name_is_not_repeated_without_end() {
    let tests: serde_json::Map<_, _> = (0..30_000).map(|n| (format!("t{n}"), json!(false))).collect();
    let executions = json!([{"item": {"name": "r".repeat(400_000)}, "assertions": tests}]);
    let run = run_of(json!({"run": {"info": {"monitorId": "m"}, "executions": executions}}).to_string());
    assert_eq!((run.failures.len(), run.metrics.failed_tests), (2, Some(30_000)));
}
