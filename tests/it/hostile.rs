//! Hostile rooms and producers against a worker process: whatever they do, the others hear what is theirs, what
//! can't be delivered is in the dead-letter queue, memory stays bounded, and no secret gets out.

mod producers;
mod rooms;

use crate::support::broker::{Broker, eventually};
use crate::support::process::{Site, Worker};

/// Bytes that a worker may take on top of what it has when it is ready, whatever comes. It holds at most 256 MiB of
/// lines that are being told; hardly any of it is needed here.
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

/// Where one of the secrets stands in what a worker and the verbs have told. The headers of dead letters are among it.
async fn leaks(site: &Site, log: &str, secrets: &[String]) -> Vec<String> {
    let mut told = vec![("the log", log.to_owned())];
    for verb in [
        &["integrations", "list"][..],
        &["integrations", "list", "--output", "json"],
        &["dead-letters", "list", "--each", "--output", "json"],
    ] {
        told.push((verb[0], format!("{:?}", site.run(verb).await)));
    }
    let mut found = Vec::new();
    for (place, text) in &told {
        for secret in secrets.iter().filter(|secret| text.contains(secret.as_str())) {
            found.push(format!("{secret} in {place}"));
        }
    }
    found
}

/// Fails if the worker has taken more memory since it was ready than it may.
fn memory_is_bounded(worker: &Worker, at_first: u64) {
    let peak = worker.peak_memory();
    println!("memory: {} MiB when ready, {} MiB at most", at_first >> 20, peak >> 20);
    assert!(peak < at_first + MEMORY, "{} MiB on top of {} MiB", (peak - at_first) >> 20, at_first >> 20);
}
