//! Tokens' budgets: what claims may spend, and what they have spent.
//!
//! A claim reserves calls, so that rooms that are posted to at the same time never overdraw the token they
//! share. What a lapsed claim had reserved counts as spent: its holder may have made those calls.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::errors::{Done, text};
use super::in_flight::InFlight;
use crate::adapters::store::meters;
use crate::adapters::store::purse::{self, Grants, Needs, Purse};
use crate::adapters::store::rows::{meter_text, span};
use crate::domain::ids::{RoomKey, TokenKey};
use crate::domain::pacing::{Budget, Meter};
use crate::ports::{Straight, TokenCalls};

/// Reserves calls for rooms claimed together and says what each got.
pub fn reserve(
    c: &Connection,
    in_flight: &InFlight,
    needs: &Needs,
    budget: Budget,
    now: Timestamp,
) -> Done<HashMap<RoomKey, Grants>> {
    let mut purses = HashMap::new();
    for token in purse::named(needs) {
        let purse = open(c, in_flight, &token, budget, now)?;
        purses.insert(token, purse);
    }
    let grants = purse::share(needs, purses, now);
    for (room, granted) in &grants {
        for (token, grant) in granted {
            set_reservation(c, room, token, grant.calls)?;
        }
    }
    Ok(grants)
}

/// What a room that is told straight from intake may spend: the one call, or nothing. What it reserves is in memory
/// alone.
pub fn grant_one(
    c: &Connection,
    in_flight: &InFlight,
    room: &RoomKey,
    token: &TokenKey,
    straight: &Straight,
) -> Done<Option<Grants>> {
    let purse = open(c, in_flight, token, straight.terms.token_budget, straight.now)?;
    let needs = vec![(room.clone(), HashMap::from([(token.clone(), 1)]))];
    let mut grants = purse::share(&needs, HashMap::from([(token.clone(), purse)]), straight.now);
    Ok(grants.remove(room).filter(|grants| grants.values().all(|grant| grant.calls > 0)))
}

fn open(
    c: &Connection,
    in_flight: &InFlight,
    token: &TokenKey,
    budget: Budget,
    now: Timestamp,
) -> Done<Purse> {
    let meter = match load(c, token, now)? {
        Some((meter, kept)) if kept == budget => meter,
        other => {
            c.prepare_cached(
                "INSERT INTO tokens (token, messages, per) VALUES (?1, ?2, ?3) \
                 ON CONFLICT (token) DO UPDATE SET messages = ?2, per = ?3",
            )?
            .execute(params![token.as_str(), budget.messages, span(budget.per)])?;
            other.map_or_else(Meter::default, |(meter, _)| meter)
        }
    };
    let others: u32 = c
        .prepare_cached("SELECT min(ifnull(sum(calls), 0), 4294967295) FROM reservations WHERE token = ?1")?
        .query_row([token.as_str()], |row| row.get(0))?;
    Ok(Purse::new(meter, budget, others.saturating_add(in_flight.reserved(token)), now))
}

fn load(c: &Connection, token: &TokenKey, now: Timestamp) -> Done<Option<(Meter, Budget)>> {
    let row: Option<(Option<String>, u32, i64)> = c
        .prepare_cached("SELECT meter, messages, per FROM tokens WHERE token = ?1")?
        .query_row([token.as_str()], |row| Ok((text(row, 0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    Ok(row.map(|(kept, messages, per)| {
        (
            meters::token(&kept.unwrap_or_default(), token, now),
            Budget { messages, per: Duration::from_micros(per.unsigned_abs()) },
        )
    }))
}

fn save(c: &Connection, token: &TokenKey, meter: &Meter, budget: Budget) -> Done<()> {
    c.prepare_cached(
        "INSERT INTO tokens (token, meter, messages, per) VALUES (?1, ?2, ?3, ?4) \
         ON CONFLICT (token) DO UPDATE SET meter = ?2",
    )?
    .execute(params![token.as_str(), meter_text(meter), budget.messages, span(budget.per)])?;
    Ok(())
}

/// Reserves calls for a room.
pub fn set_reservation(c: &Connection, room: &RoomKey, token: &TokenKey, calls: u32) -> rusqlite::Result<()> {
    c.prepare_cached(
        "INSERT INTO reservations (token, room, calls) VALUES (?1, ?2, ?3) \
         ON CONFLICT (token, room) DO UPDATE SET calls = ?3",
    )?
    .execute(params![token.as_str(), room.as_str(), calls])
    .map(|_| ())
}

/// Counts calls that were made on a held room, and takes over what the server said of the token.
pub fn spend(c: &Connection, room: &RoomKey, calls: &TokenCalls, now: Timestamp) -> Done<()> {
    count(c, calls, now)?;
    c.prepare_cached("UPDATE reservations SET calls = max(calls - ?3, 0) WHERE token = ?1 AND room = ?2")?
        .execute(params![calls.token.as_str(), room.as_str(), calls.calls])?;
    Ok(())
}

/// Counts calls that nothing was reserved for.
pub fn count(c: &Connection, calls: &TokenCalls, now: Timestamp) -> Done<()> {
    let (mut meter, budget) = load(c, &calls.token, now)?.unwrap_or((Meter::default(), Budget::TOKEN));
    if calls.calls > 0 {
        meter.record(budget, now, calls.calls);
    }
    meter.correct(&calls.hint, now);
    if let Some(until) = calls.blocked_until {
        meter.block_until(until, now);
    }
    save(c, &calls.token, &meter, budget)
}

/// Gives back what a room had reserved and not spent.
pub fn give_back(c: &Connection, room: &RoomKey) -> rusqlite::Result<()> {
    c.prepare_cached("DELETE FROM reservations WHERE room = ?1")?.execute([room.as_str()]).map(|_| ())
}

/// Counts as spent what a lapsed claim on `room` had reserved.
pub fn forfeit(c: &Connection, room: &RoomKey, now: Timestamp) -> Done<()> {
    let reserved: Vec<(String, u32)> = c
        .prepare_cached("SELECT token, calls FROM reservations WHERE room = ?1 AND calls > 0")?
        .query_map([room.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    for (token, calls) in reserved {
        let token = TokenKey::new(token);
        let (mut meter, budget) = load(c, &token, now)?.unwrap_or((Meter::default(), Budget::TOKEN));
        meter.record(budget, now, calls);
        save(c, &token, &meter, budget)?;
    }
    give_back(c, room)?;
    Ok(())
}
