//! `publish`: validates events and publishes them as a producer should.

use anyhow::{Context, bail};
use serde_json::json;

use super::args::{Output, PublishArgs};
use super::events::{self, Document};
use super::output::{self, complain, say, visible};
use crate::adapters::rabbitmq::{Publication, Publisher};
use crate::adapters::store::Role;
use crate::app::parts;
use crate::domain::envelope::Envelope;
use crate::domain::event::Event;
use crate::domain::ids::EventId;
use crate::domain::{headers, message, unwanted};
use crate::formats::{self, NewmanOptions};
use crate::settings::Settings;

/// Events published in one round of confirms.
const ROUND: usize = 500;

/// Publishes all events, or none if one of them is malformed.
pub async fn run(args: &PublishArgs, settings: &Settings) -> anyhow::Result<()> {
    let envelopes = envelopes(args)?;
    if let Some(warning) = teamless(args, settings, &envelopes).await {
        complain(&format!("hipchat-notifier: {warning}"));
    }
    let mut publisher =
        Publisher::open(&parts::broker_options(settings)?).await.map_err(parts::from_broker)?;
    let mut unheard = 0;
    let mut published = Vec::new();
    for round in envelopes.chunks(ROUND) {
        let fates = publisher.publish(round).await.map_err(parts::from_broker)?;
        for (envelope, fate) in round.iter().zip(fates) {
            unheard += usize::from(fate != Publication::Confirmed);
            let id = envelope.message_id.as_deref().unwrap_or_default();
            let word = match fate {
                Publication::Confirmed => "confirmed",
                Publication::Unroutable => "unroutable",
                Publication::Refused => "refused",
            };
            if args.output.output == Output::Human {
                say(&format!("{word}  {}  {}", visible(id), visible(&envelope.routing_key)));
            }
            published.push(json!({"event_id": id, "routing_key": envelope.routing_key, "result": word}));
        }
    }
    publisher.close().await;
    if args.output.output == Output::Json {
        output::json(&published)?;
    }
    if unheard > 0 {
        bail!(
            "of {}, {unheard} {} not taken by the broker: an unroutable one has a routing key that no \
             queue is bound for (monitor.… or activity.…), a refused one can be published again",
            message::count(published.len() as u64, "event", "events"),
            if unheard == 1 { "was" } else { "were" }
        );
    }
    Ok(())
}

/// A warning of events that name no team, where the store has integrations that would hear of them if they did.
/// Who publishes need not have the worker's store: without one there is nothing to say.
async fn teamless(args: &PublishArgs, settings: &Settings, envelopes: &[Envelope]) -> Option<String> {
    if args.no_validate {
        return None;
    }
    let events: Vec<Event> = envelopes
        .iter()
        .filter_map(|envelope| formats::read_event(envelope, || EventId::new(new_id())).ok())
        .filter(|event| event.team.is_none())
        .collect();
    if events.is_empty() {
        return None;
    }
    let stored = parts::open_store(settings, Role::Look).await.ok()?.store.list().await.ok()?;
    let integrations: Vec<_> =
        stored.iter().filter_map(|stored| formats::integrations::integration_from(stored).ok()).collect();
    let missed: Vec<String> =
        events.iter().filter_map(|event| unwanted::for_want_of_a_team(integrations.iter(), event)).collect();
    let first = missed.first()?;
    Some(match missed.len() {
        1 => format!("warning: not all integrations hear of the event: {first}"),
        n => format!("warning: not all integrations hear of {n} of the events; of the first: {first}"),
    })
}

