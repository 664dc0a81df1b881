//! The integrations: their definitions, who may change them, and what a change means for what waits. All that one
//! change means goes through each statement together, so that a hundred thousand are applied in a few seconds.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::pin::pin;

use deadpool_postgres::Client;
use futures_util::TryStreamExt;
use jiff::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::errors::Done;
use super::locks::{Keys, decide_alone};
use super::notifications::{Ledger, wake_rooms};
use super::rounds::{Round, Tx, execute, texts, values};
use super::standing::{ask_revision, raise_revision, revision_of};
use crate::adapters::store::cipher::Cipher;
use crate::adapters::store::kept::{self, HandingOut, Kept, LEFT_OUT, PAUSED, REMOVED, managed_text};
use crate::adapters::store::rows::micros;
use crate::adapters::store::state::Ending;
use crate::domain::ids::{IntegrationId, RoomKey, TokenKey};
use crate::domain::reason::{Outcome, SuppressReason};
use crate::ports::{Applied, Definition, Each, ManagedBy, Stored};

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

/// All, for who decides alone from now on.
async fn all(tx: &Tx, keys: &Keys) -> Done<Vec<Kept>> {
    let mut round = Round::default();
    decide_alone(&mut round, keys);
    // Between its statements a hundred thousand room URLs are decrypted and encrypted.
    round.add("SELECT set_config('idle_in_transaction_session_timeout', '20s', true)", values![]);
    let asked = round.add(ALL, values![]);
    Ok(round.run(tx).await?.take(asked).iter().map(read).collect::<Result<_, _>>()?)
}

