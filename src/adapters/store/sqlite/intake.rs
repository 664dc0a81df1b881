//! Taking in a batch: what is known, the caller's decision, and what it changes.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, params};

use super::errors::Done;
use super::notifications::{doubt_streak, exhume, wake_room};
use super::{letters, standing};
use crate::adapters::store::fate::{Now, Standing, fate_by_now};
use crate::adapters::store::rows::{belief, micros, properties, time};
use crate::adapters::store::state::{GATHERING, PENDING};
use crate::domain::envelope::Received;
use crate::domain::frequency::Streak;
use crate::domain::ids::{EventId, GatherKey, IntegrationId};
use crate::domain::reason::{Outcome, SuppressReason};
use crate::domain::story::Story;
use crate::ports::{
    CollationKey, Decide, DecidedEvent, Fate, IntakeChanges, IntakeQuery, IntakeReceipt, IntakeState,
    NewNotification, StreakKey,
};

/// Runs one batch inside the writer's transaction.
pub fn take_in(c: &Connection, query: &IntakeQuery, decide: Decide) -> Done<IntakeReceipt> {
    let changes = decide(gather(c, query)?);
    let batch = Batch {
        c,
        standings: HashMap::new(),
        ready: HashMap::new(),
        news: HashMap::new(),
        untold: Vec::new(),
        receipt: IntakeReceipt::default(),
    };
    batch.write(&changes)
}

fn gather(c: &Connection, query: &IntakeQuery) -> Done<IntakeState> {
    let mut state = IntakeState::default();
    let mut known = c.prepare_cached("SELECT 1 FROM notifications WHERE event = ?1 LIMIT 1")?;
    for id in &query.events {
        if known.exists([id.as_str()])? {
            state.known.insert(id.clone());
        }
    }
    for key in &query.streaks {
        if let Some(streak) = streak(c, key)? {
            state.streaks.insert(key.clone(), streak);
        }
    }
    let mut until = c.prepare_cached("SELECT until FROM collations WHERE integration = ?1 AND of = ?2")?;
    for key in &query.collations {
        let found = until.query_row([key.integration.as_str(), &key.of], |row| row.get(0)).optional()?;
        if let Some(micros) = found {
            state.collations.insert(key.clone(), time(micros));
        }
    }
    Ok(state)
}

fn streak(c: &Connection, key: &StreakKey) -> rusqlite::Result<Option<Streak>> {
    c.prepare_cached(
        "SELECT failures, first_failed_at, newest, belief FROM streaks \
         WHERE integration = ?1 AND monitor = ?2 AND region = ?3",
    )?
    .query_row([key.integration.as_str(), &key.monitor_uid, &key.region], |row| {
        Ok(Streak {
            failures: row.get(0)?,
            first_failed_at: row.get::<_, Option<i64>>(1)?.map(time),
            newest: row.get::<_, Option<i64>>(2)?.map(time),
            belief: belief(&row.get::<_, String>(3)?),
        })
    })
    .optional()
}

/// One batch on its way into the tables.
struct Batch<'c> {
    c: &'c Connection,
    /// The integrations as they stand now; a decision may rest on what they were a moment ago.
    standings: HashMap<IntegrationId, Option<Standing>>,
    /// Rooms that get something, and when the first of it is ready.
    ready: HashMap<String, i64>,
    /// The latest news of each streak.
    news: HashMap<&'c StreakKey, i64>,
    /// Streaks whose news was not told after all.
    untold: Vec<&'c StreakKey>,
    receipt: IntakeReceipt,
}

/// A notification that is to be told.
struct Telling<'a> {
    room: &'a str,
    story: &'a Story,
    ready_at: i64,
    wake_at: i64,
    gather: Option<&'a GatherKey>,
}

