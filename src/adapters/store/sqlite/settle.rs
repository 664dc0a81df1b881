//! Settling a step on a held room: the transitions, the room's new state, and when it is looked at again.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::claim::{has_ready, next_opening, next_ready};
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
pub fn settle(c: &Connection, memory: &mut Memory, s: &Settlement) -> Done<Settled> {
    memory.in_flight.settled(&s.room);
    if memory.in_flight.is_held(&s.room, s.claim) {
        if let Some(settled) = straight::settle(c, memory, s)? {
            s.calls.iter().try_for_each(|calls| tokens::count(c, calls, s.now))?;
            spend_throttles(c, memory, s)?;
            return Ok(settled);
        }
        straight::write_down(c, memory, &s.room)?;
    }
    let Some(held) = held(c, s)? else { return Ok(Settled::LostClaim) };
    for transition in &s.transitions {
        apply(c, &s.room, &held, transition)?;
    }
    for calls in &s.calls {
        tokens::spend(c, &s.room, calls, s.now)?;
    }
    spend_throttles(c, memory, s)?;
    for (integration, until) in &s.closed {
        c.prepare_cached(
            "INSERT INTO throttles (integration, closed_until) SELECT id, ?2 FROM integrations WHERE id = ?1 \
             ON CONFLICT (integration) DO UPDATE SET closed_until = ?2",
        )?
        .execute(params![integration.as_str(), micros(*until)])?;
    }
    let suspends = s.transitions.iter().any(|transition| matches!(transition, Transition::Broken { .. }));
    if suspends || !s.closed.is_empty() {
        memory.standings.forget();
    }
    let next = next(c, s, &held)?;
    save(c, s, &next)?;
    Ok(next.settled())
}

fn spend_throttles(c: &Connection, memory: &mut Memory, s: &Settlement) -> Done<()> {
    for (integration, meter) in &s.throttles {
        // One that was removed meanwhile leaves no meter behind.
        c.prepare_cached(
            "INSERT INTO throttles (integration, meter) SELECT id, ?2 FROM integrations WHERE id = ?1 \
             ON CONFLICT (integration) DO UPDATE SET meter = ?2",
        )?
        .execute([integration.as_str(), &meter_text(meter)])?;
        memory.standings.throttled(integration);
    }
    Ok(())
}

/// The room, if it is held by this very claim. A lease that has lapsed counts as long as nobody else has
/// claimed the room.
fn held(c: &Connection, s: &Settlement) -> rusqlite::Result<Option<Held>> {
    let claim = i64::try_from(s.claim).unwrap_or(-1);
    c.prepare_cached(
        "SELECT lease, fresh_at, claimed_at_revision FROM rooms \
         WHERE room = ?1 AND claim = ?2 AND lease_until IS NOT NULL",
    )?
    .query_row(params![s.room.as_str(), claim], |row| {
        Ok(Held { lease: row.get(0)?, fresh_at: row.get(1)?, revision: row.get::<_, i64>(2)?.unsigned_abs() })
    })
    .optional()
}

fn apply(c: &Connection, room: &RoomKey, held: &Held, transition: &Transition) -> Done<()> {
    match transition {
        Transition::Sent { .. }
        | Transition::Digested { .. }
        | Transition::Suppressed { .. }
        | Transition::Expired { .. } => match Ending::by(transition) {
            Some(ending) if ending.outcome.is_told() => told(c, transition.seqs(), &ending),
            Some(ending) => end_waiting(c, room, transition.seqs(), &ending),
            None => Ok(()),
        },
        Transition::Attempted { seqs, at, status, detail, plain_next } => {
            for open in still_waiting(c, room, seqs)? {
                count_attempt(c, open.seq, *at, *status)?;
                c.prepare_cached("UPDATE notifications SET detail = ?2, plain = ?3 WHERE seq = ?1")?
                    .execute(params![open.seq, detail, plain_next])?;
            }
            Ok(())
        }
        Transition::DeadLettered { seqs, reason, detail, at, status, attempted } => {
            for open in still_waiting(c, room, seqs)? {
                if *attempted {
                    count_attempt(c, open.seq, *at, *status)?;
                }
                bury(c, open.seq, *reason, detail, *at)?;
            }
            Ok(())
        }
        Transition::Broken { integration, seqs, detail, at, status } => {
            let attempt = Refusal { seqs, detail, at: *at, status: *status };
            broken(c, room, held, integration, &attempt)
        }
    }
}

/// What was posted is in the room, whatever the row became meanwhile.
fn told(c: &Connection, seqs: &[i64], ending: &Ending<'_>) -> Done<()> {
    for seq in seqs {
        let Some(open) = find(c, *seq)? else { continue };
        if open.is_told() {
            continue;
        }
        end(c, &open, ending)?;
    }
    Ok(())
}

/// Those of `seqs` that still wait in this room's line.
fn still_waiting(c: &Connection, room: &RoomKey, seqs: &[i64]) -> rusqlite::Result<Vec<Open>> {
    let mut found = Vec::with_capacity(seqs.len());
    for seq in seqs {
        if let Some(open) = find(c, *seq)?
            && open.waits()
            && open.room == room.as_str()
        {
            found.push(open);
        }
    }
    Ok(found)
}

fn end_waiting(c: &Connection, room: &RoomKey, seqs: &[i64], ending: &Ending<'_>) -> Done<()> {
    for open in still_waiting(c, room, seqs)? {
        end(c, &open, ending)?;
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
    c: &Connection,
    room: &RoomKey,
    held: &Held,
    integration: &IntegrationId,
    refusal: &Refusal<'_>,
) -> Done<()> {
    for open in still_waiting(c, room, refusal.seqs)? {
        count_attempt(c, open.seq, refusal.at, refusal.status)?;
    }
    if !standing::suspend(c, integration, refusal.detail, held.revision)? {
        // Its URL was changed after the claim: the refusal says nothing about the new one.
        return Ok(());
    }
    for open in waiting_of(c, integration)? {
        bury(c, open.seq, DeadLetterReason::IntegrationBroken, refusal.detail, refusal.at)?;
    }
    Ok(())
}

fn save(c: &Connection, s: &Settlement, next: &Next) -> rusqlite::Result<()> {
    c.prepare_cached(
        "UPDATE rooms SET meter = ?2, retry_failures = ?3, retry_at = ?4, expired_untold = ?5, \
         lease_until = ?6, due_at = ?7, hold_until = ?8, fresh_at = ?9 WHERE room = ?1",
    )?
    .execute(params![
        s.room.as_str(),
        meter_text(&s.state.meter),
        s.state.retry.map(|retry| retry.failures),
        s.state.retry.map(|retry| micros(retry.at)),
        s.state.expired_untold,
        next.lease_until,
        next.due_at,
        next.hold_until,
        next.fresh_at,
    ])
    .map(|_| ())
}

fn next(c: &Connection, s: &Settlement, held: &Held) -> Done<Next> {
    if s.then == Then::Hold {
        return Ok(held.renewed(s.now));
    }
    tokens::give_back(c, &s.room)?;
    let left = Left {
        next_ready: next_ready(c, &s.room)?,
        next_opening: next_opening(c, &s.room, s.now)?,
        has_ready: has_ready(c, &s.room, s.now)?,
    };
    Ok(held.released(s, &left))
}
