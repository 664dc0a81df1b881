//! The events: Postman's monitor webhook body of about 1 KB, and the integrations that want them.

use std::fmt::Write;

use serde_json::json;

/// What the sink finds an event by, in the raw body as in the message made of it; the number follows.
pub const MARK: &str = "bench-run-";
/// Digits of the number.
pub const DIGITS: usize = 8;

/// What a monitor's uid begins with; its number follows.
pub const UID: &str = "5852-bench-";

/// One event, ready to be published.
pub struct Event {
    pub id: String,
    pub routing_key: String,
    pub body: Vec<u8>,
}

/// Which results the runs have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Results {
    /// All pass: news for nobody under the default rule.
    Successes,
    /// Every fourth fails.
    Mixed,
}

/// Event `number` of the monitor that `number` falls on.
pub fn event(number: u32, monitors: u32, results: Results) -> Event {
    let monitor = number % monitors;
    // By rounds, so that each monitor has both.
    let fails = results == Results::Mixed && (number / monitors + monitor).is_multiple_of(4);
    let run = format!("{MARK}{number:0DIGITS$}");
    let failures = if fails { failures() } else { json!([]) };
    let body = json!({
        "monitor_uid": uid(monitor),
        "monitor_name": format!("Checkout health {monitor}"),
        "collection_uid": "5852-1d3daef4-9cd0-4a2c-a2b8-2d0ad8e0e8f1",
        "collection_name": "Checkout & payments (public API)",
        "environment_uid": "5852-77aa2b1c-4a8b-4b6a-9a53-0f1f6d7f1c11",
        "environment_name": "Production <eu>",
        "user_id": "5852",
        "user_name": "Ana Lima",
        "run_id": run,
        "status": if fails { "failure" } else { "success" },
        "region": "eu-central",
        "trigger": "schedule",
        "monitor_url": format!("https://go.postman.co/monitors/{}", uid(monitor)),
        "run_url": format!("https://go.postman.co/monitors/{}?job={run}", uid(monitor)),
        "metrics": {
            "passedTests": 41, "failedTests": if fails { 2 } else { 0 }, "errors": 0, "warnings": 1,
            "requestCount": 23, "totalLatency": 4_711,
        },
        "failures": failures,
        // Producers may send more than the worker reads.
        "padding": "x".repeat(if fails { 60 } else { 290 }),
    });
    Event { id: run, routing_key: format!("monitor.bench.{}", uid(monitor)), body: body.to_string().into() }
}

fn failures() -> serde_json::Value {
    json!([
        {"request": "Get order", "test": "status is 200",
         "message": "expected response to have status code 200 but got 503"},
        {"request": "Pay order", "test": "has <amount> & currency",
         "message": "Cannot read properties of undefined"},
    ])
}

fn uid(monitor: u32) -> String {
    format!("{UID}{monitor}")
}

/// An integrations file: each monitor has a room of its own.
pub fn integrations(rooms: u32, server: &str, rule: &str) -> String {
    let mut text = String::new();
    for room in 0..rooms {
        // Writing into a string can't fail.
        let _ = write!(
            text,
            "[[integrations]]\nid = \"bench-{room}\"\nname = \"Checkout {room}\"\nkind = \"monitor-results\"\n\
             team = \"bench\"\nmonitors = [\"{}\"]\n\
             room_url = \"{server}/v2/room/{room}/notification?auth_token=token{room}\"\n\
             notify = {{ on = \"{rule}\" }}\n\n",
            uid(room)
        );
    }
    text
}