/// The one that an operator means, or why there is none; for who decides alone from now on.
async fn named(tx: &Tx, keys: &Keys, id: &IntegrationId) -> Done<Kept> {
    const SQL: &str = concat!("SELECT ", columns!(), " FROM integrations WHERE id = $1");
    let mut round = Round::default();
    decide_alone(&mut round, keys);
    let asked = round.add(SQL, values![id.as_str().to_owned()]);
    match round.run(tx).await?.take(asked).first() {
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
    let mut all = Vec::new();
    read_each(c, |kept| all.push(kept)).await?;
    Ok(kept::listed(all, pending, cipher)?)
}

/// See `ports::Registry::integrations`. How much waits for each is not counted, as that takes the longer the more it
/// is.
pub async fn integrations(c: &Client, cipher: &Cipher, each: Each) -> Done<()> {
    let mut handing_out = HandingOut::new(cipher, each);
    read_each(c, |kept| handing_out.next(kept)).await?;
    Ok(handing_out.end()?)
}

/// Read as they come: as rows, a hundred thousand are larger than in any other form.
async fn read_each(c: &Client, mut each: impl FnMut(Kept)) -> Done<()> {
    let statement = c.prepare_cached(ALL).await?;
    let none: [&(dyn ToSql + Sync); 0] = [];
    let mut coming = pin!(c.query_raw(&statement, none).await?);
    while let Some(row) = coming.try_next().await? {
        each(read(&row)?);
    }
    Ok(())
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
    tx: &Tx,
    keys: &Keys,
    cipher: &Cipher,
    definitions: &[Definition],
    (by, now): (ManagedBy, Timestamp),
) -> Done<Applied> {
    let ids = kept::ids_once(definitions)?;
    let there = all(tx, keys).await?;
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
    changes.looked_at.extend(gone.iter().map(|kept| &kept.room));
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

    async fn write(self, tx: &Tx, cipher: &Cipher, by: ManagedBy, now: Timestamp) -> Done<()> {
        let mut round = Round::default();
        let asked = ask_revision(&mut round);
        let revision = revision_of(&mut round.run(tx).await?, asked)? + 1;
        let mut round = Round::default();
        for part in self.written.chunks(PART) {
            write(&mut round, part, cipher, by, revision)?;
        }
        round.run(tx).await?;
        self.wake(tx, now).await?;
        suppress_waiting(tx, &self.paused, SuppressReason::Paused, PAUSED, now).await?;
        self.move_lines(tx, now).await?;
        retell_failing(tx, &self.heard_again).await
    }

    /// A changed throttle may let out what the old one kept. Rooms' locks come before throttles' and notifications', so
    /// those of all rooms that the change concerns are taken here, in one go.
    async fn wake(&self, tx: &Tx, now: Timestamp) -> Done<()> {
        let ids = texts(self.changed.iter().map(|new| new.id.as_str()));
        let moved = self.moved.values().map(|room| room.as_str());
        let looked_at = || self.looked_at.iter().map(|room| room.as_str());
        let mut round = Round::default();
        round.add(
            "SELECT 1 FROM rooms WHERE room IN (SELECT unnest($1::text[]) UNION ALL SELECT i.room \
             FROM throttles AS t JOIN integrations AS i ON i.id = t.integration \
             WHERE t.integration = ANY($2) AND t.closed_until IS NOT NULL) ORDER BY room FOR UPDATE",
            values![texts(moved.chain(looked_at())), ids.clone()],
        );
        let opened = round.add(
            "UPDATE throttles SET closed_until = NULL WHERE integration = ANY($1) AND closed_until IS NOT NULL \
             RETURNING integration",
            values![ids],
        );
        let opened = round.run(tx).await?.take(opened);
        let opened: HashSet<&str> = opened.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
        let mut ready = BTreeMap::new();
        for new in self.changed.iter().filter(|new| opened.contains(new.id.as_str())) {
            ready.insert(new.room.as_str().to_owned(), micros(now));
        }
        let mut round = Round::default();
        wake_rooms(&mut round, &ready);
        look_again(&mut round, looked_at(), now);
        round.run(tx).await?;
        Ok(())
    }

    /// What waits goes to the new rooms' lines, each to its place by the order of the events.
    async fn move_lines(&self, tx: &Tx, now: Timestamp) -> Done<()> {
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
        let mut round = Round::default();
        ledger.write(&mut round);
        wake_rooms(&mut round, &ready);
        round.run(tx).await?;
        Ok(())
    }
}

/// Wakes rooms that rest: they may have rested for a token, or for an integration at the head of their line, that is
/// not there any more. If one has to rest all the same, that is in its state and its token's, and whoever claims it
/// finds out. One that is held is given back by what its holder knew, and finds out later.
fn look_again<'a>(round: &mut Round, at: impl Iterator<Item = &'a str>, now: Timestamp) {
    round.add(
        "UPDATE rooms SET due_at = CASE WHEN due_at > $2 THEN $2 ELSE due_at END, hold_until = NULL \
         WHERE room = ANY($1) AND lease_until IS NULL",
        values![texts(at), micros(now)],
    );
}

/// Definitions in one statement.
const PART: usize = 5_000;

