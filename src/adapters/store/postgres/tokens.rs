//! Tokens' budgets: what claims may spend, and what they have spent.
//!
//! A claim reserves calls, so that rooms that are posted to at the same time, by any worker, never overdraw the
//! token they share. What a lapsed claim had reserved counts as spent: its holder may have made those calls. A
//! token's row is its lock; tokens are always locked by their keys' order.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;

use super::errors::Done;
use super::rounds::{Answers, Place, Round, values};
use crate::adapters::store::meters;
use crate::adapters::store::purse::{self, Grants, Needs, Purse};
use crate::adapters::store::rows::{meter_text, span};
use crate::domain::ids::{RoomKey, TokenKey};
use crate::domain::pacing::{Budget, Meter};
use crate::ports::TokenCalls;

/// Calls that lapsed claims had reserved.
pub type Forfeits = Vec<(TokenKey, u32)>;

/// Asks what is still reserved for rooms that are being claimed anew.
pub fn ask_forfeits(round: &mut Round, rooms_due: &[String]) -> Place {
    round.add(
        "SELECT token, calls FROM reservations WHERE room = ANY($1) AND calls > 0 ORDER BY token, room",
        values![rooms_due.to_vec()],
    )
}

/// The forfeits that were asked for.
pub fn forfeits(answers: &mut Answers, asked: Place) -> Done<Forfeits> {
    let found = answers.take(asked);
    let mut forfeits = Vec::with_capacity(found.len());
    for row in found {
        let calls = u32::try_from(row.try_get::<_, i64>(1)?).unwrap_or(u32::MAX);
        forfeits.push((TokenKey::new(row.try_get::<_, &str>(0)?), calls));
    }
    Ok(forfeits)
}

/// Locks tokens, by their keys, and asks for their meters; one that is not known yet is made, with `budget`.
fn ask_meters(round: &mut Round, tokens: Vec<String>, budget: Budget) -> Place {
    round.add(
        "INSERT INTO tokens (token, messages, per) SELECT u.token, $2, $3 FROM unnest($1::text[]) AS u(token) \
         WHERE NOT EXISTS (SELECT 1 FROM tokens AS t WHERE t.token = u.token) \
         ORDER BY u.token COLLATE \"C\" ON CONFLICT (token) DO NOTHING",
        values![tokens.clone(), i64::from(budget.messages), span(budget.per)],
    );
    round.add(
        "SELECT token, meter, messages, per FROM tokens WHERE token = ANY($1) ORDER BY token FOR UPDATE",
        values![tokens],
    )
}

/// What a claim asks of the tokens that it may spend.
pub struct Asked {
    meters: Place,
    others: Place,
}

/// Locks these tokens and asks what is left of them. `rooms_due` are all rooms whose earlier reservations are void.
pub fn ask(
    round: &mut Round,
    tokens: &BTreeSet<TokenKey>,
    rooms_due: &[String],
    budget: Budget,
) -> Option<Asked> {
    if tokens.is_empty() {
        return None;
    }
    let tokens: Vec<String> = tokens.iter().map(|token| token.as_str().to_owned()).collect();
    let meters = ask_meters(round, tokens.clone(), budget);
    let others = round.add(
        "SELECT token, sum(calls)::bigint FROM reservations WHERE token = ANY($1) AND room <> ALL($2) \
         GROUP BY token",
        values![tokens, rooms_due.to_vec()],
    );
    Some(Asked { meters, others })
}

/// Locked tokens, and how many calls rooms of other claims may still make with each.
#[derive(Default)]
pub struct Locked {
    meters: HashMap<TokenKey, Meter>,
    others: HashMap<TokenKey, u32>,
    /// Those that an earlier claim named another budget for.
    other_budget: Vec<String>,
}

impl Locked {
    /// What was asked for.
    pub fn read(answers: &mut Answers, asked: Option<Asked>, budget: Budget, now: Timestamp) -> Done<Self> {
        let mut locked = Self::default();
        let Some(Asked { meters, others }) = asked else { return Ok(locked) };
        for row in answers.take(meters) {
            let token = TokenKey::new(row.try_get::<_, &str>(0)?);
            let meter = meters::token(row.try_get(1)?, &token, now);
            if (row.try_get::<_, i64>(2)?, row.try_get::<_, i64>(3)?)
                != (budget.messages.into(), span(budget.per))
            {
                locked.other_budget.push(token.as_str().to_owned());
            }
            locked.meters.insert(token, meter);
        }
        for row in answers.take(others) {
            let calls = u32::try_from(row.try_get::<_, i64>(1)?).unwrap_or(u32::MAX);
            locked.others.insert(TokenKey::new(row.try_get::<_, &str>(0)?), calls);
        }
        Ok(locked)
    }

