//! Settling a step on a held room: the transitions, the room's new state, and when it is looked at again.

use jiff::Timestamp;
use rusqlite::{OptionalExtension, params};

use super::claim::{has_ready, next_opening, next_ready};
use super::db::Db;
use super::errors::Done;
use super::memory::Memory;
use super::notifications::{Open, bury, count_attempt, end, find, waiting_of};
use super::{standing, straight, tokens};
use crate::adapters::store::release::{Held, Left, Next};
use crate::adapters::store::rows::{meter_text, micros};
use crate::adapters::store::state::Ending;
use crate::domain::ids::{IntegrationId, RoomKey};
use crate::domain::reason::DeadLetterReason;
use crate::ports::{Settled, Settlement, Then, Transition};

/// Applies a settlement, or nothing if the room is no longer the settler's.
pub fn settle(db: &Db<'_>, memory: &mut Memory, s: &Settlement) -> Done<Settled> {
    memory.in_flight.settled(&s.room);
    if memory.in_flight.is_held(&s.room, s.claim) {
        if let Some(settled) = straight::settle(db, memory, s)? {
            s.calls.iter().try_for_each(|calls| tokens::count(db, memory, calls, s.now))?;
            spend_throttles(db, memory, s)?;
            return Ok(settled);
        }
        straight::write_down(db, memory, &s.room)?;
    }
    memory.resting.forget_one(&s.room);
    let Some(held) = held(db, s)? else { return Ok(Settled::LostClaim) };
    for transition in &s.transitions {
        apply(db, &s.room, &held, transition)?;
    }
    for calls in &s.calls {
        tokens::spend(db, memory, &s.room, calls, s.now)?;
    }
    spend_throttles(db, memory, s)?;
    for (integration, until) in &s.closed {
        db.execute(
            "INSERT INTO throttles (integration, closed_until) SELECT id, ?2 FROM integrations WHERE id = ?1 \
             ON CONFLICT (integration) DO UPDATE SET closed_until = ?2",
            params![integration.as_str(), micros(*until)],
        )?;
    }
    let suspends = s.transitions.iter().any(|transition| matches!(transition, Transition::Broken { .. }));
    if suspends || !s.closed.is_empty() {
        memory.standings.forget();
    }
    let next = next(db, s, &held)?;
    save(db, s, &next)?;
    Ok(next.settled())
}

fn spend_throttles(db: &Db<'_>, memory: &mut Memory, s: &Settlement) -> Done<()> {
    for (integration, meter) in &s.throttles {
        // One that was removed meanwhile leaves no meter behind.
        db.execute(
            "INSERT INTO throttles (integration, meter) SELECT id, ?2 FROM integrations WHERE id = ?1 \
             ON CONFLICT (integration) DO UPDATE SET meter = ?2",
            [integration.as_str(), &meter_text(meter)],
        )?;
        memory.standings.throttled(integration);
    }
    Ok(())
}

/// The room, if it is held by this very claim. A lease that has lapsed counts as long as nobody else has
/// claimed the room.
fn held(db: &Db<'_>, s: &Settlement) -> rusqlite::Result<Option<Held>> {
    let claim = i64::try_from(s.claim).unwrap_or(-1);
    db.query_row(
        "SELECT lease, fresh_at, claimed_at_revision FROM rooms \
         WHERE room = ?1 AND claim = ?2 AND lease_until IS NOT NULL",
        params![s.room.as_str(), claim],
        |row| {
            Ok(Held {
                lease: row.get(0)?,
                fresh_at: row.get(1)?,
                revision: row.get::<_, i64>(2)?.unsigned_abs(),
            })
        },
    )
    .optional()
}

