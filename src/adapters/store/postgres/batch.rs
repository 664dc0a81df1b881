//! One batch on its way into the tables: what is known of it, the rows that it becomes, and the statements that write
//! them.

use std::collections::{BTreeMap, HashMap};

use super::errors::Done;
use super::notifications::Doubts;
use super::rounds::{Answers, Place, Round, key_text, text, texts, values};
use crate::adapters::store::fate::{Now, Standing, fate_by_now};
use crate::adapters::store::rows::{micros, properties};
use crate::adapters::store::state::{BURYING, GATHERING, PENDING};
use crate::domain::frequency::Streak;
use crate::domain::ids::{EventId, GatherKey, IntegrationId};
use crate::domain::reason::Outcome;
use crate::ports::{
    CollationKey, DecidedEvent, Fate, IntakeChanges, IntakeReceipt, NewNotification, StreakKey,
};

/// What the journal has of the batch's events already.
pub struct Known {
    /// By event and integration: the number and the state.
    notifications: HashMap<(String, String), (i64, String)>,
}

impl Known {
    /// Asks for it.
    pub fn ask(round: &mut Round, events: &[DecidedEvent]) -> Place {
        let sql = "SELECT event, integration, seq, state FROM notifications WHERE event = ANY($1)";
        round.add(sql, values![texts(events.iter().map(|event| event.id.as_str()))])
    }

    /// What was asked for.
    pub fn read(answers: &mut Answers, asked: Place) -> Done<Self> {
        let mut notifications = HashMap::new();
        for row in answers.take(asked) {
            let key = (row.try_get(0)?, row.try_get(1)?);
            notifications.insert(key, (row.try_get(2)?, row.try_get(3)?));
        }
        Ok(Self { notifications })
    }

    /// A dead letter comes back: its earlier end makes room for the new beginning.
    fn exhume(&mut self, key: &(String, String)) -> Option<i64> {
        let dead = |state: &str| state == Outcome::DeadLettered.as_str() || state == BURYING;
        self.notifications.get(key).filter(|(_, state)| dead(state))?;
        self.notifications.remove(key).map(|(seq, _)| seq)
    }

    /// Whether it is new; known from now on.
    fn is_new(&mut self, key: (String, String)) -> bool {
        let entry = self.notifications.entry(key);
        let new = matches!(entry, std::collections::hash_map::Entry::Vacant(_));
        entry.or_default();
        new
    }
}

/// One batch on its way into the tables. Each kind of row goes through one statement.
pub struct Batch<'c> {
    standings: HashMap<IntegrationId, Standing>,
    known: Known,
    /// Rooms that get something, and when the first of it is ready.
    pub ready: BTreeMap<String, i64>,
    /// Dead letters that come back.
    pub exhumed: Vec<i64>,
    /// Events that are told to somebody, and to how many.
    events: Vec<(&'c DecidedEvent, i64)>,
    new: Vec<New<'c>>,
    /// Streaks whose news was not told after all.
    pub untold: Doubts,
    pub receipt: IntakeReceipt,
}

/// A notification's row to be.
struct New<'c> {
    event: &'c DecidedEvent,
    integration: &'c IntegrationId,
    room: String,
    state: &'static str,
    reason: &'static str,
    detail: String,
    told: Option<Told<'c>>,
}

/// What only a notification that is to be told has.
struct Told<'c> {
    failures: u32,
    first_failed_at: Option<i64>,
    gather: Option<&'c GatherKey>,
    ready_at: i64,
    streak: Option<&'c StreakKey>,
}

/// The statement that writes notifications.
macro_rules! insert {
    () => {
        "INSERT INTO notifications (event, integration, room, state, reason, detail, received_at, decided_at, \
         failures, first_failed_at, gather, ready_at, monitor, region, event_no) \
         SELECT u.event, u.integration, u.room, u.state, u.reason, u.detail, u.at, u.at, \
         coalesce(u.failures, 0), u.first_failed_at, u.gather, u.ready_at, u.monitor, u.region, \
         CASE WHEN u.ready_at IS NULL THEN NULL ELSE e.no END \
         FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[], \
         $8::bigint[], $9::bigint[], $10::text[], $11::bigint[], $12::text[], $13::text[]) WITH ORDINALITY \
         AS u(event, integration, room, state, reason, detail, at, failures, first_failed_at, gather, \
         ready_at, monitor, region, place) \
         LEFT JOIN events AS e ON e.id = u.event ORDER BY u.place"
    };
}

impl<'c> Batch<'c> {
    /// What was decided becomes, where the integrations stand so and this much is known.
    pub fn of(changes: &'c IntakeChanges, standings: HashMap<IntegrationId, Standing>, known: Known) -> Self {
        let mut batch = Self {
            standings,
            known,
            ready: BTreeMap::new(),
            exhumed: Vec::new(),
            events: Vec::new(),
            new: Vec::new(),
            untold: Doubts::new(),
            receipt: IntakeReceipt { letters: changes.letters.len(), ..IntakeReceipt::default() },
        };
        for event in &changes.events {
            batch.event(event);
        }
        batch
    }

