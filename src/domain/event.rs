//! What comes in: a finished monitor run or a team activity, after parsing and before any decision.
//!
//! Built by `formats` from a producer's bytes. Holds no JSON and knows no wire form.

use std::sync::Arc;

use jiff::Timestamp;

use super::ids::{EventId, TeamId};
use super::web_address::WebAddress;

/// One event as the decisions see it.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// The same id twice is one event.
    pub id: EventId,
    /// The Postman team, where the producer named one.
    pub team: Option<TeamId>,
    /// What happened.
    pub subject: Subject,
}

/// What an event is about.
#[derive(Debug, Clone, PartialEq)]
pub enum Subject {
    /// A monitor's run has finished.
    Run(MonitorRun),
    /// Somebody did something to something in the team.
    Activity(Activity),
}

/// How a run ended, in Postman's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RunResult {
    /// All tests passed.
    Success,
    /// It finished, and at least one test failed.
    Failure,
    /// It could not complete: a script or network error.
    Error,
    /// It ran over the time limit or was stopped.
    Abort,
}

impl RunResult {
    /// Whether the run counts as a failed run: everything but `success`.
    pub fn is_failed(self) -> bool {
        !matches!(self, Self::Success)
    }

    /// The contract's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Error => "error",
            Self::Abort => "abort",
        }
    }
}

/// A finished run of one monitor in one region.
#[derive(Debug, Clone, PartialEq)]
pub struct MonitorRun {
    pub monitor_uid: Arc<str>,
    pub monitor_name: Option<String>,
    pub collection_uid: Option<String>,
    pub collection_name: Option<String>,
    pub environment_uid: Option<String>,
    pub environment_name: Option<String>,
    pub user_id: Option<String>,
    pub user_name: Option<String>,
    pub result: RunResult,
    pub metrics: RunMetrics,
    pub run_id: Option<String>,
    pub region: Option<Arc<str>>,
    /// `schedule`, `manual`, `webhook`, or whatever the producer says.
    pub trigger: Option<String>,
    pub started_at: Option<Timestamp>,
    /// What late runs are recognised by; Postman's own webhook body has none.
    pub finished_at: Option<Timestamp>,
    pub monitor_url: Option<WebAddress>,
    pub run_url: Option<WebAddress>,
    /// The failed tests that the producer listed; may be fewer than `metrics.failed_tests`.
    pub failures: Vec<FailedTest>,
}

/// A run's basic metrics. What the producer left out is `None` and leaves its line out of the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RunMetrics {
    pub passed_tests: Option<u64>,
    pub failed_tests: Option<u64>,
    pub errors: Option<u64>,
    pub warnings: Option<u64>,
    pub request_count: Option<u64>,
    /// Milliseconds, summed over all requests.
    pub total_latency_ms: Option<u64>,
}

impl RunMetrics {
    /// Milliseconds per request, where both figures are known and there was a request.
    pub fn average_response_ms(&self) -> Option<u64> {
        match (self.total_latency_ms, self.request_count) {
            (Some(total), Some(count)) if count > 0 => Some(total / count),
            _ => None,
        }
    }
}

/// One failed test or error of a run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FailedTest {
    pub request: Option<String>,
    pub test: Option<String>,
    pub message: Option<String>,
}

/// One team activity. Unknown actions and models are passed on as they came.
#[derive(Debug, Clone, PartialEq)]
pub struct Activity {
    pub action: String,
    pub model: String,
    pub model_uid: Option<String>,
    pub model_name: Option<String>,
    pub collection_uid: Option<String>,
    pub collection_name: Option<String>,
    /// A ready line from Postman, used when it is there.
    pub message: Option<String>,
    pub user_id: Option<String>,
    pub user_name: Option<String>,
    pub occurred_at: Option<Timestamp>,
    pub workspace_id: Option<String>,
    pub workspace_name: Option<String>,
    pub model_url: Option<WebAddress>,
    pub collection_url: Option<WebAddress>,
}
