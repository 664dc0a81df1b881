//! Postman's monitor webhook body, with the fields that the contract adds to it.
//!
//! The fields are those of Postman's published webhook schema; `failedTestCount`, `errorCount` and
//! `warningCount` are what other receivers of the same webhook read. Only maps fields to a run.

use crate::domain::event::{FailedTest, MonitorRun, RunMetrics, RunResult};

use super::event::MAX_FAILURES;
use super::fields::Fields;
use super::malformed::Malformed;

/// Reads a body (or a CloudEvent's data).
pub(super) fn read(body: &Fields<'_, '_>) -> Result<MonitorRun, Malformed> {
    let monitor_uid = body.required_key("monitor_uid")?;
    let metrics = metrics(body)?;
    let result = match status(body)? {
        Some(result) => result,
        None => derived(&metrics),
    };
    Ok(MonitorRun {
        monitor_uid: monitor_uid.into(),
        monitor_name: body.text("monitor_name")?,
        collection_uid: body.text("collection_uid")?,
        collection_name: body.text("collection_name")?,
        environment_uid: body.text("environment_uid")?,
        environment_name: body.text("environment_name")?,
        user_id: body.text("user_id")?,
        user_name: body.text("user_name")?,
        result,
        metrics,
        run_id: body.text("run_id")?,
        region: body.key("region")?.map(Into::into),
        trigger: body.text("trigger")?,
        started_at: body.time("started_at")?,
        finished_at: body.time("finished_at")?,
        monitor_url: body.link("monitor_url"),
        run_url: body.link("run_url"),
        failures: failures(body)?,
    })
}

/// What a run's numbers say of its result where the producer does not.
pub(super) fn derived(metrics: &RunMetrics) -> RunResult {
    match (metrics.errors, metrics.failed_tests) {
        (Some(1..), _) => RunResult::Error,
        (_, Some(1..)) => RunResult::Failure,
        _ => RunResult::Success,
    }
}

fn metrics(body: &Fields<'_, '_>) -> Result<RunMetrics, Malformed> {
    let Some(metrics) = body.object("metrics")? else {
        return Err(Malformed::missing(
            body.at("metrics"),
            "send the run's metrics as an object with passedTests, failedTests and errors",
        ));
    };
    Ok(RunMetrics {
        passed_tests: metrics.count(&["passedTests"])?,
        failed_tests: metrics.count(&["failedTests", "failedTestCount"])?,
        errors: metrics.count(&["errors", "errorCount"])?,
        warnings: metrics.count(&["warnings", "warningCount"])?,
        request_count: metrics.count(&["requestCount"])?,
        total_latency_ms: metrics.count(&["totalLatency"])?,
    })
}

fn status(body: &Fields<'_, '_>) -> Result<Option<RunResult>, Malformed> {
    const ALL: [RunResult; 4] = [RunResult::Success, RunResult::Failure, RunResult::Error, RunResult::Abort];
    let Some(text) = body.text("status")? else { return Ok(None) };
    match ALL.into_iter().find(|result| result.as_str().eq_ignore_ascii_case(text.trim())) {
        Some(result) => Ok(Some(result)),
        None => {
            let found = body.get("status").map(super::json::Json::found).unwrap_or_default();
            Err(Malformed::new(body.at("status"), found, "send one of success, failure, error, abort"))
        }
    }
}

fn failures(body: &Fields<'_, '_>) -> Result<Vec<FailedTest>, Malformed> {
    let mut failures = Vec::new();
    body.each_object("failures", |failure| {
        let failure = FailedTest {
            request: failure.text("request")?,
            test: failure.text("test")?,
            message: failure.text("message")?,
        };
        if failures.len() < MAX_FAILURES {
            failures.push(failure);
        }
        Ok(())
    })?;
    Ok(failures)
}
