//! Where integrations stand in this very transaction, and the revision that counts changes: what intake, claims and
//! settlements need of the registry.

use std::collections::HashMap;

use deadpool_postgres::Client;

use super::errors::{Done, Fail};
use super::listen::tell;
use super::locks::Keys;
use super::rounds::{Answers, Place, Round, Tx, execute, text, texts, values};
use crate::adapters::store::fate::Standing;
use crate::domain::ids::{IntegrationId, TokenKey};
use crate::ports::Hint;

/// Asks where those of `ids` stand that there are.
pub fn ask_standings(round: &mut Round, ids: &[&IntegrationId]) -> Place {
    round.add(
        "SELECT id, room, token, paused, suspended, closed_until FROM integrations \
         LEFT JOIN throttles ON integration = id WHERE id = ANY($1)",
        values![texts(ids.iter().map(|id| id.as_str()))],
    )
}

/// The standings that were asked for.
pub fn standings(answers: &mut Answers, asked: Place) -> Done<HashMap<IntegrationId, Standing>> {
    let found = answers.take(asked);
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

const REVISION: &str = "SELECT value FROM meta WHERE name = 'revision'";

/// The number of changes so far.
pub async fn revision(c: &Client) -> Done<u64> {
    let read = c.prepare_cached(REVISION).await?;
    Ok(c.query_one(&read, &[]).await?.try_get::<_, i64>(0)?.unsigned_abs())
}

/// Asks for it in a transaction.
pub fn ask_revision(round: &mut Round) -> Place {
    round.add(REVISION, values![])
}

/// The number that was asked for.
pub fn revision_of(answers: &mut Answers, asked: Place) -> Done<i64> {
    match answers.take(asked).first() {
        Some(row) => Ok(row.try_get(0)?),
        None => Err(Fail::corrupt("the table meta has lost the row \"revision\"".to_owned())),
    }
}

/// Counts a change, and tells the other workers. The caller holds the decision lock.
pub async fn raise_revision(tx: &Tx, keys: &Keys) -> Done<()> {
    let mut round = Round::default();
    round.add("UPDATE meta SET value = value + 1 WHERE name = 'revision'", values![]);
    tell(&mut round, keys, Hint::Integrations);
    round.run(tx).await?;
    Ok(())
}

/// Suspends an integration that its room refused, unless its URL was changed after `claimed_at`, the revision
/// that the refused attempt was made by. Returns whether the refusal counts.
pub async fn suspend(tx: &Tx, keys: &Keys, id: &IntegrationId, reason: &str, claimed_at: u64) -> Done<bool> {
    let claimed_at = i64::try_from(claimed_at).unwrap_or(i64::MAX);
    let sql = "UPDATE integrations SET suspended = $2 WHERE id = $1 AND url_revision <= $3";
    let suspended = execute(tx, sql, values![id.as_str().to_owned(), text(reason), claimed_at]).await?;
    if suspended > 0 {
        raise_revision(tx, keys).await?;
    }
    Ok(suspended > 0)
}
