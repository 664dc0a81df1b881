//! Newman reports: a real one, and the parts that it does not have.

use hipchat_notifier::domain::event::{RunMetrics, RunResult};
use hipchat_notifier::formats::{MAX_BODY_BYTES, NewmanOptions, event_from_newman};
use serde_json::{Value, json};

use super::{fixture, run_of};

fn made(report: &Value) -> Value {
    event_from_newman(report.to_string().as_bytes(), &NewmanOptions::default()).expect("an event")
}

fn report(run: &Value) -> Value {
    json!({"collection": {"info": {"_postman_id": "c-1", "name": "Orders"}}, "run": run})
}

#[test]
fn a_real_report_becomes_a_run() {
    let body = event_from_newman(&fixture("newman-run.json"), &NewmanOptions::default()).expect("an event");
    let expected = json!({
        "monitor_uid": "newman-0b6d0f3e-1111-4a6a-9a53-0d4b6c1b8f10",
        "monitor_name": "Checkout API",
        "collection_uid": "0b6d0f3e-1111-4a6a-9a53-0d4b6c1b8f10",
        "collection_name": "Checkout API",
        "status": "failure",
        "trigger": "manual",
        "started_at": "2026-11-22T21:57:04.707Z",
        "finished_at": "2026-11-22T21:57:05.125Z",
        "metrics": {"passedTests": 3, "failedTests": 1, "errors": 0, "requestCount": 3, "totalLatency": 332},
        "failures": [{
            "request": "Get order",
            "test": "order exists",
            "message": "expected response to have status code 200 but got 404",
        }],
    });
    assert_eq!(body, expected);
    let run = run_of(body.to_string());
    assert_eq!((run.result, run.metrics.average_response_ms()), (RunResult::Failure, Some(110)));
}

#[test]
fn a_real_report_with_errors_and_a_skipped_test() {
    let body =
        event_from_newman(&fixture("newman-run-errors.json"), &NewmanOptions::default()).expect("an event");
    let run = run_of(body.to_string());
    let expected = RunMetrics {
        passed_tests: Some(1),
        failed_tests: Some(3),
        errors: Some(3),
        warnings: None,
        request_count: Some(4),
        total_latency_ms: Some(47),
    };
    assert_eq!((run.metrics, run.result), (expected, RunResult::Error));
    assert_eq!((run.environment_name.as_deref(), run.failures.len()), (Some("staging"), 6));
    let refused =
        run.failures.iter().find(|f| f.test.as_deref() == Some("Error")).expect("the network error");
    assert_eq!(refused.message.as_deref(), Some("connect ECONNREFUSED 127.0.0.1:1"));
}

#[test]
fn a_run_that_bailed_out_counts_its_failed_tests_once() {
    let body = made(&report(&json!({
        "stats": {"assertions": {"total": 2, "failed": 1}},
        "failures": [
            {"error": {"name": "AssertionError", "test": "t", "message": "m"}, "at": "assertion:1 in test-script"},
            {"error": {"name": "AssertionFailure", "message": "t"}, "at": "test-script:39:17"},
        ],
    })));
    assert_eq!((&body["status"], body["failures"].as_array().map(Vec::len)), (&json!("failure"), Some(1)));
    // No request was answered, so there is no latency to tell.
    assert_eq!(body["metrics"]["totalLatency"], Value::Null);
}

#[test]
fn the_monitor_can_be_named() {
    let options = NewmanOptions { monitor_uid: Some("5852-1".into()), monitor_name: Some("Nightly".into()) };
    let body = event_from_newman(&fixture("newman-run.json"), &options).expect("an event");
    assert_eq!((&body["monitor_uid"], &body["monitor_name"]), (&json!("5852-1"), &json!("Nightly")));
}

