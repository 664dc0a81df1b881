//! Schemas and parser agree: what the one accepts the other reads. Where the parser is more lenient, it is so
//! on purpose, and the table says why.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

use super::schemas::Schemas;
use super::{fixture, merged, plain, read};

/// Both say yes, both say no, or the schema asks for more than the parser.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Verdict {
    Good,
    Bad,
    /// The parser is more lenient on purpose, so that no alert is lost over it.
    Lenient(&'static str),
}

fn run(extra: Value) -> Value {
    merged(json!({"monitor_uid": "m", "metrics": {"errors": 0}}), extra)
}

fn api(info: Value, rest: Value) -> Value {
    json!({"run": merged(json!({"info": merged(json!({"monitorId": "m"}), info)}), rest)})
}

fn activity(extra: Value) -> Value {
    merged(json!({"action": "update", "model": "request"}), extra)
}

fn cloudevent(kind: &str, data: Value) -> Value {
    json!({"specversion": "1.0", "id": "1", "source": "/x", "type": kind, "data": data})
}

#[test]
fn schema_and_parser_agree() {
    use Verdict::{Bad, Good, Lenient};
    const RUN: &str = "com.postman.monitor.run.completed";
    const ACTIVITY: &str = "com.postman.activity.request.update";
    let numbers = Lenient("ids are numbers in the wild");
    let links = Lenient("a wrong link is left out");
    let case = Lenient("in any case");
    let attribute = Lenient("an attribute that nothing needs");
    let cases = vec![
        ("monitor-webhook", run(json!({})), Good),
        ("monitor-webhook", run(json!({"unknown": {"a": [1]}, "status": null, "failures": null})), Good),
        ("monitor-webhook", run(json!({"metrics": {}})), Good),
        ("monitor-webhook", run(json!({"metrics": {"errors": u64::MAX}})), Good),
        ("monitor-webhook", run(json!({"metrics": {"errors": 1.0}})), Good),
        ("monitor-webhook", run(json!({"metrics": {"errors": -1}})), Bad),
        ("monitor-webhook", run(json!({"metrics": {"errors": 1.5}})), Bad),
        ("monitor-webhook", run(json!({"metrics": {"errors": 1e30}})), Bad),
        ("monitor-webhook", run(json!({"metrics": {"errors": "1"}})), Bad),
        ("monitor-webhook", run(json!({"metrics": {"warningCount": true}})), Bad),
        ("monitor-webhook", run(json!({"metrics": []})), Bad),
        ("monitor-webhook", run(json!({"metrics": null})), Bad),
        ("monitor-webhook", json!({"monitor_uid": "m"}), Bad),
        ("monitor-webhook", json!({"metrics": {}}), Bad),
        ("monitor-webhook", run(json!({"monitor_uid": ""})), Bad),
        ("monitor-webhook", run(json!({"monitor_uid": " "})), Bad),
        ("monitor-webhook", run(json!({"monitor_uid": "a\nb"})), Bad),
        ("monitor-webhook", run(json!({"monitor_uid": "a\u{7f}"})), Bad),
        ("monitor-webhook", run(json!({"monitor_uid": "\u{1}"})), Bad),
        ("monitor-webhook", run(json!({"monitor_uid": "x".repeat(256)})), Bad),
        ("monitor-webhook", run(json!({"monitor_uid": "x".repeat(255)})), Good),
        ("monitor-webhook", run(json!({"monitor_uid": 5852})), numbers),
        ("monitor-webhook", run(json!({"user_id": 5852})), numbers),
        ("monitor-webhook", run(json!({"user_id": true})), Bad),
        ("monitor-webhook", run(json!({"monitor_name": {}})), Bad),
        ("monitor-webhook", run(json!({"region": "x".repeat(256)})), Bad),
        ("monitor-webhook", run(json!({"status": "abort"})), Good),
        ("monitor-webhook", run(json!({"status": "failed"})), Bad),
        ("monitor-webhook", run(json!({"status": "Failure"})), case),
        ("monitor-webhook", run(json!({"trigger": "cron"})), Good),
        ("monitor-webhook", run(json!({"finished_at": "2026-11-22T10:00:02+01:00"})), Good),
        ("monitor-webhook", run(json!({"finished_at": "2026-11-22"})), Bad),
        ("monitor-webhook", run(json!({"finished_at": 17})), Bad),
        (
            "monitor-webhook",
            run(json!({"finished_at": "2026-11-22 10:00:02Z"})),
            Lenient("a blank for the T"),
        ),
        ("monitor-webhook", run(json!({"finished_at": ""})), Lenient("empty is missing")),
        ("monitor-webhook", run(json!({"run_url": "https://example.com/a?b=c@d"})), Good),
        ("monitor-webhook", run(json!({"run_url": "javascript:alert(1)"})), links),
        ("monitor-webhook", run(json!({"run_url": "https://a@example.com/"})), links),
        ("monitor-webhook", run(json!({"monitor_url": 1})), links),
        ("monitor-webhook", run(json!({"failures": [{"test": "t"}, {}]})), Good),
        ("monitor-webhook", run(json!({"failures": [1]})), Bad),
        ("monitor-webhook", run(json!({"failures": {}})), Bad),
        ("monitor-webhook", json!([run(json!({}))]), Bad),
        ("api-run", api(json!({}), json!({})), Good),
        ("api-run", api(json!({"status": "failed"}), json!({"stats": null, "executions": null})), Good),
        ("api-run", api(json!({"status": "unknown"}), json!({})), Bad),
        ("api-run", api(json!({"monitorId": null}), json!({})), Bad),
        ("api-run", api(json!({"monitorId": "a\u{7f}b"}), json!({})), Bad),
        ("api-run", json!({"run": {}}), Bad),
        ("api-run", api(json!({}), json!({"stats": {"requests": {"total": 1.5}}})), Bad),
        ("api-run", api(json!({}), json!({"stats": {"responseLatency": 1.5}})), Good),
        ("api-run", api(json!({}), json!({"executions": [{"response": {"responseTime": "1"}}]})), Bad),
        ("api-run", api(json!({}), json!({"executions": [{"assertions": {"a": false}}]})), Good),
        (
            "api-run",
            api(json!({}), json!({"executions": [{"assertions": {"a": "no"}}]})),
            Lenient("not counted"),
        ),
        ("api-run", api(json!({}), json!({"executions": [7]})), Bad),
        ("api-run", api(json!({}), json!({"failures": [7]})), Good),
        ("activity-webhook", activity(json!({})), Good),
        ("activity-webhook", activity(json!({"action": "teleport", "model": "x.y"})), Good),
        ("activity-webhook", json!({"action": "update"}), Bad),
        ("activity-webhook", json!({"model": "request"}), Bad),
        ("activity-webhook", activity(json!({"action": " "})), Bad),
        ("activity-webhook", activity(json!({"model": []})), Bad),
        ("activity-webhook", activity(json!({"model": 1})), numbers),
        ("activity-webhook", activity(json!({"occurred_at": "now"})), Bad),
        ("activity-webhook", activity(json!({"user_name": {"first": "Ana"}})), Bad),
        ("activity-webhook", activity(json!({"model_url": "ftp://example.com"})), links),
        ("cloudevent", cloudevent(RUN, run(json!({}))), Good),
        ("cloudevent", cloudevent(RUN, api(json!({}), json!({}))), Good),
        ("cloudevent", cloudevent(ACTIVITY, activity(json!({}))), Good),
        ("cloudevent", cloudevent(RUN, activity(json!({}))), Bad),
        ("cloudevent", cloudevent(ACTIVITY, run(json!({}))), Bad),
        ("cloudevent", cloudevent("com.example.other", run(json!({}))), Bad),
        ("cloudevent", merged(cloudevent(RUN, run(json!({}))), json!({"specversion": "0.3"})), Bad),
        ("cloudevent", merged(cloudevent(RUN, run(json!({}))), json!({"id": "x".repeat(256)})), Bad),
        ("cloudevent", merged(cloudevent(RUN, run(json!({}))), json!({"data": null})), Bad),
        ("cloudevent", merged(cloudevent(RUN, run(json!({}))), json!({"teamid": []})), Bad),
        ("cloudevent", merged(cloudevent(RUN, run(json!({}))), json!({"id": null})), attribute),
        ("cloudevent", merged(cloudevent(RUN, run(json!({}))), json!({"source": null})), attribute),
        ("cloudevent", merged(cloudevent(RUN, run(json!({}))), json!({"type": null})), attribute),
        ("cloudevent", merged(cloudevent(RUN, run(json!({}))), json!({"time": "later"})), attribute),
    ];
    let schemas = Schemas::load();
    for (name, body, verdict) in cases {
        let by_schema = schemas.named(name).is_valid(&body);
        let by_parser = read(&plain(body.to_string()));
        let expected = match verdict {
            Good => (true, true),
            Bad => (false, false),
            Lenient(_) => (false, true),
        };
        assert_eq!((by_schema, by_parser.is_ok()), expected, "{name} {verdict:?}: {body} {by_parser:?}");
    }
}

