//! Taking in a batch: what is known, the caller's decision, and what it changes. One batch at a time over all
//! workers; each kind of row goes through one statement.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use deadpool_postgres::Transaction;
use tokio_postgres::Row;

use super::errors::{Done, Fail};
use super::letters;
use super::link::{Script, key_text, rows, text, texts, values};
use super::listen::tell;
use super::locks::{Keys, decide_alone};
use super::notifications::{Doubts, doubt_streaks, let_go, wake_rooms};
use super::standing::standings;
use crate::adapters::store::fate::{Now, Standing, fate_by_now};
use crate::adapters::store::rows::{belief, micros, properties, time};
use crate::adapters::store::state::{BURYING, GATHERING, PENDING};
use crate::domain::frequency::Streak;
use crate::domain::ids::{EventId, GatherKey, IntegrationId};
use crate::domain::reason::Outcome;
use crate::ports::{
    CollationKey, Decide, DecidedEvent, Fate, Hint, IntakeChanges, IntakeQuery, IntakeReceipt, IntakeState,
    NewNotification, StreakKey,
};

/// Takes one batch in. `decide` is gone as soon as it has decided: what follows from it must not be tried again on
/// what others have changed since.
pub async fn take_in(
    tx: &Transaction<'_>,
    keys: &Keys,
    query: &IntakeQuery,
    decide: &mut Option<Decide>,
) -> Done<IntakeReceipt> {
    decide_alone(tx, keys).await?;
    let state = gather(tx, query).await?;
    let Some(decide) = decide.take() else {
        return Err(Fail::Away("a batch has to be decided anew".to_owned()));
    };
    let changes = catch_unwind(AssertUnwindSafe(|| decide(state))).map_err(|_| {
        Fail::corrupt("a fault in this program: a decision panicked inside the store; report it".to_owned())
    })?;
    write(tx, keys, &changes).await
}

async fn gather(tx: &Transaction<'_>, query: &IntakeQuery) -> Done<IntakeState> {
    let mut state = IntakeState::default();
    if !query.events.is_empty() {
        let ids: HashMap<String, &EventId> = query.events.iter().map(|id| (text(id.as_str()), id)).collect();
        let sql = "SELECT DISTINCT event FROM notifications WHERE event = ANY($1)";
        for row in rows(tx, sql, &[&ids.keys().collect::<Vec<_>>()]).await? {
            state.known.extend(ids.get(row.try_get::<_, &str>(0)?).map(|id| (*id).clone()));
        }
    }
    for (key, streak) in streaks(tx, &query.streaks).await? {
        state.streaks.insert(key, streak);
    }
    if !query.collations.is_empty() {
        let of: Vec<String> = query.collations.iter().map(|key| key_text(&key.of)).collect();
        let sql = "SELECT DISTINCT u.place, c.until FROM unnest($1::text[], $2::text[]) WITH ORDINALITY \
                   AS u(integration, of, place) \
                   JOIN collations AS c ON c.integration = u.integration AND c.of = u.of";
        for row in
            rows(tx, sql, &[&integrations(query.collations.iter().map(|k| &k.integration)), &of]).await?
        {
            let key = &query.collations[place(&row)?];
            state.collations.insert(key.clone(), time(row.try_get(1)?));
        }
    }
    Ok(state)
}

/// Where in the arrays a row of `unnest … WITH ORDINALITY` is from.
fn place(row: &Row) -> Result<usize, tokio_postgres::Error> {
    Ok(usize::try_from(row.try_get::<_, i64>(0)? - 1).unwrap_or_default())
}

fn integrations<'a>(ids: impl Iterator<Item = &'a IntegrationId>) -> Vec<&'a str> {
    ids.map(IntegrationId::as_str).collect()
}