fn apply(db: &Db<'_>, room: &RoomKey, held: &Held, transition: &Transition) -> Done<()> {
    match transition {
        Transition::Sent { .. }
        | Transition::Digested { .. }
        | Transition::Suppressed { .. }
        | Transition::Expired { .. } => match Ending::by(transition) {
            Some(ending) if ending.outcome.is_told() => told(db, transition.seqs(), &ending),
            Some(ending) => end_waiting(db, room, transition.seqs(), &ending),
            None => Ok(()),
        },
        Transition::Attempted { seqs, at, status, detail, plain_next } => {
            for open in still_waiting(db, room, seqs)? {
                count_attempt(db, open.seq, *at, *status)?;
                db.execute(
                    "UPDATE notifications SET detail = ?2, plain = ?3 WHERE seq = ?1",
                    params![open.seq, detail, plain_next],
                )?;
            }
            Ok(())
        }
        Transition::DeadLettered { seqs, reason, detail, at, status, attempted } => {
            for open in still_waiting(db, room, seqs)? {
                if *attempted {
                    count_attempt(db, open.seq, *at, *status)?;
                }
                bury(db, open.seq, *reason, detail, *at)?;
            }
            Ok(())
        }
        Transition::Broken { integration, seqs, detail, at, status } => {
            let attempt = Refusal { seqs, detail, at: *at, status: *status };
            broken(db, room, held, integration, &attempt)
        }
    }
}

/// What was posted is in the room, whatever the row became meanwhile.
fn told(db: &Db<'_>, seqs: &[i64], ending: &Ending<'_>) -> Done<()> {
    for seq in seqs {
        let Some(open) = find(db, *seq)? else { continue };
        if open.is_told() {
            continue;
        }
        end(db, &open, ending)?;
    }
    Ok(())
}

/// Those of `seqs` that still wait in this room's line.
fn still_waiting(db: &Db<'_>, room: &RoomKey, seqs: &[i64]) -> rusqlite::Result<Vec<Open>> {
    let mut found = Vec::with_capacity(seqs.len());
    for seq in seqs {
        if let Some(open) = find(db, *seq)?
            && open.waits()
            && open.room == room.as_str()
        {
            found.push(open);
        }
    }
    Ok(found)
}

fn end_waiting(db: &Db<'_>, room: &RoomKey, seqs: &[i64], ending: &Ending<'_>) -> Done<()> {
    for open in still_waiting(db, room, seqs)? {
        end(db, &open, ending)?;
    }
    Ok(())
}

/// The attempt after which an integration is broken.
struct Refusal<'a> {
    seqs: &'a [i64],
    detail: &'a str,
    at: Timestamp,
    status: Option<u16>,
}

fn broken(
    db: &Db<'_>,
    room: &RoomKey,
    held: &Held,
    integration: &IntegrationId,
    refusal: &Refusal<'_>,
) -> Done<()> {
    for open in still_waiting(db, room, refusal.seqs)? {
        count_attempt(db, open.seq, refusal.at, refusal.status)?;
    }
    if !standing::suspend(db, integration, refusal.detail, held.revision)? {
        // Its URL was changed after the claim: the refusal says nothing about the new one.
        return Ok(());
    }
    for open in waiting_of(db, integration)? {
        bury(db, open.seq, DeadLetterReason::IntegrationBroken, refusal.detail, refusal.at)?;
    }
    Ok(())
}

fn save(db: &Db<'_>, s: &Settlement, next: &Next) -> rusqlite::Result<()> {
    db.execute(
        "UPDATE rooms SET meter = ?2, retry_failures = ?3, retry_at = ?4, expired_untold = ?5, \
         lease_until = ?6, due_at = ?7, hold_until = ?8, fresh_at = ?9 WHERE room = ?1",
        params![
            s.room.as_str(),
            meter_text(&s.state.meter),
            s.state.retry.map(|retry| retry.failures),
            s.state.retry.map(|retry| micros(retry.at)),
            s.state.expired_untold,
            next.lease_until,
            next.due_at,
            next.hold_until,
            next.fresh_at,
        ],
    )
    .map(|_| ())
}

fn next(db: &Db<'_>, s: &Settlement, held: &Held) -> Done<Next> {
    if s.then == Then::Hold {
        return Ok(held.renewed(s.now));
    }
    tokens::give_back(db, &s.room)?;
    let left = Left {
        next_ready: next_ready(db, &s.room)?,
        next_opening: next_opening(db, &s.room, s.now)?,
        has_ready: has_ready(db, &s.room, s.now)?,
    };
    Ok(held.released(s, &left))
}
