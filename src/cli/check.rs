//! `check`: whether configuration, broker, store and, if asked, rooms are as they should be. Posts nothing.

use anyhow::bail;
use serde_json::json;

use super::args::{CheckArgs, Output};
use super::output::{self, say};
use crate::adapters::rabbitmq;
use crate::adapters::store::Role;
use crate::app::Misconfigured;
use crate::app::parts::{self, AbsentUrl, Parts};
use crate::domain::integration::IntegrationState;
use crate::domain::message::count;
use crate::ports::{AnswerClass, BrokerError, Stored};
use crate::settings::{Settings, StoreUrl};

/// One thing that was looked at.
struct Finding {
    what: String,
    result: Result<String, String>,
    /// Whether a fault here is one of configuration.
    configuration: bool,
}

/// Looks at everything, also after a first fault, and fails if there was one.
pub async fn run(args: &CheckArgs, settings: &Settings) -> anyhow::Result<()> {
    let mut findings = vec![finding("configuration", Ok("valid".to_owned()), true)];
    findings.push(links(settings));
    if let Some(file) = &settings.integrations.file {
        let read = parts::egress(settings)
            .and_then(|egress| parts::read_integrations(file, &egress, AbsentUrl::Refused).definitions);
        let result = read
            .map(|definitions| format!("{} in {}", integrations(definitions.len()), file.display()))
            .map_err(|e| e.to_string());
        findings.push(finding("integrations.file", result, true));
    }
    findings.push(broker(settings).await);
    // Where that can't be known, opening it says why.
    if matches!(parts::store_is_there(settings).await, Ok(false)) {
        let result = parts::store_can_be_made(settings).map(|()| none_yet(settings));
        findings.push(finding("store", result.map_err(|error| error.to_string()), true));
        return report(args, &findings);
    }
    match Parts::open(settings, Role::Look).await {
        Err(error) => {
            let configuration = error.is::<Misconfigured>();
            findings.push(finding("store", Err(format!("{error:#}")), configuration));
        }
        Ok(parts) => {
            let stored = parts.store.list().await;
            let file = &settings.store.url;
            let result = match &stored {
                Ok(all) => Ok(format!("{} in {file}", integrations(all.len()))),
                Err(error) => Err(error.to_string()),
            };
            findings.push(finding("store", result, false));
            findings.push(worker(&parts).await);
            let stored = stored.unwrap_or_default();
            findings.extend(stored.iter().filter_map(|stored| silent(&parts, stored, args.rooms)));
            if args.rooms {
                rooms(&parts, &stored, &mut findings).await;
            }
        }
    }
    report(args, &findings)
}

/// What is said of a store that nobody has made yet, and who makes it.
fn none_yet(settings: &Settings) -> String {
    let maker = match (&settings.store.url, settings.store.migrate) {
        (StoreUrl::Postgres(_), false) => "`hipchat-notifier migrate` makes it",
        _ => "the worker or `integrations apply` makes it",
    };
    format!("none at {} yet; {maker}", settings.store.url)
}

fn finding(what: impl Into<String>, result: Result<String, String>, configuration: bool) -> Finding {
    Finding { what: what.into(), result, configuration }
}

fn integrations(n: usize) -> String {
    count(n as u64, "integration", "integrations")
}

/// Whether a worker runs on the store. None is no fault: `check` is for before the start too.
async fn worker(parts: &Parts) -> Finding {
    let result = match parts.store.workers().await {
        Ok(workers) if workers.is_empty() => Ok("none runs on this store".to_owned()),
        Ok(workers) => {
            let verb = if workers.len() == 1 { "runs" } else { "run" };
            let counted = count(workers.len() as u64, "worker", "workers");
            Ok(format!("{counted} {verb} on this store: {}", workers.join(", ")))
        }
        Err(error) => Err(error.to_string()),
    };
    finding("worker", result, false)
}

/// An integration that is told nothing although its owner wants it told, and what to do about it. Where the
/// `rooms` are asked as well, one whose room can't be told from its URL is found there.
fn silent(parts: &Parts, stored: &Stored, rooms: bool) -> Option<Finding> {
    let id = &stored.definition.id;
    let fault = match (&stored.state, parts.open_stored(stored)) {
        (IntegrationState::Paused, _) => return None,
        (_, Err(_)) if rooms => return None,
        (_, Err(fault)) => fault,
        (IntegrationState::Suspended { reason }, Ok(_)) => {
            format!("suspended: {reason}; mend that, then `integrations resume {id}`")
        }
        (IntegrationState::Active, Ok(_)) => return None,
    };
    Some(finding(format!("integration {id}"), Err(fault), false))
}

fn links(settings: &Settings) -> Finding {
    let result = parts::links(settings).map(|_| "valid".to_owned()).map_err(|error| format!("{error:#}"));
    finding("links", result, true)
}

fn counted(figures: &rabbitmq::Figures) -> String {
    let counts = format!(
        "{}, {}, {}",
        count(figures.events.into(), "event waits", "events wait"),
        count(figures.workers.into(), "active worker", "active workers"),
        count(figures.letters.into(), "dead letter", "dead letters")
    );
    match figures.missing.as_slice() {
        [] => counts,
        missing => format!("{counts}; not there until the worker declares it: {}", missing.join(", ")),
    }
}

async fn broker(settings: &Settings) -> Finding {
    let options = match parts::broker_options(settings) {
        Ok(options) => options,
        Err(error) => return finding("broker", Err(format!("{error:#}")), true),
    };
    match rabbitmq::check(&options).await {
        Ok(figures) => finding("broker", Ok(counted(&figures)), false),
        Err(error) => {
            let configuration = matches!(error, BrokerError::Misconfigured(_));
            finding("broker", Err(error.to_string()), configuration)
        }
    }
}

async fn rooms(parts: &Parts, all: &[Stored], findings: &mut Vec<Finding>) {
    for stored in all {
        let what = format!("room of {}", stored.definition.id);
        let result = match parts.open_stored(stored) {
            Err(fault) => Err(fault),
            Ok((_, target)) => {
                let answer = parts.gateway.auth_test(&target).await;
                match answer.class {
                    AnswerClass::Accepted => Ok(format!("{} takes messages", stored.definition.room)),
                    _ => Err(answer.detail),
                }
            }
        };
        findings.push(finding(what, result, false));
    }
}

fn report(args: &CheckArgs, findings: &[Finding]) -> anyhow::Result<()> {
    if args.output.output == Output::Json {
        let lines: Vec<_> = findings
            .iter()
            .map(|f| {
                let (ok, detail) = match &f.result {
                    Ok(text) => (true, text),
                    Err(text) => (false, text),
                };
                json!({"what": f.what, "ok": ok, "detail": detail})
            })
            .collect();
        output::json(&lines)?;
    } else {
        for f in findings {
            match &f.result {
                Ok(text) => say(&format!("ok    {}: {text}", f.what)),
                // What goes on in other lines stands under its first.
                Err(text) => say(&format!("FAULT {}: {}", f.what, text.replace('\n', "\n      "))),
            }
        }
    }
    let faults: Vec<&Finding> = findings.iter().filter(|f| f.result.is_err()).collect();
    if faults.is_empty() {
        return Ok(());
    }
    let line = format!("{} of {} checks found a fault", faults.len(), findings.len());
    if faults.iter().any(|f| f.configuration) {
        return Err(Misconfigured(line).into());
    }
    bail!(line)
}
