//! A Newman run becomes an event: the JSON report of `newman run --reporters json` as a monitor webhook body.
//!
//! After the report of Newman 6: `run.stats` counts, `run.failures` holds failed tests and errors alike
//! (`at` tells them apart), `run.timings` is in Unix milliseconds. Reports hold whole response bodies, so
//! they are larger than any event; only what the event needs is held in memory.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::domain::event::RunMetrics;

use super::fields::{Fields, checked_id};
use super::json::{self, Place};
use super::malformed::Malformed;
use super::monitor_webhook::derived;
use super::surrogates::mended;

/// Names of all members that are read, at any depth. Response bodies (`stream`) are not among them.
const WANTED: &[&str] = &[
    "collection",
    "_",
    "postman_id",
    "_postman_id",
    "info",
    "name",
    "environment",
    "id",
    "run",
    "stats",
    "assertions",
    "requests",
    "total",
    "failed",
    "skipped",
    "timings",
    "started",
    "completed",
    "executions",
    "response",
    "responseTime",
    "failures",
    "source",
    "error",
    "at",
    "test",
    "message",
];
/// Bytes at most of all failures in the event, so that it stays well below the limit of a body.
const MAX_FAILURES_BYTES: usize = 768 * 1024;
/// The name of the failure that `newman run --bail` adds: it only repeats the names of the failed tests.
const BAIL: &str = "AssertionFailure";
/// Characters at most of one failure's message.
const MAX_MESSAGE_CHARS: usize = 2_000;

/// What a report does not say of the monitor that it stands for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewmanOptions {
    /// Left out: `newman-<collection id>`.
    pub monitor_uid: Option<String>,
    /// Left out: the collection's name.
    pub monitor_name: Option<String>,
}