impl<'c> Batch<'c> {
    fn write(mut self, changes: &'c IntakeChanges) -> Done<IntakeReceipt> {
        let at = changes.events.last().map(|event| micros(event.received.at));
        for event in &changes.events {
            self.event(event)?;
        }
        for (key, streak) in &changes.streaks {
            self.streak(key, streak, at)?;
        }
        // After the streaks, whose beliefs rest on the telling.
        for key in &self.untold {
            doubt_streak(self.c, [key.integration.as_str(), &key.monitor_uid, &key.region], i64::MAX)?;
        }
        for (key, until) in &changes.collations {
            self.collation(key, micros(*until))?;
        }
        for letter in &changes.letters {
            letters::insert(self.c, letter)?;
        }
        self.receipt.letters = changes.letters.len();
        for (room, ready_at) in &self.ready {
            wake_room(self.c, room, *ready_at)?;
        }
        Ok(self.receipt)
    }

    fn event(&mut self, event: &'c DecidedEvent) -> Done<()> {
        let mut stored: Option<i64> = None;
        let mut opened = 0i64;
        for new in event.notifications.iter().filter(|new| matches!(new.fate, Fate::Retell { .. })) {
            exhume(self.c, &event.id, &new.integration)?;
        }
        for new in &event.notifications {
            if self.notification(event, new, &mut stored)? {
                opened += 1;
            }
        }
        if let Some(no) = stored {
            self.c
                .prepare_cached("UPDATE events SET open = open + ?2 WHERE no = ?1")?
                .execute([no, opened])?;
        }
        Ok(())
    }

    /// Writes one notification unless it is known already. Returns whether it now needs its event.
    fn notification(
        &mut self,
        event: &'c DecidedEvent,
        new: &'c NewNotification,
        stored: &mut Option<i64>,
    ) -> Done<bool> {
        let standing = self.standing(&new.integration)?;
        let (story, ready_at, gather) = match fate_by_now(&new.fate, event.received.at, standing.as_ref()) {
            Now::Suppressed(reason, detail) => {
                self.suppress(event, new, reason, &detail)?;
                return Ok(false);
            }
            Now::Told(story, ready_at, gather) => (story, ready_at, gather),
        };
        if self.is_known(&event.id, &new.integration)? {
            return Ok(false);
        }
        let closed_until = standing.as_ref().and_then(|s| s.closed_until);
        let room = standing.map_or_else(|| new.room.as_str().to_owned(), |s| s.room);
        let no = match *stored {
            Some(no) => no,
            None => *stored.insert(self.store(&event.id, &event.received)?),
        };
        let ready_at = micros(ready_at);
        // What is throttled need not wake its room before it can be told.
        let wake_at = closed_until.map_or(ready_at, |until| until.max(ready_at));
        let telling = Telling { room: &room, story, ready_at, wake_at, gather };
        self.tell(event, new, no, &telling)?;
        Ok(true)
    }

    fn standing(&mut self, id: &IntegrationId) -> Done<Option<Standing>> {
        if let Some(known) = self.standings.get(id) {
            return Ok(known.clone());
        }
        let found = standing::standing(self.c, id)?;
        self.standings.insert(id.clone(), found.clone());
        Ok(found)
    }

    fn is_known(&self, event: &EventId, integration: &IntegrationId) -> rusqlite::Result<bool> {
        self.c
            .prepare_cached("SELECT 1 FROM notifications WHERE event = ?1 AND integration = ?2")?
            .exists([event.as_str(), integration.as_str()])
    }

    /// The number of the stored event, which is stored now if it is not yet.
    fn store(&self, id: &EventId, received: &Received) -> rusqlite::Result<i64> {
        self.c
            .prepare_cached(
                "INSERT INTO events (id, properties, body, received_at, open) VALUES (?1, ?2, ?3, ?4, 0) \
                 ON CONFLICT (id) DO UPDATE SET open = open RETURNING no",
            )?
            .query_row(
                params![
                    id.as_str(),
                    properties(&received.envelope),
                    received.envelope.body,
                    micros(received.at)
                ],
                |row| row.get(0),
            )
    }

