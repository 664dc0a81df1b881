//! `explain`: what became of an event, integration by integration, and why.

use anyhow::bail;
use serde_json::json;

use super::args::{ExplainArgs, Output};
use super::output::{self, say, table, visible};
use crate::adapters::store::Role;
use crate::app::parts::{self, OpenStore};
use crate::domain::endings::in_words;
use crate::domain::ids::EventId;
use crate::domain::waits::{self, Wait};
use crate::ports::JournalEntry;
use crate::settings::Settings;

/// Shows the journal's entries of one event.
pub async fn run(args: &ExplainArgs, settings: &Settings) -> anyhow::Result<()> {
    let OpenStore { store, clock } = parts::open_store(settings, Role::Look).await?;
    let entries = store.explain(&EventId::new(&args.event_id)).await?;
    let Some(first) = entries.first() else {
        bail!(
            "event {:?} is not in the journal: it was never seen, or waits in the broker still (`check` says how many \
             do), no integration wanted it (`simulate` says why), it could not be read (`dead-letters list --each --event {}` shows its letter), or it is older than {} \
             (journal.keep)",
            args.event_id,
            as_argument(&args.event_id),
            in_words(settings.journal.keep)
        );
    };
    // One that was replayed came back later than the others.
    let received_at = entries.iter().map(|entry| entry.received_at).min().unwrap_or(first.received_at);
    let now = clock.now();
    let lines: Vec<Line> = entries
        .iter()
        .map(|entry| Line {
            entry,
            wait: entry.whereabouts.as_ref().map(|at| waits::wait(at, settings.pacing.room, now)),
        })
        .collect();
    match args.output.output {
        Output::Json => output::json(&json!({
            "event_id": first.event.as_str(),
            "received_at": received_at.to_string(),
            "outcomes": lines.iter().map(Line::as_json).collect::<Vec<_>>(),
        })),
        Output::Human => {
            say(&format!("event {}, received {:.3}", visible(first.event.as_str()), received_at));
            let rows: Vec<Vec<String>> = lines.iter().map(Line::as_row).collect();
            table(&["INTEGRATION", "OUTCOME", "REASON", "AT", "ATTEMPTS", "DETAIL"], &rows);
            if lines.iter().any(|line| line.wait.is_some()) && store.workers().await?.is_empty() {
                say("no worker runs on this store: what is pending waits for one");
            }
            Ok(())
        }
    }
}

/// One notification, and what it waits for if it is pending.
struct Line<'a> {
    entry: &'a JournalEntry,
    wait: Option<Wait>,
}

impl Line<'_> {
    fn as_json(&self) -> serde_json::Value {
        let entry = self.entry;
        json!({
            "integration_id": entry.integration.as_str(),
            "outcome": entry.outcome.as_str(),
            "reason": entry.reason,
            "detail": entry.detail,
            "decided_at": entry.decided_at.to_string(),
            "sent_at": entry.sent_at.map(|at| at.to_string()),
            "attempts": entry.attempts,
            "wait": self.wait.map(|wait| json!({
                "for": wait.waits_for.as_str(),
                "until": wait.until.map(|at| at.to_string()),
                "ahead": wait.ahead,
                "detail": wait.to_string(),
            })),
        })
    }

    fn as_row(&self) -> Vec<String> {
        let entry = self.entry;
        let detail: Vec<String> = [Some(entry.detail.clone()), self.wait.map(|wait| wait.to_string())]
            .into_iter()
            .flatten()
            .filter(|part| !part.is_empty())
            .collect();
        vec![
            entry.integration.to_string(),
            entry.outcome.to_string(),
            entry.reason.clone(),
            format!("{:.3}", entry.sent_at.unwrap_or(entry.decided_at)),
            entry.attempts.to_string(),
            detail.join("; "),
        ]
    }
}

/// The id as a shell takes it for one word.
fn as_argument(id: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:/@%+=,".contains(c);
    if !id.is_empty() && id.chars().all(plain) {
        return id.to_owned();
    }
    format!("'{}'", visible(id).replace('\'', "'\\''"))
}
