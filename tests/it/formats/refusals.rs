//! Bad input, each with the message that a person will read; and that nothing panics.

use hipchat_notifier::domain::envelope::Envelope;
use hipchat_notifier::formats::{MAX_BODY_BYTES, NewmanOptions, event_from_newman, identity};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{plain, read};

const WHOLE: &str = "send a whole number, 0 or more (below 2^64), without quotes";
const JSON: &str = "send one JSON object in UTF-8";
const ONE: &str = "publish one event as a JSON object in UTF-8";
const KEY: &str = "send at most 255 bytes without control characters";

fn fault(body: impl Into<Vec<u8>>) -> String {
    read(&plain(body)).expect_err("refused").to_string()
}

#[test]
fn bodies_that_are_no_json_object() {
    let forms = "body: none of the known forms; send `monitor_uid` and `metrics` (a monitor run), `run` (a run \
                 from the Postman API), `action` and `model` (an activity), or one of these as `data` of a \
                 CloudEvent";
    let cases: Vec<(Vec<u8>, String)> = vec![
        (b"".into(), format!("body: empty; {ONE}")),
        (b" \n\t".into(), format!("body: empty; {ONE}")),
        ("\u{feff}".into(), format!("body: empty; {ONE}")),
        (b"hello".into(), format!("body: not valid JSON: expected value (line 1, column 1); {JSON}")),
        (
            b"{\"a\":1}\n}".into(),
            format!("body: not valid JSON: trailing characters (line 2, column 1); {JSON}"),
        ),
        (
            b"{\"monitor_uid\":\"m\",\"metrics\":{".into(),
            format!("metrics: not valid JSON: EOF while parsing an object (line 1, column 30); {JSON}"),
        ),
        (b"{\"a\":\"\xff\"}".into(), format!("body: not UTF-8 from byte 6 on; {ONE}")),
        (b"\xfe\xff\x00{".into(), format!("body: not UTF-8 from byte 0 on; {ONE}")),
        (b"null".into(), "body: found null; send a JSON object".into()),
        (b"17".into(), "body: found the number 17; send a JSON object".into()),
        (b"\"x\"".into(), "body: found the text \"x\"; send a JSON object".into()),
        (b"[{}]".into(), "body: found an array of 1; publish one event per message, as a JSON object".into()),
        (b"{}".into(), forms.into()),
        (b"{\"backup\":{}}".into(), forms.into()),
        (
            "[".repeat(100_000).into(),
            "body: nested more than 127 levels deep (line 1, column 128); send a flat body as the contract \
             shows it"
                .into(),
        ),
        (
            format!("{{\"x\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000)).into(),
            "body: nested more than 127 levels deep (line 1, column 132); send a flat body as the contract \
             shows it"
                .into(),
        ),
    ];
    for (body, expected) in cases {
        assert_eq!(
            fault(body.clone()),
            expected,
            "{:?}",
            String::from_utf8_lossy(&body[..body.len().min(60)])
        );
    }
}

#[test]
fn a_body_may_have_one_mebibyte_and_no_byte_more() {
    let mut body = br#"{"monitor_uid":"m","metrics":{}}"#.to_vec();
    body.resize(MAX_BODY_BYTES, b' ');
    assert!(read(&plain(body.clone())).is_ok());
    body.push(b' ');
    let expected = "body: 1048577 bytes long, over the limit of 1048576; publish at most 1 MiB, for instance \
                    with fewer failures";
    assert_eq!(fault(body), expected);
}

#[test]
fn numbers_out_of_range_name_their_field() {
    let shown = |problem: &str| format!("metrics.failedTests: found {problem}; {WHOLE}");
    let cases = [
        ("-1", shown("the number -1")),
        ("1.5", shown("the number 1.5")),
        ("18446744073709551616", shown("the number 1.8446744073709552e19")),
        ("1e300", shown("the number 1e300")),
        ("-1e300", shown("the number -1e300")),
        ("\"3\"", shown("the text \"3\"")),
        ("true", shown("the boolean true")),
        ("[3]", shown("an array of 1")),
        ("{}", shown("an object of 0")),
        (
            "1e400",
            "metrics.failedTests: found a number out of range (line 1, column 53); send a number that a 64-bit \
             float can hold"
                .into(),
        ),
        (
            "NaN",
            format!("metrics.failedTests: not valid JSON: expected value (line 1, column 49); {JSON}"),
        ),
    ];
    for (number, expected) in cases {
        let body = format!(r#"{{"monitor_uid":"m","metrics":{{    "failedTests":{number}}}}}"#);
        assert_eq!(fault(body), expected, "{number}");
    }
    for name in [
        "passedTests",
        "failedTestCount",
        "errors",
        "errorCount",
        "warnings",
        "warningCount",
        "requestCount",
        "totalLatency",
    ] {
        let body = json!({"monitor_uid": "m", "metrics": {name: "3"}});
        assert_eq!(fault(body.to_string()), format!("metrics.{name}: found the text \"3\"; {WHOLE}"));
    }
}

#[test]
fn a_wrong_type_at_any_field_names_it() {
    let text = "send text, or leave it out";
    let required = "send text that is not empty";
    let time = "send an RFC 3339 time such as 2026-11-22T10:00:02Z";
    let monitor = json!({"monitor_uid": "m", "metrics": {}});
    let activity = json!({"action": "a", "model": "m"});
    let run = json!({"run": {"info": {"monitorId": "m"}}});
    let cases: [(&Value, &[&str], &str); 8] = [
        (&monitor, &["monitor_name", "collection_uid", "collection_name", "environment_uid"], text),
        (
            &monitor,
            &["environment_name", "user_id", "user_name", "run_id", "region", "trigger", "status"],
            text,
        ),
        (&monitor, &["started_at", "finished_at"], time),
        (&monitor, &["monitor_uid"], required),
        (&activity, &["model_uid", "model_name", "collection_uid", "collection_name", "message"], text),
        (&activity, &["user_id", "user_name", "workspace_id", "workspace_name"], text),
        (&activity, &["occurred_at"], time),
        (&activity, &["action", "model"], required),
    ];
    for (base, names, fix) in cases {
        for name in names {
            for (value, found) in [
                (json!([1]), "an array of 1"),
                (json!({"a": 1}), "an object of 1"),
                (json!(true), "the boolean true"),
            ] {
                let mut body = base.clone();
                body[*name] = value;
                assert_eq!(fault(body.to_string()), format!("{name}: found {found}; {fix}"));
            }
        }
    }
    for (name, fix) in [("jobId", text), ("name", text), ("collectionUid", text), ("startedAt", time)] {
        let mut body = run.clone();
        body["run"]["info"][name] = json!([]);
        assert_eq!(fault(body.to_string()), format!("run.info.{name}: found an array of 0; {fix}"));
    }
}

#[test]
fn what_is_wrong_with_a_field_and_what_to_send() {
    let statuses = "send one of success, failure, error, abort";
    let objects = "send an array of objects";
    let long = "x".repeat(300);
    let cases = [
        (json!({"monitor_uid": null, "metrics": {}}), "monitor_uid: missing; send text that is not empty".into()),
        (
            json!({"monitor_uid": " ", "metrics": {}}),
            "monitor_uid: found the text \" \"; send text that is not empty".into(),
        ),
        (
            json!({"monitor_uid": "a\u{0}b", "metrics": {}}),
            format!("monitor_uid: found control characters in \"a\\u{{0}}b\"; {KEY}"),
        ),
        (
            json!({"monitor_uid": long, "metrics": {}}),
            format!("monitor_uid: found 300 bytes, \"{}…\"; {KEY}", &long[..60]),
        ),
        (
            json!({"monitor_uid": "m", "region": "a\u{7}", "metrics": {}}),
            format!("region: found control characters in \"a\\u{{7}}\"; {KEY}"),
        ),
        (
            json!({"monitor_uid": "m"}),
            "metrics: missing; send the run's metrics as an object with passedTests, failedTests and errors".into(),
        ),
        (
            json!({"monitor_uid": "m", "metrics": []}),
            "metrics: found an array of 0; send a JSON object".into(),
        ),
        (
            json!({"monitor_uid": "m", "metrics": {}, "status": "passed"}),
            format!("status: found the text \"passed\"; {statuses}"),
        ),
        (
            json!({"monitor_uid": "m", "metrics": {}, "status": 1}),
            format!("status: found the number 1; {statuses}"),
        ),
        (
            json!({"monitor_uid": "m", "metrics": {}, "finished_at": "yesterday"}),
            "finished_at: found the text \"yesterday\"; send an RFC 3339 time such as 2026-11-22T10:00:02Z".into(),
        ),
        (
            json!({"monitor_uid": "m", "metrics": {}, "finished_at": 1_795_384_624}),
            "finished_at: found the number 1795384624; send an RFC 3339 time such as 2026-11-22T10:00:02Z".into(),
        ),
        (
            json!({"monitor_uid": "m", "metrics": {}, "failures": "none"}),
            format!("failures: found the text \"none\"; {objects}"),
        ),
        (
            json!({"monitor_uid": "m", "metrics": {}, "failures": [{}, "x"]}),
            "failures[1]: found the text \"x\"; send a JSON object".into(),
        ),
        (
            json!({"monitor_uid": "m", "metrics": {}, "failures": [{"test": {}}]}),
            "failures[0].test: found an object of 0; send text, or leave it out".into(),
        ),
        (json!({"action": "update"}), "model: missing; send text that is not empty".into()),
        (json!({"model": "request", "action": ""}), "action: found the text \"\"; send text that is not empty".into()),
        (
            json!({"run": {"stats": {}}}),
            "run.info: missing; send the API's answer to a monitor run; a Newman report is published by `publish \
             --newman`"
                .into(),
        ),
        (json!({"run": {"info": {}}}), "run.info.monitorId: missing; send text that is not empty".into()),
        (
            json!({"run": {"info": {"monitorId": "m", "status": "x"}}}),
            "run.info.status: found the text \"x\"; send one of success, failed, failure, error, abort, aborted".into(),
        ),
        (
            json!({"run": {"info": {"monitorId": "m"}, "stats": {"assertions": {"total": -1}}}}),
            format!("run.stats.assertions.total: found the number -1; {WHOLE}"),
        ),
        (
            json!({"run": {"info": {"monitorId": "m"}, "executions": [{"response": {"responseTime": -1}}]}}),
            "run.executions[0].response.responseTime: found the number -1; send milliseconds as a number, 0 or more \
             (below 2^64)"
                .into(),
        ),
    ];
    for (body, expected) in cases {
        assert_eq!(fault(body.to_string()), expected, "{body}");
    }
}

#[test]
fn a_message_never_holds_a_whole_body() {
    let long = "y".repeat(500_000);
    for body in [
        json!({"monitor_uid": "m", "metrics": {"errors": long}}),
        json!({"monitor_uid": long, "metrics": {}}),
        json!({"monitor_uid": "m", "metrics": {}, "status": long}),
        json!(long),
    ] {
        assert!(fault(body.to_string()).len() < 300);
    }
    let in_name = format!("{{\"{long}\": x}}");
    assert!(fault(in_name).len() < 300);
}

/// Any JSON, leaning towards the names and values that the forms know.
fn json_values() -> impl Strategy<Value = Value> {
    let names = prop::sample::select(vec![
        "monitor_uid",
        "metrics",
        "run",
        "info",
        "stats",
        "executions",
        "failures",
        "assertions",
        "action",
        "model",
        "data",
        "specversion",
        "type",
        "id",
        "errors",
        "status",
        "monitorId",
        "finished_at",
        "run_url",
        "x",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
        Just(json!("1.0")),
        Just(json!("failed")),
        Just(json!("https://example.com/")),
        Just(json!("com.postman.monitor.run.completed")),
    ];
    leaf.prop_recursive(5, 48, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((names.clone(), inner), 0..8).prop_map(|members| Value::Object(
                members.into_iter().map(|(n, v)| (n.to_owned(), v)).collect()
            )),
        ]
    })
}

proptest! {
    #[test]
    fn any_bytes_are_an_event_or_one_line(body in prop::collection::vec(any::<u8>(), 0..300)) {
        check(&plain(body))?;
    }

    #[test]
    fn any_json_is_an_event_or_one_line(body in json_values(), structured in any::<bool>()) {
        let content_type = structured.then(|| "application/cloudevents+json".to_owned());
        check(&Envelope { content_type, ..plain(body.to_string()) })?;
    }
}

fn check(envelope: &Envelope) -> Result<(), TestCaseError> {
    let _ = identity(envelope);
    for fault in [read(envelope).err(), event_from_newman(&envelope.body, &NewmanOptions::default()).err()]
        .into_iter()
        .flatten()
    {
        let line = fault.to_string();
        prop_assert!(!line.contains(char::is_control) && line.len() < 1_000, "{}", line);
    }
    Ok(())
}
