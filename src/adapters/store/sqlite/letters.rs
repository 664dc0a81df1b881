//! The outbox of the dead-letter queue: letters are written with the change that made them, and leave when
//! the broker has confirmed them.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::errors::{Done, text};
use super::notifications::{Open, end, find};
use crate::adapters::store::rows::{envelope, micros, properties, time};
use crate::adapters::store::state::Ending;
use crate::adapters::store::terms::ROUND_BYTES;
use crate::domain::envelope::Envelope;
use crate::domain::ids::{EventId, IntegrationId};
use crate::domain::reason::{DeadLetterReason, Outcome};
use crate::ports::Letter;

/// Stores a letter that carries its own envelope: an event that could not be decided.
pub fn insert(c: &Connection, letter: &Letter) -> rusqlite::Result<()> {
    c.prepare_cached(
        "INSERT INTO letters (event, integration, properties, body, reason, detail, attempts, last_status, \
         first_attempt_at, at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?
    .execute(params![
        letter.event.as_ref().map(EventId::as_str),
        letter.integration.as_ref().map(IntegrationId::as_str),
        properties(&letter.envelope),
        letter.envelope.body,
        letter.reason.as_str(),
        letter.detail,
        letter.attempts,
        letter.last_status,
        letter.first_attempt_at.map(micros),
        micros(letter.at),
    ])
    .map(|_| ())
}

/// The oldest letters in the outbox.
pub fn letters(c: &Connection, limit: usize) -> Done<Vec<Letter>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut statement = c.prepare_cached(
        "SELECT l.id, ifnull(l.properties, e.properties), ifnull(l.body, e.body), l.reason, l.detail, l.event, \
         l.integration, l.attempts, l.last_status, l.first_attempt_at, l.at \
         FROM letters l LEFT JOIN events e ON e.no = l.event_no ORDER BY l.id LIMIT ?1",
    )?;
    let (mut found, mut bytes) = (Vec::new(), 0);
    let mut rows = statement.query([limit])?;
    while bytes < ROUND_BYTES
        && let Some(row) = rows.next()?
    {
        let letter = read(row)?;
        bytes += letter.envelope.body.len();
        found.push(letter);
    }
    Ok(found)
}

/// Reads what can be read: a letter that is damaged goes out damaged, rather than keep all others in.
fn read(row: &Row<'_>) -> rusqlite::Result<Letter> {
    let id: i64 = row.get(0)?;
    let mut detail = text(row, 4)?.unwrap_or_default();
    let body: Option<Vec<u8>> = row.get(2)?;
    let left = if body.is_some() { "its body alone" } else { "nothing" };
    let (event, integration) = (text(row, 5)?, text(row, 6)?);
    let kept = text(row, 1)?.filter(|_| body.is_some()).and_then(|kept| envelope(&kept, Vec::new()));
    let mut envelope = kept.unwrap_or_else(|| {
        tracing::error!(
            letter = id,
            event_id = event,
            integration_id = integration,
            "a dead letter is damaged in the store: of its event, {left} could be read"
        );
        detail.push_str(&format!(" (damaged in the store: of the event, {left} could be read)"));
        Envelope::default()
    });
    envelope.body = body.unwrap_or_default();
    Ok(Letter {
        id,
        envelope,
        reason: text(row, 3)?
            .and_then(|word| DeadLetterReason::from_text(&word))
            .unwrap_or(DeadLetterReason::WorkerFault),
        detail,
        event: event.map(EventId::new),
        integration: integration.map(IntegrationId::new),
        attempts: u32::try_from(row.get::<_, i64>(7)?).unwrap_or_default(),
        last_status: row.get::<_, Option<i64>>(8)?.and_then(|status| u16::try_from(status).ok()),
        first_attempt_at: row.get::<_, Option<i64>>(9)?.map(time),
        at: time(row.get(10)?),
    })
}

/// Takes confirmed letters out; their notifications end as dead-lettered. Ids that are not there any more
/// change nothing.
pub fn buried(c: &Connection, ids: &[i64], at: Timestamp) -> Done<()> {
    for id in ids {
        let letter: Option<(Option<i64>, String, String)> = c
            .prepare_cached("DELETE FROM letters WHERE id = ?1 RETURNING seq, reason, detail")?
            .query_row([id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .optional()?;
        let Some((Some(seq), reason, detail)) = letter else { continue };
        if let Some(open) = find(c, seq)?.filter(Open::is_burying) {
            let ending =
                Ending { outcome: Outcome::DeadLettered, reason: &reason, detail: &detail, at, status: None };
            end(c, &open, &ending)?;
        }
    }
    Ok(())
}
