//! Looking back: what became of an event, forgetting what is old, and the figures for the gauges.

use deadpool_postgres::{Client, Transaction};
use jiff::Timestamp;

use super::errors::Done;
use super::link::text;
use crate::adapters::store::rows::{micros, time};
use crate::adapters::store::state::outcome_of;
use crate::domain::ids::{EventId, IntegrationId};
use crate::ports::{Gauges, JournalEntry};

/// All notifications of one event, by integration.
pub async fn explain(c: &Client, event: &EventId) -> Done<Vec<JournalEntry>> {
    let statement = c
        .prepare_cached(
            "SELECT integration, state, reason, detail, received_at, decided_at, sent_at, attempts \
             FROM notifications WHERE event = $1 ORDER BY integration",
        )
        .await?;
    let mut entries = Vec::new();
    for row in c.query(&statement, &[&text(event.as_str())]).await? {
        entries.push(JournalEntry {
            event: event.clone(),
            integration: IntegrationId::new(row.try_get::<_, &str>(0)?),
            outcome: outcome_of(row.try_get(1)?)?,
            reason: row.try_get(2)?,
            detail: row.try_get(3)?,
            received_at: time(row.try_get(4)?),
            decided_at: time(row.try_get(5)?),
            sent_at: row.try_get::<_, Option<i64>>(6)?.map(time),
            attempts: u32::try_from(row.try_get::<_, i64>(7)?).unwrap_or_default(),
        });
    }
    Ok(entries)
}

/// Forgets outcomes that were decided before `before`, the oldest first, and collations that ended before. What is
/// open is never forgotten, nor are streaks: those live as long as their integration. Workers that forget at the
/// same time take different ones.
pub async fn forget(tx: &Transaction<'_>, before: Timestamp, limit: usize) -> Done<usize> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let outcomes = tx
        .prepare_cached(
            "DELETE FROM notifications WHERE seq = ANY(ARRAY(SELECT seq FROM notifications \
             WHERE event_no IS NULL AND decided_at < $1 ORDER BY decided_at LIMIT $2 FOR UPDATE SKIP LOCKED))",
        )
        .await?;
    let forgotten = tx.execute(&outcomes, &[&micros(before), &limit]).await?;
    let collations = tx
        .prepare_cached(
            "DELETE FROM collations AS c USING (SELECT integration, of FROM collations WHERE until < $1 \
             ORDER BY until LIMIT $2 FOR UPDATE SKIP LOCKED) AS old \
             WHERE c.integration = old.integration AND c.of = old.of",
        )
        .await?;
    tx.execute(&collations, &[&micros(before), &limit]).await?;
    Ok(usize::try_from(forgotten).unwrap_or(usize::MAX))
}

/// How much waits, and for how long.
pub async fn gauges(c: &Client, now: Timestamp) -> Done<Gauges> {
    let statement = c
        .prepare_cached(
            "SELECT (SELECT count(*) FROM notifications WHERE event_no IS NOT NULL), \
             (SELECT count(*) FROM letters), \
             least((SELECT min(ready_at) FROM notifications WHERE state = 'pending'), \
                   (SELECT min(ready_at) FROM notifications WHERE state = 'gathering'))",
        )
        .await?;
    let row = c.query_one(&statement, &[]).await?;
    let oldest: Option<i64> = row.try_get(2)?;
    let late = oldest.map_or(0, |at| micros(now).saturating_sub(at).max(0));
    Ok(Gauges {
        pending: row.try_get::<_, i64>(0)?.unsigned_abs(),
        oldest_due_seconds: std::time::Duration::from_micros(late.unsigned_abs()).as_secs_f64(),
        letters: row.try_get::<_, i64>(1)?.unsigned_abs(),
    })
}
