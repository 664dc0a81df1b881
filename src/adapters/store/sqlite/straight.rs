//! Notifications that are told straight from intake: handed out instead of written, while the broker still holds
//! their events. Each room has one at most.
//!
//! When such a room is settled as told, its outcome is written, together with what else its event changes: the
//! streak, the room's meter, the token's. Anything else first writes it down, as a pending notification in a held
//! room; from there on it is like any other. So is one that intake, a claim or another settlement meets, before it
//! does its own work. If the process dies, nothing of it was ever written, and the broker delivers the event again.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use rusqlite::{OptionalExtension, params};
use tokio::sync::mpsc;

use super::claim::read_state;
use super::db::Db;
use super::errors::Done;
use super::in_flight::{Entry, Open};
use super::intake::{Batch, Gathered};
use super::memory::Memory;
use super::standing::Known;
use super::{standing, tokens};
use crate::adapters::store::handing::{Choice, Told, told_alone, waiting};
use crate::adapters::store::meters;
use crate::adapters::store::rows::{meter_text, micros, span, time};
use crate::domain::ids::{IntegrationId, RoomKey};
use crate::domain::pacing::later;
use crate::domain::reason::Outcome;
use crate::ports::{
    IntakeChanges, IntakeQuery, NewNotification, RoomLine, RoomState, Settled, Settlement, Straight,
};

/// Writes down what a batch has to know of before it can be decided.
pub fn before_decision(db: &Db<'_>, memory: &mut Memory, query: &IntakeQuery) -> Done<()> {
    let touched = memory.in_flight.touched_by_query(query);
    touched.iter().try_for_each(|room| write_down(db, memory, room))
}

/// Writes down what a batch's decisions come after.
pub fn before_writing(db: &Db<'_>, memory: &mut Memory, changes: &IntakeChanges) -> Done<()> {
    let touched = memory.in_flight.touched_by_changes(changes);
    touched.iter().try_for_each(|room| write_down(db, memory, room))
}

/// Writes down what is left of the entries in `seqs`, whose rooms take long.
pub fn write_down_slow(db: &Db<'_>, memory: &mut Memory, seqs: &HashSet<i64>) -> Done<()> {
    let late = memory.in_flight.rooms_of(seqs);
    late.iter().try_for_each(|room| write_down(db, memory, room))
}

/// Writes a handed out notification down as pending and its room as held, as if intake had written and a claim had
/// taken them. Nothing to do if it is not handed out.
pub fn write_down(db: &Db<'_>, memory: &mut Memory, room: &RoomKey) -> Done<()> {
    let Some(entry) = memory.in_flight.remove(room) else { return Ok(()) };
    let written =
        Batch::new(db, memory, Gathered::default()).write_down(&entry.event, entry.seq, entry.moved.as_ref());
    let written = written.and_then(|()| hold(db, &entry));
    memory.in_flight.leave(entry);
    written
}

fn hold(db: &Db<'_>, entry: &Entry) -> Done<()> {
    let lapse = micros(later(entry.held_since, entry.lease));
    db.execute(
        "INSERT INTO rooms (room, claim, lease_until, due_at, lease, claimed_at_revision) \
         VALUES (?1, ?2, ?3, ?3, ?4, ?5) ON CONFLICT (room) DO UPDATE SET claim = ?2, lease_until = ?3, \
         due_at = ?3, lease = ?4, hold_until = NULL, fresh_at = NULL, claimed_at_revision = ?5",
        params![
            entry.room.as_str(),
            i64::try_from(entry.claim).unwrap_or(i64::MAX),
            lapse,
            span(entry.lease),
            i64::try_from(entry.revision).unwrap_or(i64::MAX),
        ],
    )?;
    tokens::set_reservation(db, &entry.room, &entry.token, 1)?;
    Ok(())
}

/// Settles a handed out room, if it was told and that is all; `None` if there is more to it.
pub fn settle(db: &Db<'_>, memory: &mut Memory, s: &Settlement) -> Done<Option<Settled>> {
    let Some(entry) = memory.in_flight.get(&s.room) else { return Ok(None) };
    let Some(told) = told_alone(s, entry.seq) else { return Ok(None) };
    let Some(entry) = memory.in_flight.remove(&s.room) else { return Ok(None) };
    let written = insert_told(db, &entry, &told)
        .and_then(|()| {
            Batch::new(db, memory, Gathered::default()).told(&entry.event, entry.seq, entry.moved.as_ref())
        })
        .and_then(|()| rest(db, memory, &entry, s));
    memory.in_flight.leave(entry);
    written.map(|at_rest| Some(if at_rest { Settled::AtRest } else { Settled::Applied }))
}

fn insert_told(db: &Db<'_>, entry: &Entry, told: &Told) -> Done<()> {
    let at = micros(told.at);
    db.execute(
        "INSERT INTO notifications (seq, event, integration, room, state, reason, detail, attempts, \
         first_attempt_at, last_status, received_at, decided_at, sent_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 1, ?8, ?9, ?10, ?8, ?8)",
        params![
            entry.seq,
            entry.event.id.as_str(),
            entry.integration().as_str(),
            entry.room.as_str(),
            Outcome::Sent.as_str(),
            told.reason,
            told.detail,
            at,
            told.status,
            micros(entry.event.received.at),
        ],
    )?;
    Ok(())
}