/// Makes a monitor webhook body (the contract's extended form) of a Newman report. What is listed of the
/// failures may be cut; the counts are always those of the report.
///
/// # Errors
/// What is missing in the report or wrong with it, and where.
pub fn event_from_newman(report: &[u8], options: &NewmanOptions) -> Result<Value, Malformed> {
    const FIX: &str = "give the report of `newman run --reporters json`";
    let text = std::str::from_utf8(report).map_err(|error| {
        Malformed::new("body", format!("not UTF-8 from byte {} on", error.valid_up_to()), FIX)
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let text = mended(text);
    let tree = json::parse_only(&text, WANTED)?;
    let report = Fields::of(&tree, Place::Body)?;
    let Some(run) = report.object("run")? else { return Err(Malformed::missing(report.at("run"), FIX)) };
    let collection = Named::collection(&report)?;
    let environment = match report.object("environment")? {
        Some(environment) => Named { id: environment.text("id")?, name: environment.text("name")? },
        None => Named::default(),
    };
    let failures = Failures::read(&run)?;
    let metrics = metrics(&run, &failures)?;
    let timings = run.object("timings")?;
    let time = |name: &str| timings.as_ref().map_or(Ok(None), |timings| instant(timings, name));
    let body = json!({
        "monitor_uid": monitor_uid(options, &collection)?,
        "monitor_name": options.monitor_name.as_ref().or(collection.name.as_ref()),
        "collection_uid": collection.id,
        "collection_name": collection.name,
        // An environment that was only given by `--env-var` has an id of its own making and no name.
        "environment_uid": environment.name.as_ref().and(environment.id.as_ref()),
        "environment_name": environment.name,
        "status": derived(&metrics).as_str(),
        "trigger": "manual",
        "started_at": time("started")?,
        "finished_at": time("completed")?,
        "metrics": {
            "passedTests": metrics.passed_tests,
            "failedTests": metrics.failed_tests,
            "errors": metrics.errors,
            "requestCount": metrics.request_count,
            "totalLatency": metrics.total_latency_ms,
        },
        "failures": failures.listed,
    });
    Ok(without_nulls(body))
}

/// An id and a name, where they are known.
#[derive(Default)]
struct Named {
    id: Option<String>,
    name: Option<String>,
}

impl Named {
    /// Newman writes the collection's id in `info`, beside it, or in `_`, by the collection's own form.
    fn collection(report: &Fields<'_, '_>) -> Result<Self, Malformed> {
        let Some(collection) = report.object("collection")? else { return Ok(Self::default()) };
        let mut named = Self { id: collection.text("id")?, name: collection.text("name")? };
        if let Some(meta) = collection.object("_")? {
            named.id = meta.text("postman_id")?.or(named.id);
        }
        if let Some(info) = collection.object("info")? {
            named.id = info.text("_postman_id")?.or(named.id);
            named.name = info.text("name")?.or(named.name);
        }
        Ok(named)
    }
}

fn monitor_uid(options: &NewmanOptions, collection: &Named) -> Result<String, Malformed> {
    match (&options.monitor_uid, &collection.id) {
        (Some(uid), _) => checked_id("monitor_uid", uid.clone()),
        (None, Some(id)) => checked_id("collection.info._postman_id", format!("newman-{id}")),
        (None, None) => {
            Err(Malformed::missing("collection.info._postman_id", "name the monitor that the run stands for"))
        }
    }
}

fn metrics(run: &Fields<'_, '_>, failures: &Failures) -> Result<RunMetrics, Malformed> {
    const FIX: &str = "give the report of `newman run --reporters json`";
    let Some(stats) = run.object("stats")? else { return Err(Malformed::missing(run.at("stats"), FIX)) };
    let Some(assertions) = stats.object("assertions")? else {
        return Err(Malformed::missing(stats.at("assertions"), FIX));
    };
    let executed = Executed::read(run)?;
    let failed = assertions.count(&["failed"])?.unwrap_or(0);
    let total = assertions.count(&["total"])?.unwrap_or(0);
    let requests = match stats.object("requests")? {
        Some(requests) => requests.count(&["total"])?,
        None => None,
    };
    // A run that was broken off says so in `run.error`, and not always among its failures.
    let broken_off = u64::from(run.get("error").is_some());
    Ok(RunMetrics {
        passed_tests: Some(total.saturating_sub(failed).saturating_sub(executed.skipped)),
        failed_tests: Some(failed),
        errors: Some(failures.errors.max(broken_off)),
        warnings: None,
        request_count: requests,
        total_latency_ms: executed.latency_ms,
    })
}

/// What is added up over the executions.
#[derive(Default)]
struct Executed {
    /// `None` where no request was answered: that is not the same as answers within no time.
    latency_ms: Option<u64>,
    /// Counted by Newman among all assertions, but neither passed nor failed.
    skipped: u64,
}

impl Executed {
    fn read(run: &Fields<'_, '_>) -> Result<Self, Malformed> {
        let mut sum = Self::default();
        run.each_object("executions", |execution| {
            if let Some(response) = execution.object("response")?
                && let Some(millis) = response.millis("responseTime")?
            {
                sum.latency_ms = Some(sum.latency_ms.unwrap_or(0).saturating_add(millis));
            }
            execution.each_object("assertions", |assertion| {
                sum.skipped += u64::from(assertion.get("skipped") == Some(&json::Json::Bool(true)));
                Ok(())
            })
        })?;
        Ok(sum)
    }
}

/// `run.failures`: failed tests, and errors of scripts and requests.
#[derive(Default)]
struct Failures {
    errors: u64,
    listed: Vec<Value>,
}

impl Failures {
    fn read(run: &Fields<'_, '_>) -> Result<Self, Malformed> {
        let mut failures = Self::default();
        let mut bytes = 0;
        run.each_object("failures", |failure| {
            let error = failure.object("error")?;
            let text = |name: &str| error.as_ref().map_or(Ok(None), |error| error.text(name));
            let (name, test, message) = (text("name")?, text("test")?, text("message")?);
            if name.as_deref() == Some(BAIL) {
                return Ok(());
            }
            let is_test = match failure.text("at")? {
                Some(at) => at.starts_with("assertion:"),
                None => name.as_deref() == Some("AssertionError"),
            };
            failures.errors += u64::from(!is_test);
            let request = match failure.object("source")? {
                Some(source) => source.text("name")?,
                None => None,
            };
            let message = message.map(|text| text.chars().take(MAX_MESSAGE_CHARS).collect::<String>());
            let test = if is_test { test } else { name };
            let entry = without_nulls(json!({"request": request, "test": test, "message": message}));
            bytes += entry.to_string().len();
            if bytes <= MAX_FAILURES_BYTES {
                failures.listed.push(entry);
            }
            Ok(())
        })?;
        Ok(failures)
    }
}

fn instant(timings: &Fields<'_, '_>, name: &str) -> Result<Option<String>, Malformed> {
    let Some(millis) = timings.count(&[name])? else { return Ok(None) };
    let instant = i64::try_from(millis).ok().and_then(|millis| Timestamp::from_millisecond(millis).ok());
    match instant {
        Some(instant) => Ok(Some(instant.to_string())),
        None => Err(Malformed::new(
            timings.at(name),
            format!("found the number {millis}"),
            "send Unix milliseconds before the year 10000",
        )),
    }
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(members) => members
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (name, without_nulls(value)))
            .collect(),
        other => other,
    }
}
