//! Taking in a batch: what is known, the caller's decision, and what it changes.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use rusqlite::{OptionalExtension, params};

use super::db::Db;
use super::errors::Done;
use super::letters;
use super::memory::Memory;
use super::notifications::{doubt_streak, exhume, wake_room};
use super::straight::{self, HandedOut};
use crate::adapters::store::fate::{Now, fate_by_now};
use crate::adapters::store::handing::kept_streak;
use crate::adapters::store::rows::{belief, micros, properties, time};
use crate::adapters::store::state::{GATHERING, PENDING};
use crate::domain::envelope::Received;
use crate::domain::frequency::Streak;
use crate::domain::ids::{EventId, GatherKey, IntegrationId, RoomKey};
use crate::domain::reason::{Outcome, SuppressReason};
use crate::domain::story::Story;
use crate::ports::{
    CollationKey, Decide, DecidedEvent, Fate, IntakeChanges, IntakeQuery, IntakeReceipt, IntakeState,
    NewNotification, Straight, StreakKey,
};

/// In microseconds.
const DAY: i64 = 24 * 3600 * 1_000_000;

/// Runs one batch inside the writer's transaction. What `straight` takes is handed out and not written.
pub fn take_in(
    db: &Db<'_>,
    memory: &mut Memory,
    query: &IntakeQuery,
    decide: Decide,
    straight: Option<&Straight>,
) -> Done<(IntakeReceipt, Option<HandedOut>)> {
    straight::before_decision(db, memory, query)?;
    let mut gathered = Gathered::default();
    let changes = decide(gather(db, memory, query, &mut gathered)?);
    straight::before_writing(db, memory, &changes)?;
    let places = memory.in_flight.places(&changes.events);
    let handed = straight
        .map(|straight| straight::hand_out(db, memory, &changes, (&gathered, &places), straight))
        .transpose()?;
    let receipt = Batch::new(db, memory, gathered).write(&changes, &places, handed.as_ref())?;
    Ok((receipt, handed))
}

/// What was found out on the way to a decision, so that it need not be looked up again.
#[derive(Default)]
pub struct Gathered {
    /// Ids that no notification has.
    unknown: HashSet<EventId>,
    /// When a run last came for a streak; `None` where the streak has no such time.
    touched: HashMap<StreakKey, Option<i64>>,
}

impl Gathered {
    fn touched(&self, key: &StreakKey) -> Option<i64> {
        self.touched.get(key).copied().flatten()
    }

    /// A streak that was moved, with what is known of it.
    pub fn moved(&self, key: &StreakKey, streak: Streak) -> Moved {
        Moved { key: key.clone(), streak, touched: self.touched(key) }
    }
}

/// A streak as an event has moved it.
pub struct Moved {
    key: StreakKey,
    streak: Streak,
    /// When a run last came for it, if that is known.
    touched: Option<i64>,
}

fn gather(
    db: &Db<'_>,
    memory: &mut Memory,
    query: &IntakeQuery,
    gathered: &mut Gathered,
) -> Done<IntakeState> {
    let mut state = IntakeState::default();
    if db.have_streaks_changed() {
        memory.streaks.forget();
    }
    for id in &query.events {
        if db.exists("SELECT 1 FROM notifications WHERE event = ?1 LIMIT 1", [id.as_str()])? {
            state.known.insert(id.clone());
        } else {
            gathered.unknown.insert(id.clone());
        }
    }
    for key in &query.streaks {
        if let Some((streak, touched)) = memory.streaks.of(key, || Ok(streak(db, key)?))? {
            state.streaks.insert(key.clone(), *streak);
            gathered.touched.insert(key.clone(), *touched);
        }
    }
    for key in &query.collations {
        let until = "SELECT until FROM collations WHERE integration = ?1 AND of = ?2";
        let found = db.query_row(until, [key.integration.as_str(), &key.of], |row| row.get(0)).optional()?;
        if let Some(micros) = found {
            state.collations.insert(key.clone(), time(micros));
        }
    }
    Ok(state)
}

