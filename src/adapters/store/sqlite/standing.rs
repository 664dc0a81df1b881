//! Where an integration stands in this very transaction, and the revision that counts changes: what intake,
//! claims and settlements need of the registry.

use rusqlite::{OptionalExtension, params};

use super::db::Db;
use super::errors::Done;
use crate::adapters::store::fate::Standing;
use crate::domain::ids::{IntegrationId, TokenKey};

/// An integration as it stands.
pub struct Known {
    pub standing: Standing,
    /// Whether some of a throttle of its own was ever spent.
    pub throttled: bool,
}

/// The integration's standing in this very transaction; `None` if there is no such integration.
pub fn standing(db: &Db<'_>, id: &IntegrationId) -> rusqlite::Result<Option<Known>> {
    db.query_row(
        "SELECT room, token, paused, suspended, closed_until, integration IS NOT NULL FROM integrations \
         LEFT JOIN throttles ON integration = id WHERE id = ?1",
        [id.as_str()],
        |row| {
            let standing = Standing {
                room: row.get(0)?,
                token: TokenKey::new(row.get::<_, String>(1)?),
                paused: row.get(2)?,
                suspended: row.get(3)?,
                closed_until: row.get(4)?,
            };
            Ok(Known { standing, throttled: row.get(5)? })
        },
    )
    .optional()
}

/// The number of changes so far.
pub fn revision(db: &Db<'_>) -> Done<u64> {
    let revision: i64 =
        db.query_row("SELECT value FROM meta WHERE name = 'revision'", [], |row| row.get(0))?;
    Ok(revision.unsigned_abs())
}

/// Counts a change, and returns its number.
pub fn raise_revision(db: &Db<'_>) -> rusqlite::Result<i64> {
    db.query_row("UPDATE meta SET value = value + 1 WHERE name = 'revision' RETURNING value", [], |row| {
        row.get(0)
    })
}

/// Suspends an integration that its room refused, unless its URL was changed after `claimed_at`, the revision
/// that the refused attempt was made by. Returns whether the refusal counts.
pub fn suspend(db: &Db<'_>, id: &IntegrationId, reason: &str, claimed_at: u64) -> Done<bool> {
    let claimed_at = i64::try_from(claimed_at).unwrap_or(i64::MAX);
    let suspended = db.execute(
        "UPDATE integrations SET suspended = ?2 WHERE id = ?1 AND url_revision <= ?3",
        params![id.as_str(), reason, claimed_at],
    )?;
    if suspended > 0 {
        raise_revision(db)?;
    }
    Ok(suspended > 0)
}
