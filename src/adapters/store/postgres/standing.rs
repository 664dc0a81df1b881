//! Where integrations stand in this very transaction, and the revision that counts changes: what intake, claims and
//! settlements need of the registry.

use std::collections::HashMap;

use deadpool_postgres::{GenericClient, Transaction};

use super::errors::Done;
use super::link::{Script, rows, text, values};
use super::listen::tell;
use super::locks::Keys;
use crate::adapters::store::fate::Standing;
use crate::domain::ids::{IntegrationId, TokenKey};
use crate::ports::Hint;

/// The standings of those of `ids` that there are.
pub async fn standings(
    tx: &Transaction<'_>,
    ids: &[&IntegrationId],
) -> Done<HashMap<IntegrationId, Standing>> {
    let ids: Vec<&str> = ids.iter().map(|id| id.as_str()).collect();
    let found = rows(
        tx,
        "SELECT id, room, token, paused, suspended, closed_until FROM integrations \
         LEFT JOIN throttles ON integration = id WHERE id = ANY($1)",
        &[&ids],
    )
    .await?;
    let mut standings = HashMap::with_capacity(found.len());
    for row in found {
        let standing = Standing {
            room: row.try_get(1)?,
            token: TokenKey::new(row.try_get::<_, &str>(2)?),
            paused: row.try_get(3)?,
            suspended: row.try_get(4)?,
            closed_until: row.try_get(5)?,
        };
        standings.insert(IntegrationId::new(row.try_get::<_, &str>(0)?), standing);
    }
    Ok(standings)
}

/// The number of changes so far.
pub async fn revision(c: &impl GenericClient) -> Done<u64> {
    let read = c.prepare_cached("SELECT value FROM meta WHERE name = 'revision'").await?;
    Ok(c.query_one(&read, &[]).await?.try_get::<_, i64>(0)?.unsigned_abs())
}

/// Counts a change, and tells the other workers. The caller holds the decision lock.
pub async fn raise_revision(tx: &Transaction<'_>, keys: &Keys) -> Done<()> {
    let mut script = Script::default();
    script.add("UPDATE meta SET value = value + 1 WHERE name = 'revision'", values![]);
    tell(&mut script, keys, Hint::Integrations);
    script.run(tx).await
}

/// Suspends an integration that its room refused, unless its URL was changed after `claimed_at`, the revision
/// that the refused attempt was made by. Returns whether the refusal counts.
pub async fn suspend(
    tx: &Transaction<'_>,
    keys: &Keys,
    id: &IntegrationId,
    reason: &str,
    claimed_at: u64,
) -> Done<bool> {
    let claimed_at = i64::try_from(claimed_at).unwrap_or(i64::MAX);
    let suspend = tx
        .prepare_cached("UPDATE integrations SET suspended = $2 WHERE id = $1 AND url_revision <= $3")
        .await?;
    let suspended = tx.execute(&suspend, &[&id.as_str(), &text(reason), &claimed_at]).await?;
    if suspended > 0 {
        raise_revision(tx, keys).await?;
    }
    Ok(suspended > 0)
}
