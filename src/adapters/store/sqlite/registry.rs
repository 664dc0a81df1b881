//! The integrations: their definitions, who may change them, and what a change means for what waits.

use jiff::Timestamp;
use rusqlite::{OptionalExtension, Row, params};

use super::db::Db;
use super::errors::Done;
use super::notifications::{suppress_waiting, waiting_of, wake_room};
use super::standing::{raise_revision, revision};
use crate::adapters::store::cipher::Cipher;
use crate::adapters::store::kept::{self, Difference, HandingOut, Kept, PAUSED, managed_text};
use crate::adapters::store::rows::micros;
use crate::domain::ids::{IntegrationId, RoomKey, TokenKey};
use crate::domain::reason::SuppressReason;
use crate::ports::{Applied, Definition, Each, ManagedBy, StoreError, Stored};

/// Which of the integrations [`read`] reads.
macro_rules! kept {
    ($which:literal) => {
        concat!(
            "SELECT id, json, room_url, room, token, paused, suspended, managed_by FROM integrations ",
            $which
        )
    };
}

fn read(row: &Row<'_>) -> rusqlite::Result<Kept> {
    Ok(Kept {
        id: IntegrationId::new(row.get::<_, String>(0)?),
        json: row.get(1)?,
        room_url: row.get(2)?,
        room: RoomKey::new(row.get::<_, String>(3)?),
        token: TokenKey::new(row.get::<_, String>(4)?),
        paused: row.get(5)?,
        suspended: row.get(6)?,
        managed_by: kept::managed_by(row.get_ref(7)?.as_str()?),
    })
}

fn all(db: &Db<'_>) -> rusqlite::Result<Vec<Kept>> {
    db.query_all(kept!("ORDER BY id"), [], read)
}

fn find(db: &Db<'_>, id: &IntegrationId) -> rusqlite::Result<Option<Kept>> {
    db.query_row(kept!("WHERE id = ?1"), [id.as_str()], read).optional()
}

/// The one that an operator means, or why there is none.
fn named(db: &Db<'_>, id: &IntegrationId) -> Done<Kept> {
    Ok(find(db, id)?.ok_or_else(|| kept::unknown(id))?)
}

