//! `simulate`: the worker's own decisions on events from files, with no broker, store or room.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;

use super::args::{Output, SimulateArgs};
use super::events;
use super::output::{self, complain, say, visible};
use crate::adapters::clock::SystemClock;
use crate::adapters::hipchat::wire;
use crate::app::parts::{self, AbsentUrl};
use crate::domain::envelope::{Envelope, Received};
use crate::domain::event::Event;
use crate::domain::headers;
use crate::domain::ids::{GatherKey, IntegrationId};
use crate::domain::intake::{Fate, IntakeState};
use crate::domain::integration::Integration;
use crate::domain::message::{self, Extras, Links, RoomMessage};
use crate::domain::reason::{EventFate, SendReason};
use crate::domain::story::{Story, Told};
use crate::domain::unwanted;
use crate::formats;
use crate::ports::{Clock, Definition, ManagedBy, Stored};
use crate::settings::Settings;
use crate::worker::batch::{self, Read};
use crate::worker::catalogue::Snapshot;

/// One decision, in the order of the events.
struct Row {
    event_id: String,
    integration_id: Option<String>,
    decision: &'static str,
    reason: String,
    detail: Option<String>,
    message: Option<serde_json::Value>,
}

/// A notification that waits for its digest or collation; `line` is where its decision stands.
struct Held {
    line: usize,
    integration: Arc<Integration>,
    event: Arc<Event>,
    story: Story,
}

/// Decides every event in order, as if they came one after another right now, and shows what would be sent.
/// Budgets are not simulated: everything is told in the message that it would have in a quiet room.
pub fn run(args: &SimulateArgs, settings: &Settings) -> anyhow::Result<()> {
    let egress = parts::egress(settings)?;
    let definitions =
        parts::read_integrations(&args.integrations, &egress, AbsentUrl::StoodInFor).definitions?;
    let stored: Vec<Stored> = definitions.into_iter().map(as_stored).collect();
    let (snapshot, faults) = Snapshot::build(0, &stored, &move |stored| parts::open_stored(stored, &egress));
    let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
    anyhow::ensure!(faults.is_empty(), "{}", faults.join("\n"));
    let links = parts::links(settings)?;
    let mut simulation = Simulation {
        snapshot,
        links,
        state: IntakeState::default(),
        lines: Vec::new(),
        held: BTreeMap::new(),
        unwanted: BTreeMap::new(),
        repeated: 0,
        team: args.team.clone(),
    };
    for file in &args.events {
        for document in events::read(file)? {
            simulation.take(document);
        }
    }
    simulation.tell_held();
    simulation.report(args)
}

fn as_stored(definition: Definition) -> Stored {
    use crate::domain::integration::IntegrationState::{Active, Paused};
    let state = if definition.paused { Paused } else { Active };
    Stored { definition, managed_by: ManagedBy::Operator, state, pending: 0, unreadable: None }
}

struct Simulation {
    snapshot: Snapshot,
    links: Links,
    state: IntakeState,
    lines: Vec<Row>,
    held: BTreeMap<(IntegrationId, GatherKey), Vec<Held>>,
    /// Events that no integration wants, by the reasons for that.
    unwanted: BTreeMap<String, Vec<String>>,
    repeated: u64,
    team: Option<String>,
}

impl Simulation {
    fn take(&mut self, document: events::Document) {
        let mut envelope = Envelope {
            body: document.body,
            content_type: document.cloud_event.then(|| events::CLOUD_EVENT.to_owned()),
            // A plain event has no id in a file. Its place is one that a person can find again.
            message_id: Some(&document.place)
                .filter(|p| !document.cloud_event && formats::can_be_id(p))
                .cloned(),
            ..Envelope::default()
        };
        if let Some(team) = &self.team {
            envelope.headers.insert(headers::TEAM.to_owned(), team.clone());
        }
        let read = batch::read(Received { envelope, at: SystemClock.now() }, &self.snapshot);
        let (fate, fates) = read.decide(&mut self.state);
        match read {
            Read::Undecidable(letter) => self.lines.push(Row {
                event_id: letter.event.as_ref().map_or(document.place, ToString::to_string),
                integration_id: None,
                decision: "dead-letter",
                reason: letter.reason.to_string(),
                detail: Some(letter.detail.clone()),
                message: None,
            }),
            Read::Event { .. } | Read::Replay { .. } if fate == EventFate::Repeated => self.repeated += 1,
            Read::Event { event, .. } | Read::Replay { event, .. } if fates.is_empty() => {
                let why = unwanted::by_nobody(self.snapshot.all(), &event);
                self.unwanted.entry(why).or_default().push(event.id.to_string());
            }
            Read::Event { event, .. } | Read::Replay { event, .. } => {
                for (integration, fate) in fates {
                    self.decide(&event, integration, fate);
                }
            }
        }
    }

