//! Tokens' budgets: what claims may spend, and what they have spent.
//!
//! A claim reserves calls, so that rooms that are posted to at the same time, by any worker, never overdraw the
//! token they share. What a lapsed claim had reserved counts as spent: its holder may have made those calls. A
//! token's row is its lock; tokens are always locked by their keys' order.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use deadpool_postgres::Transaction;
use jiff::Timestamp;

use super::errors::Done;
use super::link::{Script, rows, values};
use crate::adapters::store::meters;
use crate::adapters::store::purse::{self, Grants, Needs, Purse};
use crate::adapters::store::rows::{meter_text, span};
use crate::domain::ids::{RoomKey, TokenKey};
use crate::domain::pacing::{Budget, Meter};
use crate::ports::TokenCalls;

/// Calls that lapsed claims had reserved.
pub type Forfeits = Vec<(TokenKey, u32)>;

/// What is still reserved for rooms that are being claimed anew.
pub async fn forfeits(tx: &Transaction<'_>, rooms_due: &[&str]) -> Done<Forfeits> {
    let found = rows(
        tx,
        "SELECT token, calls FROM reservations WHERE room = ANY($1) AND calls > 0 ORDER BY token, room",
        &[&rooms_due],
    )
    .await?;
    let mut forfeits = Vec::with_capacity(found.len());
    for row in found {
        let calls = u32::try_from(row.try_get::<_, i64>(1)?).unwrap_or(u32::MAX);
        forfeits.push((TokenKey::new(row.try_get::<_, &str>(0)?), calls));
    }
    Ok(forfeits)
}

/// Reserves calls for rooms claimed together and says what each got. What lapsed claims had reserved is spent
/// before anybody's share is reckoned; `rooms_due` are all rooms whose earlier reservations are void.
pub async fn reserve(
    tx: &Transaction<'_>,
    script: &mut Script,
    needs: &Needs,
    (rooms_due, forfeits): (&[String], &Forfeits),
    budget: Budget,
    now: Timestamp,
) -> Done<HashMap<RoomKey, Grants>> {
    let mut named = purse::named(needs);
    named.extend(forfeits.iter().map(|(token, _)| token.clone()));
    if named.is_empty() {
        return Ok(HashMap::new());
    }
    let mut held = lock_for_claim(tx, &named, budget, now).await?;
    let others = reserved_by_others(tx, &named, rooms_due).await?;
    let mut spent = BTreeSet::new();
    for (token, calls) in forfeits {
        if let Some(meter) = held.get_mut(token) {
            meter.record(budget, now, *calls);
            spent.insert(token.clone());
        }
    }
    let saved: BTreeMap<&TokenKey, &Meter> =
        held.iter().filter(|(token, _)| spent.contains(*token)).collect();
    save(script, &saved);
    if !forfeits.is_empty() {
        script.add("DELETE FROM reservations WHERE room = ANY($1)", values![rooms_due.to_vec()]);
    }
    let purses = held.into_iter().map(|(token, meter)| {
        let others = others.get(&token).copied().unwrap_or_default();
        (token, Purse::new(meter, budget, others, now))
    });
    let grants = purse::share(needs, purses.collect(), now);
    set_reservations(script, &grants);
    Ok(grants)
}

/// Locks tokens for a claim, which names their budget, and reads their meters.
async fn lock_for_claim(
    tx: &Transaction<'_>,
    tokens: &BTreeSet<TokenKey>,
    budget: Budget,
    now: Timestamp,
) -> Done<HashMap<TokenKey, Meter>> {
    let tokens: Vec<&str> = tokens.iter().map(TokenKey::as_str).collect();
    let found = rows(
        tx,
        "INSERT INTO tokens (token, messages, per) SELECT token, $2, $3 FROM unnest($1::text[]) AS token \
         ON CONFLICT (token) DO UPDATE SET messages = excluded.messages, per = excluded.per \
         RETURNING token, meter",
        &[&tokens, &i64::from(budget.messages), &span(budget.per)],
    )
    .await?;
    let mut meters = HashMap::with_capacity(found.len());
    for row in found {
        let token = TokenKey::new(row.try_get::<_, &str>(0)?);
        let meter = meters::token(row.try_get(1)?, &token, now);
        meters.insert(token, meter);
    }
    Ok(meters)
}

async fn reserved_by_others(
    tx: &Transaction<'_>,
    tokens: &BTreeSet<TokenKey>,
    not_of: &[String],
) -> Done<HashMap<TokenKey, u32>> {
    let tokens: Vec<&str> = tokens.iter().map(TokenKey::as_str).collect();
    let found = rows(
        tx,
        "SELECT token, sum(calls)::bigint FROM reservations WHERE token = ANY($1) AND room <> ALL($2) \
         GROUP BY token",
        &[&tokens, &not_of],
    )
    .await?;
    let mut others = HashMap::with_capacity(found.len());
    for row in found {
        let calls = u32::try_from(row.try_get::<_, i64>(1)?).unwrap_or(u32::MAX);
        others.insert(TokenKey::new(row.try_get::<_, &str>(0)?), calls);
    }
    Ok(others)
}