    /// How many notifications begin to wait.
    pub fn opened(&self) -> i64 {
        self.events.iter().map(|(_, told)| told).sum()
    }

    fn event(&mut self, event: &'c DecidedEvent) {
        for new in event.notifications.iter().filter(|new| matches!(new.fate, Fate::Retell { .. })) {
            self.exhumed.extend(self.known.exhume(&key(event, new)));
        }
        let told = event.notifications.iter().filter(|new| self.notification(event, new)).count();
        if told > 0 {
            self.events.push((event, i64::try_from(told).unwrap_or(i64::MAX)));
        }
    }

    /// Adds one notification unless it is known already. Returns whether it needs its event.
    fn notification(&mut self, event: &'c DecidedEvent, new: &'c NewNotification) -> bool {
        if !self.known.is_new(key(event, new)) {
            return false;
        }
        let standing = self.standings.get(&new.integration);
        let integration = &new.integration;
        match fate_by_now(&new.fate, event.received.at, standing) {
            Now::Suppressed(reason, detail) => {
                if !matches!(new.fate, Fate::Suppress { .. }) {
                    self.untold.extend(new.streak.as_ref().map(|key| (names(key), i64::MAX)));
                }
                *self.receipt.suppressed.entry(reason).or_default() += 1;
                self.new.push(New {
                    event,
                    integration,
                    room: new.room.as_str().to_owned(),
                    state: Outcome::Suppressed.as_str(),
                    reason: reason.as_str(),
                    detail: detail.into_owned(),
                    told: None,
                });
                false
            }
            Now::Told(story, ready_at, gather) => {
                let ready_at = micros(ready_at);
                let closed_until = standing.and_then(|standing| standing.closed_until);
                let room = standing.map_or_else(|| new.room.as_str().to_owned(), |s| s.room.clone());
                // What is throttled need not wake its room before it can be told.
                let wake_at = closed_until.map_or(ready_at, |until| until.max(ready_at));
                let first = self.ready.entry(room.clone()).or_insert(wake_at);
                *first = wake_at.min(*first);
                self.receipt.pending += 1;
                self.new.push(New {
                    event,
                    integration,
                    room,
                    state: if ready_at <= micros(event.received.at) { PENDING } else { GATHERING },
                    reason: story.reason.as_str(),
                    detail: String::new(),
                    told: Some(Told {
                        failures: story.failures,
                        first_failed_at: story.first_failed_at.map(micros),
                        gather,
                        ready_at,
                        streak: new.streak.as_ref(),
                    }),
                });
                true
            }
        }
    }

    /// What is ready and alone in its room, with where its integration stands.
    pub fn alone(&self) -> impl Iterator<Item = (&'c DecidedEvent, &Standing)> {
        let mut counts: HashMap<&str, u32> = HashMap::new();
        for new in self.new.iter().filter(|new| new.told.is_some()) {
            *counts.entry(&new.room).or_default() += 1;
        }
        self.new
            .iter()
            .filter(move |new| new.state == PENDING && counts.get(new.room.as_str()) == Some(&1))
            .filter_map(|new| Some((new.event, self.standings.get(new.integration)?)))
    }

    /// The events that are told to somebody.
    pub fn insert_events(&self, round: &mut Round) {
        // One id may come twice in a batch, as an event and as a replay: one row serves both.
        let mut once: BTreeMap<&str, (&DecidedEvent, i64)> = BTreeMap::new();
        for (event, told) in &self.events {
            once.entry(event.id.as_str()).or_insert((event, 0)).1 += told;
        }
        if once.is_empty() {
            return;
        }
        let events: Vec<&(&DecidedEvent, i64)> = once.values().collect();
        let ids = texts(once.keys().copied());
        // Those that are there already are locked in the order of their numbers, as everywhere.
        round.add("SELECT 1 FROM events WHERE id = ANY($1) ORDER BY no FOR UPDATE", values![ids.clone()]);
        round.add(
            "INSERT INTO events AS e (id, properties, body, received_at, open) \
             SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[], $4::bigint[], $5::bigint[]) \
             ON CONFLICT (id) DO UPDATE SET open = e.open + excluded.open",
            values![
                ids,
                events.iter().map(|(e, _)| text(&properties(&e.received.envelope))).collect::<Vec<_>>(),
                events.iter().map(|(e, _)| e.received.envelope.body.clone()).collect::<Vec<_>>(),
                events.iter().map(|(e, _)| micros(e.received.at)).collect::<Vec<_>>(),
                events.iter().map(|(_, told)| *told).collect::<Vec<_>>(),
            ],
        );
    }

