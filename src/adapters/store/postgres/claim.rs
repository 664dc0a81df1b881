//! Claiming rooms: which are due, what waits in their lines, and what their tokens may spend. All rooms of a claim
//! go through each statement together.

use std::collections::{HashMap, HashSet};

use deadpool_postgres::Transaction;
use jiff::Timestamp;
use tokio_postgres::Row;

use super::errors::Done;
use super::line::{Head, Wanted, heads};
use super::link::{Script, rows, texts, values};
use super::settle::LEFT;
use super::{clock, standing, tokens};
use crate::adapters::store::meters;
use crate::adapters::store::purse::{self, Needs};
use crate::adapters::store::rows::{micros, span, time};
use crate::domain::ids::{GatherKey, IntegrationId, RoomKey};
use crate::domain::pacing::later;
use crate::domain::reason::SendReason;
use crate::ports::{ClaimTerms, Retry, RoomLine, RoomState};

/// Claims rooms that are due at `now`, longest due first, those to be retried last. A room in which nothing ready
/// waits (it was paused away, say) is put back to sleep and not handed out. Rooms that others are at are left to them.
/// `ours`: whether `now` is the database's time.
pub async fn claim_rooms(
    tx: &Transaction<'_>,
    terms: &ClaimTerms,
    now: Timestamp,
    ours: bool,
) -> Done<Vec<RoomLine>> {
    clock::note(tx, now, ours).await?;
    let mut lines: Vec<RoomLine> = Vec::new();
    let mut asking = Vec::new();
    let mut forfeits = Vec::new();
    let mut seen: Vec<String> = Vec::new();
    for (due, most) in [(DUE, terms.rooms), (DUE_FOR_RETRY, terms.retries)] {
        let enough = lines.len() + most;
        while lines.len() < enough {
            let due = due_rooms(tx, due, enough - lines.len(), now).await?;
            if due.is_empty() {
                break;
            }
            let keys: Vec<&str> = due.iter().map(|due| due.room.as_str()).collect();
            forfeits.extend(tokens::forfeits(tx, &keys).await?);
            seen.extend(texts(keys.iter().copied()));
            for (line, wanted) in claim(tx, due, terms, now).await? {
                let room_left = line.state.meter.available(terms.room_budget, now);
                let head = line.waiting.first().map_or(i64::MAX, |waiting| waiting.seq);
                asking.push((head, line.room.clone(), purse::needs(wanted, room_left)));
                lines.push(line);
            }
        }
    }
    // Rooms that waited for the same token are due at the same moment: whose head is oldest is served first, or
    // the others might never be.
    asking.sort_by_key(|(head, ..)| *head);
    let needs: Needs = asking.into_iter().map(|(_, room, needs)| (room, needs)).collect();
    let mut script = Script::default();
    let budget = terms.token_budget;
    let mut grants = tokens::reserve(tx, &mut script, &needs, (&seen, &forfeits), budget, now).await?;
    script.run(tx).await?;
    for line in &mut lines {
        line.tokens = grants.remove(&line.room).unwrap_or_default();
    }
    Ok(lines)
}

/// A room that is due, under its lock.
struct Due {
    room: RoomKey,
    claim: i64,
    state: RoomState,
}

/// Rooms that are due and whose last attempt did not fail. A held room has its lapse as `due_at`, so what is found
/// here is free or lapsed.
pub const DUE: &str = "SELECT room, claim, meter, retry_failures, retry_at, expired_untold FROM rooms \
    WHERE due_at <= $1 AND retry_failures IS NULL ORDER BY due_at, room LIMIT $2 FOR UPDATE SKIP LOCKED";

/// The others that are due.
pub const DUE_FOR_RETRY: &str = "SELECT room, claim, meter, retry_failures, retry_at, expired_untold FROM rooms \
    WHERE due_at <= $1 AND retry_failures IS NOT NULL ORDER BY due_at, room LIMIT $2 FOR UPDATE SKIP LOCKED";

