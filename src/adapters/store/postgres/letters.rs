//! The outbox of the dead-letter queue: letters are written with the change that made them, and leave when
//! the broker has confirmed them. Of several workers, one at a time publishes a letter.

use std::sync::Arc;

use jiff::Timestamp;
use tokio_postgres::Row;

use super::errors::Done;
use super::notifications::Ledger;
use super::rounds::{Round, Tx, rows, text, values};
use crate::adapters::store::outbox::LetterRow;
use crate::adapters::store::rows::{micros, properties};
use crate::adapters::store::state::Ending;
use crate::adapters::store::terms::ROUND_BYTES;
use crate::domain::reason::Outcome;
use crate::ports::Letter;

/// Stores letters that carry their own envelopes: events that could not be decided.
pub fn insert(round: &mut Round, letters: &[Arc<Letter>]) {
    if letters.is_empty() {
        return;
    }
    let ids = |of: fn(&Letter) -> Option<String>| letters.iter().map(|letter| of(letter)).collect::<Vec<_>>();
    round.add(
        "INSERT INTO letters (event, integration, properties, body, reason, detail, attempts, last_status, \
         first_attempt_at, at) SELECT event, integration, properties, body, reason, detail, attempts, \
         last_status, first_attempt_at, at FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[], \
         $5::text[], $6::text[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[]) WITH ORDINALITY \
         AS u(event, integration, properties, body, reason, detail, attempts, last_status, first_attempt_at, \
         at, place) ORDER BY place",
        values![
            ids(|letter| letter.event.as_ref().map(|id| text(id.as_str()))),
            ids(|letter| letter.integration.as_ref().map(|id| text(id.as_str()))),
            letters.iter().map(|letter| text(&properties(&letter.envelope))).collect::<Vec<_>>(),
            letters.iter().map(|letter| letter.envelope.body.clone()).collect::<Vec<_>>(),
            letters.iter().map(|letter| letter.reason.as_str()).collect::<Vec<_>>(),
            letters.iter().map(|letter| text(&letter.detail)).collect::<Vec<_>>(),
            letters.iter().map(|letter| i64::from(letter.attempts)).collect::<Vec<_>>(),
            letters.iter().map(|letter| letter.last_status.map(i64::from)).collect::<Vec<_>>(),
            letters.iter().map(|letter| letter.first_attempt_at.map(micros)).collect::<Vec<_>>(),
            letters.iter().map(|letter| micros(letter.at)).collect::<Vec<_>>(),
        ],
    );
}

/// The oldest letters that no other worker is publishing. They are this worker's for half a minute, and handed to it
/// again until the broker has confirmed them.
const TAKE: &str = "WITH head AS ( \
      SELECT l.id, l.event_no, octet_length(l.body) AS own FROM letters AS l \
      WHERE l.taken_until IS NULL OR l.taken_by = $2 OR l.taken_until < $4 \
      ORDER BY l.id LIMIT $1 FOR UPDATE SKIP LOCKED), \
    sized AS ( \
      SELECT h.id, h.event_no, sum(coalesce(h.own, octet_length(e.body), 0)) OVER (ORDER BY h.id) \
        - coalesce(h.own, octet_length(e.body), 0) AS before \
      FROM head AS h LEFT JOIN events AS e ON e.no = h.event_no), \
    taken AS ( \
      UPDATE letters AS l SET taken_by = $2, taken_until = $5 FROM sized AS s \
      WHERE l.id = s.id AND s.before < $3 RETURNING l.*) \
    SELECT t.id, coalesce(t.properties, e.properties), coalesce(t.body, e.body), t.reason, t.detail, t.event, \
      t.integration, t.attempts, t.last_status, t.first_attempt_at, t.at \
    FROM taken AS t LEFT JOIN events AS e ON e.no = t.event_no ORDER BY t.id";

/// How long a letter is one worker's, in microseconds: longer than a round of publishing takes, unless the broker is in
/// trouble and the round begins anew. Then another worker may publish the same.
const TAKEN_FOR: i64 = 30 * 1_000_000;

/// The oldest letters in the outbox, taken by `worker` at `now`.
pub async fn letters(tx: &Tx, limit: usize, worker: &str) -> Done<Vec<Letter>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let now: i64 = {
        let clock = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
        rows(tx, clock, values![]).await?.first().map_or(Ok(0), |row| row.try_get(0))?
    };
    let bytes = i64::try_from(ROUND_BYTES).unwrap_or(i64::MAX);
    let found = rows(tx, TAKE, values![limit, worker.to_owned(), bytes, now, now + TAKEN_FOR]).await?;
    found.iter().map(|row| Ok(read(row)?)).collect()
}

fn read(row: &Row) -> Result<Letter, tokio_postgres::Error> {
    let row = LetterRow {
        id: row.try_get(0)?,
        properties: row.try_get(1)?,
        body: row.try_get(2)?,
        reason: row.try_get(3)?,
        detail: row.try_get(4)?,
        event: row.try_get(5)?,
        integration: row.try_get(6)?,
        attempts: row.try_get(7)?,
        last_status: row.try_get(8)?,
        first_attempt_at: row.try_get(9)?,
        at: row.try_get(10)?,
    };
    Ok(row.read())
}

/// Takes confirmed letters out; their notifications end as dead-lettered. Ids that are not there any more
/// change nothing.
pub async fn buried(tx: &Tx, ids: &[i64], at: Timestamp) -> Done<()> {
    // The notifications before the letters, as everywhere.
    let found =
        rows(tx, "SELECT seq, reason, detail FROM letters WHERE id = ANY($1)", values![ids.to_vec()]).await?;
    let mut ledger = Ledger::default();
    let seqs: Result<Vec<Option<i64>>, _> = found.iter().map(|row| row.try_get(0)).collect();
    ledger.load(tx, &seqs?.into_iter().flatten().collect::<Vec<_>>()).await?;
    for row in &found {
        let Some(seq) = row.try_get::<_, Option<i64>>(0)? else { continue };
        if ledger.find(seq).is_some_and(|open| open.is_burying()) {
            let (reason, detail) = (row.try_get(1)?, row.try_get::<_, &str>(2)?.into());
            ledger.end(seq, &Ending { outcome: Outcome::DeadLettered, reason, detail, at, status: None });
        }
    }
    let mut round = Round::default();
    ledger.write(&mut round);
    round.add("DELETE FROM letters WHERE id = ANY($1)", values![ids.to_vec()]);
    round.run_last(tx).await.map(drop)
}