async fn streaks(tx: &Transaction<'_>, keys: &[StreakKey]) -> Done<Vec<(StreakKey, Streak)>> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let found = rows(
        tx,
        "SELECT u.place, s.failures, s.first_failed_at, s.newest, s.belief \
         FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS u(integration, monitor, region, place) \
         JOIN streaks AS s ON s.integration = u.integration AND s.monitor = u.monitor AND s.region = u.region",
        &[
            &integrations(keys.iter().map(|key| &key.integration)),
            &texts(keys.iter().map(|key| key.monitor_uid.as_str())),
            &texts(keys.iter().map(|key| key.region.as_str())),
        ],
    )
    .await?;
    let mut streaks = Vec::with_capacity(found.len());
    for row in found {
        let streak = Streak {
            failures: u32::try_from(row.try_get::<_, i64>(1)?).unwrap_or_default(),
            first_failed_at: row.try_get::<_, Option<i64>>(2)?.map(time),
            newest: row.try_get::<_, Option<i64>>(3)?.map(time),
            belief: belief(row.try_get(4)?),
        };
        streaks.push((keys[place(&row)?].clone(), streak));
    }
    Ok(streaks)
}

/// What the journal has of the batch's events already.
struct Known {
    /// By event and integration: the number and the state.
    notifications: HashMap<(String, String), (i64, String)>,
}