    fn decide(&mut self, event: &Arc<Event>, integration: Arc<Integration>, fate: Fate) {
        let mut line = Row {
            event_id: event.id.to_string(),
            integration_id: Some(integration.id.to_string()),
            decision: "send",
            reason: String::new(),
            detail: None,
            message: None,
        };
        match fate {
            Fate::Suppress { reason, detail } => {
                line.decision = "suppress";
                line.reason = reason.to_string();
                line.detail = Some(detail);
            }
            Fate::Tell { story, gather: Some(key), .. } => {
                line.decision = "digest";
                line.reason = story.reason.to_string();
                let held = Held {
                    line: self.lines.len(),
                    integration: integration.clone(),
                    event: event.clone(),
                    story,
                };
                self.held.entry((integration.id.clone(), key)).or_default().push(held);
            }
            Fate::Tell { story, .. } | Fate::Retell { story, .. } => {
                line.reason = story.reason.to_string();
                let told = Told { event, story: &story, received_at: SystemClock.now() };
                let message = message::render(&integration, &told, &self.links, Extras::default());
                line.message = Some(wire::to_value(&message));
            }
        }
        self.lines.push(line);
    }

    /// Shows each digest and collation with the last notification that is in it.
    fn tell_held(&mut self) {
        for held in std::mem::take(&mut self.held).into_values() {
            let Some(last) = held.last() else { continue };
            let message = self.together(&held, last.story.reason);
            self.lines[last.line].message = Some(wire::to_value(&message));
        }
    }

    fn together(&self, held: &[Held], why: SendReason) -> RoomMessage {
        let received_at = SystemClock.now();
        let items: Vec<(&Integration, Told<'_>)> = held
            .iter()
            .map(|h| (h.integration.as_ref(), Told { event: &h.event, story: &h.story, received_at }))
            .collect();
        match &items[..] {
            [(integration, told)] => message::render(integration, told, &self.links, Extras::default()),
            items => message::render_digest(items, &self.links, Extras::default(), why),
        }
    }

    fn report(&self, args: &SimulateArgs) -> anyhow::Result<()> {
        if args.output.output == Output::Json {
            let lines: Vec<_> = self
                .lines
                .iter()
                .map(|line| {
                    json!({
                        "event_id": line.event_id,
                        "integration_id": line.integration_id,
                        "decision": line.decision,
                        "reason": line.reason,
                        "detail": line.detail,
                        "message": line.message,
                    })
                })
                .collect();
            output::json(&lines)?;
            self.tell_unwanted(complain);
            return Ok(());
        }
        for line in &self.lines {
            let to = line.integration_id.as_deref().unwrap_or("dead-letter queue");
            let detail = line.detail.as_deref().map(|d| format!(": {d}")).unwrap_or_default();
            say(&visible(&format!("{}  {to}  {} ({}){detail}", line.event_id, line.decision, line.reason)));
            if let Some(message) = &line.message {
                say(&format!("    {} {}", message["color"].as_str().unwrap_or_default(), message["message"]));
            }
        }
        self.tell_unwanted(say);
        if self.repeated > 0 {
            let have = message::count(self.repeated, "event has an id", "events have ids");
            say(&format!("{have} that came before: the same id twice is one event"));
        }
        Ok(())
    }

    fn tell_unwanted(&self, say: fn(&str)) {
        for (why, events) in &self.unwanted {
            let n = events.len();
            let which = if n == 1 { events[0].clone() } else { format!("{} and {} more", events[0], n - 1) };
            let are = message::count(n as u64, "event is", "events are");
            say(&visible(&format!("{are} wanted by no integration ({which}): {why}")));
        }
    }
}