    fn tell(
        &mut self,
        event: &DecidedEvent,
        new: &'c NewNotification,
        event_no: i64,
        telling: &Telling<'_>,
    ) -> rusqlite::Result<()> {
        let received_at = micros(event.received.at);
        let state = if telling.ready_at <= received_at { PENDING } else { GATHERING };
        self.c
            .prepare_cached(
                "INSERT INTO notifications (event, integration, room, event_no, state, reason, failures, \
                 first_failed_at, gather, ready_at, received_at, decided_at, monitor, region) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?11, ?12, ?13)",
            )?
            .execute(params![
                event.id.as_str(),
                new.integration.as_str(),
                telling.room,
                event_no,
                state,
                telling.story.reason.as_str(),
                telling.story.failures,
                telling.story.first_failed_at.map(micros),
                telling.gather.map(GatherKey::as_str),
                telling.ready_at,
                received_at,
                new.streak.as_ref().map(|streak| &streak.monitor_uid),
                new.streak.as_ref().map(|streak| &streak.region),
            ])?;
        if let Some(streak) = &new.streak {
            self.news.insert(streak, self.c.last_insert_rowid());
        }
        let first = self.ready.entry(telling.room.to_owned()).or_insert(telling.wake_at);
        *first = telling.wake_at.min(*first);
        self.receipt.pending += 1;
        Ok(())
    }

    fn suppress(
        &mut self,
        event: &DecidedEvent,
        new: &'c NewNotification,
        reason: SuppressReason,
        detail: &str,
    ) -> rusqlite::Result<()> {
        let inserted = self
            .c
            .prepare_cached(
                "INSERT INTO notifications (event, integration, room, state, reason, detail, received_at, \
                 decided_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7) ON CONFLICT (event, integration) DO NOTHING",
            )?
            .execute(params![
                event.id.as_str(),
                new.integration.as_str(),
                new.room.as_str(),
                Outcome::Suppressed.as_str(),
                reason.as_str(),
                detail,
                micros(event.received.at),
            ])?;
        if inserted > 0 {
            if !matches!(new.fate, Fate::Suppress { .. }) {
                self.untold.extend(new.streak.as_ref());
            }
            *self.receipt.suppressed.entry(reason).or_default() += 1;
        }
        Ok(())
    }

    /// Streaks live no longer than their integration; one that was removed a moment ago gets none anew. `at` is when
    /// the run came that moved it.
    fn streak(&mut self, key: &StreakKey, streak: &Streak, at: Option<i64>) -> Done<()> {
        if self.standing(&key.integration)?.is_none() {
            return Ok(());
        }
        self.c
            .prepare_cached(
                "INSERT INTO streaks (integration, monitor, region, failures, first_failed_at, newest, belief, \
                 touched, news) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT (integration, monitor, \
                 region) DO UPDATE SET failures = ?4, first_failed_at = ?5, newest = ?6, belief = ?7, \
                 news = ifnull(?9, news)",
            )?
            .execute(params![
                key.integration.as_str(),
                key.monitor_uid,
                key.region,
                streak.failures,
                streak.first_failed_at.map(micros),
                streak.newest.map(micros),
                streak.belief.as_str(),
                at,
                self.news.get(key),
            ])?;
        // Once a day, so that a run seldom costs a change of the index.
        self.c
            .prepare_cached(
                "UPDATE streaks SET touched = ?4 WHERE integration = ?1 AND monitor = ?2 AND region = ?3 \
                 AND ifnull(touched < ?4 - 86400000000, true)",
            )?
            .execute(params![key.integration.as_str(), key.monitor_uid, key.region, at])?;
        Ok(())
    }

    fn collation(&mut self, key: &CollationKey, until: i64) -> Done<()> {
        if self.standing(&key.integration)?.is_none() {
            return Ok(());
        }
        self.c
            .prepare_cached(
                "INSERT INTO collations (integration, of, until) VALUES (?1, ?2, ?3) \
                 ON CONFLICT (integration, of) DO UPDATE SET until = ?3",
            )?
            .execute(params![key.integration.as_str(), key.of, until])?;
        Ok(())
    }
}