/// A streak, and when a run last came for it.
fn streak(db: &Db<'_>, key: &StreakKey) -> rusqlite::Result<Option<(Streak, Option<i64>)>> {
    db.query_row(
        "SELECT failures, first_failed_at, newest, belief, touched FROM streaks \
         WHERE integration = ?1 AND monitor = ?2 AND region = ?3",
        [key.integration.as_str(), &key.monitor_uid, &key.region],
        |row| {
            let streak = Streak {
                failures: row.get(0)?,
                first_failed_at: row.get::<_, Option<i64>>(1)?.map(time),
                newest: row.get::<_, Option<i64>>(2)?.map(time),
                belief: belief(&row.get::<_, String>(3)?),
            };
            Ok((streak, row.get(4)?))
        },
    )
    .optional()
}

/// A streak as it is read back.
fn as_kept(streak: &Streak) -> Streak {
    let kept = |at: Option<Timestamp>| at.map(|at| time(micros(at)));
    Streak { first_failed_at: kept(streak.first_failed_at), newest: kept(streak.newest), ..*streak }
}

/// One batch on its way into the tables.
pub struct Batch<'a, 'c> {
    db: &'a Db<'c>,
    /// With the integrations as they stand now; a decision may rest on what they were a moment ago.
    memory: &'a mut Memory,
    gathered: Gathered,
    /// Rooms that get something, and when the first of it is ready.
    ready: HashMap<RoomKey, i64>,
    /// The latest news of each streak.
    news: HashMap<&'a StreakKey, i64>,
    /// Streaks whose news was not told after all.
    untold: Vec<&'a StreakKey>,
    receipt: IntakeReceipt,
}

/// A notification that is to be told.
struct Telling<'a> {
    seq: i64,
    room: &'a str,
    story: &'a Story,
    ready_at: i64,
    wake_at: i64,
    gather: Option<&'a GatherKey>,
}

impl<'a, 'c> Batch<'a, 'c> {
    /// An empty one.
    pub fn new(db: &'a Db<'c>, memory: &'a mut Memory, gathered: Gathered) -> Self {
        let (ready, news, untold) = (HashMap::new(), HashMap::new(), Vec::new());
        Self { db, memory, gathered, ready, news, untold, receipt: IntakeReceipt::default() }
    }

    fn write(
        mut self,
        changes: &'a IntakeChanges,
        places: &[i64],
        handed: Option<&HandedOut>,
    ) -> Done<IntakeReceipt> {
        let at = changes.events.last().map(|event| micros(event.received.at));
        for (event, place) in changes.events.iter().zip(places) {
            if handed.is_none_or(|handed| !handed.seqs.contains(place)) {
                self.event(event, *place)?;
            }
        }
        for (key, streak) in &changes.streaks {
            if handed.is_none_or(|handed| !handed.integrations.contains(&key.integration)) {
                let touched = self.gathered.touched(key);
                self.streak(key, streak, at, touched)?;
            }
        }
        self.finish(changes)
    }

    /// Writes an event that was handed out, with its place in the line and the streak that it moved.
    pub fn write_down(mut self, event: &'a DecidedEvent, seq: i64, moved: Option<&'a Moved>) -> Done<()> {
        self.event(event, seq)?;
        if let Some(moved) = moved {
            self.moved(event, moved)?;
        }
        self.finish(&IntakeChanges::default()).map(drop)
    }

    /// Writes the streak that an event has moved which was told under `seq`.
    pub fn told(mut self, event: &'a DecidedEvent, seq: i64, moved: Option<&'a Moved>) -> Done<()> {
        let Some(moved) = moved else { return Ok(()) };
        if event.notifications.iter().any(|new| new.streak.as_ref() == Some(&moved.key)) {
            self.news.insert(&moved.key, seq);
        }
        self.moved(event, moved)
    }

