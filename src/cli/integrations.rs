//! `integrations …`: who hears of what, and whether their rooms can be reached.

use anyhow::{Context, bail};
use jiff::Timestamp;
use serde_json::json;

use super::args::{ApplyArgs, IntegrationArgs, IntegrationsVerb, Output, OutputArgs, RemoveArgs};
use super::output::{self, say, table, visible};
use crate::adapters::store::Role;
use crate::app::Misconfigured;
use crate::app::parts::{self, Parts};
use crate::domain::ids::IntegrationId;
use crate::domain::integration::IntegrationState;
use crate::domain::message;
use crate::formats::integrations;
use crate::ports::{AnswerClass, ManagedBy, RoomGateway, StoreError, Stored};
use crate::settings::Settings;

/// Runs one of the verbs beside a running worker; what it changes takes effect there within two seconds.
pub async fn run(verb: IntegrationsVerb, settings: &Settings) -> anyhow::Result<()> {
    let role = match verb {
        // Who brings integrations along can be before the worker.
        IntegrationsVerb::Apply(_) => Role::Tool,
        _ => Role::Look,
    };
    let parts = Parts::open(settings, role).await?;
    let now = parts.clock.now();
    match verb {
        IntegrationsVerb::List(output) => list(&parts, output).await,
        IntegrationsVerb::Show(args) => show(&parts, &args).await,
        IntegrationsVerb::Apply(args) => apply(&parts, &args, now).await,
        IntegrationsVerb::Remove(args) => remove(&parts, &args, now).await,
        IntegrationsVerb::Pause(args) => {
            let id = existing_id(&args.id)?;
            let pending = find(&parts, &id).await?.pending;
            parts.store.pause(&id, now).await.map_err(refused)?;
            say(&format!("{id} is paused; events for it are suppressed until `integrations resume {id}`"));
            if pending > 0 {
                say(&format!(
                    "{} of it that waited ended as suppressed (integration-paused)",
                    message::count(pending, "notification", "notifications")
                ));
            }
            Ok(())
        }
        IntegrationsVerb::Resume(args) => resume(&parts, &existing_id(&args.id)?).await,
        IntegrationsVerb::Test(args) => test(&parts, &existing_id(&args.id)?).await,
    }
}

async fn resume(parts: &Parts, id: &IntegrationId) -> anyhow::Result<()> {
    let before = find(parts, id).await?.state;
    parts.store.resume(id).await.map_err(refused)?;
    // A file may still want it paused after its suspension is lifted.
    let state = find(parts, id).await?.state;
    say(&format!("{id} is {}", state.as_str()));
    if matches!(before, IntegrationState::Suspended { .. }) {
        let letters = parts.store.dead_lettered(id).await?;
        if letters > 0 {
            say(&format!(
                "{} of it ended in the dead-letter queue: `dead-letters replay --integration {id}` shows how many \
                 are there still, and puts them back with --yes",
                message::count(letters, "notification", "notifications")
            ));
        }
    }
    Ok(())
}

