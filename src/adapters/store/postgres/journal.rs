//! Looking back: what became of an event, forgetting what is old, and the figures for the gauges.

use std::time::Duration;

use deadpool_postgres::Client;
use jiff::Timestamp;
use tokio_postgres::Row;

use super::errors::Done;
use super::rounds::{Round, Tx, execute, text, values};
use crate::adapters::store::rows::{self, micros, time};
use crate::adapters::store::state::{self, Where, outcome_of};
use crate::domain::ids::{EventId, IntegrationId};
use crate::domain::line::{Retry, RoomState};
use crate::domain::pacing::Budget;
use crate::domain::waits::{Place, Whereabouts};
use crate::ports::{Gauges, JournalEntry};

/// All notifications of one event, by integration, each with what of its room, token and throttle may keep it waiting.
const EXPLAIN: &str = "SELECT n.integration, n.state, n.reason, n.detail, n.received_at, n.decided_at, n.sent_at, \
    n.attempts, n.ready_at, \
    (SELECT count(*) FROM notifications AS a WHERE n.state = 'pending' AND a.room = n.room \
       AND a.state = 'pending' AND a.seq < n.seq AND NOT EXISTS (SELECT 1 FROM throttles AS c \
       WHERE c.integration = a.integration AND c.closed_until > (SELECT value FROM meta WHERE name = 'clock'))), \
    r.meter, r.retry_failures, r.retry_at, r.due_at, r.lease_until, t.closed_until, k.meter, k.messages, k.per \
    FROM notifications AS n LEFT JOIN rooms AS r ON r.room = n.room \
    LEFT JOIN throttles AS t ON t.integration = n.integration \
    LEFT JOIN integrations AS i ON i.id = n.integration LEFT JOIN tokens AS k ON k.token = i.token \
    WHERE n.event = $1 ORDER BY n.integration";

/// What became of one event.
pub async fn explain(c: &Client, event: &EventId) -> Done<Vec<JournalEntry>> {
    let statement = c.prepare_cached(EXPLAIN).await?;
    let mut entries = Vec::new();
    for row in c.query(&statement, &[&text(event.as_str())]).await? {
        let (state, reason): (&str, &str) = (row.try_get(1)?, row.try_get(2)?);
        let whereabouts = match state::place(state, reason, row.try_get(8)?) {
            Where::Known(whereabouts) => whereabouts,
            Where::InLine => Some(Whereabouts::Line(Box::new(place(&row)?))),
        };
        entries.push(JournalEntry {
            event: event.clone(),
            integration: IntegrationId::new(row.try_get::<_, &str>(0)?),
            outcome: outcome_of(state)?,
            reason: reason.to_owned(),
            detail: row.try_get(3)?,
            whereabouts,
            received_at: time(row.try_get(4)?),
            decided_at: time(row.try_get(5)?),
            sent_at: row.try_get::<_, Option<i64>>(6)?.map(time),
            attempts: u32::try_from(row.try_get::<_, i64>(7)?).unwrap_or_default(),
        });
    }
    Ok(entries)
}

/// A place in a line. What is damaged of a meter counts as unused here: this only tells.
fn place(row: &Row) -> Result<Place, tokio_postgres::Error> {
    let at = |column: usize| row.try_get::<_, Option<i64>>(column).map(|at| at.map(time));
    let meter = |column: usize| {
        let text = row.try_get::<_, Option<&str>>(column)?;
        Ok::<_, tokio_postgres::Error>(text.map(|text| rows::meter(text).unwrap_or_default()))
    };
    let failures = row.try_get::<_, Option<i64>>(11)?.and_then(|failures| u32::try_from(failures).ok());
    let retry = failures.zip(at(12)?).map(|(failures, at)| Retry { failures, at });
    let token = match (meter(16)?, row.try_get::<_, Option<i64>>(17)?, row.try_get::<_, Option<i64>>(18)?) {
        (Some(meter), Some(messages), Some(per)) => {
            let messages = u32::try_from(messages).unwrap_or_default();
            Some((meter, Budget { messages, per: Duration::from_micros(per.unsigned_abs()) }))
        }
        _ => None,
    };
    Ok(Place {
        ahead: row.try_get::<_, i64>(9)?.unsigned_abs(),
        room: RoomState { meter: meter(10)?.unwrap_or_default(), retry, expired_untold: 0 },
        due_at: at(13)?,
        held_until: at(14)?,
        throttled_until: at(15)?,
        token,
    })
}

/// How many of one integration's notifications were given up. Goes through the whole journal, as only a person
/// asks for it.
pub async fn dead_lettered(c: &Client, integration: &IntegrationId) -> Done<u64> {
    let count = c
        .prepare_cached(
            "SELECT count(*) FROM notifications WHERE integration = $1 AND state IN ('dead-lettered', 'burying')",
        )
        .await?;
    Ok(c.query_one(&count, &[&integration.as_str()]).await?.try_get::<_, i64>(0)?.unsigned_abs())
}

/// Forgets outcomes that were decided before `before`, the oldest first, and collations that ended before. What is
/// open is never forgotten. Workers that forget at the same time take different ones.
pub async fn forget(tx: &Tx, before: Timestamp, limit: usize) -> Done<usize> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let outcomes = "DELETE FROM notifications WHERE seq = ANY(ARRAY(SELECT seq FROM notifications \
        WHERE event_no IS NULL AND decided_at < $1 ORDER BY decided_at LIMIT $2 FOR UPDATE SKIP LOCKED))";
    let forgotten = execute(tx, outcomes, values![micros(before), limit]).await?;
    let mut round = Round::default();
    round.add(
        "DELETE FROM collations AS c USING (SELECT integration, of FROM collations WHERE until < $1 \
         ORDER BY until LIMIT $2 FOR UPDATE SKIP LOCKED) AS old \
         WHERE c.integration = old.integration AND c.of = old.of",
        values![micros(before), limit],
    );
    round.run_last(tx).await?;
    Ok(usize::try_from(forgotten).unwrap_or(usize::MAX))
}

/// Forgets streaks that no run has come for since `before`.
pub async fn forget_streaks(tx: &Tx, before: Timestamp, limit: usize) -> Done<usize> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let forget = "DELETE FROM streaks AS s USING (SELECT integration, monitor, region FROM streaks \
        WHERE touched < $1 ORDER BY touched LIMIT $2 FOR UPDATE SKIP LOCKED) AS old \
        WHERE s.integration = old.integration AND s.monitor = old.monitor AND s.region = old.region";
    let forgotten = execute(tx, forget, values![micros(before), limit]).await?;
    Ok(usize::try_from(forgotten).unwrap_or(usize::MAX))
}

/// How much waits, and for how long.
pub async fn gauges(c: &Client, now: Timestamp) -> Done<Gauges> {
    let statement = c
        .prepare_cached(
            "SELECT (SELECT coalesce(sum(open), 0)::bigint FROM open_counts), \
             (SELECT count(*) FROM letters), \
             (SELECT min(ready_at) FROM notifications WHERE state IN ('pending', 'gathering'))",
        )
        .await?;
    let row = c.query_one(&statement, &[]).await?;
    let oldest: Option<i64> = row.try_get(2)?;
    let late = oldest.map_or(0, |at| micros(now).saturating_sub(at).max(0));
    Ok(Gauges {
        pending: row.try_get::<_, i64>(0)?.unsigned_abs(),
        oldest_due_seconds: Duration::from_micros(late.unsigned_abs()).as_secs_f64(),
        letters: row.try_get::<_, i64>(1)?.unsigned_abs(),
    })
}
