//! The outbox of the dead-letter queue: letters are written with the change that made them, and leave when
//! the broker has confirmed them.

use jiff::Timestamp;
use rusqlite::{OptionalExtension, Row, params};

use super::db::Db;
use super::errors::{Done, text};
use super::notifications::{Open, end, find};
use crate::adapters::store::outbox::LetterRow;
use crate::adapters::store::rows::{micros, properties};
use crate::adapters::store::state::Ending;
use crate::adapters::store::terms::ROUND_BYTES;
use crate::domain::ids::{EventId, IntegrationId};
use crate::domain::reason::Outcome;
use crate::ports::Letter;

/// Stores a letter that carries its own envelope: an event that could not be decided.
pub fn insert(db: &Db<'_>, letter: &Letter) -> rusqlite::Result<()> {
    db.execute(
        "INSERT INTO letters (event, integration, properties, body, reason, detail, attempts, last_status, \
         first_attempt_at, at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        params![
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
        ],
    )
    .map(|_| ())
}

/// The oldest letters in the outbox.
pub fn letters(db: &Db<'_>, limit: usize) -> Done<Vec<Letter>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let oldest = "SELECT l.id, ifnull(l.properties, e.properties), ifnull(l.body, e.body), l.reason, l.detail, l.event, \
         l.integration, l.attempts, l.last_status, l.first_attempt_at, l.at \
         FROM letters l LEFT JOIN events e ON e.no = l.event_no ORDER BY l.id LIMIT ?1";
    db.with(oldest, |statement| {
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
    })
}

fn read(row: &Row<'_>) -> rusqlite::Result<Letter> {
    let row = LetterRow {
        id: row.get(0)?,
        properties: text(row, 1)?,
        body: row.get(2)?,
        reason: text(row, 3)?.unwrap_or_default(),
        detail: text(row, 4)?.unwrap_or_default(),
        event: text(row, 5)?,
        integration: text(row, 6)?,
        attempts: row.get(7)?,
        last_status: row.get(8)?,
        first_attempt_at: row.get(9)?,
        at: row.get(10)?,
    };
    Ok(row.read())
}

/// Takes confirmed letters out; their notifications end as dead-lettered. Ids that are not there any more
/// change nothing.
pub fn buried(db: &Db<'_>, ids: &[i64], at: Timestamp) -> Done<()> {
    for id in ids {
        let letter: Option<(Option<i64>, String, String)> = db
            .query_row("DELETE FROM letters WHERE id = ?1 RETURNING seq, reason, detail", [id], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })
            .optional()?;
        let Some((Some(seq), reason, detail)) = letter else { continue };
        if let Some(open) = find(db, seq)?.filter(Open::is_burying) {
            let ending = Ending {
                outcome: Outcome::DeadLettered,
                reason: &reason,
                detail: detail.into(),
                at,
                status: None,
            };
            end(db, &open, &ending)?;
        }
    }
    Ok(())
}
