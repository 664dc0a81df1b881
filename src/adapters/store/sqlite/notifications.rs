//! The named changes of a notification's row, shared by intake, settlements and the registry. Nothing else
//! writes `state`; whatever ends a notification lets go of its event here.

use jiff::Timestamp;
use rusqlite::{OptionalExtension, Row, params};

use super::db::Db;
use crate::adapters::store::rows::micros;
use crate::adapters::store::state::{self, BURYING, DEAD_LETTERING, Ending};
use crate::domain::ids::{EventId, IntegrationId};
use crate::domain::reason::{DeadLetterReason, Outcome, SuppressReason};

/// The part of a row that transitions look at.
pub struct Open {
    pub seq: i64,
    pub room: String,
    state: String,
    event_no: Option<i64>,
}

impl Open {
    /// Whether it still waits to be told.
    pub fn waits(&self) -> bool {
        state::waits(&self.state)
    }

    /// Whether its letter is in the outbox.
    pub fn is_burying(&self) -> bool {
        self.state == BURYING
    }

    /// Whether it is in its room already.
    pub fn is_told(&self) -> bool {
        state::is_told(&self.state)
    }

    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self { seq: row.get(0)?, room: row.get(1)?, state: row.get(2)?, event_no: row.get(3)? })
    }
}

/// The row of `seq`, if the journal still has it.
pub fn find(db: &Db<'_>, seq: i64) -> rusqlite::Result<Option<Open>> {
    db.query_row("SELECT seq, room, state, event_no FROM notifications WHERE seq = ?1", [seq], Open::read)
        .optional()
}

/// All that wait to be told for one integration, in order.
pub fn waiting_of(db: &Db<'_>, integration: &IntegrationId) -> rusqlite::Result<Vec<Open>> {
    db.query_all(
        "SELECT seq, room, state, event_no FROM notifications \
         WHERE integration = ?1 AND event_no IS NOT NULL AND state IN ('pending', 'gathering') ORDER BY seq",
        [integration.as_str()],
        Open::read,
    )
}

/// Ends one, whatever it was, and lets go of its event. If it ends untold, its room may be wrong about the
/// monitor from now on (one whose letter is out lost its telling when it was given up).
pub fn end(db: &Db<'_>, open: &Open, ending: &Ending<'_>) -> rusqlite::Result<()> {
    let at = micros(ending.at);
    let told = ending.outcome.is_told();
    db.execute(
        "UPDATE notifications SET state = ?2, reason = ?3, detail = ?4, decided_at = ?5, sent_at = ?6, \
         attempts = attempts + (?6 IS NOT NULL), first_attempt_at = ifnull(first_attempt_at, ?6), \
         last_status = ifnull(?7, last_status), event_no = NULL, gather = NULL WHERE seq = ?1",
        params![
            open.seq,
            ending.outcome.as_str(),
            ending.reason,
            ending.detail,
            at,
            told.then_some(at),
            ending.status,
        ],
    )?;
    if open.state == BURYING {
        // It is in the room after all: there is nothing to bury.
        db.execute("DELETE FROM letters WHERE seq = ?1", [open.seq])?;
    } else if !told {
        doubt(db, open.seq)?;
    }
    match open.event_no {
        Some(no) => let_go(db, no),
        None => Ok(()),
    }
}

/// A notification will not be told: what its room believes of the monitor is not known any more.
fn doubt(db: &Db<'_>, seq: i64) -> rusqlite::Result<()> {
    let streak = db
        .query_row(
            "SELECT integration, monitor, region FROM notifications WHERE seq = ?1 AND monitor IS NOT NULL",
            [seq],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )
        .optional()?;
    streak.map_or(Ok(()), |(integration, monitor, region): (String, String, String)| {
        doubt_streak(db, [&integration, &monitor, &region], seq)
    })
}

/// Makes the belief of a streak (integration, monitor, region) unsure because its news `seq` is lost, also where
/// no run has moved it yet. Where later news of it is told or waits, the room knows, or will know, better.
pub fn doubt_streak(db: &Db<'_>, streak: [&str; 3], seq: i64) -> rusqlite::Result<()> {
    db.streaks_have_changed();
    db.execute(
        "INSERT INTO streaks (integration, monitor, region, failures, belief, touched) \
         SELECT id, ?2, ?3, 0, 'unsure', (SELECT nullif(value, 0) FROM meta WHERE name = 'clock') \
         FROM integrations WHERE id = ?1 \
         ON CONFLICT (integration, monitor, region) DO UPDATE SET belief = 'unsure' \
         WHERE ifnull(news, 0) <= ?4",
        params![streak[0], streak[1], streak[2], seq],
    )
    .map(|_| ())
}

