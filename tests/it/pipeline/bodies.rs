//! Events as producers write them: Postman's webhook bodies, the Postman API's run, CloudEvents of both kinds,
//! and bodies that are none of these.

use std::collections::BTreeMap;

use fastrand::Rng;
use hipchat_notifier::domain::envelope::Envelope;
use serde_json::{Value, json};

use super::workload::Means;

/// Ends of runs are counted in seconds from here: long ago, so that no clock takes them for the future.
const EPOCH: i64 = 1_600_000_000;

/// An event in one of the forms that can say all of `means`.
pub fn envelope(rng: &mut Rng, id: &str, means: &Means, nth: usize) -> Envelope {
    let (team, kind, body) = match means {
        Means::Run { team, region, finished_at, .. } => {
            let api = region.is_empty() && finished_at.is_some() && rng.bool();
            let body = if api { api_run(id, means) } else { webhook_run(rng.bool(), id, means) };
            (team, "com.postman.monitor.run.completed".to_owned(), body)
        }
        Means::Activity { team, model, .. } => {
            (team, format!("com.postman.activity.{model}.update"), activity(id, means))
        }
        Means::Malformed { .. } | Means::Again => unreachable!("these have bodies of their own"),
    };
    match nth % 4 {
        0 => structured(id, team, &kind, &body),
        1 => binary(id, team, &kind, &body),
        2 => Envelope {
            headers: BTreeMap::from([("team".to_owned(), team.clone())]),
            ..plain(id, "elsewhere", means, &body)
        },
        _ => plain(id, team, means, &body),
    }
}

/// A run in Postman's webhook form, known as `id`, with `mark` in its link.
pub fn run_as_webhook(id: &str, mark: &str, means: &Means) -> Envelope {
    let Means::Run { team, .. } = means else { unreachable!("a run") };
    plain(id, team, means, &webhook_run(false, mark, means))
}

fn plain(id: &str, team: &str, means: &Means, body: &Value) -> Envelope {
    let routing_key = match means {
        Means::Run { monitor, .. } => format!("monitor.{team}.{monitor}"),
        Means::Activity { model, .. } => format!("activity.{team}.{model}.update"),
        Means::Malformed { .. } | Means::Again => format!("monitor.{team}.unknown"),
    };
    Envelope {
        body: body.to_string().into_bytes(),
        message_id: Some(id.to_owned()),
        content_type: Some("application/json".to_owned()),
        routing_key,
        ..Envelope::default()
    }
}

/// Without `message_id`: the CloudEvent's own id counts.
fn structured(id: &str, team: &str, kind: &str, data: &Value) -> Envelope {
    let event = json!({
        "specversion": "1.0", "id": id, "source": "/tests", "type": kind, "teamid": team, "data": data,
    });
    Envelope {
        body: event.to_string().into_bytes(),
        content_type: Some("application/cloudevents+json; charset=utf-8".to_owned()),
        routing_key: "monitor.elsewhere.any".to_owned(),
        ..Envelope::default()
    }
}

fn binary(id: &str, team: &str, kind: &str, data: &Value) -> Envelope {
    let attributes =
        [("specversion", "1.0"), ("id", id), ("source", "/tests"), ("type", kind), ("teamid", team)];
    let headers = attributes.map(|(name, value)| (format!("cloudEvents:{name}"), value.to_owned()));
    Envelope {
        body: data.to_string().into_bytes(),
        content_type: Some("application/json".to_owned()),
        routing_key: "activity.elsewhere.any.any".to_owned(),
        headers: headers.into(),
        ..Envelope::default()
    }
}

fn time(seconds: i64) -> String {
    jiff::Timestamp::from_second(EPOCH + seconds).expect("a time").to_string()
}

/// `aliases`: with the counts' other names, and the result left to be told by them.
fn webhook_run(aliases: bool, mark: &str, means: &Means) -> Value {
    let Means::Run { monitor, region, failed, finished_at, .. } = means else { unreachable!("a run") };
    let failures = u8::from(*failed);
    let mut body = json!({
        "monitor_uid": monitor,
        "monitor_name": format!("Monitor {monitor}"),
        "collection_name": "Orders",
        "environment_name": "prod",
        "metrics": {"passedTests": 5, "requestCount": 6, "totalLatency": 120},
        "run_id": mark,
        "run_url": format!("https://runs.example/{mark}"),
    });
    if aliases {
        body["metrics"]["failedTestCount"] = json!(failures);
        body["metrics"]["errorCount"] = json!(0);
    } else {
        body["metrics"]["failedTests"] = json!(failures);
        body["status"] = json!(if *failed { "failure" } else { "success" });
    }
    if !region.is_empty() {
        body["region"] = json!(region);
    }
    if let Some(at) = finished_at {
        body["finished_at"] = json!(time(*at));
    }
    body
}

/// Has no URL of its own: the link is made of the job's id.
fn api_run(mark: &str, means: &Means) -> Value {
    let Means::Run { monitor, failed, finished_at, .. } = means else { unreachable!("a run") };
    let at = finished_at.map(time);
    json!({"run": {
        "info": {
            "jobId": mark, "monitorId": monitor, "name": format!("Monitor {monitor}"),
            "status": if *failed { "failed" } else { "success" }, "finishedAt": at,
        },
        "stats": {
            "assertions": {"total": 6, "failed": u8::from(*failed)},
            "requests": {"total": 6, "failed": 0},
        },
        "executions": [], "failures": [],
    }})
}

fn activity(mark: &str, means: &Means) -> Value {
    let Means::Activity { model, uid, user, .. } = means else { unreachable!("an activity") };
    json!({
        "action": "update", "model": model, "model_uid": uid, "model_name": format!("Thing {mark}"),
        "user_id": user, "user_name": format!("Name of {user}"), "workspace_name": "Shop",
    })
}

/// A body that is no event, with the field that the dead letter must name.
pub fn malformed(rng: &mut Rng, id: &str) -> (&'static str, Envelope) {
    let unique = format!("\"note\":\"{id}\"");
    let bodies: [(&str, Vec<u8>); 8] = [
        ("body", Vec::new()),
        ("body", format!("not json at all, {id}").into_bytes()),
        ("body", [id.as_bytes(), &[0xff, 0xfe]].concat()),
        ("metrics", format!("{{\"monitor_uid\":\"1-a\",{unique}}}").into_bytes()),
        ("monitor_uid", format!("{{\"metrics\":{{}},{unique}}}").into_bytes()),
        (
            "metrics.failedTests",
            format!("{{\"monitor_uid\":\"1-a\",\"metrics\":{{\"failedTests\":\"x\"}},{unique}}}")
                .into_bytes(),
        ),
        ("action", format!("{{\"model\":\"request\",{unique}}}").into_bytes()),
        (
            "type",
            format!("{{\"specversion\":\"1.0\",\"type\":\"com.other\",\"data\":{{}},{unique}}}").into_bytes(),
        ),
    ];
    let (field, body) = bodies[rng.usize(..bodies.len())].clone();
    let means = Means::Malformed { field: "" };
    (field, Envelope { body, ..plain(id, "t-0", &means, &Value::Null) })
}
