//! What the writer remembers between transactions, so that it need not be read back: the standings of integrations,
//! and what is told straight from intake and not written yet (`in_flight`).
//!
//! Only the writer's thread works with it. What was read is forgotten whenever it may not hold any more: when
//! another process has written the file, when a transaction is taken back, when integrations change.

use std::collections::HashMap;

use rusqlite::Connection;

use super::errors::Done;
use super::in_flight::InFlight;
use super::standing::{self, Known};
use crate::domain::ids::IntegrationId;

/// Standings kept at most; a bound on memory, not a tuning.
const STANDINGS: usize = 20_000;

/// The writer's memory.
#[derive(Default)]
pub struct Memory {
    pub standings: Standings,
    pub in_flight: InFlight,
    /// Changes when another connection has written.
    data_version: Option<i64>,
}

impl Memory {
    /// A transaction has begun on `c`.
    pub fn begun(&mut self, c: &Connection) -> rusqlite::Result<()> {
        let version: i64 = c.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))?;
        if self.data_version != Some(version) {
            self.standings.forget();
            self.in_flight.read_places(c)?;
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
        self.standings.forget();
        self.in_flight.taken_back(mark);
    }

    /// The whole transaction was taken back.
    pub fn lost(&mut self) {
        self.standings.forget();
        self.in_flight.lost();
    }
}

/// Integrations as they stand in the writer's transaction, read once.
#[derive(Default)]
pub struct Standings(HashMap<IntegrationId, Option<Known>>);

impl Standings {
    /// Where the integration stands; `None` if there is no such integration.
    pub fn of(&mut self, c: &Connection, id: &IntegrationId) -> Done<Option<&Known>> {
        if !self.0.contains_key(id) {
            if self.0.len() >= STANDINGS {
                self.0.clear();
            }
            self.0.insert(id.clone(), standing::standing(c, id)?);
        }
        Ok(self.0.get(id).and_then(Option::as_ref))
    }

    /// Some of its throttle was spent.
    pub fn throttled(&mut self, id: &IntegrationId) {
        if let Some(Some(known)) = self.0.get_mut(id) {
            known.throttled = true;
        }
    }

    /// Whatever is known may not hold any more.
    pub fn forget(&mut self) {
        self.0.clear();
    }
}