/// Keeps the state of a room that was told. Returns whether nothing waits in it: another process may have moved
/// something here meanwhile.
fn rest(db: &Db<'_>, memory: &mut Memory, entry: &Entry, s: &Settlement) -> Done<bool> {
    let due_at: Option<i64> = db.query_row(
        "INSERT INTO rooms (room, claim, meter, expired_untold) VALUES (?1, ?2, ?3, ?4) \
             ON CONFLICT (room) DO UPDATE SET claim = ?2, meter = ?3, expired_untold = ?4 RETURNING due_at",
        params![
            s.room.as_str(),
            i64::try_from(entry.claim).unwrap_or(i64::MAX),
            meter_text(&s.state.meter),
            s.state.expired_untold,
        ],
        |row| row.get(0),
    )?;
    if due_at.is_some() {
        return Ok(false);
    }
    memory.resting.put(&s.room, (entry.claim, s.state.clone()));
    Ok(true)
}

/// Chooses what of a batch is told straight, and hands it out. What is chosen must not be written. `places` are those of
/// the events, in the lines.
pub fn hand_out(
    db: &Db<'_>,
    memory: &mut Memory,
    changes: &IntakeChanges,
    (gathered, places): (&Gathered, &[i64]),
    straight: &Straight,
) -> Done<HandedOut> {
    let choice = Choice::among(changes);
    let revision = standing::revision(db)?;
    let (open, ended) = mpsc::channel(1);
    let mut handed = HandedOut { integrations: HashSet::new(), seqs: HashSet::new(), ended };
    for (event, &seq) in changes.events.iter().zip(places) {
        if handed.seqs.len() == straight.most {
            break;
        }
        let fitting = choice.fits(event).filter(|(new, _)| {
            (straight.is_quick)(&new.room) && memory.in_flight.is_durable(&new.room, &new.integration)
        });
        let Some((new, story)) = fitting else { continue };
        let known = memory.standings.of(db, &new.integration)?;
        let Some(token) = known.filter(|known| hears(known, new)).map(|known| known.standing.token.clone())
        else {
            continue;
        };
        let Some((claim, state)) = idle(db, memory, &new.room, straight)? else { continue };
        let Some(grants) = tokens::grant_one(db, memory, &token, straight)? else {
            continue;
        };
        let line = RoomLine {
            room: new.room.clone(),
            claim,
            state,
            waiting: vec![waiting(seq, event, new, *story)],
            going_on: Vec::new(),
            tokens: grants,
            throttles: HashMap::new(),
        };
        memory.in_flight.insert(Entry {
            event: event.clone(),
            moved: choice.moved(&new.integration).map(|(key, streak)| gathered.moved(key, *streak)),
            seq,
            room: new.room.clone(),
            token,
            claim,
            revision,
            held_since: straight.now,
            lease: straight.terms.lease,
            _open: open.clone(),
        });
        handed.integrations.insert(new.integration.clone());
        handed.seqs.insert(seq);
        (straight.hand)(line);
    }
    Ok(handed)
}

/// What was handed out of one batch.
pub struct HandedOut {
    /// Whose streaks go with their outcomes.
    pub integrations: HashSet<IntegrationId>,
    /// Places in the lines.
    pub seqs: HashSet<i64>,
    /// Ends when all is durable.
    pub ended: Open,
}

/// Whether the integration may be told this now, in the room that was decided, and has no throttle that counts.
fn hears(known: &Known, new: &NewNotification) -> bool {
    let Known { standing, throttled } = known;
    !standing.paused && standing.suspended.is_none() && !throttled && standing.room == new.room.as_str()
}

/// The next claim and the state of a room in which nothing waits and that may be told something now.
fn idle(
    db: &Db<'_>,
    memory: &mut Memory,
    room: &RoomKey,
    straight: &Straight,
) -> Done<Option<(u64, RoomState)>> {
    let now = straight.now;
    let (claim, state) = match memory.resting.take(room) {
        Some((claim, state)) => (claim + 1, RoomState { meter: meters::sane(state.meter, now), ..state }),
        None => match read_idle(db, room, now)? {
            Some(found) => found,
            None => return Ok(None),
        },
    };
    let open = state.retry.is_none() && state.meter.available(straight.terms.room_budget, now) > 0;
    Ok(open.then_some((claim, state)))
}

/// Reads the next claim and the state of a room in which nothing waits, and which nothing holds up.
fn read_idle(db: &Db<'_>, room: &RoomKey, now: Timestamp) -> Done<Option<(u64, RoomState)>> {
    let kept = db
        .query_row(
            "SELECT claim, meter, retry_failures, retry_at, expired_untold, hold_until, \
             due_at IS NULL AND lease_until IS NULL FROM rooms WHERE room = ?1",
            [room.as_str()],
            |row| {
                let hold_until: Option<i64> = row.get(5)?;
                let rests = row.get(6)? && hold_until.is_none_or(|until| time(until) <= now);
                Ok((row.get::<_, i64>(0)?.unsigned_abs() + 1, read_state(row, room, now)?, rests))
            },
        )
        .optional()?;
    let (claim, state, rests) = kept.unwrap_or((1, RoomState::default(), true));
    Ok(rests.then_some((claim, state)))
}
