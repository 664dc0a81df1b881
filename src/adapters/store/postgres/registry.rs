//! The integrations: their definitions, who may change them, and what a change means for what waits. All that one
//! change means goes through each statement together, so that a hundred thousand are applied in a few seconds.

use std::collections::{BTreeMap, HashMap};

use deadpool_postgres::{Client, Transaction};
use jiff::Timestamp;
use tokio_postgres::Row;

use super::errors::Done;
use super::link::{Script, rows, texts, values};
use super::locks::{Keys, decide_alone};
use super::notifications::{Ledger, wake_rooms};
use super::standing::{raise_revision, revision};
use crate::adapters::store::cipher::Cipher;
use crate::adapters::store::kept::{self, Kept, LEFT_OUT, PAUSED, REMOVED, managed_text};
use crate::adapters::store::rows::micros;
use crate::adapters::store::state::Ending;
use crate::domain::ids::{IntegrationId, RoomKey, TokenKey};
use crate::domain::reason::{Outcome, SuppressReason};
use crate::ports::{Applied, Definition, ManagedBy, Stored};

macro_rules! columns {
    () => {
        "id, json, room_url, room, token, paused, suspended, managed_by"
    };
}

fn read(row: &Row) -> Result<Kept, tokio_postgres::Error> {
    Ok(Kept {
        id: IntegrationId::new(row.try_get::<_, &str>(0)?),
        json: row.try_get(1)?,
        room_url: row.try_get(2)?,
        room: RoomKey::new(row.try_get::<_, &str>(3)?),
        token: TokenKey::new(row.try_get::<_, &str>(4)?),
        paused: row.try_get(5)?,
        suspended: row.try_get(6)?,
        managed_by: kept::managed_by(row.try_get(7)?),
    })
}

const ALL: &str = concat!("SELECT ", columns!(), " FROM integrations ORDER BY id");

async fn all(tx: &Transaction<'_>) -> Done<Vec<Kept>> {
    Ok(rows(tx, ALL, &[]).await?.iter().map(read).collect::<Result<_, _>>()?)
}

/// The one that an operator means, or why there is none.
async fn named(tx: &Transaction<'_>, id: &IntegrationId) -> Done<Kept> {
    const SQL: &str = concat!("SELECT ", columns!(), " FROM integrations WHERE id = $1");
    match rows(tx, SQL, &[&id.as_str()]).await?.first() {
        Some(row) => Ok(read(row)?),
        None => Err(kept::unknown(id).into()),
    }
}

/// All integrations, by id, with how much waits for each.
pub async fn list(c: &Client, cipher: &Cipher) -> Done<Vec<Stored>> {
    let counts = c
        .prepare_cached(
            "SELECT integration, count(*) FROM notifications WHERE event_no IS NOT NULL GROUP BY integration",
        )
        .await?;
    let mut pending = BTreeMap::new();
    for row in c.query(&counts, &[]).await? {
        pending.insert(row.try_get(0)?, row.try_get(1)?);
    }
    let all = c.prepare_cached(ALL).await?;
    let all: Vec<Kept> = c.query(&all, &[]).await?.iter().map(read).collect::<Result<_, _>>()?;
    Ok(kept::listed(all, pending, cipher)?)
}

/// What an `apply` comes to.
#[derive(Default)]
struct Changes<'a> {
    /// To be written, and whether with a new room URL.
    written: Vec<(&'a Definition, bool)>,
    paused: Vec<&'a IntegrationId>,
    moved: HashMap<&'a str, &'a RoomKey>,
    /// Those whose throttle may let out more than before.
    changed: Vec<&'a Definition>,
    heard_again: Vec<&'a IntegrationId>,
    /// Rooms that may have rested for what is not so any more.
    looked_at: Vec<&'a RoomKey>,
}

