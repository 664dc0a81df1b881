//! The Postman API's answer to a monitor run: `{"run":{"info","stats","executions","failures"}}`.
//!
//! After the API's published sample. What the sample leaves open is decided here:
//! - `failed` is the API's only word for a bad end. By the numbers it becomes `error` (errors were counted),
//!   `abort` (nothing but aborted runs were counted), else `failure`.
//! - `stats.requests.failed` counts as errors only where no test failed: the sample counts a failed request
//!   beside a failed test of a request that was answered.
//! - The latency is the sum over the executions where all requests are listed, else `stats.responseLatency`.
//! - The form of `failures[]` is not published. Messages are taken from entries in Newman's form
//!   (`{"source":{"name"},"error":{"test","message"}}`), others are ignored.

use std::collections::HashMap;

use crate::domain::event::{FailedTest, MonitorRun, RunMetrics, RunResult};

use super::event::{MAX_BODY_BYTES, MAX_FAILURES};
use super::fields::{Fields, clean};
use super::json::Json;
use super::malformed::Malformed;
use super::monitor_webhook::derived;

/// Reads a body (or a CloudEvent's data).
pub(super) fn read(body: &Fields<'_, '_>) -> Result<MonitorRun, Malformed> {
    let Some(run) = body.object("run")? else {
        return Err(Malformed::missing(body.at("run"), "send the API's answer to a monitor run"));
    };
    let Some(info) = run.object("info")? else {
        return Err(Malformed::missing(
            run.at("info"),
            "send the API's answer to a monitor run; a Newman report is published by `publish --newman`",
        ));
    };
    let seen = Executions::read(&run)?;
    let stats = Stats::read(&run, &seen)?;
    Ok(MonitorRun {
        monitor_uid: info.required_key("monitorId")?.into(),
        monitor_name: info.text("name")?,
        collection_uid: info.text("collectionUid")?,
        collection_name: None,
        environment_uid: info.text("environmentUid")?,
        environment_name: None,
        user_id: None,
        user_name: None,
        result: result(&info, &stats)?,
        metrics: stats.metrics,
        run_id: info.text("jobId")?,
        region: None,
        trigger: None,
        started_at: info.time("startedAt")?,
        finished_at: info.time("finishedAt")?,
        monitor_url: None,
        run_url: None,
        failures: seen.failures,
    })
}

fn result(info: &Fields<'_, '_>, stats: &Stats) -> Result<RunResult, Malformed> {
    let by_numbers = match derived(&stats.metrics) {
        RunResult::Success if stats.aborted => RunResult::Abort,
        other => other,
    };
    let Some(status) = info.text("status")? else { return Ok(by_numbers) };
    match status.trim().to_ascii_lowercase().as_str() {
        "success" => Ok(RunResult::Success),
        "failed" if by_numbers.is_failed() => Ok(by_numbers),
        "failed" | "failure" => Ok(RunResult::Failure),
        "error" => Ok(RunResult::Error),
        "abort" | "aborted" => Ok(RunResult::Abort),
        _ => {
            let found = info.get("status").map(Json::found).unwrap_or_default();
            Err(Malformed::new(
                info.at("status"),
                found,
                "send one of success, failed, failure, error, abort, aborted",
            ))
        }
    }
}

/// The run's numbers.
struct Stats {
    metrics: RunMetrics,
    aborted: bool,
}

impl Stats {
    fn read(run: &Fields<'_, '_>, seen: &Executions) -> Result<Self, Malformed> {
        let mut read = Self { metrics: RunMetrics::default(), aborted: false };
        let mut failed_requests = None;
        let mut latency = None;
        if let Some(stats) = run.object("stats")? {
            if let Some(assertions) = stats.object("assertions")? {
                let total = assertions.count(&["total"])?;
                let failed = assertions.count(&["failed"])?;
                let left = total.zip(failed).map(|(total, failed)| total.saturating_sub(failed));
                read.metrics.passed_tests = assertions.count(&["passed"])?.or(left);
                read.metrics.failed_tests = failed;
            }
            if let Some(requests) = stats.object("requests")? {
                read.metrics.request_count = requests.count(&["total"])?;
                failed_requests = requests.count(&["failed"])?;
            }
            read.metrics.errors = stats.count(&["errorCount"])?;
            read.aborted = stats.count(&["abortedCount"])?.is_some_and(|count| count > 0);
            latency = stats.millis("responseLatency")?;
        }
        read.fill(seen, failed_requests, latency);
        Ok(read)
    }