pub const NEXT_DUE: &str = "SELECT least( \
    (SELECT min(due_at) FROM rooms WHERE due_at IS NOT NULL AND retry_failures IS NULL), \
    (SELECT min(due_at) FROM rooms WHERE due_at IS NOT NULL AND retry_failures IS NOT NULL))";

async fn due_rooms(tx: &Transaction<'_>, due: &str, limit: usize, now: Timestamp) -> Done<Vec<Due>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let found = rows(tx, due, &[&micros(now), &limit]).await?;
    found.iter().map(|row| Ok(read_due(row, now)?)).collect()
}

/// What can't be read of a room's state begins anew, since a room must not stand still for it.
fn read_due(row: &Row, now: Timestamp) -> Result<Due, tokio_postgres::Error> {
    let room = RoomKey::new(row.try_get::<_, &str>(0)?);
    let meter = meters::room(row.try_get(2)?, &room, now);
    let failures = row.try_get::<_, Option<i64>>(3)?.and_then(|failures| u32::try_from(failures).ok());
    let retry_at = row.try_get::<_, Option<i64>>(4)?;
    let retry = failures.zip(retry_at).map(|(failures, at)| Retry { failures, at: time(at) });
    let expired_untold = u32::try_from(row.try_get::<_, i64>(5)?).unwrap_or_default();
    Ok(Due { room, claim: row.try_get(1)?, state: RoomState { meter, retry, expired_untold } })
}

async fn claim(
    tx: &Transaction<'_>,
    due: Vec<Due>,
    terms: &ClaimTerms,
    now: Timestamp,
) -> Done<Vec<(RoomLine, Wanted)>> {
    let keys: Vec<&str> = due.iter().map(|due| due.room.as_str()).collect();
    let gathered = tx
        .prepare_cached(
            "UPDATE notifications SET state = 'pending' \
             WHERE room = ANY($1) AND state = 'gathering' AND ready_at <= $2",
        )
        .await?;
    tx.execute(&gathered, &[&keys, &micros(now)]).await?;
    let mut heads = heads(tx, &keys, terms.line, now).await?;
    let revision = standing::revision(tx).await?;
    let lapse = later(now, terms.lease);
    let (mut lines, mut claims, mut asleep) = (Vec::new(), Claims::default(), Vec::new());
    for Due { room, claim, state } in due {
        let Some(head) = heads.remove(room.as_str()).filter(|head| !head.waiting.is_empty()) else {
            asleep.push(room);
            continue;
        };
        claims.add(&room, claim + 1);
        let claim = (claim + 1).unsigned_abs();
        let Head { waiting, throttles, wanted } = head;
        let line = RoomLine {
            room,
            claim,
            held_since: now,
            state,
            waiting,
            going_on: Vec::new(),
            tokens: HashMap::new(),
            throttles,
        };
        lines.push((line, wanted));
    }
    go_on(tx, &mut lines).await?;
    let mut script = Script::default();
    claims.write(&mut script, micros(lapse), span(terms.lease), revision);
    put_to_sleep(tx, &mut script, &asleep, now).await?;
    script.run(tx).await?;
    Ok(lines)
}

/// New claims, by room.
#[derive(Default)]
struct Claims {
    of_rooms: Vec<String>,
    claims: Vec<i64>,
}

impl Claims {
    fn add(&mut self, room: &RoomKey, claim: i64) {
        self.of_rooms.push(room.as_str().to_owned());
        self.claims.push(claim);
    }

    fn write(self, script: &mut Script, lapse: i64, lease: i64, revision: u64) {
        if self.of_rooms.is_empty() {
            return;
        }
        let revision = i64::try_from(revision).unwrap_or(i64::MAX);
        script.add(
            "UPDATE rooms AS r SET claim = u.claim, lease_until = $3, due_at = $3, lease = $4, \
             hold_until = NULL, fresh_at = NULL, claimed_at_revision = $5 \
             FROM unnest($1::text[], $2::bigint[]) AS u(room, claim) WHERE r.room = u.room",
            values![self.of_rooms, self.claims, lapse, lease, revision],
        );
    }
}