    /// Writes the streak that a handed out event has moved.
    fn moved(&mut self, event: &DecidedEvent, moved: &'a Moved) -> Done<()> {
        let Moved { key, streak, touched } = moved;
        let standing = self.memory.standings.of(self.db, &key.integration)?;
        let Some(room) = standing.map(|known| &known.standing.room) else { return Ok(()) };
        let streak = kept_streak(*streak, event.notifications.iter().all(|new| new.room.as_str() == room));
        self.streak(key, &streak, Some(micros(event.received.at)), *touched)
    }

    fn finish(mut self, changes: &IntakeChanges) -> Done<IntakeReceipt> {
        // After the streaks, whose beliefs rest on the telling.
        for key in &self.untold {
            doubt_streak(self.db, [key.integration.as_str(), &key.monitor_uid, &key.region], i64::MAX)?;
        }
        for (key, until) in &changes.collations {
            self.collation(key, micros(*until))?;
        }
        for letter in &changes.letters {
            letters::insert(self.db, letter)?;
        }
        self.receipt.letters = changes.letters.len();
        for (room, ready_at) in &self.ready {
            self.memory.resting.forget_one(room);
            wake_room(self.db, room.as_str(), *ready_at)?;
        }
        Ok(self.receipt)
    }

    /// Writes an event whose first notification has the place `first`, and the others those after it.
    fn event(&mut self, event: &'a DecidedEvent, first: i64) -> Done<()> {
        let mut stored: Option<i64> = None;
        let mut opened = 0i64;
        for new in event.notifications.iter().filter(|new| matches!(new.fate, Fate::Retell { .. })) {
            exhume(self.db, &event.id, &new.integration)?;
        }
        for (seq, new) in (first..).zip(&event.notifications) {
            if self.notification(event, new, &mut stored, seq)? {
                opened += 1;
            }
        }
        if let Some(no) = stored {
            self.db.execute("UPDATE events SET open = open + ?2 WHERE no = ?1", [no, opened])?;
        }
        Ok(())
    }

