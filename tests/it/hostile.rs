//! Hostile rooms and producers against a worker process: whatever they do, the others hear what is theirs, what
//! can't be delivered is in the dead-letter queue, memory stays bounded, and no secret gets out.

mod producers;
mod rooms;

use crate::support::broker::{Broker, eventually};
use crate::support::process::{Site, Worker};

/// Bytes that a worker may take on top of what it has when it is ready, whatever comes, unless it has large lines to
/// tell: of those it holds 256 MiB at most.
const MEMORY: u64 = 128 << 20;

/// An integration that tells every run of team `acme` to the room at `url`.
fn every_run(id: &str, url: &str) -> String {
    format!(
        "[[integrations]]\nid = \"{id}\"\nkind = \"monitor-results\"\nteam = \"acme\"\nroom_url = \"{url}\"\n\
         [integrations.notify]\non = \"all\"\n"
    )
}

/// A run, recognised in a room by its link.
fn run(id: &str) -> Vec<u8> {
    let link = format!("https://runs.example/{id}");
    serde_json::json!({"monitor_uid": "1-orders", "metrics": {"errors": 0}, "run_url": link})
        .to_string()
        .into_bytes()
}

/// Where one of the secrets stands in what a worker and the verbs have told.
async fn leaks(site: &Site, broker: &Broker, log: &str, secrets: &[String]) -> Vec<String> {
    let mut told = vec![("the log", log.to_owned())];
    for verb in [
        &["integrations", "list"][..],
        &["integrations", "list", "--output", "json"],
        &["dead-letters", "list", "--each", "--output", "json"],
    ] {
        told.push(("a verb", format!("{:?}", site.run(verb).await)));
    }
    let letters = broker.bodies(&broker.topology.dead_letters).await;
    told.push((
        "a dead letter",
        letters.values().flatten().map(|body| String::from_utf8_lossy(body)).collect(),
    ));
    let mut found = Vec::new();
    for (place, text) in &told {
        for secret in secrets.iter().filter(|secret| text.contains(secret.as_str())) {
            found.push(format!("{secret} in {place}"));
        }
    }
    found
}

/// Fails if the worker has taken more memory since it was ready than it may.
fn memory_is_bounded(worker: &Worker, at_first: u64, more: u64) {
    let peak = worker.peak_memory();
    println!("memory: {} MiB when ready, {} MiB at most", at_first >> 20, peak >> 20);
    assert!(peak < at_first + more, "{} MiB on top of {} MiB", (peak - at_first) >> 20, at_first >> 20);
}