fn envelopes(args: &PublishArgs) -> anyhow::Result<Vec<Envelope>> {
    let mut faults = Vec::new();
    let mut documents = Vec::new();
    if let Some(report) = &args.newman {
        documents.push(newman(args, report)?);
    }
    for file in &args.files {
        let read =
            if args.no_validate { events::read_whole(file).map(|one| vec![one]) } else { events::read(file) };
        match read {
            Ok(read) => documents.extend(read),
            Err(fault) => faults.push(format!("{fault:#}")),
        }
    }
    if args.id.is_some() && faults.is_empty() && documents.len() != 1 {
        bail!(
            "--id names one event, but there are {}; leave it out to give each an id of its own",
            documents.len()
        );
    }
    let mut envelopes = Vec::new();
    for document in documents {
        let place = document.place.clone();
        match envelope(args, document) {
            Ok(envelope) => envelopes.push(envelope),
            Err(malformed) => faults.push(format!("{place}: {malformed}")),
        }
    }
    if !faults.is_empty() {
        bail!("nothing was published; faults: {}\n{}", faults.len(), faults.join("\n"));
    }
    Ok(envelopes)
}

fn newman(args: &PublishArgs, report: &std::path::Path) -> anyhow::Result<Document> {
    let options =
        NewmanOptions { monitor_uid: args.monitor_uid.clone(), monitor_name: args.monitor_name.clone() };
    let place = report.display().to_string();
    let body = formats::event_from_newman(&events::read_bytes(report)?, &options)
        .map_err(|malformed| anyhow::anyhow!("{place}: {malformed}"))?;
    let body = serde_json::to_vec(&body).context("the event can't be written as JSON")?;
    Ok(Document { place, body, cloud_event: false })
}

fn new_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// Reads the event as the worker would, unless it is to go out unread, and addresses it.
fn envelope(args: &PublishArgs, document: Document) -> Result<Envelope, formats::Malformed> {
    let mut envelope = Envelope {
        body: document.body,
        message_id: args.id.clone(),
        content_type: Some(if document.cloud_event {
            events::CLOUD_EVENT.to_owned()
        } else {
            args.content_type.clone()
        }),
        ..Envelope::default()
    };
    if let Some(team) = &args.team {
        envelope.headers.insert(headers::TEAM.to_owned(), team.clone());
    }
    if let Some(key) = &args.routing_key {
        envelope.routing_key.clone_from(key);
    }
    if args.no_validate {
        envelope.message_id.get_or_insert_with(new_id);
        return Ok(envelope);
    }
    let event = formats::read_event(&envelope, || EventId::new(new_id()))?;
    envelope.message_id = Some(event.id.to_string());
    if args.routing_key.is_none() {
        envelope.routing_key = formats::routing_key(&event);
    }
    Ok(envelope)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use clap::Parser;

    use super::*;
    use crate::cli::args::{Cli, Verb};

    fn published(body: &[u8], options: &[&str]) -> anyhow::Result<Vec<Envelope>> {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(body).expect("written");
        let path = file.path().to_str().expect("a path of text");
        let words = ["hipchat-notifier", "publish", path].into_iter().chain(options.iter().copied());
        let Verb::Publish(args) = Cli::parse_from(words).verb else { panic!("not publish") };
        envelopes(&args)
    }

    #[test]
    fn a_malformed_event_is_refused_with_what_is_wrong() {
        let refusal = published(br#"{"monitor_uid":"1","metrics":{"failedTests":"two"}}"#, &[]).unwrap_err();
        let refusal = refusal.to_string();
        assert!(refusal.starts_with("nothing was published; faults: 1\n"), "{refusal}");
        assert!(refusal.contains("event 1: metrics.failedTests: found the text \"two\""), "{refusal}");
    }

    #[test]
    fn without_validation_a_file_goes_out_byte_for_byte_with_an_id() {
        for body in [&b"{\"metrics\": 1}\n[2,"[..], b"", b"\xff\x00"] {
            let options = ["--no-validate", "--routing-key", "monitor.acme.1", "--team", "acme"];
            let envelopes = published(body, &options).unwrap();
            let [envelope] = &envelopes[..] else { panic!("one event, not {}", envelopes.len()) };
            assert_eq!((&envelope.body[..], &envelope.routing_key[..]), (body, "monitor.acme.1"));
            assert_eq!(envelope.headers.get("team").map(String::as_str), Some("acme"));
            assert!(envelope.message_id.is_some(), "an id to look for in the dead-letter queue");
        }
    }
}
