//! `explain`: what became of an event, integration by integration, and why.

use anyhow::bail;
use serde_json::json;

use super::args::{ExplainArgs, Output};
use super::output::{self, say, table, visible};
use crate::adapters::store::sqlite::Role;
use crate::app::parts;
use crate::domain::endings::in_words;
use crate::domain::ids::EventId;
use crate::ports::{Journal, JournalEntry};
use crate::settings::Settings;

/// Shows the journal's entries of one event.
pub async fn run(args: &ExplainArgs, settings: &Settings) -> anyhow::Result<()> {
    let store = parts::open_store(settings, Role::Look)?;
    let entries = store.explain(&EventId::new(&args.event_id)).await?;
    let Some(first) = entries.first() else {
        bail!(
            "event {:?} is not in the journal: it was never seen, no integration wanted it, it is malformed \
             (see dead-letters list), or it is older than {} (journal.keep)",
            args.event_id,
            in_words(settings.journal.keep)
        );
    };
    match args.output.output {
        Output::Json => output::json(&json!({
            "event_id": first.event.as_str(),
            "received_at": first.received_at.to_string(),
            "outcomes": entries.iter().map(as_json).collect::<Vec<_>>(),
        })),
        Output::Human => {
            say(&format!("event {}, received {:.3}", visible(first.event.as_str()), first.received_at));
            let rows: Vec<Vec<String>> = entries.iter().map(as_row).collect();
            table(&["INTEGRATION", "OUTCOME", "REASON", "AT", "ATTEMPTS", "DETAIL"], &rows);
            Ok(())
        }
    }
}

fn as_json(entry: &JournalEntry) -> serde_json::Value {
    json!({
        "integration_id": entry.integration.as_str(),
        "outcome": entry.outcome.as_str(),
        "reason": entry.reason,
        "detail": entry.detail,
        "decided_at": entry.decided_at.to_string(),
        "sent_at": entry.sent_at.map(|at| at.to_string()),
        "attempts": entry.attempts,
    })
}

fn as_row(entry: &JournalEntry) -> Vec<String> {
    vec![
        entry.integration.to_string(),
        entry.outcome.to_string(),
        entry.reason.clone(),
        format!("{:.3}", entry.sent_at.unwrap_or(entry.decided_at)),
        entry.attempts.to_string(),
        entry.detail.clone(),
    ]
}
