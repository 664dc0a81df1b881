//! A wall clock that was set back. Every time in the store that lies ahead was reckoned by the clock as it was,
//! so all of them move back with it: otherwise rooms would be silent until the old time comes again.

use jiff::Timestamp;
use rusqlite::params;

use super::db::Db;
use super::errors::Done;
use crate::adapters::store::rows::{micros, time};
use crate::adapters::store::terms::{NOTE_EVERY, TOLERATED};

/// The times that lie ahead, by table.
const AHEAD: [&str; 4] = [
    "UPDATE rooms SET due_at = due_at - ?1, hold_until = hold_until - ?1, fresh_at = fresh_at - ?1, \
     lease_until = lease_until - ?1, retry_at = retry_at - ?1",
    "UPDATE throttles SET closed_until = closed_until - ?1 WHERE closed_until IS NOT NULL",
    "UPDATE notifications SET ready_at = ready_at - ?1 WHERE state = 'gathering'",
    "UPDATE collations SET until = until - ?1",
];

/// Who holds a room had it before the clock went back and has it still. How much of the lease is left is not known: what
/// was tolerated before may have been too much. A whole one is safe, and at worst a dead worker's room waits for that.
const HELD: &str = "UPDATE rooms SET lease_until = ?1 + lease, due_at = ?1 + lease WHERE lease_until > 0";

/// What was found when the time was noted.
#[derive(Debug, PartialEq, Eq)]
pub enum Noted {
    GoesOn,
    SetBack,
}

/// Notes the time, and moves what lies ahead if it went back.
pub fn note(db: &Db<'_>, now: Timestamp) -> Done<Noted> {
    let noted: i64 = db.query_row("SELECT value FROM meta WHERE name = 'clock'", [], |row| row.get(0))?;
    let now = micros(now);
    let back = noted.saturating_sub(now);
    if back > TOLERATED {
        tracing::warn!(from = %time(noted), to = %time(now), "the clock was set back; all waits move with it");
        for sql in AHEAD {
            db.execute(sql, [back])?;
        }
        db.execute(HELD, [now])?;
    }
    if back > TOLERATED || -back >= NOTE_EVERY {
        db.execute("UPDATE meta SET value = ?1 WHERE name = 'clock'", params![now])?;
    }
    Ok(if back > TOLERATED { Noted::SetBack } else { Noted::GoesOn })
}
