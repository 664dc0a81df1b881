//! `dead-letters …`: looks at what could not be delivered, puts it back, or discards it. Looking never removes
//! a letter; `replay` and `discard` show the count first and want `--yes`.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::json;

use super::args::{
    DeadLetterArgs, DeadLettersListArgs, DeadLettersVerb, LetterFilter as FilterArgs, LetterSelection,
    Output, ReplayArgs,
};
use super::output::{self, complain, say, table, visible};
use crate::adapters::rabbitmq::{DeadLetters, LetterFilter, LetterSummary};
use crate::adapters::store::Role;
use crate::app::parts;
use crate::domain::integration::IntegrationState;
use crate::domain::message::count;
use crate::domain::reason::DeadLetterReason;
use crate::settings::Settings;

/// Progress is told every so many letters.
const TELL_EVERY: usize = 1_000;

/// Said of an empty list, which a filter may have made empty.
const NONE: &str = "no dead letter is there, or none that matches";

/// Runs one of the verbs.
pub async fn run(verb: DeadLettersVerb, settings: &Settings) -> anyhow::Result<()> {
    let letters = DeadLetters::new(parts::broker_options(settings)?);
    match verb {
        DeadLettersVerb::List(args) => list(&letters, &args).await,
        DeadLettersVerb::Show(args) => show(&letters, &args).await,
        DeadLettersVerb::Replay(args) => replay(&letters, &args, settings).await,
        DeadLettersVerb::Discard(args) => discard(&letters, &args.selection).await,
    }
}

async fn list(letters: &DeadLetters, args: &DeadLettersListArgs) -> anyhow::Result<()> {
    let found = find(letters, &args.filter, &[]).await?;
    match (args.each, args.output.output) {
        (true, Output::Json) => output::json(&found.iter().map(as_json).collect::<Vec<_>>()),
        (true, Output::Human) if found.is_empty() => {
            say(NONE);
            Ok(())
        }
        (true, Output::Human) => {
            let rows: Vec<Vec<String>> = found.iter().map(as_row).collect();
            table(&["ID", "AT", "REASON", "EVENT", "INTEGRATION", "ATTEMPTS", "DETAIL"], &rows);
            Ok(())
        }
        (false, output) => counts(&found, output),
    }
}

/// How many letters by reason and integration, the most first.
fn counts(found: &[LetterSummary], output: Output) -> anyhow::Result<()> {
    let mut groups: BTreeMap<(&str, Option<&str>), usize> = BTreeMap::new();
    for letter in found {
        *groups.entry((letter.reason.as_str(), letter.integration_id.as_deref())).or_default() += 1;
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    if output == Output::Json {
        let groups: Vec<_> = groups
            .iter()
            .map(|((reason, integration), count)| {
                json!({"reason": reason, "integration_id": integration, "count": count})
            })
            .collect();
        return output::json(&groups);
    }
    if groups.is_empty() {
        say(NONE);
        return Ok(());
    }
    let rows: Vec<Vec<String>> = groups
        .iter()
        .map(|((reason, integration), count)| {
            vec![count.to_string(), (*reason).to_owned(), integration.unwrap_or("-").to_owned()]
        })
        .collect();
    table(&["LETTERS", "REASON", "INTEGRATION"], &rows);
    Ok(())
}

async fn show(letters: &DeadLetters, args: &DeadLetterArgs) -> anyhow::Result<()> {
    let Some(letter) = letters.show(&args.id).await.map_err(parts::from_broker)? else {
        bail!("there is no dead letter {:?}; `dead-letters list --each` shows all", args.id);
    };
    let body = String::from_utf8_lossy(&letter.envelope.body).into_owned();
    if args.output.output == Output::Json {
        let mut shown = as_json(&letter.summary);
        shown["headers"] = json!(letter.envelope.headers);
        shown["content_type"] = json!(letter.envelope.content_type);
        shown["body"] = json!(body);
        return output::json(&shown);
    }
    let serde_json::Value::Object(fields) = as_json(&letter.summary) else { return Ok(()) };
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        say(&format!("{name:<21} {}", visible(&text)));
    }
    for (name, value) in &letter.envelope.headers {
        say(&format!("header {}: {}", visible(name), visible(value)));
    }
    say("");
    // Line breaks are the body's own form; other control characters could steer a terminal.
    say(&body.lines().map(visible).collect::<Vec<_>>().join("\n"));
    Ok(())
}

async fn replay(letters: &DeadLetters, args: &ReplayArgs, settings: &Settings) -> anyhow::Result<()> {
    if let (Some(id), true) = (&args.selection.filter.integration, args.selection.yes) {
        warn_if_deaf(id, settings).await;
    }
    let Some(ids) = selected(letters, &args.selection, "put back into the work queue").await? else {
        return Ok(());
    };
    let chunk = args.rate.map_or(ids.len(), |rate| rate as usize).max(1);
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    let (mut replayed, mut missing) = (0, 0);
    let all = ids.len();
    for ids in ids.chunks(chunk) {
        if args.rate.is_some() {
            tick.tick().await;
        }
        let before = replayed;
        let ids: HashSet<String> = ids.iter().cloned().collect();
        let removed = letters
            .replay(&ids, |done| progress("replayed", before + done, all))
            .await
            .map_err(parts::from_broker)
            .with_context(|| format!("stopped after {}; the others are still there", counted(before)))?;
        replayed += removed.letters;
        missing += removed.missing;
    }
    report(&args.selection, "replayed", replayed, missing)
}