fn write(
    round: &mut Round,
    written: &[(&Definition, bool)],
    cipher: &Cipher,
    by: ManagedBy,
    revision: i64,
) -> Done<()> {
    let sealed: Result<Vec<Vec<u8>>, _> =
        written.iter().map(|(new, _)| cipher.seal(&new.id, &new.room_url)).collect();
    let column = |of: fn(&Definition) -> &str| texts(written.iter().map(|(new, _)| of(new)));
    round.add(
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
    tx: &Tx,
    of: &[&IntegrationId],
    reason: SuppressReason,
    detail: &str,
    at: Timestamp,
) -> Done<()> {
    let ending = Ending {
        outcome: Outcome::Suppressed,
        reason: reason.as_str(),
        detail: detail.into(),
        at,
        status: None,
    };
    let mut ledger = Ledger::default();
    for seq in ledger.load_waiting(tx, of).await? {
        ledger.end(seq, &ending);
    }
    let mut round = Round::default();
    ledger.write(&mut round);
    round.run(tx).await?;
    Ok(())
}

/// Looks at the room of one again. Before its notifications, as rooms' locks come first.
async fn look_at(tx: &Tx, kept: &Kept, now: Timestamp) -> Done<()> {
    let mut round = Round::default();
    let room = kept.room.as_str();
    round.add("SELECT 1 FROM rooms WHERE room = $1 FOR UPDATE", values![room.to_owned()]);
    look_again(&mut round, std::iter::once(room), now);
    round.run(tx).await?;
    Ok(())
}

/// Forgets integrations and all that is kept for them alone. Outcomes stay in the journal. Their rooms were looked at.
async fn delete(tx: &Tx, of: &[&Kept], why: &str, now: Timestamp) -> Done<()> {
    if of.is_empty() {
        return Ok(());
    }
    let ids: Vec<&IntegrationId> = of.iter().map(|kept| &kept.id).collect();
    suppress_waiting(tx, &ids, SuppressReason::Removed, why, now).await?;
    let ids = texts(ids.iter().map(|id| id.as_str()));
    let mut round = Round::default();
    for sql in [
        "DELETE FROM integrations WHERE id = ANY($1)",
        "DELETE FROM streaks WHERE integration = ANY($1)",
        "DELETE FROM collations WHERE integration = ANY($1)",
        "DELETE FROM throttles WHERE integration = ANY($1)",
    ] {
        round.add(sql, values![ids.clone()]);
    }
    round.run(tx).await?;
    Ok(())
}

/// See `ports::Registry::release`.
pub async fn release(tx: &Tx, keys: &Keys) -> Done<Vec<IntegrationId>> {
    let mut round = Round::default();
    decide_alone(&mut round, keys);
    let sql = "UPDATE integrations SET managed_by = $1 WHERE managed_by <> $1 RETURNING id";
    let released = round.add(sql, values![managed_text(ManagedBy::Operator)]);
    let found = round.run(tx).await?.take(released);
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
pub async fn remove(tx: &Tx, keys: &Keys, id: &IntegrationId, now: Timestamp) -> Done<()> {
    let kept = named(tx, keys, id).await?.own()?;
    look_at(tx, &kept, now).await?;
    delete(tx, &[&kept], REMOVED, now).await?;
    raise_revision(tx, keys).await
}

/// See `ports::Registry::pause`. Pausing what is paused changes nothing.
pub async fn pause(tx: &Tx, keys: &Keys, id: &IntegrationId, now: Timestamp) -> Done<()> {
    let kept = named(tx, keys, id).await?.own()?;
    if kept.paused {
        return Ok(());
    }
    look_at(tx, &kept, now).await?;
    execute(tx, "UPDATE integrations SET paused = TRUE WHERE id = $1", values![id.as_str().to_owned()])
        .await?;
    suppress_waiting(tx, &[id], SuppressReason::Paused, PAUSED, now).await?;
    raise_revision(tx, keys).await
}

/// See `ports::Registry::resume`. Resuming what is active changes nothing.
pub async fn resume(tx: &Tx, keys: &Keys, id: &IntegrationId) -> Done<()> {
    let kept = named(tx, keys, id).await?;
    if !kept.can_resume()? {
        return Ok(());
    }
    let by_file = kept.managed_by == ManagedBy::File;
    let sql = "UPDATE integrations SET suspended = NULL, paused = (paused AND $2) WHERE id = $1";
    execute(tx, sql, values![id.as_str().to_owned(), by_file]).await?;
    retell_failing(tx, &[id]).await?;
    raise_revision(tx, keys).await
}

/// The rooms may have forgotten that these fail, or are others: the next run of each is told. One that failed too
/// seldom to be told is news to nobody.
async fn retell_failing(tx: &Tx, of: &[&IntegrationId]) -> Done<()> {
    let ids = texts(of.iter().map(|id| id.as_str()));
    let sql = "UPDATE streaks SET belief = 'unsure' WHERE integration = ANY($1) AND failures > 0 \
               AND belief <> 'passing'";
    execute(tx, sql, values![ids]).await?;
    Ok(())
}
