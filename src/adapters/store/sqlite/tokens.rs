//! Tokens' budgets: what claims may spend, and what they have spent.
//!
//! A claim reserves calls, so that rooms that are posted to at the same time never overdraw the token they
//! share. What a lapsed claim had reserved counts as spent: its holder may have made those calls.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{OptionalExtension, params};

use super::db::Db;
use super::errors::{Done, text};
use super::memory::Memory;
use crate::adapters::store::meters;
use crate::adapters::store::purse::{self, Grants, Needs, Purse};
use crate::adapters::store::rows::{meter_text, span};
use crate::domain::ids::{RoomKey, TokenKey};
use crate::domain::pacing::{Budget, Meter};
use crate::ports::{Straight, TokenCalls};

/// Reserves calls for rooms claimed together and says what each got.
pub fn reserve(
    db: &Db<'_>,
    memory: &mut Memory,
    needs: &Needs,
    budget: Budget,
    now: Timestamp,
) -> Done<HashMap<RoomKey, Grants>> {
    let mut purses = HashMap::new();
    for token in purse::named(needs) {
        let purse = open(db, memory, &token, budget, now)?;
        purses.insert(token, purse);
    }
    let grants = purse::share(needs, purses, now);
    for (room, granted) in &grants {
        for (token, grant) in granted {
            set_reservation(db, room, token, grant.calls)?;
        }
    }
    Ok(grants)
}

/// What a room that is told straight from intake may spend: the one call, or nothing. What it reserves is in memory
/// alone.
pub fn grant_one(
    db: &Db<'_>,
    memory: &mut Memory,
    token: &TokenKey,
    straight: &Straight,
) -> Done<Option<Grants>> {
    let purse = open(db, memory, token, straight.terms.token_budget, straight.now)?;
    Ok(purse.one(straight.now).map(|grant| HashMap::from([(token.clone(), grant)])))
}

fn open(db: &Db<'_>, memory: &mut Memory, token: &TokenKey, budget: Budget, now: Timestamp) -> Done<Purse> {
    let meter = match load(db, memory, token, now)? {
        Some((meter, kept)) if kept == budget => meter,
        other => {
            db.execute(
                "INSERT INTO tokens (token, messages, per) VALUES (?1, ?2, ?3) \
                 ON CONFLICT (token) DO UPDATE SET messages = ?2, per = ?3",
                params![token.as_str(), budget.messages, span(budget.per)],
            )?;
            let meter = other.map_or_else(Meter::default, |(meter, _)| meter);
            memory.tokens.put(token, (meter.clone(), budget));
            meter
        }
    };
    let others: u32 = db.query_row(
        "SELECT min(ifnull(sum(calls), 0), 4294967295) FROM reservations WHERE token = ?1",
        [token.as_str()],
        |row| row.get(0),
    )?;
    Ok(Purse::new(meter, budget, others.saturating_add(memory.in_flight.reserved(token)), now))
}

/// A token's meter and the budget that it was counted by, as they are at `now`; `None` if nothing is kept of it.
fn load(db: &Db<'_>, memory: &mut Memory, token: &TokenKey, now: Timestamp) -> Done<Option<(Meter, Budget)>> {
    let kept = memory.tokens.of(token, || read(db, token, now))?;
    Ok(kept.map(|(meter, budget)| (meters::sane(meter.clone(), now), *budget)))
}

fn read(db: &Db<'_>, token: &TokenKey, now: Timestamp) -> Done<Option<(Meter, Budget)>> {
    let row: Option<(Option<String>, u32, i64)> = db
        .query_row("SELECT meter, messages, per FROM tokens WHERE token = ?1", [token.as_str()], |row| {
            Ok((text(row, 0)?, row.get(1)?, row.get(2)?))
        })
        .optional()?;
    Ok(row.map(|(kept, messages, per)| {
        (
            meters::token(&kept.unwrap_or_default(), token, now),
            Budget { messages, per: Duration::from_micros(per.unsigned_abs()) },
        )
    }))
}

fn save(db: &Db<'_>, memory: &mut Memory, token: &TokenKey, meter: Meter, budget: Budget) -> Done<()> {
    db.execute(
        "INSERT INTO tokens (token, meter, messages, per) VALUES (?1, ?2, ?3, ?4) \
         ON CONFLICT (token) DO UPDATE SET meter = ?2",
        params![token.as_str(), meter_text(&meter), budget.messages, span(budget.per)],
    )?;
    memory.tokens.put(token, (meter, budget));
    Ok(())
}

/// Reserves calls for a room.
pub fn set_reservation(db: &Db<'_>, room: &RoomKey, token: &TokenKey, calls: u32) -> rusqlite::Result<()> {
    db.execute(
        "INSERT INTO reservations (token, room, calls) VALUES (?1, ?2, ?3) \
         ON CONFLICT (token, room) DO UPDATE SET calls = ?3",
        params![token.as_str(), room.as_str(), calls],
    )
    .map(|_| ())
}

/// Counts calls that were made on a held room, and takes over what the server said of the token.
pub fn spend(
    db: &Db<'_>,
    memory: &mut Memory,
    room: &RoomKey,
    calls: &TokenCalls,
    now: Timestamp,
) -> Done<()> {
    count(db, memory, calls, now)?;
    db.execute(
        "UPDATE reservations SET calls = max(calls - ?3, 0) WHERE token = ?1 AND room = ?2",
        params![calls.token.as_str(), room.as_str(), calls.calls],
    )?;
    Ok(())
}

/// Counts calls that nothing was reserved for.
pub fn count(db: &Db<'_>, memory: &mut Memory, calls: &TokenCalls, now: Timestamp) -> Done<()> {
    let (mut meter, budget) =
        load(db, memory, &calls.token, now)?.unwrap_or((Meter::default(), Budget::TOKEN));
    if calls.calls > 0 {
        meter.record(budget, now, calls.calls);
    }
    meter.correct(&calls.hint, now);
    if let Some(until) = calls.blocked_until {
        meter.block_until(until, now);
    }
    save(db, memory, &calls.token, meter, budget)
}

/// Gives back what a room had reserved and not spent.
pub fn give_back(db: &Db<'_>, room: &RoomKey) -> rusqlite::Result<()> {
    db.execute("DELETE FROM reservations WHERE room = ?1", [room.as_str()]).map(|_| ())
}

/// Counts as spent what a lapsed claim on `room` had reserved.
pub fn forfeit(db: &Db<'_>, memory: &mut Memory, room: &RoomKey, now: Timestamp) -> Done<()> {
    let reserved: Vec<(String, u32)> = db.query_all(
        "SELECT token, calls FROM reservations WHERE room = ?1 AND calls > 0",
        [room.as_str()],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    for (token, calls) in reserved {
        let token = TokenKey::new(token);
        let (mut meter, budget) = load(db, memory, &token, now)?.unwrap_or((Meter::default(), Budget::TOKEN));
        meter.record(budget, now, calls);
        save(db, memory, &token, meter, budget)?;
    }
    give_back(db, room)?;
    Ok(())
}