    /// In the order of their events, which their places keep. Says which, if they are `asked` for.
    pub fn insert_notifications(&self, round: &mut Round, asked: bool) -> Option<Place> {
        if self.new.is_empty() {
            return None;
        }
        fn column<'a, T>(new: &'a [New<'a>], of: impl Fn(&'a Told<'a>) -> Option<T>) -> Vec<Option<T>> {
            new.iter().map(|new| new.told.as_ref().and_then(&of)).collect()
        }
        let new = &self.new;
        let written = round.add(
            if asked { concat!(insert!(), " RETURNING seq, event, integration") } else { insert!() },
            values![
                texts(new.iter().map(|new| new.event.id.as_str())),
                texts(new.iter().map(|new| new.integration.as_str())),
                texts(new.iter().map(|new| new.room.as_str())),
                texts(new.iter().map(|new| new.state)),
                texts(new.iter().map(|new| new.reason)),
                texts(new.iter().map(|new| new.detail.as_str())),
                new.iter().map(|new| micros(new.event.received.at)).collect::<Vec<_>>(),
                column(new, |told| Some(i64::from(told.failures))),
                column(new, |told| told.first_failed_at),
                column(new, |told| told.gather.map(|key| text(key.as_str()))),
                column(new, |told| Some(told.ready_at)),
                column(new, |told| told.streak.map(|key| text(&key.monitor_uid))),
                column(new, |told| told.streak.map(|key| text(&key.region))),
            ],
        );
        asked.then_some(written)
    }

    /// Streaks live no longer than their integration; one that was removed a moment ago gets none anew. `at` is when
    /// the runs came that moved them; it is noted once a day, so that a run seldom costs a change of the index.
    pub fn write_streaks(&self, round: &mut Round, streaks: &[(StreakKey, Streak)], at: Option<i64>) {
        let there = streaks.iter().filter(|(key, _)| self.standings.contains_key(&key.integration));
        // Of what is named twice the last counts.
        let there: BTreeMap<_, _> = there
            .map(|(key, streak)| {
                ((key.integration.as_str(), text(&key.monitor_uid), text(&key.region)), streak)
            })
            .collect();
        if there.is_empty() {
            return;
        }
        let told = self.new.iter().filter_map(|new| Some((names(new.told.as_ref()?.streak?), &new.event.id)));
        // Of each streak the latest.
        let news: HashMap<[String; 3], &EventId> = told.collect();
        let news_of = |key: &(&str, String, String)| {
            let event = news.get(&[key.0.to_owned(), key.1.clone(), key.2.clone()])?;
            Some(text(event.as_str()))
        };
        round.add(
            "INSERT INTO streaks AS s (integration, monitor, region, failures, first_failed_at, newest, belief, \
             touched, news) SELECT u.integration, u.monitor, u.region, u.failures, u.first_failed_at, u.newest, \
             u.belief, $8, (SELECT n.seq FROM notifications AS n \
               WHERE n.event = u.news AND n.integration = u.integration) \
             FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], \
             $7::text[], $9::text[]) AS u(integration, monitor, region, failures, first_failed_at, newest, belief, \
             news) \
             ON CONFLICT (integration, monitor, region) DO UPDATE SET failures = excluded.failures, \
             first_failed_at = excluded.first_failed_at, newest = excluded.newest, belief = excluded.belief, \
             news = coalesce(excluded.news, s.news), \
             touched = CASE WHEN s.touched >= excluded.touched - 86400000000 THEN s.touched \
               ELSE coalesce(excluded.touched, s.touched) END",
            values![
                texts(there.keys().map(|(integration, _, _)| *integration)),
                there.keys().map(|(_, monitor, _)| monitor.clone()).collect::<Vec<_>>(),
                there.keys().map(|(_, _, region)| region.clone()).collect::<Vec<_>>(),
                there.values().map(|streak| i64::from(streak.failures)).collect::<Vec<_>>(),
                there.values().map(|streak| streak.first_failed_at.map(micros)).collect::<Vec<_>>(),
                there.values().map(|streak| streak.newest.map(micros)).collect::<Vec<_>>(),
                texts(there.values().map(|streak| streak.belief.as_str())),
                at,
                there.keys().map(news_of).collect::<Vec<_>>(),
            ],
        );
    }

    /// Until when activity is gathered, as long as its integration lives.
    pub fn write_collations(&self, round: &mut Round, collations: &[(CollationKey, jiff::Timestamp)]) {
        let there = collations.iter().filter(|(key, _)| self.standings.contains_key(&key.integration));
        let there: BTreeMap<_, _> = there
            .map(|(key, until)| ((key.integration.as_str(), key_text(&key.of)), micros(*until)))
            .collect();
        if there.is_empty() {
            return;
        }
        round.add(
            "INSERT INTO collations (integration, of, until) \
             SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[]) \
             ON CONFLICT (integration, of) DO UPDATE SET until = excluded.until",
            values![
                texts(there.keys().map(|(integration, _)| *integration)),
                there.keys().map(|(_, of)| of.clone()).collect::<Vec<_>>(),
                there.values().copied().collect::<Vec<_>>(),
            ],
        );
    }
}

/// A streak as rows name it.
fn names(key: &StreakKey) -> [String; 3] {
    [key.integration.as_str().to_owned(), text(&key.monitor_uid), text(&key.region)]
}

fn key(event: &DecidedEvent, new: &NewNotification) -> (String, String) {
    (text(event.id.as_str()), text(new.integration.as_str()))
}