/// Stores definitions; see `ports::Registry::apply`.
pub async fn apply(
    tx: &Transaction<'_>,
    keys: &Keys,
    cipher: &Cipher,
    definitions: &[Definition],
    (by, now): (ManagedBy, Timestamp),
) -> Done<Applied> {
    let ids = kept::ids_once(definitions)?;
    decide_alone(tx, keys).await?;
    let there = all(tx).await?;
    let key = kept::check_key(&there, cipher);
    let by_id: HashMap<&IntegrationId, &Kept> = there.iter().map(|kept| (&kept.id, kept)).collect();
    let (mut applied, mut changes) = (Applied::default(), Changes::default());
    for new in definitions {
        match by_id.get(&new.id) {
            None => {
                changes.written.push((new, true));
                applied.changes.added.push(new.id.clone());
            }
            Some(kept) => match kept.difference(new, by, cipher, &key)? {
                None => applied.unchanged += 1,
                Some(differs) => {
                    changes.add(new, kept, &differs);
                    applied.taken_over.extend(differs.taken_over.then(|| new.id.clone()));
                    applied.changes.changed.push(new.id.clone());
                }
            },
        }
    }
    let gone =
        |kept: &&Kept| by == ManagedBy::File && kept.managed_by == ManagedBy::File && !ids.contains(&kept.id);
    let gone: Vec<&Kept> = there.iter().filter(gone).collect();
    applied.changes.removed.extend(gone.iter().map(|kept| kept.id.clone()));
    if !applied.changes.is_empty() {
        changes.write(tx, cipher, by, now).await?;
        delete(tx, &gone, LEFT_OUT, now).await?;
        raise_revision(tx, keys).await?;
    }
    Ok(applied)
}

impl<'a> Changes<'a> {
    fn add(&mut self, new: &'a Definition, old: &'a Kept, differs: &kept::Difference) {
        self.written.push((new, differs.url));
        self.changed.push(new);
        if differs.paused {
            self.paused.push(&new.id);
        }
        if differs.moved {
            self.moved.insert(new.id.as_str(), &new.room);
        }
        if differs.heard_again {
            self.heard_again.push(&new.id);
        }
        if differs.url || differs.paused {
            self.looked_at.extend([&old.room, &new.room]);
        }
    }

    async fn write(self, tx: &Transaction<'_>, cipher: &Cipher, by: ManagedBy, now: Timestamp) -> Done<()> {
        let revision = i64::try_from(revision(tx).await? + 1).unwrap_or(i64::MAX);
        let mut script = Script::default();
        for part in self.written.chunks(PART) {
            write(&mut script, part, cipher, by, revision)?;
        }
        script.run(tx).await?;
        self.wake(tx, now).await?;
        suppress_waiting(tx, &self.paused, SuppressReason::Paused, PAUSED, now).await?;
        self.move_lines(tx, now).await?;
        retell_failing(tx, &self.heard_again).await
    }

    /// A changed throttle may let out what the old one kept. Rooms' locks come before notifications', so those of
    /// rooms that something moves to are taken here too.
    async fn wake(&self, tx: &Transaction<'_>, now: Timestamp) -> Done<()> {
        let ids: Vec<&str> = self.changed.iter().map(|new| new.id.as_str()).collect();
        let opened = rows(
            tx,
            "UPDATE throttles SET closed_until = NULL WHERE integration = ANY($1) AND closed_until IS NOT NULL \
             RETURNING integration",
            &[&ids],
        )
        .await?;
        let opened: Vec<String> = opened.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
        let mut ready = BTreeMap::new();
        for new in self.changed.iter().filter(|new| opened.iter().any(|id| id == new.id.as_str())) {
            ready.insert(new.room.as_str().to_owned(), micros(now));
        }
        let woken = ready.keys().map(String::as_str);
        let moved = self.moved.values().map(|room| room.as_str());
        let looked_at = || self.looked_at.iter().map(|room| room.as_str());
        let mut script = Script::default();
        script.add(
            "SELECT 1 FROM rooms WHERE room = ANY($1) ORDER BY room FOR UPDATE",
            values![texts(woken.chain(moved).chain(looked_at()))],
        );
        wake_rooms(&mut script, &ready);
        look_again(&mut script, looked_at(), now);
        script.run(tx).await
    }

