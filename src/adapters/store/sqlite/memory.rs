//! What the writer remembers between transactions, so that it need not be read back: rows as it has read or written
//! them, and what is told straight from intake and not written yet (`in_flight`).
//!
//! Only the writer's thread works with it. What was read is forgotten whenever it may not hold any more: when
//! another process has written the file, when a transaction is taken back, when integrations change
//! (`SqliteStore::manage`), and streaks when a job that does not see this memory has changed some
//! (`Db::streaks_have_changed`).

use std::collections::HashMap;
use std::hash::Hash;

use super::db::Db;
use super::errors::Done;
use super::in_flight::InFlight;
use super::standing::{self, Known};
use crate::domain::frequency::Streak;
use crate::domain::ids::{IntegrationId, RoomKey, TokenKey};
use crate::domain::pacing::{Budget, Meter};
use crate::ports::{RoomState, StreakKey};

/// Rows of one table kept at most; a bound on memory, not a tuning.
const ROWS: usize = 20_000;

/// The writer's memory.
#[derive(Default)]
pub struct Memory {
    pub standings: Standings,
    /// Meters of tokens, and the budgets that they were counted by.
    pub tokens: Rows<TokenKey, (Meter, Budget)>,
    /// Streaks, and when a run last came for each.
    pub streaks: Rows<StreakKey, (Streak, Option<i64>)>,
    /// Rooms that were told straight and in which nothing waits, with their last claim. One that anything else happens
    /// to is forgotten.
    pub resting: Rows<RoomKey, (u64, RoomState)>,
    pub in_flight: InFlight,
    /// Changes when another connection has written.
    data_version: Option<i64>,
}

impl Memory {
    /// A transaction has begun on `db`.
    pub fn begun(&mut self, db: &Db<'_>) -> rusqlite::Result<()> {
        let version: i64 = db.query_row("PRAGMA data_version", [], |row| row.get(0))?;
        if self.data_version != Some(version) {
            self.forget();
            self.in_flight.read_places(db)?;
            self.data_version = Some(version);
        }
        Ok(())
    }

    /// The transaction is durable.
    pub fn committed(&mut self) {
        self.in_flight.committed();
    }

    /// What was done since `mark` (see [`InFlight::mark`]) was taken back.
    pub fn taken_back(&mut self, mark: usize) {
        self.forget();
        self.in_flight.taken_back(mark);
    }

    /// The whole transaction was taken back.
    pub fn lost(&mut self) {
        self.forget();
        self.in_flight.lost();
    }

    /// Whatever was read may not hold any more.
    pub fn forget(&mut self) {
        self.standings.forget();
        self.tokens.forget();
        self.streaks.forget();
        self.resting.forget();
    }
}

/// Integrations as they stand in the writer's transaction.
#[derive(Default)]
pub struct Standings(Rows<IntegrationId, Known>);

impl Standings {
    /// Where the integration stands; `None` if there is no such integration.
    pub fn of(&mut self, db: &Db<'_>, id: &IntegrationId) -> Done<Option<&Known>> {
        self.0.of(id, || Ok(standing::standing(db, id)?))
    }

    /// Some of its throttle was spent.
    pub fn throttled(&mut self, id: &IntegrationId) {
        if let Some(Some(known)) = self.0.0.get_mut(id) {
            known.throttled = true;
        }
    }

    /// Whatever is known may not hold any more.
    pub fn forget(&mut self) {
        self.0.forget();
    }
}

/// Rows of one table as they stand in the writer's transaction, each read once; `None` for one that is not there.
pub struct Rows<K, V>(HashMap<K, Option<V>>);

impl<K, V> Default for Rows<K, V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Hash + Eq + Clone, V> Rows<K, V> {
    /// The row of `key`, which is read now if it is not known.
    pub fn of(&mut self, key: &K, read: impl FnOnce() -> Done<Option<V>>) -> Done<Option<&V>> {
        if !self.0.contains_key(key) {
            let row = read()?;
            self.keep(key, row);
        }
        Ok(self.0.get(key).and_then(Option::as_ref))
    }

    /// It was written.
    pub fn put(&mut self, key: &K, row: V) {
        self.keep(key, Some(row));
    }

    fn keep(&mut self, key: &K, row: Option<V>) {
        if let Some(known) = self.0.get_mut(key) {
            *known = row;
            return;
        }
        if self.0.len() >= ROWS {
            self.0.clear();
        }
        self.0.insert(key.clone(), row);
    }

    /// What is known of it, which the caller goes on with.
    pub fn take(&mut self, key: &K) -> Option<V> {
        self.0.remove(key).flatten()
    }

    /// Whatever is known of it may not hold any more.
    pub fn forget_one(&mut self, key: &K) {
        self.0.remove(key);
    }

    /// Whatever is known may not hold any more.
    pub fn forget(&mut self) {
        self.0.clear();
    }
}
