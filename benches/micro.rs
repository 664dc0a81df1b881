//! Guards the four things that are done for every event: parse, decide, render, clamp.
//!
//! `cargo bench --bench micro`. Each case is far below what the broker and the disk cost; a change of tens of
//! percent here is worth a look, one of a few is noise.

use std::sync::Arc;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use jiff::Timestamp;

use hipchat_notifier::domain::envelope::Envelope;
use hipchat_notifier::domain::event::{Event, Subject};
use hipchat_notifier::domain::frequency::{Streak, decide};
use hipchat_notifier::domain::ids::{EventId, IntegrationId, RoomKey, TokenKey};
use hipchat_notifier::domain::intake::IntakeState;
use hipchat_notifier::domain::integration::{
    Integration, IntegrationState, Interest, MessageStyle, RunRule, Throttle,
};
use hipchat_notifier::domain::message::{Extras, Links, render, render_digest};
use hipchat_notifier::domain::reason::SendReason;
use hipchat_notifier::domain::story::{Story, Told};
use hipchat_notifier::formats::read_event;

const WEBHOOK: &str = r#"{"monitor_uid":"5852-1e6b8957","monitor_name":"Orders health","collection_name":"Orders",
"collection_uid":"5852-1d3daef4","environment_name":"prod","environment_uid":"5852-77aa2b1c","user_id":"5852",
"user_name":"Ana","region":"us-east","trigger":"schedule","status":"failure","run_id":"1e6ba2e3-0005",
"started_at":"2026-11-22T10:05:00Z","finished_at":"2026-11-22T10:05:04Z",
"metrics":{"passedTests":10,"failedTests":2,"errors":0,"warnings":0,"requestCount":7,"totalLatency":9125},
"failures":[{"request":"Get order","test":"status is 200","message":"expected status code 200 but got 503"},
{"request":"Get order","test":"has <items> & more","message":"Cannot read properties of undefined"}]}"#;

fn received_at() -> Timestamp {
    Timestamp::from_second(1_795_000_000).expect("a time")
}

fn envelope(body: String) -> Envelope {
    Envelope {
        body: body.into_bytes(),
        message_id: Some("e-1".to_owned()),
        content_type: Some("application/json".to_owned()),
        exchange: "postman.events".to_owned(),
        routing_key: "monitor.acme.5852-1e6b8957".to_owned(),
        ..Envelope::default()
    }
}

fn parsed(body: String) -> Event {
    read_event(&envelope(body), || EventId::new("made")).expect("a well-formed event")
}

/// A run with many failed tests, each with names too long to be shown.
fn overlong() -> String {
    let mut body: serde_json::Value = serde_json::from_str(WEBHOOK).expect("JSON");
    let failure = serde_json::json!({
        "request": "<Get> & order ".repeat(40),
        "test": "status is 200 – ✓ ".repeat(40),
        "message": "expected \"200\" but got <503> ".repeat(80),
    });
    body["failures"] = vec![failure; 200].into();
    body.to_string()
}

fn integration() -> Integration {
    Integration {
        id: IntegrationId::new("orders"),
        name: "Orders".to_owned(),
        team: None,
        interest: Interest::MonitorResults { monitors: Box::default(), rule: RunRule::DEFAULT },
        room: RoomKey::new("https://acme.hipchat.com/v2/room/42"),
        token: TokenKey::new("token"),
        throttle: Throttle::default(),
        message: MessageStyle::default(),
        state: IntegrationState::Active,
    }
}

fn parse(c: &mut Criterion) {
    let (usual, long) = (envelope(WEBHOOK.to_owned()), envelope(overlong()));
    let made = || EventId::new("made");
    c.bench_function("parse/webhook of 1 KB", |b| b.iter(|| read_event(&usual, made)));
    c.bench_function("parse/200 long failures, 0.8 MB", |b| b.iter(|| read_event(&long, made)));
}

fn deciding(c: &mut Criterion) {
    let event = parsed(WEBHOOK.to_owned());
    let Subject::Run(run) = &event.subject else { unreachable!("a monitor's run") };
    c.bench_function("decide/rule", |b| {
        b.iter_batched_ref(
            Streak::default,
            |streak| decide(RunRule::DEFAULT, streak, run, received_at()),
            BatchSize::SmallInput,
        );
    });
    let integration = integration();
    c.bench_function("decide/event and integration", |b| {
        b.iter_batched_ref(
            IntakeState::default,
            |state| state.decide(&event, &integration, received_at()),
            BatchSize::SmallInput,
        );
    });
}

fn links() -> Links {
    let templates = [("run", "https://go.postman.co/monitors/{monitor_id}?job={run_id}")];
    Links::new(templates.map(|(name, template)| (name.to_owned(), template.to_owned())))
        .expect("valid templates")
}

fn rendering(c: &mut Criterion) {
    let (integration, links) = (integration(), links());
    let story = Story { reason: SendReason::Failure, failures: 2, first_failed_at: Some(received_at()) };
    let usual = parsed(WEBHOOK.to_owned());
    let told = Told { event: &usual, story: &story, received_at: received_at() };
    c.bench_function("render/one failure", |b| {
        b.iter(|| render(&integration, &told, &links, Extras::default()));
    });
    let many: Vec<_> = std::iter::repeat_n((&integration, told), 100).collect();
    c.bench_function("render/digest of 100", |b| {
        b.iter(|| render_digest(&many, &links, Extras::default(), SendReason::OverBudget));
    });
    let long = Arc::new(parsed(overlong()));
    let told = Told { event: &long, story: &story, received_at: received_at() };
    c.bench_function("clamp/200 long failures", |b| {
        b.iter(|| render(&integration, &told, &links, Extras::default()));
    });
}

criterion_group!(benches, parse, deciding, rendering);
criterion_main!(benches);
