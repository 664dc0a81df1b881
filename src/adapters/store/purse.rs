//! How rooms that are claimed together share what their tokens may still spend. Pure.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use jiff::Timestamp;

use super::terms::BLOCK;
use crate::domain::ids::{RoomKey, TokenKey};
use crate::domain::pacing::{Budget, Meter, later};
use crate::ports::TokenGrant;

/// How soon to look again when others hold reservations: most of those are spent or given back at once.
const RECHECK: Duration = Duration::from_secs(1);

/// How many calls each of the claimed rooms needs, by token.
pub type Needs = Vec<(RoomKey, HashMap<TokenKey, u32>)>;

/// What a room may spend, by token.
pub type Grants = HashMap<TokenKey, TokenGrant>;

/// Calls that a line would need of each token if each notification were told alone; but no more than the room
/// may be told. `wanted` counts notifications by token.
pub fn needs(wanted: impl IntoIterator<Item = (TokenKey, u32)>, room_left: u32) -> HashMap<TokenKey, u32> {
    let mut needs: HashMap<TokenKey, u32> = HashMap::new();
    for (token, count) in wanted {
        *needs.entry(token).or_default() += count;
    }
    for need in needs.values_mut() {
        *need = (*need).min(room_left).min(BLOCK);
    }
    needs
}

/// The tokens that are needed, each once, in one order for all.
pub fn named(needs: &Needs) -> BTreeSet<TokenKey> {
    needs.iter().flat_map(|(_, by_token)| by_token.keys().cloned()).collect()
}

/// What each of the rooms gets. Rooms share evenly what there is; where it does not come out even, the first get
/// more. `purses` has one for each token needed.
pub fn share(
    needs: &Needs,
    mut purses: HashMap<TokenKey, Purse>,
    now: Timestamp,
) -> HashMap<RoomKey, Grants> {
    let mut sharing: HashMap<&TokenKey, u32> = HashMap::new();
    for token in needs.iter().flat_map(|(_, by_token)| by_token.keys()) {
        *sharing.entry(token).or_default() += 1;
    }
    let mut taken: Vec<(&RoomKey, HashMap<&TokenKey, u32>)> = Vec::with_capacity(needs.len());
    for (room, by_token) in needs {
        let mut granted = HashMap::new();
        for (token, needed) in by_token {
            let (Some(purse), Some(rooms)) = (purses.get_mut(token), sharing.get_mut(token)) else {
                continue;
            };
            granted.insert(token, purse.take(*needed, *rooms));
            *rooms -= 1;
        }
        taken.push((room, granted));
    }
    // Only now is it known what is left for later.
    let grant = |(token, calls): (&TokenKey, u32)| {
        let opens_at = purses.get(token)?.opens_at(now);
        Some((token.clone(), TokenGrant { calls, opens_at }))
    };
    let granted = |(room, granted): (&RoomKey, HashMap<&TokenKey, u32>)| {
        (room.clone(), granted.into_iter().filter_map(grant).collect())
    };
    taken.into_iter().map(granted).collect()
}

/// What one token has left for the rooms of one batch of claims.
pub struct Purse {
    meter: Meter,
    budget: Budget,
    available: u32,
    /// Reserved by others, and by this batch.
    others: u32,
    taken: u32,
}

impl Purse {
    /// The purse of a token with this meter, of which `others` hold so many calls reserved.
    pub fn new(meter: Meter, budget: Budget, others: u32, now: Timestamp) -> Self {
        let available = meter.available(budget, now).saturating_sub(others);
        Self { meter, budget, available, others, taken: 0 }
    }

    /// The one call of a room that asks alone; `None` if nothing is left.
    pub fn one(mut self, now: Timestamp) -> Option<TokenGrant> {
        let calls = self.take(1, 1);
        (calls > 0).then(|| TokenGrant { calls, opens_at: self.opens_at(now) })
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