/// What is put back for an integration that is told nothing comes straight back. Who replays need not have
/// the worker's store: without one nothing is known.
async fn warn_if_deaf(id: &str, settings: &Settings) {
    let Ok(opened) = parts::open_store(settings, Role::Look).await else { return };
    let stored = opened.store.list().await.unwrap_or_default();
    let why =
        match stored.iter().find(|stored| stored.definition.id.as_str() == id).map(|stored| &stored.state) {
            Some(IntegrationState::Suspended { reason }) => format!("suspended ({reason})"),
            Some(IntegrationState::Paused) => "paused".to_owned(),
            Some(IntegrationState::Active) | None => return,
        };
    complain(&format!(
        "hipchat-notifier: warning: {id} is {why}, so its letters come straight back; `integrations resume {id}` first"
    ));
}

async fn discard(letters: &DeadLetters, selection: &LetterSelection) -> anyhow::Result<()> {
    let Some(ids) = selected(letters, selection, "removed for good").await? else { return Ok(()) };
    let all = ids.len();
    let ids: HashSet<String> = ids.into_iter().collect();
    let removed =
        letters.discard(&ids, |done| progress("discarded", done, all)).await.map_err(parts::from_broker)?;
    report(selection, "discarded", removed.letters, removed.missing)
}

/// The letters to act on, fixed now: what arrives later is not touched. `None` where `--yes` is missing, after
/// the count was shown.
async fn selected(
    letters: &DeadLetters,
    selection: &LetterSelection,
    fate: &str,
) -> anyhow::Result<Option<Vec<String>>> {
    let found = find(letters, &selection.filter, &selection.ids).await?;
    if found.is_empty() {
        bail!("no dead letter matches; `dead-letters list --each` shows all");
    }
    if selection.yes {
        let mut seen = HashSet::new();
        return Ok(Some(found.into_iter().map(|l| l.id).filter(|id| seen.insert(id.clone())).collect()));
    }
    if selection.output.output == Output::Json {
        output::json(&json!({"would_act_on": found.len()}))?;
    } else {
        counts(&found, Output::Human)?;
        say(&format!("{} would be {fate}; add --yes to do it", counted(found.len())));
    }
    Ok(None)
}

async fn find(
    letters: &DeadLetters,
    filter: &FilterArgs,
    ids: &[String],
) -> anyhow::Result<Vec<LetterSummary>> {
    let limit = filter.limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let filter = LetterFilter {
        ids: ids.to_vec(),
        reason: filter.reason.as_deref().and_then(DeadLetterReason::from_text),
        integration: filter.integration.clone(),
        event: filter.event.clone(),
        before: filter.until,
        since: filter.since,
    };
    letters.list(&filter, limit).await.map_err(parts::from_broker)
}

fn progress(word: &str, done: usize, all: usize) {
    if done.is_multiple_of(TELL_EVERY) && done > 0 {
        complain(&format!("{word} {done} of {all}"));
    }
}

fn report(selection: &LetterSelection, word: &str, letters: usize, missing: usize) -> anyhow::Result<()> {
    if selection.output.output == Output::Json {
        return output::json(&json!({word: letters, "missing": missing}));
    }
    say(&format!("{} {word}", counted(letters)));
    if missing > 0 {
        say(&format!("{} gone by then", count(missing as u64, "letter was", "letters were")));
    }
    Ok(())
}

fn counted(letters: usize) -> String {
    count(letters as u64, "letter", "letters")
}

fn as_json(letter: &LetterSummary) -> serde_json::Value {
    json!({
        "id": letter.id,
        "reason": letter.reason.as_str(),
        "detail": letter.detail,
        "event_id": letter.event_id,
        "integration_id": letter.integration_id,
        "attempts": letter.attempts,
        "last_status": letter.last_status,
        "first_attempt_at": letter.first_attempt_at.map(|at| at.to_string()),
        "dead_lettered_at": letter.dead_lettered_at.map(|at| at.to_string()),
        "original_exchange": letter.exchange,
        "original_routing_key": letter.routing_key,
        "body_size": letter.body_size,
    })
}

fn as_row(letter: &LetterSummary) -> Vec<String> {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    vec![
        letter.id.clone(),
        letter.dead_lettered_at.map_or_else(|| "-".to_owned(), |at| format!("{at:.0}")),
        letter.reason.to_string(),
        or_dash(&letter.event_id),
        or_dash(&letter.integration_id),
        letter.attempts.map_or_else(|| "-".to_owned(), |n| n.to_string()),
        letter.detail.clone(),
    ]
}
