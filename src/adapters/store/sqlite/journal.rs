//! Looking back: what became of an event, forgetting what is old, and the figures for the gauges.

use jiff::Timestamp;
use rusqlite::params;

use super::db::Db;
use super::errors::Done;
use super::waits::{Kept, whereabouts};
use crate::adapters::store::rows::{micros, time};
use crate::adapters::store::state::outcome_of;
use crate::domain::ids::{EventId, IntegrationId};
use crate::ports::{Gauges, JournalEntry};

/// All notifications of one event, by integration.
pub fn explain(db: &Db<'_>, event: &EventId) -> Done<Vec<JournalEntry>> {
    let told = "SELECT seq, room, integration, state, reason, ready_at, detail, received_at, decided_at, sent_at, \
         attempts FROM notifications WHERE event = ?1 ORDER BY integration";
    db.with(told, |statement| {
        let mut rows = statement.query([event.as_str()])?;
        let mut entries = Vec::new();
        while let Some(row) = rows.next()? {
            let kept = Kept {
                seq: row.get(0)?,
                room: row.get(1)?,
                integration: row.get(2)?,
                state: row.get(3)?,
                reason: row.get(4)?,
                ready_at: row.get(5)?,
            };
            entries.push(JournalEntry {
                event: event.clone(),
                whereabouts: whereabouts(db, &kept)?,
                outcome: outcome_of(&kept.state)?,
                integration: IntegrationId::new(kept.integration),
                reason: kept.reason,
                detail: row.get(6)?,
                received_at: time(row.get(7)?),
                decided_at: time(row.get(8)?),
                sent_at: row.get::<_, Option<i64>>(9)?.map(time),
                attempts: row.get(10)?,
            });
        }
        Ok(entries)
    })
}

/// How many of one integration's notifications were given up. Goes through the whole journal, as only a person
/// asks for it.
pub fn dead_lettered(db: &Db<'_>, integration: &IntegrationId) -> Done<u64> {
    let count: i64 = db.query_row(
        "SELECT count(*) FROM notifications WHERE integration = ?1 AND state IN ('dead-lettered', 'burying')",
        [integration.as_str()],
        |row| row.get(0),
    )?;
    Ok(count.unsigned_abs())
}

/// Forgets outcomes that were decided before `before`, the oldest first, and collations that ended before.
/// What is open is never forgotten. When there is no more to forget, the file gives back some of what it does not
/// need.
pub fn forget(db: &Db<'_>, before: Timestamp, limit: usize) -> Done<usize> {
    let most = i64::try_from(limit).unwrap_or(i64::MAX);
    let forgotten = db.execute(
        "DELETE FROM notifications WHERE seq IN (SELECT seq FROM notifications \
             WHERE event_no IS NULL AND decided_at < ?1 ORDER BY decided_at LIMIT ?2)",
        params![micros(before), most],
    )?;
    db.execute(
        "DELETE FROM collations WHERE (integration, of) IN \
         (SELECT integration, of FROM collations WHERE until < ?1 ORDER BY until LIMIT ?2)",
        params![micros(before), most],
    )?;
    // Where something comes every day, something is forgotten in every round.
    if forgotten < limit {
        shrink(db)?;
    }
    Ok(forgotten)
}

/// Forgets streaks that no run has come for since `before`.
pub fn forget_streaks(db: &Db<'_>, before: Timestamp, limit: usize) -> Done<usize> {
    db.streaks_have_changed();
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let forgotten = db.execute(
        "DELETE FROM streaks WHERE (integration, monitor, region) IN \
             (SELECT integration, monitor, region FROM streaks WHERE touched < ?1 ORDER BY touched LIMIT ?2)",
        params![micros(before), limit],
    )?;
    Ok(forgotten)
}

/// Pages that the file keeps though nothing is in them: what comes tomorrow takes the place of what was forgotten.
pub const SPARE_PAGES: i64 = 2048;
/// Pages given back in one transaction, so that intake never waits long for it.
pub const PAGES_AT_ONCE: i64 = 512;

/// Gives back a bounded part of the pages that stand empty.
fn shrink(db: &Db<'_>) -> rusqlite::Result<()> {
    let empty: i64 = db.query_row("PRAGMA freelist_count", [], |row| row.get(0))?;
    let pages = (empty - SPARE_PAGES).min(PAGES_AT_ONCE);
    if pages > 0 {
        // Each step gives back one page.
        let mut statement = db.connection().prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
        let mut rows = statement.query([])?;
        while rows.next()?.is_some() {}
    }
    Ok(())
}

/// How much waits, and for how long.
pub fn gauges(db: &Db<'_>, now: Timestamp) -> Done<Gauges> {
    let count = |sql: &'static str| -> rusqlite::Result<u64> {
        db.query_row(sql, [], |row| row.get::<_, i64>(0)).map(i64::unsigned_abs)
    };
    let oldest: Option<i64> = db.query_row(
        "SELECT min(at) FROM ( \
               SELECT min(ready_at) AS at FROM notifications WHERE state = 'pending' \
               UNION ALL SELECT min(ready_at) FROM notifications WHERE state = 'gathering')",
        [],
        |row| row.get(0),
    )?;
    let late = oldest.map_or(0, |at| micros(now).saturating_sub(at).max(0));
    Ok(Gauges {
        pending: count("SELECT count(*) FROM notifications WHERE event_no IS NOT NULL")?,
        oldest_due_seconds: std::time::Duration::from_micros(late.unsigned_abs()).as_secs_f64(),
        letters: count("SELECT count(*) FROM letters")?,
    })
}