    /// What waits goes to the new rooms' lines, each to its place by the order of the events.
    async fn move_lines(&self, tx: &Transaction<'_>, now: Timestamp) -> Done<()> {
        let mut ledger = Ledger::default();
        let mut ready: BTreeMap<String, i64> = BTreeMap::new();
        let ids: Vec<IntegrationId> = self.moved.keys().map(IntegrationId::new).collect();
        for seq in ledger.load_waiting(tx, &ids.iter().collect::<Vec<_>>()).await? {
            let Some(open) = ledger.find(seq) else { continue };
            let Some(room) = self.moved.get(open.integration()) else { continue };
            let at = open.ready_at.unwrap_or_else(|| micros(now));
            let first = ready.entry(room.as_str().to_owned()).or_insert(at);
            *first = at.min(*first);
            ledger.move_to(seq, room.as_str());
        }
        let mut script = Script::default();
        ledger.write(&mut script);
        wake_rooms(&mut script, &ready);
        script.run(tx).await
    }
}

/// Wakes rooms that rest: they may have rested for a token, or for an integration at the head of their line, that is
/// not there any more. If one has to rest all the same, that is in its state and its token's, and whoever claims it
/// finds out. One that is held is given back by what its holder knew, and finds out later.
fn look_again<'a>(script: &mut Script, at: impl Iterator<Item = &'a str>, now: Timestamp) {
    script.add(
        "UPDATE rooms SET due_at = CASE WHEN due_at > $2 THEN $2 ELSE due_at END, hold_until = NULL \
         WHERE room = ANY($1) AND lease_until IS NULL",
        values![texts(at), micros(now)],
    );
}

/// Definitions in one statement.
const PART: usize = 5_000;

fn write(
    script: &mut Script,
    written: &[(&Definition, bool)],
    cipher: &Cipher,
    by: ManagedBy,
    revision: i64,
) -> Done<()> {
    let sealed: Result<Vec<Vec<u8>>, _> =
        written.iter().map(|(new, _)| cipher.seal(&new.id, &new.room_url)).collect();
    let column = |of: fn(&Definition) -> &str| texts(written.iter().map(|(new, _)| of(new)));
    script.add(
        "INSERT INTO integrations AS i (id, json, room_url, room, token, paused, managed_by, url_revision) \
         SELECT u.id, u.json, u.room_url, u.room, u.token, u.paused, $7, $8 \
         FROM unnest($1::text[], $2::text[], $3::bytea[], $4::text[], $5::text[], $6::boolean[]) \
         AS u(id, json, room_url, room, token, paused) \
         ON CONFLICT (id) DO UPDATE SET json = excluded.json, room = excluded.room, token = excluded.token, \
         paused = excluded.paused, managed_by = excluded.managed_by, \
         room_url = CASE WHEN i.id = ANY($9::text[]) THEN excluded.room_url ELSE i.room_url END, \
         suspended = CASE WHEN i.id = ANY($9::text[]) THEN NULL ELSE i.suspended END, \
         url_revision = CASE WHEN i.id = ANY($9::text[]) THEN excluded.url_revision ELSE i.url_revision END",
        values![
            column(|new| new.id.as_str()),
            column(|new| &new.json),
            sealed?,
            column(|new| new.room.as_str()),
            column(|new| new.token.as_str()),
            written.iter().map(|(new, _)| new.paused).collect::<Vec<_>>(),
            managed_text(by),
            revision,
            texts(written.iter().filter(|(_, url)| *url).map(|(new, _)| new.id.as_str())),
        ],
    );
    Ok(())
}

/// Ends all that wait for these integrations as suppressed.
async fn suppress_waiting(
    tx: &Transaction<'_>,
    of: &[&IntegrationId],
    reason: SuppressReason,
    detail: &str,
    at: Timestamp,
) -> Done<()> {
    let ending = Ending { outcome: Outcome::Suppressed, reason: reason.as_str(), detail, at, status: None };
    let mut ledger = Ledger::default();
    for seq in ledger.load_waiting(tx, of).await? {
        ledger.end(seq, &ending);
    }
    let mut script = Script::default();
    ledger.write(&mut script);
    script.run(tx).await
}

/// Looks at the rooms of these again. Before their notifications, as rooms' locks come first.
async fn look_at(tx: &Transaction<'_>, of: &[&Kept], now: Timestamp) -> Done<()> {
    let mut script = Script::default();
    let of_rooms = || of.iter().map(|kept| kept.room.as_str());
    script
        .add("SELECT 1 FROM rooms WHERE room = ANY($1) ORDER BY room FOR UPDATE", values![texts(of_rooms())]);
    look_again(&mut script, of_rooms(), now);
    script.run(tx).await
}