/// Changes one member of a good body, at any depth, to anything: what the schema still accepts, the parser
/// reads.
#[test]
fn what_a_schema_accepts_is_read() {
    let schemas = Schemas::load();
    for (name, file) in [
        ("monitor-webhook", "monitor-webhook-full.json"),
        ("api-run", "postman-api-run-errors.json"),
        ("activity-webhook", "activity-webhook-full.json"),
        ("cloudevent", "cloudevent-structured.json"),
    ] {
        let validator = schemas.named(name);
        let good: Value = serde_json::from_slice(&fixture(file)).expect("JSON");
        let mut pointers = Vec::new();
        collect_pointers(&good, String::new(), &mut pointers);
        let changes = (prop::sample::select(pointers), replacements());
        let mut runner =
            TestRunner::new(Config { cases: 400, failure_persistence: None, ..Config::default() });
        let outcome = runner.run(&changes, |(pointer, replacement)| {
            let mut body = good.clone();
            if let Some(member) = body.pointer_mut(&pointer) {
                *member = replacement;
            }
            if validator.is_valid(&body) {
                let result = read(&plain(body.to_string()));
                prop_assert!(result.is_ok(), "{pointer}: {result:?}");
            }
            Ok(())
        });
        outcome.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

fn replacements() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (0..1_000_000_u32).prop_map(|n| json!(f64::from(n))),
        any::<String>().prop_map(Value::from),
        Just(json!("")),
        Just(json!([])),
        Just(json!([{}])),
        Just(json!({})),
        prop::sample::select(vec![
            "success",
            "failed",
            "abort",
            "2026-12-31T23:59:60Z",
            "2026-11-22T10:00:00.123456789-11:30",
            "0001-01-01T00:00:00Z",
            "9999-01-01T00:00:00Z",
            "9999-12-31T23:59:59Z",
            "https://example.com",
            "http:///x",
        ])
        .prop_map(Value::from),
    ]
}

fn collect_pointers(value: &Value, at: String, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            members.iter().for_each(|(name, value)| collect_pointers(value, format!("{at}/{name}"), found));
        }
        Value::Array(items) => {
            items
                .iter()
                .enumerate()
                .for_each(|(n, value)| collect_pointers(value, format!("{at}/{n}"), found));
        }
        _ => {}
    }
    found.push(at);
}
