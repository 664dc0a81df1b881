//! A wall clock that was set back. Every time in the store that lies ahead was reckoned by the clock as it was,
//! so all of them move back with it: otherwise rooms would be silent until the old time comes again.

use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::errors::Done;
use crate::adapters::store::rows::{micros, time};
use crate::domain::pacing::{LONGEST_SERVER_WAIT, Meter, later};

/// How far a clock may go back unnoticed: a wait that is longer by this does no harm.
const TOLERATED: i64 = 60 * 1_000_000;
/// How far the noted time may lag, so that not every claim writes it.
const NOTE_EVERY: i64 = 10 * 1_000_000;

/// The times that lie ahead, by table.
const AHEAD: [&str; 4] = [
    "UPDATE rooms SET due_at = due_at - ?1, hold_until = hold_until - ?1, fresh_at = fresh_at - ?1, \
     lease_until = lease_until - ?1, retry_at = retry_at - ?1",
    "UPDATE throttles SET closed_until = closed_until - ?1 WHERE closed_until IS NOT NULL",
    "UPDATE notifications SET ready_at = ready_at - ?1 WHERE state = 'gathering'",
    "UPDATE collations SET until = until - ?1",
];

/// Notes the time, and moves what lies ahead if it went back.
pub fn note(c: &Connection, now: Timestamp) -> Done<()> {
    let noted: i64 =
        c.prepare_cached("SELECT value FROM meta WHERE name = 'clock'")?.query_row([], |row| row.get(0))?;
    let now = micros(now);
    let back = noted.saturating_sub(now);
    if back > TOLERATED {
        tracing::warn!(from = %time(noted), to = %time(now), "the clock was set back; all waits move with it");
        for sql in AHEAD {
            c.prepare_cached(sql)?.execute([back])?;
        }
    }
    if back > TOLERATED || -back >= NOTE_EVERY {
        c.prepare_cached("UPDATE meta SET value = ?1 WHERE name = 'clock'")?.execute(params![now])?;
    }
    Ok(())
}

/// A meter as it can be at `now`. What it counted or learned at a time that has not come counts as spent or told just
/// now, and no server's word holds longer than one may.
pub fn sane(mut meter: Meter, now: Timestamp) -> Meter {
    if meter.slot_ms > 0 {
        let ahead = meter.newest.saturating_sub(now.as_millisecond().div_euclid(meter.slot_ms));
        // A slot or two may be another process's clock.
        if ahead > 2 {
            meter.newest -= ahead;
        }
    }
    if let Some(learned) = &mut meter.learned {
        learned.at = learned.at.min(now);
    }
    meter.blocked_until = meter.blocked_until.map(|until| until.min(later(now, LONGEST_SERVER_WAIT)));
    meter
}
