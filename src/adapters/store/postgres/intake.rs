//! Taking in a batch: what is known, the caller's decision, and what it changes. One batch at a time over all
//! workers.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio_postgres::Row;

use super::batch::{Batch, Known};
use super::errors::{Done, Fail};
use super::letters;
use super::listen::tell;
use super::locks::{Keys, decide_alone};
use super::notifications::{count_open, doubt_streaks, let_go, wake_rooms};
use super::rounds::{Answers, Place, Round, Tx, key_text, rows, text, texts, values};
use super::standing::{ask_standings, standings as read_standings};
use super::straight::{Candidates, Claimed};
use crate::adapters::store::rows::{belief, micros, time};
use crate::domain::frequency::Streak;
use crate::domain::ids::{EventId, IntegrationId};
use crate::ports::{
    Decide, Hint, IntakeChanges, IntakeQuery, IntakeReceipt, IntakeState, RoomLine, Straight,
};

/// Takes one batch in, and claims for `straight` what it takes. `decide` is gone as soon as it has decided: what follows
/// from it must not be tried again on what others have changed since.
pub async fn take_in(
    tx: &Tx,
    keys: &Keys,
    query: &IntakeQuery,
    decide: &mut Option<Decide>,
    straight: Option<&Straight>,
) -> Done<(IntakeReceipt, Vec<RoomLine>)> {
    let mut round = Round::default();
    decide_alone(&mut round, keys);
    let asked = Asked::new(&mut round, query);
    let state = asked.read(round.run(tx).await?, query)?;
    let Some(decide) = decide.take() else {
        return Err(Fail::Away("a batch has to be decided anew".to_owned()));
    };
    let changes = catch_unwind(AssertUnwindSafe(|| decide(state))).map_err(|_| {
        Fail::corrupt("a fault in this program: a decision panicked inside the store; report it".to_owned())
    })?;
    write(tx, keys, &changes, straight).await
}

/// What a batch has to know before it can be decided.
#[derive(Default)]
struct Asked {
    known: Option<Place>,
    streaks: Option<Place>,
    collations: Option<Place>,
}

impl Asked {
    fn new(round: &mut Round, query: &IntakeQuery) -> Self {
        let IntakeQuery { events, streaks, collations } = query;
        let mut asked = Self::default();
        if !events.is_empty() {
            let sql = "SELECT DISTINCT event FROM notifications WHERE event = ANY($1)";
            asked.known = Some(round.add(sql, values![texts(events.iter().map(EventId::as_str))]));
        }
        if !streaks.is_empty() {
            let sql = "SELECT u.place, s.failures, s.first_failed_at, s.newest, s.belief \
                FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY \
                AS u(integration, monitor, region, place) \
                JOIN streaks AS s ON s.integration = u.integration AND s.monitor = u.monitor AND s.region = u.region";
            let values = values![
                texts(streaks.iter().map(|key| key.integration.as_str())),
                texts(streaks.iter().map(|key| &*key.monitor_uid)),
                texts(streaks.iter().map(|key| &*key.region)),
            ];
            asked.streaks = Some(round.add(sql, values));
        }
        if !collations.is_empty() {
            let sql = "SELECT DISTINCT u.place, c.until FROM unnest($1::text[], $2::text[]) WITH ORDINALITY \
                AS u(integration, of, place) \
                JOIN collations AS c ON c.integration = u.integration AND c.of = u.of";
            let values = values![
                texts(collations.iter().map(|key| key.integration.as_str())),
                collations.iter().map(|key| key_text(&key.of)).collect::<Vec<_>>(),
            ];
            asked.collations = Some(round.add(sql, values));
        }
        asked
    }

    fn read(self, mut answers: Answers, query: &IntakeQuery) -> Done<IntakeState> {
        let mut rows = |asked: Option<Place>| asked.map_or_else(Vec::new, |asked| answers.take(asked));
        let mut state = IntakeState::default();
        let known = rows(self.known);
        if !known.is_empty() {
            let ids: HashMap<String, &EventId> =
                query.events.iter().map(|id| (text(id.as_str()), id)).collect();
            for row in known {
                state.known.extend(ids.get(row.try_get::<_, &str>(0)?).map(|id| (*id).clone()));
            }
        }
        for row in rows(self.streaks) {
            state.streaks.insert(query.streaks[place(&row)?].clone(), read_streak(&row)?);
        }
        for row in rows(self.collations) {
            state.collations.insert(query.collations[place(&row)?].clone(), time(row.try_get(1)?));
        }
        Ok(state)
    }
}