/// All integrations, by id, with how much waits for each.
pub fn list(db: &Db<'_>, cipher: &Cipher) -> Done<Vec<Stored>> {
    let pending: Vec<(String, i64)> = db.query_all(
        "SELECT integration, count(*) FROM notifications WHERE event_no IS NOT NULL GROUP BY integration",
        [],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    Ok(kept::listed(all(db)?, pending.into_iter().collect(), cipher)?)
}

/// See `ports::Registry::integrations`.
pub fn integrations(db: &Db<'_>, cipher: &Cipher, each: Each) -> Done<()> {
    let mut handing_out = HandingOut::new(cipher, each);
    db.with(kept!("ORDER BY id"), |all| {
        for kept in all.query_map([], read)? {
            handing_out.next(kept?);
        }
        Ok(handing_out.end()?)
    })
}

/// Stores definitions; see `ports::Registry::apply`.
pub fn apply(
    db: &Db<'_>,
    cipher: &Cipher,
    definitions: &[Definition],
    by: ManagedBy,
    now: Timestamp,
) -> Done<Applied> {
    let ids = kept::ids_once(definitions)?;
    let key = check_key(db, cipher)?;
    let change = Change { db, cipher, key, by, now, revision: revision(db)? + 1 };
    let mut applied = Applied::default();
    for definition in definitions {
        match find(db, &definition.id)? {
            None => {
                change.write(definition, true)?;
                applied.changes.added.push(definition.id.clone());
            }
            Some(kept) => match change.update(definition, &kept)? {
                None => applied.unchanged += 1,
                Some(differs) => {
                    applied.taken_over.extend(differs.taken_over.then(|| kept.id.clone()));
                    applied.changes.changed.push(kept.id);
                }
            },
        }
    }
    if by == ManagedBy::File {
        for id in of_file(db)?.into_iter().filter(|id| !ids.contains(id)) {
            delete(db, &id, kept::LEFT_OUT, now)?;
            applied.changes.removed.push(id);
        }
    }
    if !applied.changes.is_empty() {
        raise_revision(db)?;
    }
    Ok(applied)
}

/// Whether the key is that of what is there: usually the first tells.
fn check_key(db: &Db<'_>, cipher: &Cipher) -> Done<Result<(), StoreError>> {
    let first = db.query_row(kept!("LIMIT 1"), [], read);
    Ok(match first.optional()? {
        Some(first) if kept::check_key(std::slice::from_ref(&first), cipher).is_ok() => Ok(()),
        Some(_) => kept::check_key(&all(db)?, cipher),
        None => Ok(()),
    })
}

/// Those that the integrations file manages.
fn of_file(db: &Db<'_>) -> rusqlite::Result<Vec<IntegrationId>> {
    db.query_all(
        "SELECT id FROM integrations WHERE managed_by = ?1 ORDER BY id",
        [managed_text(ManagedBy::File)],
        |row| row.get::<_, String>(0).map(IntegrationId::new),
    )
}

/// One `apply` under way.
struct Change<'a, 'c> {
    db: &'a Db<'c>,
    cipher: &'a Cipher,
    /// Whether the key is that of what is there.
    key: Result<(), StoreError>,
    by: ManagedBy,
    now: Timestamp,
    /// The number that this change will have.
    revision: u64,
}

impl Change<'_, '_> {
    /// Takes over a definition of an integration that is there. Returns what differs, if anything.
    fn update(&self, new: &Definition, old: &Kept) -> Done<Option<Difference>> {
        let Some(differs) = old.difference(new, self.by, self.cipher, &self.key)? else { return Ok(None) };
        self.write(new, differs.url)?;
        if differs.paused {
            suppress_waiting(self.db, &new.id, SuppressReason::Paused, PAUSED, self.now)?;
        }
        if differs.moved {
            self.move_line(&new.id, &new.room)?;
        }
        self.open_throttle(new)?;
        if differs.url || differs.paused {
            look_again(self.db, &old.room, self.now)?;
            look_again(self.db, &new.room, self.now)?;
        }
        if differs.heard_again {
            retell_failing(self.db, &new.id)?;
        }
        Ok(Some(differs))
    }

    fn write(&self, new: &Definition, new_url: bool) -> Done<()> {
        let sealed = self.cipher.seal(&new.id, &new.room_url)?;
        let revision = i64::try_from(self.revision).unwrap_or(i64::MAX);
        self.db.execute(
            "INSERT INTO integrations (id, json, room_url, room, token, paused, managed_by, url_revision) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (id) DO UPDATE SET json = ?2, \
                 room_url = CASE WHEN ?9 THEN ?3 ELSE room_url END, room = ?4, token = ?5, paused = ?6, \
                 managed_by = ?7, suspended = CASE WHEN ?9 THEN NULL ELSE suspended END, \
                 url_revision = CASE WHEN ?9 THEN ?8 ELSE url_revision END",
            params![
                new.id.as_str(),
                new.json,
                sealed,
                new.room.as_str(),
                new.token.as_str(),
                new.paused,
                managed_text(self.by),
                revision,
                new_url,
            ],
        )?;
        Ok(())
    }

    /// A changed throttle may let out what the old one kept.
    fn open_throttle(&self, new: &Definition) -> Done<()> {
        let opened = self.db.execute(
            "UPDATE throttles SET closed_until = NULL WHERE integration = ?1 AND closed_until IS NOT NULL",
            [new.id.as_str()],
        )?;
        if opened > 0 {
            wake_room(self.db, new.room.as_str(), micros(self.now))?;
        }
        Ok(())
    }

    /// What waits goes to the new room's line, each to its place by the order of the events.
    fn move_line(&self, id: &IntegrationId, room: &RoomKey) -> Done<()> {
        for open in waiting_of(self.db, id)? {
            let ready_at: Option<i64> = self.db.query_row(
                "UPDATE notifications SET room = ?2 WHERE seq = ?1 RETURNING ready_at",
                params![open.seq, room.as_str()],
                |row| row.get(0),
            )?;
            wake_room(self.db, room.as_str(), ready_at.unwrap_or_else(|| micros(self.now)))?;
        }
        Ok(())
    }
}

/// Wakes a room that rests: it may have rested for a token, or for an integration at the head of its line, that
/// is not there any more. If it has to rest all the same, that is in its state and its token's, and whoever claims
/// it finds out. One that is held is given back by what its holder knew, and finds out later.
fn look_again(db: &Db<'_>, room: &RoomKey, now: Timestamp) -> rusqlite::Result<()> {
    db.execute(
        "UPDATE rooms SET due_at = min(due_at, ?2), hold_until = NULL \
         WHERE room = ?1 AND lease_until IS NULL",
        params![room.as_str(), micros(now)],
    )
    .map(|_| ())
}

/// Forgets an integration and all that is kept for it alone. Outcomes stay in the journal.
fn delete(db: &Db<'_>, id: &IntegrationId, why: &str, now: Timestamp) -> Done<()> {
    suppress_waiting(db, id, SuppressReason::Removed, why, now)?;
    if let Some(kept) = find(db, id)? {
        look_again(db, &kept.room, now)?;
    }
    for sql in [
        "DELETE FROM integrations WHERE id = ?1",
        "DELETE FROM streaks WHERE integration = ?1",
        "DELETE FROM collations WHERE integration = ?1",
        "DELETE FROM throttles WHERE integration = ?1",
    ] {
        db.execute(sql, [id.as_str()])?;
    }
    Ok(())
}

/// See `ports::Registry::release`.
pub fn release(db: &Db<'_>) -> Done<Vec<IntegrationId>> {
    let of_file = all(db)?.into_iter().filter(|kept| kept.managed_by == ManagedBy::File);
    let released: Vec<IntegrationId> = of_file.map(|kept| kept.id).collect();
    if !released.is_empty() {
        let operator = managed_text(ManagedBy::Operator);
        db.execute("UPDATE integrations SET managed_by = ?1 WHERE managed_by <> ?1", [operator])?;
        raise_revision(db)?;
    }
    Ok(released)
}

/// See `ports::Registry::remove`.
pub fn remove(db: &Db<'_>, id: &IntegrationId, now: Timestamp) -> Done<()> {
    named(db, id)?.own()?;
    delete(db, id, kept::REMOVED, now)?;
    raise_revision(db)?;
    Ok(())
}

/// See `ports::Registry::pause`. Pausing what is paused changes nothing.
pub fn pause(db: &Db<'_>, id: &IntegrationId, now: Timestamp) -> Done<()> {
    let kept = named(db, id)?.own()?;
    if kept.paused {
        return Ok(());
    }
    db.execute("UPDATE integrations SET paused = 1 WHERE id = ?1", [id.as_str()])?;
    suppress_waiting(db, id, SuppressReason::Paused, PAUSED, now)?;
    look_again(db, &kept.room, now)?;
    raise_revision(db)?;
    Ok(())
}

/// See `ports::Registry::resume`. Resuming what is active changes nothing.
pub fn resume(db: &Db<'_>, id: &IntegrationId) -> Done<()> {
    let kept = named(db, id)?;
    if !kept.can_resume()? {
        return Ok(());
    }
    let by_file = kept.managed_by == ManagedBy::File;
    db.execute(
        "UPDATE integrations SET suspended = NULL, paused = (paused AND ?2) WHERE id = ?1",
        params![id.as_str(), by_file],
    )?;
    retell_failing(db, id)?;
    raise_revision(db)?;
    Ok(())
}

/// The room may have forgotten that these fail, or is another: the next run of each is told. One that failed too
/// seldom to be told is news to nobody.
fn retell_failing(db: &Db<'_>, id: &IntegrationId) -> rusqlite::Result<()> {
    db.execute(
        "UPDATE streaks SET belief = 'unsure' \
         WHERE integration = ?1 AND failures > 0 AND belief <> 'passing'",
        [id.as_str()],
    )
    .map(|_| ())
}