    /// Reserves calls for rooms claimed together and says what each got. What lapsed claims had reserved is spent
    /// before anybody's share is reckoned.
    pub fn reserve(
        mut self,
        round: &mut Round,
        needs: &Needs,
        (rooms_due, forfeits): (&[String], &Forfeits),
        budget: Budget,
        now: Timestamp,
    ) -> HashMap<RoomKey, Grants> {
        let mut spent = BTreeSet::new();
        for (token, calls) in forfeits {
            if let Some(meter) = self.meters.get_mut(token) {
                meter.record(budget, now, *calls);
                spent.insert(token.clone());
            }
        }
        save(round, &self.meters.iter().filter(|(token, _)| spent.contains(*token)).collect());
        if !self.other_budget.is_empty() {
            round.add(
                "UPDATE tokens SET messages = $2, per = $3 WHERE token = ANY($1)",
                values![self.other_budget, i64::from(budget.messages), span(budget.per)],
            );
        }
        if !forfeits.is_empty() {
            round.add("DELETE FROM reservations WHERE room = ANY($1)", values![rooms_due.to_vec()]);
        }
        let purses = self.meters.into_iter().map(|(token, meter)| {
            let others = self.others.get(&token).copied().unwrap_or_default();
            (token, Purse::new(meter, budget, others, now))
        });
        let grants = purse::share(needs, purses.collect(), now);
        set_reservations(round, &grants);
        grants
    }
}

fn set_reservations(round: &mut Round, grants: &HashMap<RoomKey, Grants>) {
    let (mut tokens, mut of_rooms, mut calls) = (Vec::new(), Vec::new(), Vec::new());
    for (room, granted) in grants {
        for (token, grant) in granted {
            tokens.push(token.as_str().to_owned());
            of_rooms.push(room.as_str().to_owned());
            calls.push(i64::from(grant.calls));
        }
    }
    if !tokens.is_empty() {
        round.add(
            "INSERT INTO reservations (token, room, calls) \
             SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[]) \
             ON CONFLICT (token, room) DO UPDATE SET calls = excluded.calls",
            values![tokens, of_rooms, calls],
        );
    }
}

fn save(round: &mut Round, meters: &BTreeMap<&TokenKey, &Meter>) {
    if !meters.is_empty() {
        let tokens: Vec<String> = meters.keys().map(|token| token.as_str().to_owned()).collect();
        let texts: Vec<String> = meters.values().map(|meter| meter_text(meter)).collect();
        round.add(
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
    /// Locks the tokens that these calls were made with and asks for them; one that is not known yet is made.
    pub fn ask(round: &mut Round, tokens: &BTreeSet<&TokenKey>) -> Option<Place> {
        let tokens: Vec<String> = tokens.iter().map(|token| token.as_str().to_owned()).collect();
        (!tokens.is_empty()).then(|| ask_meters(round, tokens, Budget::TOKEN))
    }

    /// What was asked for.
    pub fn read(answers: &mut Answers, asked: Option<Place>, now: Timestamp) -> Done<Self> {
        let mut held = BTreeMap::new();
        for row in asked.map_or_else(Vec::new, |asked| answers.take(asked)) {
            let token = TokenKey::new(row.try_get::<_, &str>(0)?);
            let meter = meters::token(row.try_get(1)?, &token, now);
            let messages = u32::try_from(row.try_get::<_, i64>(2)?).unwrap_or(Budget::TOKEN.messages);
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

    /// Writes the meters, takes what rooms have spent from their reservations, and gives back those of rooms that are
    /// released.
    pub fn write(&self, round: &mut Round, spent: &[(&RoomKey, &TokenCalls)], released: &[String]) {
        save(round, &self.held.iter().map(|(token, (meter, _))| (token, meter)).collect());
        let gone: HashSet<&str> = released.iter().map(String::as_str).collect();
        let spent: Vec<_> = spent.iter().filter(|(room, _)| !gone.contains(room.as_str())).collect();
        if !spent.is_empty() {
            round.add(
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
            round.add("DELETE FROM reservations WHERE room = ANY($1)", values![released.to_vec()]);
        }
    }
}