/// Where in the arrays a row of `unnest … WITH ORDINALITY` is from.
fn place(row: &Row) -> Result<usize, tokio_postgres::Error> {
    Ok(usize::try_from(row.try_get::<_, i64>(0)? - 1).unwrap_or_default())
}

fn read_streak(row: &Row) -> Result<Streak, tokio_postgres::Error> {
    Ok(Streak {
        failures: u32::try_from(row.try_get::<_, i64>(1)?).unwrap_or_default(),
        first_failed_at: row.try_get::<_, Option<i64>>(2)?.map(time),
        newest: row.try_get::<_, Option<i64>>(3)?.map(time),
        belief: belief(row.try_get(4)?),
    })
}

async fn write(
    tx: &Tx,
    keys: &Keys,
    changes: &IntakeChanges,
    straight: Option<&Straight>,
) -> Done<(IntakeReceipt, Vec<RoomLine>)> {
    let mut round = Round::default();
    // Rooms first, as everywhere.
    let candidates = straight.and_then(|straight| Candidates::ask(&mut round, changes, straight));
    let standings = ask_standings(&mut round, &concerned(changes));
    let known = Known::ask(&mut round, &changes.events);
    let mut answers = round.run(tx).await?;
    let standings = read_standings(&mut answers, standings)?;
    let mut batch = Batch::of(changes, standings, Known::read(&mut answers, known)?);
    let mut round = Round::default();
    let claimed = match candidates {
        Some(candidates) => candidates.among(&mut answers, batch.alone())?.claim(tx, &mut round).await?,
        None => Claimed::default(),
    };
    for room in claimed.rooms() {
        batch.ready.remove(room.as_str());
    }
    batch.receipt.pending -= claimed.len();
    wake_rooms(&mut round, &batch.ready);
    let mut opened = batch.opened();
    if !batch.exhumed.is_empty() {
        std::mem::take(&mut round).run(tx).await?;
        opened -= exhume(tx, &mut round, &batch.exhumed).await?;
    }
    batch.insert_events(&mut round);
    let written = batch.insert_notifications(&mut round, claimed.len() > 0);
    let at = changes.events.last().map(|event| micros(event.received.at));
    batch.write_streaks(&mut round, &changes.streaks, at);
    // After the streaks, whose beliefs rest on the telling.
    doubt_streaks(&mut round, &batch.untold);
    batch.write_collations(&mut round, &changes.collations);
    letters::insert(&mut round, &changes.letters);
    if !batch.ready.is_empty() {
        tell(&mut round, keys, Hint::Rooms);
    }
    if !changes.letters.is_empty() {
        tell(&mut round, keys, Hint::Letters);
    }
    count_open(&mut round, opened);
    let mut answers = round.run_last(tx).await?;
    let lines = claimed.lines(&written.map_or_else(Vec::new, |written| answers.take(written)))?;
    Ok((batch.receipt, lines))
}

/// Dead letters come back: their earlier ends make room for new beginnings. Where the broker has a letter but that is
/// not written down yet, it leaves the outbox too. Which of them still need their events is known only when their rows
/// go: a letter may have been confirmed a moment ago. Returns how many were still open.
async fn exhume(tx: &Tx, round: &mut Round, seqs: &[i64]) -> Done<i64> {
    let mut freed: BTreeMap<i64, i64> = BTreeMap::new();
    let sql = "DELETE FROM notifications WHERE seq = ANY($1) RETURNING event_no";
    for row in rows(tx, sql, values![seqs.to_vec()]).await? {
        if let Some(no) = row.try_get::<_, Option<i64>>(0)? {
            *freed.entry(no).or_default() += 1;
        }
    }
    let_go(round, &freed);
    round.add("DELETE FROM letters WHERE seq = ANY($1)", values![seqs.to_vec()]);
    Ok(freed.values().sum())
}

/// All integrations that a batch names.
fn concerned(changes: &IntakeChanges) -> Vec<&IntegrationId> {
    let told = changes.events.iter().flat_map(|event| event.notifications.iter().map(|new| &new.integration));
    let streaks = changes.streaks.iter().map(|(key, _)| &key.integration);
    let collations = changes.collations.iter().map(|(key, _)| &key.integration);
    told.chain(streaks).chain(collations).collect::<HashSet<_>>().into_iter().collect()
}