async fn list(parts: &Parts, output: OutputArgs) -> anyhow::Result<()> {
    let all = parts.store.list().await.map_err(parts::from_store)?;
    if output.output == Output::Json {
        return output::json(&all.iter().map(summary).collect::<anyhow::Result<Vec<_>>>()?);
    }
    if all.is_empty() {
        say("there are no integrations; add some with `integrations apply FILE`");
        return Ok(());
    }
    let rows = all
        .iter()
        .map(|stored| {
            let integration = integrations::integration_from(stored).map_err(anyhow::Error::msg)?;
            Ok(vec![
                stored.definition.id.to_string(),
                stored.state.as_str().to_owned(),
                integration.interest.kind().to_owned(),
                integration.interest.notify_on().to_owned(),
                stored.pending.to_string(),
                stored.definition.room.to_string(),
            ])
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    table(&["ID", "STATE", "KIND", "NOTIFY ON", "PENDING", "ROOM"], &rows);
    for stored in &all {
        if let IntegrationState::Suspended { reason } = &stored.state {
            say(&format!("{} is suspended: {}", stored.definition.id, visible(reason)));
        }
    }
    Ok(())
}

/// The contract's fields of one integration in a list.
fn summary(stored: &Stored) -> anyhow::Result<serde_json::Value> {
    let integration = integrations::integration_from(stored).map_err(anyhow::Error::msg)?;
    let reason = match &stored.state {
        IntegrationState::Suspended { reason } => Some(reason.as_str()),
        IntegrationState::Paused => Some("paused by its owner"),
        IntegrationState::Active => None,
    };
    Ok(json!({
        "id": stored.definition.id.as_str(),
        "name": integration.name,
        "kind": integration.interest.kind(),
        "room": stored.definition.room.as_str(),
        "state": stored.state.as_str(),
        "state_reason": reason,
        "notify": integration.interest.notify_on(),
        "pending": stored.pending,
        "managed_by": managed_by(stored.managed_by),
    }))
}

fn managed_by(by: ManagedBy) -> &'static str {
    match by {
        ManagedBy::File => "integrations.file",
        ManagedBy::Operator => "operator",
    }
}

async fn show(parts: &Parts, args: &IntegrationArgs) -> anyhow::Result<()> {
    let stored = find(parts, &existing_id(&args.integration.id)?).await?;
    let mut shown = summary(&stored)?;
    let definition = integrations::to_json(&stored).map_err(anyhow::Error::msg)?;
    if let (Some(shown), serde_json::Value::Object(definition)) = (shown.as_object_mut(), definition) {
        shown.insert("definition".to_owned(), definition.into());
    }
    if args.output.output == Output::Json {
        return output::json(&shown);
    }
    let mut lines = Vec::new();
    for key in STANDING {
        flatten(key, &shown[key], &mut lines);
    }
    if let Some(definition) = shown["definition"].as_object() {
        // The version is that of the stored form.
        let shown_already = |key: &str| key == "version" || STANDING.contains(&key);
        for (key, value) in definition.iter().filter(|(key, _)| !shown_already(key)) {
            flatten(key, value, &mut lines);
        }
    }
    let width = lines.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
    for (key, value) in lines {
        say(&format!("{key:<width$}  {}", visible(&value)));
    }
    Ok(())
}

/// What `show` begins with; the other fields follow by the names that they have in an integrations file.
const STANDING: [&str; 8] = ["id", "name", "kind", "room", "state", "state_reason", "pending", "managed_by"];

/// A field and what is in it as lines of text: `notify.on`, `monitors`.
fn flatten(key: &str, value: &serde_json::Value, lines: &mut Vec<(String, String)>) {
    use serde_json::Value::{Array, Null, Object, String};
    match value {
        Null => {}
        String(text) => lines.push((key.to_owned(), text.clone())),
        Object(fields) => {
            for (name, value) in fields {
                flatten(&format!("{key}.{name}"), value, lines);
            }
        }
        Array(items) => {
            let items: Vec<_> = items
                .iter()
                .map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned))
                .collect();
            lines.push((key.to_owned(), items.join(", ")));
        }
        other => lines.push((key.to_owned(), other.to_string())),
    }
}

async fn apply(parts: &Parts, args: &ApplyArgs, now: Timestamp) -> anyhow::Result<()> {
    let definitions = parts.read_integrations(&args.file).definitions?;
    let applied = parts.store.apply(definitions, ManagedBy::Operator, now).await.map_err(refused)?;
    let changes = &applied.changes;
    if args.output.output == Output::Json {
        return output::json(&json!({
            "added": changes.added.len(),
            "changed": changes.changed.len(),
            "unchanged": applied.unchanged,
        }));
    }
    say(&format!(
        "{} added, {} changed, {} unchanged",
        changes.added.len(),
        changes.changed.len(),
        applied.unchanged
    ));
    if !changes.is_empty() {
        say(&changes.to_string());
    }
    Ok(())
}

async fn remove(parts: &Parts, args: &RemoveArgs, now: Timestamp) -> anyhow::Result<()> {
    let id = existing_id(&args.integration.id)?;
    let stored = find(parts, &id).await?;
    if stored.pending > 0 && !args.yes {
        bail!(
            "{id} has {}, which would end as suppressed; add --yes to remove it",
            message::count(stored.pending, "pending notification", "pending notifications")
        );
    }
    parts.store.remove(&id, now).await.map_err(refused)?;
    say(&format!("{id} is removed"));
    Ok(())
}

/// Posts a marked test message at once: no line, no budget, no retries.
async fn test(parts: &Parts, id: &IntegrationId) -> anyhow::Result<()> {
    let stored = find(parts, id).await?;
    let (integration, target) = parts.open_stored(&stored).map_err(Misconfigured)?;
    let answer = parts.gateway.post(&target, &message::render_test(&integration)).await;
    if answer.class == AnswerClass::Accepted {
        say(&format!("{id}: the test message is in {}", integration.room));
        if integration.state != IntegrationState::Active {
            let state = integration.state.as_str();
            say(&format!("{id} is still {state}; `integrations resume {id}` lets it be told again"));
        }
        return Ok(());
    }
    bail!("{id}: the test message did not get to {}: {}", integration.room, answer.detail)
}

async fn find(parts: &Parts, id: &IntegrationId) -> anyhow::Result<Stored> {
    let all = parts.store.list().await.map_err(parts::from_store)?;
    all.into_iter()
        .find(|stored| stored.definition.id == *id)
        .with_context(|| format!("there is no integration {id}; `integrations list` shows all"))
}

fn existing_id(text: &str) -> anyhow::Result<IntegrationId> {
    if !IntegrationId::is_valid(text) {
        bail!("{text:?} can't be an integration's id: 1 to 64 of a-z 0-9 -");
    }
    Ok(IntegrationId::new(text))
}

/// A refusal is an answer to the person who asked, not a matter of configuration.
fn refused(error: StoreError) -> anyhow::Error {
    match error {
        StoreError::Refused(line) => anyhow::anyhow!(line),
        other => parts::from_store(other),
    }
}