/// Forgets integrations and all that is kept for them alone. Outcomes stay in the journal.
async fn delete(tx: &Transaction<'_>, of: &[&Kept], why: &str, now: Timestamp) -> Done<()> {
    if of.is_empty() {
        return Ok(());
    }
    look_at(tx, of, now).await?;
    let ids: Vec<&IntegrationId> = of.iter().map(|kept| &kept.id).collect();
    suppress_waiting(tx, &ids, SuppressReason::Removed, why, now).await?;
    let ids = texts(ids.iter().map(|id| id.as_str()));
    let mut script = Script::default();
    for sql in [
        "DELETE FROM integrations WHERE id = ANY($1)",
        "DELETE FROM streaks WHERE integration = ANY($1)",
        "DELETE FROM collations WHERE integration = ANY($1)",
        "DELETE FROM throttles WHERE integration = ANY($1)",
    ] {
        script.add(sql, values![ids.clone()]);
    }
    script.run(tx).await
}

/// See `ports::Registry::release`.
pub async fn release(tx: &Transaction<'_>, keys: &Keys) -> Done<Vec<IntegrationId>> {
    decide_alone(tx, keys).await?;
    let sql = "UPDATE integrations SET managed_by = $1 WHERE managed_by <> $1 RETURNING id";
    let found = rows(tx, sql, &[&managed_text(ManagedBy::Operator)]).await?;
    let mut released = Vec::with_capacity(found.len());
    for row in &found {
        released.push(IntegrationId::new(row.try_get::<_, &str>(0)?));
    }
    released.sort();
    if !released.is_empty() {
        raise_revision(tx, keys).await?;
    }
    Ok(released)
}

/// See `ports::Registry::remove`.
pub async fn remove(tx: &Transaction<'_>, keys: &Keys, id: &IntegrationId, now: Timestamp) -> Done<()> {
    decide_alone(tx, keys).await?;
    let kept = named(tx, id).await?.own()?;
    delete(tx, &[&kept], REMOVED, now).await?;
    raise_revision(tx, keys).await
}

/// See `ports::Registry::pause`. Pausing what is paused changes nothing.
pub async fn pause(tx: &Transaction<'_>, keys: &Keys, id: &IntegrationId, now: Timestamp) -> Done<()> {
    decide_alone(tx, keys).await?;
    let kept = named(tx, id).await?.own()?;
    if kept.paused {
        return Ok(());
    }
    look_at(tx, &[&kept], now).await?;
    rows(tx, "UPDATE integrations SET paused = TRUE WHERE id = $1", &[&id.as_str()]).await?;
    suppress_waiting(tx, &[id], SuppressReason::Paused, PAUSED, now).await?;
    raise_revision(tx, keys).await
}

/// See `ports::Registry::resume`. Resuming what is active changes nothing.
pub async fn resume(tx: &Transaction<'_>, keys: &Keys, id: &IntegrationId) -> Done<()> {
    decide_alone(tx, keys).await?;
    let kept = named(tx, id).await?;
    if !kept.can_resume()? {
        return Ok(());
    }
    let by_file = kept.managed_by == ManagedBy::File;
    let sql = "UPDATE integrations SET suspended = NULL, paused = (paused AND $2) WHERE id = $1";
    rows(tx, sql, &[&id.as_str(), &by_file]).await?;
    retell_failing(tx, &[id]).await?;
    raise_revision(tx, keys).await
}

/// The rooms may have forgotten that these fail, or are others: the next run of each is told. One that failed too
/// seldom to be told is news to nobody.
async fn retell_failing(tx: &Transaction<'_>, of: &[&IntegrationId]) -> Done<()> {
    let ids: Vec<&str> = of.iter().map(|id| id.as_str()).collect();
    let sql = "UPDATE streaks SET belief = 'unsure' WHERE integration = ANY($1) AND failures > 0 \
               AND belief <> 'passing'";
    rows(tx, sql, &[&ids]).await?;
    Ok(())
}
