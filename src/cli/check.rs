//! `check`: whether configuration, broker, store and, if asked, rooms are as they should be. Posts nothing.

use anyhow::bail;
use serde_json::json;

use super::args::{CheckArgs, Output};
use super::output::{self, say};
use crate::adapters::rabbitmq;
use crate::adapters::store::sqlite::Role;
use crate::app::Misconfigured;
use crate::app::parts::{self, Parts};
use crate::domain::integration::IntegrationState;
use crate::ports::{AnswerClass, BrokerError, Registry, Stored};
use crate::settings::Settings;

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
        let read = parts::egress(settings).and_then(|egress| parts::read_integrations(file, &egress));
        let result =
            read.map(|read| format!("{} integrations", read.definitions.len())).map_err(|e| e.to_string());
        findings.push(finding("integrations.file", result, true));
    }
    findings.push(broker(settings).await);
    match Parts::open(settings, Role::Look) {
        Err(error) => {
            let configuration = error.is::<Misconfigured>();
            findings.push(finding("store", Err(format!("{error:#}")), configuration));
        }
        Ok(parts) => {
            let stored = parts.store.list().await;
            let result = match &stored {
                Ok(all) => Ok(format!("{} integrations", all.len())),
                Err(error) => Err(error.to_string()),
            };
            findings.push(finding("store", result, false));
            if args.rooms {
                rooms(&parts, &stored.unwrap_or_default(), &mut findings).await;
            }
        }
    }
    report(args, &findings)
}

fn finding(what: impl Into<String>, result: Result<String, String>, configuration: bool) -> Finding {
    Finding { what: what.into(), result, configuration }
}

fn links(settings: &Settings) -> Finding {
    let result = parts::links(settings).map(|_| "valid".to_owned()).map_err(|error| format!("{error:#}"));
    finding("links", result, true)
}

async fn broker(settings: &Settings) -> Finding {
    let options = match parts::broker_options(settings) {
        Ok(options) => options,
        Err(error) => return finding("broker", Err(format!("{error:#}")), true),
    };
    match rabbitmq::check(&options).await {
        Ok(s) => finding(
            "broker",
            Ok(format!("{} events wait, {} workers, {} dead letters", s.events, s.workers, s.letters)),
            false,
        ),
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
                match (answer.class, &stored.state) {
                    (AnswerClass::Accepted, IntegrationState::Suspended { .. }) => Err(format!(
                        "takes messages, but the integration is suspended; `integrations resume {}`",
                        stored.definition.id
                    )),
                    (AnswerClass::Accepted, _) => Ok(format!("{} takes messages", stored.definition.room)),
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
                Err(text) => say(&format!("FAULT {}: {text}", f.what)),
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
