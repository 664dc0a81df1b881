//! Tokens' budgets: what claims may spend, and what they have spent.
//!
//! A claim reserves calls, so that rooms that are posted to at the same time never overdraw the token they
//! share. What a lapsed claim had reserved counts as spent: its holder may have made those calls.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::clock::sane;
use super::errors::{Done, text};
use crate::adapters::store::rows::{meter, meter_text, span};
use crate::domain::ids::{RoomKey, TokenKey};
use crate::domain::pacing::{Budget, Meter, later};
use crate::ports::{TokenCalls, TokenGrant};

/// How soon to look again when others hold reservations: most of those are spent or given back at once.
const RECHECK: Duration = Duration::from_secs(1);

/// How many calls each of the claimed rooms needs, by token.
pub type Needs = Vec<(RoomKey, HashMap<TokenKey, u32>)>;

/// What a room may spend, by token.
pub type Grants = HashMap<TokenKey, TokenGrant>;

/// Reserves calls for rooms claimed together and says what each got. Rooms share what there is evenly; where it
/// does not come out even, the first get more.
pub fn reserve(
    c: &Connection,
    needs: &Needs,
    budget: Budget,
    now: Timestamp,
) -> Done<HashMap<RoomKey, Grants>> {
    let mut sharing: HashMap<&TokenKey, u32> = HashMap::new();
    for token in needs.iter().flat_map(|(_, by_token)| by_token.keys()) {
        *sharing.entry(token).or_default() += 1;
    }
    let mut purses: HashMap<&TokenKey, Purse> = HashMap::new();
    for token in sharing.keys() {
        purses.insert(token, Purse::open(c, token, budget, now)?);
    }
    let mut grants = Vec::with_capacity(needs.len());
    for (room, by_token) in needs {
        let mut granted = HashMap::new();
        for (token, needed) in by_token {
            let (Some(purse), Some(rooms)) = (purses.get_mut(token), sharing.get_mut(token)) else {
                continue;
            };
            let calls = purse.take(*needed, *rooms);
            *rooms -= 1;
            set_reservation(c, room, token, calls)?;
            granted.insert(token.clone(), calls);
        }
        grants.push((room.clone(), granted));
    }
    // Only now is it known what is left for later.
    Ok(grants
        .into_iter()
        .map(|(room, granted)| {
            let grant = |(token, calls)| {
                let opens_at = purses.get(&token)?.opens_at(now);
                Some((token, TokenGrant { calls, opens_at }))
            };
            (room, granted.into_iter().filter_map(grant).collect())
        })
        .collect())
}

/// What one token has left for the rooms of one batch of claims.
struct Purse {
    meter: Meter,
    budget: Budget,
    available: u32,
    /// Reserved by others, and by this batch.
    others: u32,
    taken: u32,
}

impl Purse {
    fn open(c: &Connection, token: &TokenKey, budget: Budget, now: Timestamp) -> Done<Self> {
        c.prepare_cached(
            "INSERT INTO tokens (token, messages, per) VALUES (?1, ?2, ?3) \
             ON CONFLICT (token) DO UPDATE SET messages = ?2, per = ?3 WHERE messages <> ?2 OR per <> ?3",
        )?
        .execute(params![token.as_str(), budget.messages, span(budget.per)])?;
        let meter = load(c, token, now)?.map_or_else(Meter::default, |(meter, _)| meter);
        let others: u32 = c
            .prepare_cached(
                "SELECT min(ifnull(sum(calls), 0), 4294967295) FROM reservations WHERE token = ?1",
            )?
            .query_row([token.as_str()], |row| row.get(0))?;
        let available = meter.available(budget, now).saturating_sub(others);
        Ok(Self { meter, budget, available, others, taken: 0 })
    }

    /// A fair share for one of `rooms` that still ask, at most what it needs.
    fn take(&mut self, needed: u32, rooms: u32) -> u32 {
        let calls = needed.min(self.available.div_ceil(rooms.max(1)));
        self.available -= calls;
        self.taken += calls;
        calls
    }

    /// When there will be more than was granted: now if something is left; else when the window moves on,
    /// or soon, if what is missing is only reserved by others, who may give it back.
    fn opens_at(&self, now: Timestamp) -> Timestamp {
        if self.available > 0 {
            return now;
        }
        let mut spent = self.meter.clone();
        spent.record(self.budget, now, self.others.saturating_add(self.taken));
        let at_latest = spent.opens_at(self.budget, now);
        match self.others {
            0 => at_latest,
            _ => at_latest.min(later(now, RECHECK)).max(self.meter.opens_at(self.budget, now)),
        }
    }
}

fn load(c: &Connection, token: &TokenKey, now: Timestamp) -> Done<Option<(Meter, Budget)>> {
    let row: Option<(Option<String>, u32, i64)> = c
        .prepare_cached("SELECT meter, messages, per FROM tokens WHERE token = ?1")?
        .query_row([token.as_str()], |row| Ok((text(row, 0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    Ok(row.map(|(kept, messages, per)| {
        let meter = meter(&kept.unwrap_or_default()).unwrap_or_else(|| {
            tracing::error!(%token, "the token's meter is damaged in the store; its budget is counted anew");
            Meter::default()
        });
        (sane(meter, now), Budget { messages, per: Duration::from_micros(per.unsigned_abs()) })
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

fn set_reservation(c: &Connection, room: &RoomKey, token: &TokenKey, calls: u32) -> rusqlite::Result<()> {
    c.prepare_cached(
        "INSERT INTO reservations (token, room, calls) VALUES (?1, ?2, ?3) \
         ON CONFLICT (token, room) DO UPDATE SET calls = ?3",
    )?
    .execute(params![token.as_str(), room.as_str(), calls])
    .map(|_| ())
}

/// Counts calls that were made on a held room, and takes over what the server said of the token.
pub fn spend(c: &Connection, room: &RoomKey, calls: &TokenCalls, now: Timestamp) -> Done<()> {
    let (mut meter, budget) = load(c, &calls.token, now)?.unwrap_or((Meter::default(), Budget::TOKEN));
    if calls.calls > 0 {
        meter.record(budget, now, calls.calls);
    }
    meter.correct(&calls.hint, now);
    if let Some(until) = calls.blocked_until {
        meter.block_until(until, now);
    }
    save(c, &calls.token, &meter, budget)?;
    c.prepare_cached("UPDATE reservations SET calls = max(calls - ?3, 0) WHERE token = ?1 AND room = ?2")?
        .execute(params![calls.token.as_str(), room.as_str(), calls.calls])?;
    Ok(())
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