/// Rooms with nothing ready sleep until what gathers there is, or a throttle opens.
async fn put_to_sleep(
    tx: &Transaction<'_>,
    script: &mut Script,
    asleep: &[RoomKey],
    now: Timestamp,
) -> Done<()> {
    if asleep.is_empty() {
        return Ok(());
    }
    let keys: Vec<&str> = asleep.iter().map(RoomKey::as_str).collect();
    let nows = vec![micros(now); keys.len()];
    let (mut of_rooms, mut dues) = (Vec::new(), Vec::new());
    for row in rows(tx, LEFT, &[&keys, &nows]).await? {
        let next = [row.try_get::<_, Option<i64>>(1)?, row.try_get::<_, Option<i64>>(2)?];
        of_rooms.push(row.try_get::<_, String>(0)?);
        dues.push(next.into_iter().flatten().min());
    }
    script.add(
        "UPDATE rooms AS r SET due_at = u.due_at, hold_until = NULL, fresh_at = NULL, lease_until = NULL, \
         claim = claim + 1 FROM unnest($1::text[], $2::bigint[]) AS u(room, due_at) WHERE r.room = u.room",
        values![of_rooms, dues],
    );
    Ok(())
}

/// Notes in each line what it has the beginning of, and more is ready that is to be told together with it.
async fn go_on(tx: &Transaction<'_>, lines: &mut [(RoomLine, Wanted)]) -> Done<()> {
    let (mut places, mut seqs, mut integrations, mut gathers) = (vec![], vec![], vec![], vec![]);
    for (place, (line, _)) in lines.iter().enumerate() {
        let Some(last) = line.waiting.last() else { continue };
        // Of scheduled digests there are few. Collations may be many, and only the last is worth a look at what
        // follows.
        let gatherings: HashSet<(&IntegrationId, &GatherKey)> = line
            .waiting
            .iter()
            .filter(|w| w.story.reason == SendReason::ScheduledDigest || w.seq == last.seq)
            .filter_map(|w| Some((&w.integration, w.gather.as_ref()?)))
            .collect();
        for (integration, gather) in gatherings {
            places.push(place);
            seqs.push(last.seq);
            integrations.push(integration.clone());
            gathers.push(gather.clone());
        }
    }
    if places.is_empty() {
        return Ok(());
    }
    let of_rooms: Vec<&str> = places.iter().map(|place| lines[*place].0.room.as_str()).collect();
    let found = rows(
        tx,
        "SELECT u.place FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[]) WITH ORDINALITY \
         AS u(room, seq, integration, gather, place) WHERE EXISTS (SELECT 1 FROM notifications AS n \
         WHERE n.room = u.room AND n.state = 'pending' AND n.seq > u.seq AND n.integration = u.integration \
         AND n.gather = u.gather)",
        &[
            &of_rooms,
            &seqs,
            &integrations.iter().map(IntegrationId::as_str).collect::<Vec<_>>(),
            &gathers.iter().map(GatherKey::as_str).collect::<Vec<_>>(),
        ],
    )
    .await?;
    for row in found {
        let at = usize::try_from(row.try_get::<_, i64>(0)? - 1).unwrap_or_default();
        lines[places[at]].0.going_on.push((integrations[at].clone(), gathers[at].clone()));
    }
    Ok(())
}

/// See `ports::Storage::look_again`. Those that others are at are looked at by these.
pub async fn look_again(tx: &Transaction<'_>, now: Timestamp) -> Done<()> {
    let sql = "UPDATE rooms SET due_at = CASE WHEN due_at > $1 THEN $1 ELSE due_at END, hold_until = NULL \
               WHERE room IN (SELECT room FROM rooms WHERE hold_until > $1 AND lease_until IS NULL \
               AND retry_failures IS NULL ORDER BY room FOR UPDATE SKIP LOCKED)";
    rows(tx, sql, &[&micros(now)]).await?;
    Ok(())
}

/// When the next room gets due. A held room is due when its lease lapses.
pub async fn next_due(c: &deadpool_postgres::Client) -> Done<Option<Timestamp>> {
    let next = c.prepare_cached(NEXT_DUE).await?;
    Ok(c.query_one(&next, &[]).await?.try_get::<_, Option<i64>>(0)?.map(time))
}
