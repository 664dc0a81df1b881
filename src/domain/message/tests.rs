//! What rooms read, word for word, and that nothing an event can hold breaks it.

mod activities;
mod checker;
mod digests;
mod hostile;
mod links;
mod singles;

use jiff::Timestamp;

use super::*;
use crate::domain::event::{Activity, Event, FailedTest, MonitorRun, RunMetrics, RunResult};
use crate::domain::ids::{EventId, IntegrationId};
use crate::domain::integration::{ActivityRule, Detail, Interest, MessageStyle, RunRule};
use crate::domain::samples;
use crate::domain::story::Story;
use crate::domain::web_address::WebAddress;

const MONITOR: &str = "https://go.postman.co/monitors/1e6b8957";
const COLLECTION: &str = "https://go.postman.co/collection/5852-1d3daef4";

fn at(text: &str) -> Timestamp {
    format!("2026-11-22T{text}Z").parse().unwrap()
}

fn integration(detail: Detail, ping: Ping) -> Integration {
    Integration {
        name: "Checkout on call".to_owned(),
        interest: Interest::MonitorResults { monitors: Box::default(), rule: RunRule::DEFAULT },
        message: MessageStyle { detail, ping },
        ..samples::integration("checkout-on-call")
    }
}

fn activities_integration() -> Integration {
    let rule = ActivityRule::Each { collate: ActivityRule::DEFAULT_COLLATE };
    let interest = Interest::TeamActivity { filters: Box::default(), rule };
    Integration { interest, name: "Team feed".to_owned(), ..integration(Detail::Full, Ping::Failures) }
}

/// A successful run with everything that Postman's own webhook body has, and the optional fields.
fn run(result: RunResult) -> MonitorRun {
    MonitorRun {
        monitor_uid: "5852-1e6b8957".into(),
        monitor_name: some("Orders health"),
        collection_uid: some("5852-1d3daef4"),
        collection_name: some("Orders"),
        environment_uid: some("5852-77aa2b1c"),
        environment_name: some("prod"),
        user_id: some("5852"),
        user_name: some("Ana"),
        metrics: metrics([12, 0, 0, 1, 7, 1423]),
        run_id: some("1e6ba2e3-1aaf"),
        region: Some("us-east".into()),
        trigger: some("schedule"),
        started_at: Some(at("09:59:58")),
        finished_at: Some(at("10:00:02")),
        ..samples::run(result)
    }
}

/// Passed, failed, errors, warnings, requests, total latency.
fn metrics(m: [u64; 6]) -> RunMetrics {
    RunMetrics {
        passed_tests: Some(m[0]),
        failed_tests: Some(m[1]),
        errors: Some(m[2]),
        warnings: Some(m[3]),
        request_count: Some(m[4]),
        total_latency_ms: Some(m[5]),
    }
}

fn failed_test(request: &str, test: &str, message: &str) -> FailedTest {
    FailedTest { request: some(request), test: some(test), message: some(message) }
}

/// Postman's documented activity body.
fn activity(action: &str) -> Activity {
    Activity {
        action: action.to_owned(),
        model: "request".to_owned(),
        model_uid: some("5852-9c0aa1d2"),
        model_name: some("Get order"),
        collection_uid: some("5852-1d3daef4"),
        collection_name: some("Orders"),
        message: None,
        user_id: some("5852"),
        user_name: some("Ana"),
        occurred_at: Some(at("10:00:00")),
        workspace_id: None,
        workspace_name: None,
        model_url: None,
        collection_url: None,
    }
}

fn event(id: &str, subject: Subject) -> Event {
    Event { id: EventId::new(id), team: None, subject }
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn story(reason: SendReason, failures: u32) -> Story {
    Story { reason, failures, first_failed_at: (failures > 0).then(|| at("08:30:00")) }
}

fn received() -> Timestamp {
    at("10:00:30")
}

/// One run, told alone.
fn told_run(integration: &Integration, run: MonitorRun, story: Story) -> RoomMessage {
    let event = event("e1", Subject::Run(run));
    let told = Told { event: &event, story: &story, received_at: received() };
    checker::checked(render(integration, &told, &Links::postman(), Extras::default()))
}

/// One activity, told alone.
fn told_activity(integration: &Integration, activity: Activity) -> RoomMessage {
    let event = event("e1", Subject::Activity(activity));
    let story = Story::plain(SendReason::Activity);
    let told = Told { event: &event, story: &story, received_at: received() };
    checker::checked(render(integration, &told, &Links::postman(), Extras::default()))
}

/// Several, told together.
fn told_together(
    integration: &Integration,
    events: &[(Event, Story)],
    why: SendReason,
    extras: Extras,
) -> RoomMessage {
    let told = |(event, story)| Told { event, story, received_at: received() };
    let items: Vec<_> = events.iter().map(|(event, story)| (integration, told((event, story)))).collect();
    checker::checked(render_digest(&items, &Links::postman(), extras, why))
}
