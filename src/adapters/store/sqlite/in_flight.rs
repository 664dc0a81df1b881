//! What is told straight from intake and not written yet: facts about posts that are under way, whatever becomes of
//! the transaction. What a transaction writes of it comes back if that is taken back.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::OptionalExtension;
use tokio::sync::mpsc;

use super::db::Db;
use super::intake::Moved;
use crate::domain::ids::{EventId, IntegrationId, RoomKey, TokenKey};
use crate::ports::{DecidedEvent, IntakeChanges, IntakeQuery};

/// Ends when every entry of a batch is durable.
pub type Open = mpsc::Receiver<Infallible>;

/// A notification that is handed out and not written.
pub struct Entry {
    pub event: DecidedEvent,
    pub moved: Option<Moved>,
    pub seq: i64,
    pub room: RoomKey,
    pub token: TokenKey,
    pub claim: u64,
    /// Of the integrations, when the room was handed out.
    pub revision: u64,
    pub held_since: Timestamp,
    pub lease: Duration,
    /// Ends with this entry.
    pub _open: mpsc::Sender<Infallible>,
}

impl Entry {
    /// Whose notification it is.
    pub fn integration(&self) -> &IntegrationId {
        &self.event.notifications[0].integration
    }
}

/// All that is handed out and not written.
#[derive(Default)]
pub struct InFlight {
    rooms: HashMap<RoomKey, Entry>,
    events: HashMap<EventId, RoomKey>,
    integrations: HashMap<IntegrationId, RoomKey>,
    tokens: HashMap<TokenKey, u32>,
    /// Written in the transaction under way.
    leaving: Vec<Entry>,
    /// Rooms that were settled in it. It may be taken back, and what was posted on the strength of it would not be.
    settled: HashSet<RoomKey>,
    /// The highest place that was given away.
    top: i64,
}

impl InFlight {
    /// How far the transaction has come, for [`InFlight::taken_back`].
    pub fn mark(&self) -> usize {
        self.leaving.len()
    }

    /// What was written is durable.
    pub fn committed(&mut self) {
        self.leaving.clear();
        self.settled.clear();
    }

    /// A room is settled in the transaction under way. Only a defence: what gives a room back can wait, and so comes
    /// last in its transaction (`queue`), behind whatever could hand the room out again.
    pub fn settled(&mut self, room: &RoomKey) {
        self.settled.insert(room.clone());
    }

    /// Whether a room and what is known of an integration's streaks rest on what is durable.
    pub fn is_durable(&self, room: &RoomKey, integration: &IntegrationId) -> bool {
        !self.settled.contains(room) && self.leaving.iter().all(|entry| entry.integration() != integration)
    }

    /// What was written since `mark` is not written after all. What was settled before is as uncertain as it was.
    pub fn taken_back(&mut self, mark: usize) {
        for entry in self.leaving.split_off(mark.min(self.leaving.len())) {
            self.insert(entry);
        }
    }

    /// Nothing of the transaction was written after all.
    pub fn lost(&mut self) {
        self.settled.clear();
        self.taken_back(0);
    }

    /// Calls that are handed out with a token.
    pub fn reserved(&self, token: &TokenKey) -> u32 {
        self.tokens.get(token).copied().unwrap_or_default()
    }

    /// Whether the room is handed out.
    pub fn has(&self, room: &RoomKey) -> bool {
        self.rooms.contains_key(room)
    }

    /// Whether the room is handed out, by this very claim.
    pub fn is_held(&self, room: &RoomKey, claim: u64) -> bool {
        self.rooms.get(room).is_some_and(|entry| entry.claim == claim)
    }

    /// Reads which places were given away by others.
    pub fn read_places(&mut self, db: &Db<'_>) -> rusqlite::Result<()> {
        let written: Option<i64> = db
            .query_row("SELECT seq FROM sqlite_sequence WHERE name = 'notifications'", [], |row| row.get(0))
            .optional()?;
        self.top = self.top.max(written.unwrap_or_default());
        Ok(())
    }

    /// Places in the lines that nobody has had, for the first notification of each event; the others of an event follow
    /// it. A line's order is that of its places, so they are given in the order of the events, also where some of a batch
    /// is handed out before the rest of it is written: an operator may bring both into one line.
    pub fn places(&mut self, events: &[DecidedEvent]) -> Vec<i64> {
        let place = |event: &DecidedEvent| {
            let first = self.top + 1;
            self.top += i64::try_from(event.notifications.len()).unwrap_or_default();
            first
        };
        events.iter().map(place).collect()
    }

    /// One more is handed out.
    pub fn insert(&mut self, entry: Entry) {
        self.events.insert(entry.event.id.clone(), entry.room.clone());
        self.integrations.insert(entry.integration().clone(), entry.room.clone());
        *self.tokens.entry(entry.token.clone()).or_default() += 1;
        self.rooms.insert(entry.room.clone(), entry);
    }

    /// It is about to be written.
    pub fn remove(&mut self, room: &RoomKey) -> Option<Entry> {
        let entry = self.rooms.remove(room)?;
        self.events.remove(&entry.event.id);
        self.integrations.remove(entry.integration());
        if let Some(calls) = self.tokens.get_mut(&entry.token) {
            *calls -= 1;
            if *calls == 0 {
                self.tokens.remove(&entry.token);
            }
        }
        Some(entry)
    }

    /// The rooms that what is asked for hangs on.
    pub fn touched_by_query(&self, query: &IntakeQuery) -> HashSet<RoomKey> {
        let events = query.events.iter().filter_map(|id| self.events.get(id));
        let streaks = query.streaks.iter().filter_map(|key| self.integrations.get(&key.integration));
        let collations = query.collations.iter().filter_map(|key| self.integrations.get(&key.integration));
        events.chain(streaks).chain(collations).cloned().collect()
    }

    /// The rooms that what was decided has to come after.
    pub fn touched_by_changes(&self, changes: &IntakeChanges) -> HashSet<RoomKey> {
        let mut touched = HashSet::new();
        for event in &changes.events {
            touched.extend(self.events.get(&event.id).cloned());
            for new in &event.notifications {
                touched.extend(self.integrations.get(&new.integration).cloned());
                touched.extend(self.rooms.contains_key(&new.room).then(|| new.room.clone()));
            }
        }
        touched
    }

    /// It was written, or tried to be, in the transaction under way.
    pub fn leave(&mut self, entry: Entry) {
        self.leaving.push(entry);
    }

    /// What is handed out of a room.
    pub fn get(&self, room: &RoomKey) -> Option<&Entry> {
        self.rooms.get(room)
    }

    /// The rooms of those in `seqs`.
    pub fn rooms_of(&self, seqs: &HashSet<i64>) -> Vec<RoomKey> {
        self.rooms
            .values()
            .filter(|entry| seqs.contains(&entry.seq))
            .map(|entry| entry.room.clone())
            .collect()
    }
}