/// One notification less needs the event; the last one takes its body along.
fn let_go(db: &Db<'_>, event_no: i64) -> rusqlite::Result<()> {
    let deleted = db.execute("DELETE FROM events WHERE no = ?1 AND open <= 1", [event_no])?;
    if deleted == 0 {
        db.execute("UPDATE events SET open = open - 1 WHERE no = ?1", [event_no])?;
    }
    Ok(())
}

/// Ends all that wait for one integration as suppressed.
pub fn suppress_waiting(
    db: &Db<'_>,
    integration: &IntegrationId,
    reason: SuppressReason,
    detail: &str,
    at: Timestamp,
) -> rusqlite::Result<()> {
    let ending = Ending {
        outcome: Outcome::Suppressed,
        reason: reason.as_str(),
        detail: detail.into(),
        at,
        status: None,
    };
    for open in waiting_of(db, integration)? {
        end(db, &open, &ending)?;
    }
    Ok(())
}

/// Counts an attempt, with the answer's status if there was an answer.
pub fn count_attempt(db: &Db<'_>, seq: i64, at: Timestamp, status: Option<u16>) -> rusqlite::Result<()> {
    db.execute(
        "UPDATE notifications SET attempts = attempts + 1, first_attempt_at = ifnull(first_attempt_at, ?2), \
         last_status = ?3 WHERE seq = ?1",
        params![seq, micros(at), status],
    )
    .map(|_| ())
}

/// Puts one that waits into the outbox of letters. It keeps its event until the letter is confirmed.
pub fn bury(
    db: &Db<'_>,
    seq: i64,
    reason: DeadLetterReason,
    detail: &str,
    at: Timestamp,
) -> rusqlite::Result<()> {
    db.execute(
        "UPDATE notifications SET state = 'burying', reason = ?2, detail = ?3, decided_at = ?4, \
         gather = NULL WHERE seq = ?1",
        params![seq, DEAD_LETTERING, detail, micros(at)],
    )?;
    db.execute(
        "INSERT INTO letters (seq, event, integration, event_no, reason, detail, attempts, last_status, \
         first_attempt_at, at) SELECT seq, event, integration, event_no, ?2, ?3, attempts, last_status, \
         first_attempt_at, ?4 FROM notifications WHERE seq = ?1",
        params![seq, reason.as_str(), detail, micros(at)],
    )?;
    doubt(db, seq)
}

/// A dead letter comes back: its earlier end makes room for the new beginning. Where the broker has the letter
/// but that is not written down yet, it leaves the outbox too.
pub fn exhume(db: &Db<'_>, event: &EventId, integration: &IntegrationId) -> rusqlite::Result<()> {
    let ended: Option<(i64, Option<i64>)> = db
        .query_row(
            "DELETE FROM notifications WHERE event = ?1 AND integration = ?2 \
             AND state IN ('dead-lettered', 'burying') RETURNING seq, event_no",
            [event.as_str(), integration.as_str()],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?;
    let Some((seq, Some(event_no))) = ended else { return Ok(()) };
    db.execute("DELETE FROM letters WHERE seq = ?1", [seq])?;
    let_go(db, event_no)
}

/// Tells a room's row that something for it gets ready at `ready_at`. A held room hears of it when it is
/// given back; one that can't send before `hold_until` stays asleep until then.
pub fn wake_room(db: &Db<'_>, room: &str, ready_at: i64) -> rusqlite::Result<()> {
    db.execute(
        "INSERT INTO rooms (room, due_at) VALUES (?1, ?2) ON CONFLICT (room) DO UPDATE SET \
         due_at = CASE WHEN lease_until IS NOT NULL THEN due_at \
           ELSE min(ifnull(due_at, 9223372036854775807), max(?2, ifnull(hold_until, ?2))) END, \
         fresh_at = CASE WHEN lease_until IS NULL THEN fresh_at \
           ELSE min(ifnull(fresh_at, 9223372036854775807), ?2) END",
        params![room, ready_at],
    )
    .map(|_| ())
}