    /// Writes one notification unless it is known already. Returns whether it now needs its event.
    fn notification(
        &mut self,
        event: &'a DecidedEvent,
        new: &'a NewNotification,
        stored: &mut Option<i64>,
        seq: i64,
    ) -> Done<bool> {
        let standing =
            self.memory.standings.of(self.db, &new.integration)?.map(|known| known.standing.clone());
        let (story, ready_at, gather) = match fate_by_now(&new.fate, event.received.at, standing.as_ref()) {
            Now::Suppressed(reason, detail) => {
                self.suppress(event, new, seq, (reason, &detail))?;
                return Ok(false);
            }
            Now::Told(story, ready_at, gather) => (story, ready_at, gather),
        };
        let alone = event.notifications.len() == 1;
        // Once found to be unknown it is so until this writes it.
        let is_new = alone && self.gathered.unknown.remove(&event.id);
        if !is_new && self.is_known(&event.id, &new.integration)? {
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
        let telling = Telling { seq, room: &room, story, ready_at, wake_at, gather };
        self.tell(event, new, no, &telling)?;
        Ok(true)
    }

    fn is_known(&self, event: &EventId, integration: &IntegrationId) -> rusqlite::Result<bool> {
        self.db.exists(
            "SELECT 1 FROM notifications WHERE event = ?1 AND integration = ?2",
            [event.as_str(), integration.as_str()],
        )
    }

    /// The number of the stored event, which is stored now if it is not yet.
    fn store(&self, id: &EventId, received: &Received) -> rusqlite::Result<i64> {
        self.db.query_row(
            "INSERT INTO events (id, properties, body, received_at, open) VALUES (?1, ?2, ?3, ?4, 0) \
                 ON CONFLICT (id) DO UPDATE SET open = open RETURNING no",
            params![id.as_str(), properties(&received.envelope), received.envelope.body, micros(received.at)],
            |row| row.get(0),
        )
    }

    fn tell(
        &mut self,
        event: &DecidedEvent,
        new: &'a NewNotification,
        event_no: i64,
        telling: &Telling<'_>,
    ) -> rusqlite::Result<()> {
        let received_at = micros(event.received.at);
        let state = if telling.ready_at <= received_at { PENDING } else { GATHERING };
        self.db.execute(
            "INSERT INTO notifications (event, integration, room, event_no, state, reason, failures, \
                 first_failed_at, gather, ready_at, received_at, decided_at, monitor, region, seq) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?11, ?12, ?13, ?14)",
            params![
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
                telling.seq,
            ],
        )?;
        if let Some(streak) = &new.streak {
            self.news.insert(streak, telling.seq);
        }
        let first = self.ready.entry(RoomKey::new(telling.room)).or_insert(telling.wake_at);
        *first = telling.wake_at.min(*first);
        self.receipt.pending += 1;
        Ok(())
    }

    fn suppress(
        &mut self,
        event: &DecidedEvent,
        new: &'a NewNotification,
        seq: i64,
        (reason, detail): (SuppressReason, &str),
    ) -> rusqlite::Result<()> {
        let inserted = self.db.execute(
            "INSERT INTO notifications (event, integration, room, state, reason, detail, received_at, \
                 decided_at, seq) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7, ?8) \
                 ON CONFLICT (event, integration) DO NOTHING",
            params![
                event.id.as_str(),
                new.integration.as_str(),
                new.room.as_str(),
                Outcome::Suppressed.as_str(),
                reason.as_str(),
                detail,
                micros(event.received.at),
                seq,
            ],
        )?;
        if inserted > 0 {
            if !matches!(new.fate, Fate::Suppress { .. }) {
                self.untold.extend(new.streak.as_ref());
            }
            *self.receipt.suppressed.entry(reason).or_default() += 1;
        }
        Ok(())
    }

    /// Streaks live no longer than their integration; one that was removed a moment ago gets none anew. `at` is when
    /// the run came that moved it, `touched` when one came before, if that is known.
    fn streak(
        &mut self,
        key: &StreakKey,
        streak: &Streak,
        at: Option<i64>,
        touched: Option<i64>,
    ) -> Done<()> {
        if self.memory.standings.of(self.db, &key.integration)?.is_none() {
            return Ok(());
        }
        self.db.execute(
            "INSERT INTO streaks (integration, monitor, region, failures, first_failed_at, newest, belief, \
             touched, news) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT (integration, monitor, \
             region) DO UPDATE SET failures = ?4, first_failed_at = ?5, newest = ?6, belief = ?7, \
             news = ifnull(?9, news)",
            params![
                key.integration.as_str(),
                key.monitor_uid,
                key.region,
                streak.failures,
                streak.first_failed_at.map(micros),
                streak.newest.map(micros),
                streak.belief.as_str(),
                at,
                self.news.get(key),
            ],
        )?;
        // Once a day, so that a run seldom costs a change of the index.
        if touched.zip(at).is_some_and(|(touched, at)| touched >= at - DAY) {
            self.memory.streaks.put(key, (as_kept(streak), touched));
            return Ok(());
        }
        self.memory.streaks.forget_one(key);
        self.db.execute(
            "UPDATE streaks SET touched = ?4 WHERE integration = ?1 AND monitor = ?2 AND region = ?3 \
                 AND ifnull(touched < ?4 - 86400000000, true)",
            params![key.integration.as_str(), key.monitor_uid, key.region, at],
        )?;
        Ok(())
    }

    fn collation(&mut self, key: &CollationKey, until: i64) -> Done<()> {
        if self.memory.standings.of(self.db, &key.integration)?.is_none() {
            return Ok(());
        }
        self.db.execute(
            "INSERT INTO collations (integration, of, until) VALUES (?1, ?2, ?3) \
                 ON CONFLICT (integration, of) DO UPDATE SET until = ?3",
            params![key.integration.as_str(), key.of, until],
        )?;
        Ok(())
    }
}