#[test]
fn errors_of_scripts_and_requests_are_not_failed_tests() {
    let body = made(&report(&json!({
        "stats": {"assertions": {"total": 6, "failed": 2}, "requests": {"total": 3}},
        "executions": [
            {"response": {"responseTime": 10}, "assertions": [{"assertion": "a", "skipped": true}]},
            {"response": {"responseTime": 20.4}},
            {},
        ],
        "failures": [
            {"error": {"name": "AssertionError", "test": "t1", "message": "m1"}, "at": "assertion:0 in test-script",
             "source": {"name": "A"}},
            // A test that throws something of its own has failed as a test.
            {"error": {"name": "TypeError", "test": "t2", "message": "m2"}, "at": "assertion:1 in test-script",
             "source": {"name": "A"}},
            {"error": {"name": "TypeError", "message": "x is undefined"}, "at": "test-script", "source": {"name": "B"}},
            {"error": {"name": "Error", "message": "getaddrinfo ENOTFOUND"}, "at": "request", "source": {"name": "C"}},
        ],
    })));
    let run = run_of(body.to_string());
    let expected = RunMetrics {
        passed_tests: Some(3),
        failed_tests: Some(2),
        errors: Some(2),
        warnings: None,
        request_count: Some(3),
        total_latency_ms: Some(30),
    };
    assert_eq!((run.metrics, run.result), (expected, RunResult::Error));
    let listed: Vec<_> = run.failures.iter().map(|f| (f.request.as_deref(), f.test.as_deref())).collect();
    let expected = [
        (Some("A"), Some("t1")),
        (Some("A"), Some("t2")),
        (Some("B"), Some("TypeError")),
        (Some("C"), Some("Error")),
    ];
    assert_eq!(listed, expected);
}

#[test]
fn a_run_that_was_broken_off_is_an_error() {
    let stats = json!({"assertions": {"total": 1, "failed": 0}});
    let body = made(&report(&json!({"stats": stats, "error": {"message": "callback timed out"}})));
    assert_eq!((&body["status"], &body["metrics"]["errors"]), (&json!("error"), &json!(1)));
    let body = made(&report(&json!({"stats": stats, "error": null})));
    assert_eq!(body["status"], json!("success"));
}

#[test]
fn the_environment_is_told_where_it_has_a_name() {
    let with = |environment: Value| {
        let mut report = report(&json!({"stats": {"assertions": {}}}));
        report["environment"] = environment;
        let body = made(&report);
        (body["environment_uid"].clone(), body["environment_name"].clone())
    };
    assert_eq!(with(json!({"id": "e-1", "name": "prod"})), (json!("e-1"), json!("prod")));
    assert_eq!(with(json!({"id": "e-1"})), (Value::Null, Value::Null));
}

#[test]
fn an_event_stays_below_the_limit_however_many_tests_fail() {
    let failures: Vec<_> = (0..500)
        .map(|n| {
            json!({"error": {"test": format!("t{n}"), "message": "\u{1}".repeat(3_000)}, "at": "assertion:0 in x"})
        })
        .collect();
    let stats = json!({"assertions": {"total": 500, "failed": 500}});
    let body = made(&report(&json!({"stats": stats, "failures": failures})));
    assert!(body.to_string().len() < MAX_BODY_BYTES);
    let run = run_of(body.to_string());
    assert_eq!(run.metrics.failed_tests, Some(500));
    assert!(run.failures.len() > 10 && run.failures.len() < 500, "{}", run.failures.len());
}

#[test]
fn what_is_no_report_is_refused() {
    const FIX: &str = "give the report of `newman run --reporters json`";
    let no_id = json!({"run": {"stats": {"assertions": {}}}});
    let late = report(&json!({"stats": {"assertions": {}}, "timings": {"started": u64::MAX}}));
    let cases = [
        ("{}".to_owned(), format!("run: missing; {FIX}")),
        (r#"{"run":{}}"#.to_owned(), format!("run.stats: missing; {FIX}")),
        (r#"{"run":{"stats":{}}}"#.to_owned(), format!("run.stats.assertions: missing; {FIX}")),
        (
            no_id.to_string(),
            "collection.info._postman_id: missing; name the monitor that the run stands for".to_owned(),
        ),
        (r#"{"run":7}"#.to_owned(), "run: found the number 7; send a JSON object".to_owned()),
        (
            late.to_string(),
            "run.timings.started: found the number 18446744073709551615; send Unix milliseconds before the year \
             10000"
                .to_owned(),
        ),
        (
            "<html>".to_owned(),
            "body: not valid JSON: expected value (line 1, column 1); send one JSON object in UTF-8".to_owned(),
        ),
    ];
    for (text, expected) in cases {
        let fault = event_from_newman(text.as_bytes(), &NewmanOptions::default()).expect_err(&text);
        assert_eq!(fault.to_string(), expected);
    }
}