impl Known {
    async fn load(tx: &Transaction<'_>, events: &[DecidedEvent]) -> Done<Self> {
        let ids = texts(events.iter().map(|event| event.id.as_str()));
        let sql = "SELECT event, integration, seq, state FROM notifications WHERE event = ANY($1)";
        let mut notifications = HashMap::new();
        for row in rows(tx, sql, &[&ids]).await? {
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

/// One batch on its way into the tables.
struct Batch<'c> {
    standings: HashMap<IntegrationId, Standing>,
    known: Known,
    /// Rooms that get something, and when the first of it is ready.
    ready: BTreeMap<String, i64>,
    /// Dead letters that come back.
    exhumed: Vec<i64>,
    /// Events that are told to somebody, and to how many.
    events: Vec<(&'c DecidedEvent, i64)>,
    new: Vec<New<'c>>,
    /// Streaks whose news was not told after all.
    untold: Doubts,
    receipt: IntakeReceipt,
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

async fn write(tx: &Transaction<'_>, keys: &Keys, changes: &IntakeChanges) -> Done<IntakeReceipt> {
    let mut batch = Batch {
        standings: standings(tx, &concerned(changes)).await?,
        known: Known::load(tx, &changes.events).await?,
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
    let mut script = Script::default();
    // Rooms first, as everywhere.
    wake_rooms(&mut script, &batch.ready);
    if !batch.exhumed.is_empty() {
        std::mem::take(&mut script).run(tx).await?;
        exhume(tx, &mut script, &batch.exhumed).await?;
    }
    batch.insert_events(&mut script);
    batch.insert_notifications(&mut script);
    let at = changes.events.last().map(|event| micros(event.received.at));
    batch.write_streaks(&mut script, &changes.streaks, at);
    // After the streaks, whose beliefs rest on the telling.
    doubt_streaks(&mut script, &batch.untold);
    batch.write_collations(&mut script, &changes.collations);
    letters::insert(&mut script, &changes.letters);
    if !batch.ready.is_empty() {
        tell(&mut script, keys, Hint::Rooms);
    }
    if !changes.letters.is_empty() {
        tell(&mut script, keys, Hint::Letters);
    }
    script.run(tx).await?;
    Ok(batch.receipt)
}

/// Dead letters come back: their earlier ends make room for new beginnings. Where the broker has a letter but that is
/// not written down yet, it leaves the outbox too. Which of them still need their events is known only when their rows
/// go: a letter may have been confirmed a moment ago.
async fn exhume(tx: &Transaction<'_>, script: &mut Script, seqs: &[i64]) -> Done<()> {
    let mut freed: BTreeMap<i64, i64> = BTreeMap::new();
    let sql = "DELETE FROM notifications WHERE seq = ANY($1) RETURNING event_no";
    for row in rows(tx, sql, &[&seqs]).await? {
        if let Some(no) = row.try_get::<_, Option<i64>>(0)? {
            *freed.entry(no).or_default() += 1;
        }
    }
    let_go(script, &freed);
    script.add("DELETE FROM letters WHERE seq = ANY($1)", values![seqs.to_vec()]);
    Ok(())
}

/// All integrations that a batch names.
fn concerned(changes: &IntakeChanges) -> Vec<&IntegrationId> {
    let told = changes.events.iter().flat_map(|event| event.notifications.iter().map(|new| &new.integration));
    let streaks = changes.streaks.iter().map(|(key, _)| &key.integration);
    let collations = changes.collations.iter().map(|(key, _)| &key.integration);
    told.chain(streaks).chain(collations).collect::<HashSet<_>>().into_iter().collect()
}

impl<'c> Batch<'c> {
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

    fn insert_events(&self, script: &mut Script) {
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
        script.add("SELECT 1 FROM events WHERE id = ANY($1) ORDER BY no FOR UPDATE", values![ids.clone()]);
        script.add(
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

    /// In the order of their events, which their places keep.
    fn insert_notifications(&self, script: &mut Script) {
        if self.new.is_empty() {
            return;
        }
        fn column<'a, T>(new: &'a [New<'a>], of: impl Fn(&'a Told<'a>) -> Option<T>) -> Vec<Option<T>> {
            new.iter().map(|new| new.told.as_ref().and_then(&of)).collect()
        }
        let new = &self.new;
        script.add(
            "INSERT INTO notifications (event, integration, room, state, reason, detail, received_at, decided_at, \
             failures, first_failed_at, gather, ready_at, monitor, region, event_no) \
             SELECT u.event, u.integration, u.room, u.state, u.reason, u.detail, u.at, u.at, \
             coalesce(u.failures, 0), u.first_failed_at, u.gather, u.ready_at, u.monitor, u.region, \
             CASE WHEN u.ready_at IS NULL THEN NULL ELSE e.no END \
             FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[], \
             $8::bigint[], $9::bigint[], $10::text[], $11::bigint[], $12::text[], $13::text[]) WITH ORDINALITY \
             AS u(event, integration, room, state, reason, detail, at, failures, first_failed_at, gather, \
             ready_at, monitor, region, place) \
             LEFT JOIN events AS e ON e.id = u.event ORDER BY u.place",
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
    }

    /// Streaks live no longer than their integration; one that was removed a moment ago gets none anew. `at` is when
    /// the runs came that moved them; it is noted once a day, so that a run seldom costs a change of the index.
    fn write_streaks(&self, script: &mut Script, streaks: &[(StreakKey, Streak)], at: Option<i64>) {
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
        script.add(
            "INSERT INTO streaks AS s (integration, monitor, region, failures, first_failed_at, newest, belief, \
             touched, news) SELECT u.*, $8, (SELECT max(n.seq) FROM notifications AS n \
               WHERE n.event = ANY($9::text[]) AND n.integration = u.integration AND n.monitor = u.monitor \
               AND n.region = u.region AND n.event_no IS NOT NULL) \
             FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], \
             $7::text[]) AS u(integration, monitor, region, failures, first_failed_at, newest, belief) \
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
                texts(self.events.iter().map(|(event, _)| event.id.as_str())),
            ],
        );
    }

    fn write_collations(&self, script: &mut Script, collations: &[(CollationKey, jiff::Timestamp)]) {
        let there = collations.iter().filter(|(key, _)| self.standings.contains_key(&key.integration));
        let there: BTreeMap<_, _> = there
            .map(|(key, until)| ((key.integration.as_str(), key_text(&key.of)), micros(*until)))
            .collect();
        if there.is_empty() {
            return;
        }
        script.add(
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