fn set_reservations(script: &mut Script, grants: &HashMap<RoomKey, Grants>) {
    let (mut tokens, mut of_rooms, mut calls) = (Vec::new(), Vec::new(), Vec::new());
    for (room, granted) in grants {
        for (token, grant) in granted {
            tokens.push(token.as_str().to_owned());
            of_rooms.push(room.as_str().to_owned());
            calls.push(i64::from(grant.calls));
        }
    }
    if !tokens.is_empty() {
        script.add(
            "INSERT INTO reservations (token, room, calls) \
             SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[]) \
             ON CONFLICT (token, room) DO UPDATE SET calls = excluded.calls",
            values![tokens, of_rooms, calls],
        );
    }
}

fn save(script: &mut Script, meters: &BTreeMap<&TokenKey, &Meter>) {
    if !meters.is_empty() {
        let tokens: Vec<String> = meters.keys().map(|token| token.as_str().to_owned()).collect();
        let texts: Vec<String> = meters.values().map(|meter| meter_text(meter)).collect();
        script.add(
            "UPDATE tokens AS t SET meter = u.meter FROM unnest($1::text[], $2::text[]) AS u(token, meter) \
             WHERE t.token = u.token",
            values![tokens, texts],
        );
    }
}

/// The tokens of a batch of settlements, held under their locks.
pub struct Spending {
    held: BTreeMap<TokenKey, (Meter, Budget)>,
}

impl Spending {
    /// Locks and reads the tokens that these calls were made with; one that is not known yet is made.
    pub async fn load(tx: &Transaction<'_>, tokens: &BTreeSet<&TokenKey>, now: Timestamp) -> Done<Self> {
        let mut held = BTreeMap::new();
        if tokens.is_empty() {
            return Ok(Self { held });
        }
        let tokens: Vec<&str> = tokens.iter().map(|token| token.as_str()).collect();
        let default = Budget::TOKEN;
        let found = rows(
            tx,
            "INSERT INTO tokens (token, messages, per) SELECT token, $2, $3 FROM unnest($1::text[]) AS token \
             ON CONFLICT (token) DO UPDATE SET token = excluded.token RETURNING token, meter, messages, per",
            &[&tokens, &i64::from(default.messages), &span(default.per)],
        )
        .await?;
        for row in found {
            let token = TokenKey::new(row.try_get::<_, &str>(0)?);
            let meter = meters::token(row.try_get(1)?, &token, now);
            let messages = u32::try_from(row.try_get::<_, i64>(2)?).unwrap_or(default.messages);
            let per = Duration::from_micros(row.try_get::<_, i64>(3)?.unsigned_abs());
            held.insert(token, (meter, Budget { messages, per }));
        }
        Ok(Self { held })
    }

    /// Counts calls that were made on a held room, and takes over what the server said of the token.
    pub fn spend(&mut self, calls: &TokenCalls, now: Timestamp) {
        let Some((meter, budget)) = self.held.get_mut(&calls.token) else { return };
        if calls.calls > 0 {
            meter.record(*budget, now, calls.calls);
        }
        meter.correct(&calls.hint, now);
        if let Some(until) = calls.blocked_until {
            meter.block_until(until, now);
        }
    }

    /// Writes the meters, takes what rooms have spent from their reservations, and gives back the rest of those
    /// that are released.
    pub fn write(&self, script: &mut Script, spent: &[(&RoomKey, &TokenCalls)], released: &[String]) {
        save(script, &self.held.iter().map(|(token, (meter, _))| (token, meter)).collect());
        if !spent.is_empty() {
            script.add(
                "UPDATE reservations AS r SET calls = greatest(r.calls - u.calls, 0) \
                 FROM unnest($1::text[], $2::text[], $3::bigint[]) AS u(token, room, calls) \
                 WHERE r.token = u.token AND r.room = u.room",
                values![
                    spent.iter().map(|(_, calls)| calls.token.as_str().to_owned()).collect::<Vec<_>>(),
                    spent.iter().map(|(room, _)| room.as_str().to_owned()).collect::<Vec<_>>(),
                    spent.iter().map(|(_, calls)| i64::from(calls.calls)).collect::<Vec<_>>(),
                ],
            );
        }
        if !released.is_empty() {
            script.add("DELETE FROM reservations WHERE room = ANY($1)", values![released.to_vec()]);
        }
    }
}