    /// What `stats` does not say is counted from the executions, where there are any.
    fn fill(&mut self, seen: &Executions, failed_requests: Option<u64>, latency: Option<u64>) {
        let metrics = &mut self.metrics;
        if seen.count > 0 {
            metrics.passed_tests.get_or_insert(seen.passed);
            metrics.failed_tests.get_or_insert(seen.failed);
            metrics.request_count.get_or_insert(seen.count);
            metrics.errors.get_or_insert(seen.errors);
        }
        if metrics.errors.unwrap_or(0) == 0 && metrics.failed_tests.unwrap_or(0) == 0 {
            metrics.errors = failed_requests.or(metrics.errors);
        }
        let all_listed = metrics.request_count.is_some_and(|requests| seen.count >= requests);
        metrics.total_latency_ms = seen.latency_ms.filter(|_| all_listed).or(latency);
    }
}

/// What the executions tell.
#[derive(Default)]
struct Executions {
    count: u64,
    passed: u64,
    failed: u64,
    errors: u64,
    latency_ms: Option<u64>,
    failures: Vec<FailedTest>,
    listed_bytes: usize,
}

impl Executions {
    fn read(run: &Fields<'_, '_>) -> Result<Self, Malformed> {
        let messages = messages(run);
        let mut seen = Self::default();
        run.each_object("executions", |execution| seen.add(&execution, &messages))?;
        Ok(seen)
    }

    fn add(&mut self, execution: &Fields<'_, '_>, messages: &Messages<'_>) -> Result<(), Malformed> {
        self.count += 1;
        let request = match execution.object("item")? {
            Some(item) => item.text("name")?,
            None => None,
        };
        if let Some(response) = execution.object("response")?
            && let Some(millis) = response.millis("responseTime")?
        {
            self.latency_ms = Some(self.latency_ms.unwrap_or(0).saturating_add(millis));
        }
        if let Some(assertions) = execution.object("assertions")? {
            for (test, outcome) in assertions.members() {
                if *outcome != Json::Bool(false) {
                    self.passed += u64::from(*outcome == Json::Bool(true));
                    continue;
                }
                self.failed += 1;
                let message = messages.get(&(request.as_deref().unwrap_or(""), test)).copied();
                self.list(request.as_deref(), Some(test), message);
            }
        }
        execution.each_object("errors", |error| {
            self.errors += 1;
            self.list(request.as_deref(), error.text("name")?.as_deref(), error.text("message")?.as_deref());
            Ok(())
        })
    }

    /// Keeps a failure, while all that are kept are not too many and no larger than a body may be: each repeats its
    /// request's name, which could make gigabytes of one mebibyte.
    fn list(&mut self, request: Option<&str>, test: Option<&str>, message: Option<&str>) {
        let parts = [request, test, message];
        self.listed_bytes = parts.iter().flatten().fold(self.listed_bytes, |sum, part| sum + part.len());
        if self.listed_bytes <= MAX_BODY_BYTES && self.failures.len() < MAX_FAILURES {
            let [request, test, message] = parts.map(|part| part.and_then(clean));
            self.failures.push(FailedTest { request, test, message });
        }
    }
}

/// Messages by request and test.
type Messages<'j> = HashMap<(&'j str, &'j str), &'j str>;

fn messages<'j>(run: &Fields<'j, '_>) -> Messages<'j> {
    let Some(Json::Array(failures)) = run.get("failures") else { return Messages::new() };
    failures
        .iter()
        .filter_map(|failure| {
            let error = member(failure, "error")?;
            let request = member(failure, "source").and_then(|source| str_member(source, "name"));
            Some(((request.unwrap_or(""), str_member(error, "test")?), str_member(error, "message")?))
        })
        .collect()
}

fn member<'j, 'a>(value: &'j Json<'a>, name: &str) -> Option<&'j Json<'a>> {
    match value {
        Json::Object(members) => members.iter().rev().find(|(member, _)| member == name).map(|(_, v)| v),
        _ => None,
    }
}

fn str_member<'j>(value: &'j Json<'_>, name: &str) -> Option<&'j str> {
    match member(value, name)? {
        Json::Text(text) => Some(text),
        _ => None,
    }
}
