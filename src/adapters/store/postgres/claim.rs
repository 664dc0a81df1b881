//! Claiming rooms: which are due, what waits in their lines, and what their tokens may spend. All rooms of a claim
//! go through each statement together.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use tokio_postgres::Row;

use super::errors::Done;
use super::line::{self, Head, Lines};
use super::rounds::{Round, Tx, execute, rows, text, texts, values};
use super::settle::LEFT;
use super::standing::{ask_revision, revision_of};
use super::tokens::Forfeits;
use super::{clock, tokens};
use crate::adapters::store::meters;
use crate::adapters::store::purse::{self, Needs};
use crate::adapters::store::rows::{micros, span, time};
use crate::domain::ids::{GatherKey, IntegrationId, RoomKey, TokenKey};
use crate::domain::pacing::later;
use crate::domain::reason::SendReason;
use crate::ports::{AtWork, ClaimTerms, Retry, RoomLine, RoomState};

/// Claims rooms that are due at `now`, longest due first, those to be retried last. A room in which nothing ready
/// waits (it was paused away, say) is put back to sleep and not handed out. Rooms that others are at are left to them.
/// So are those that are `at_work` here. `None` if the clock was set back: first the waits have to be moved.
pub async fn claim_rooms(
    tx: &Tx,
    terms: &ClaimTerms,
    at_work: &AtWork,
    now: Timestamp,
) -> Done<Option<Vec<RoomLine>>> {
    let Some(found) = find(tx, terms, at_work, now).await? else { return Ok(None) };
    let mut round = Round::default();
    if found.due.is_empty() && found.forfeits.is_empty() {
        clock::note(&mut round, found.noted, now);
        round.run_last(tx).await?;
        return Ok(Some(Vec::new()));
    }
    let events = found.lines.ask_events(&mut round);
    let budget = terms.token_budget;
    let named: BTreeSet<TokenKey> =
        found.lines.tokens().chain(found.forfeits.iter().map(|(token, _)| token)).cloned().collect();
    let asked = tokens::ask(&mut round, &named, &found.seen, budget);
    let mut answers = round.run(tx).await?;
    let events = answers.take(events);
    let locked = tokens::Locked::read(&mut answers, asked, budget, now)?;
    let mut heads = found.lines.heads(tx, &events, terms.line, now).await?;

    let (mut lines, mut asking, mut asleep) = (Vec::new(), Vec::new(), Vec::new());
    for Claimable { room, claim, state } in found.due {
        let Some(head) = heads.remove(room.as_str()).filter(|head| !head.waiting.is_empty()) else {
            asleep.push(room);
            continue;
        };
        let Head { waiting, throttles, wanted } = head;
        let room_left = state.meter.available(terms.room_budget, now);
        asking.push((waiting[0].seq, room.clone(), purse::needs(wanted, room_left)));
        lines.push(RoomLine {
            room,
            claim: (claim + 1).unsigned_abs(),
            state,
            waiting,
            going_on: Vec::new(),
            tokens: HashMap::new(),
            throttles,
        });
    }
    put_to_sleep(tx, &asleep, now).await?;
    go_on(tx, &mut lines).await?;
    // Rooms that waited for the same token are due at the same moment: whose head is oldest is served first, or
    // the others might never be.
    asking.sort_by_key(|(head, ..)| *head);
    let needs: Needs = asking.into_iter().map(|(_, room, needs)| (room, needs)).collect();
    let mut round = Round::default();
    let claims = lines.iter().map(|line| (&line.room, i64::try_from(line.claim).unwrap_or(i64::MAX)));
    write_claims(&mut round, claims, (now, terms.lease), found.revision);
    let mut grants = locked.reserve(&mut round, &needs, (&found.seen, &found.forfeits), budget, now);
    clock::note(&mut round, found.noted, now);
    round.run_last(tx).await?;
    for line in &mut lines {
        line.tokens = grants.remove(&line.room).unwrap_or_default();
    }
    Ok(Some(lines))
}

/// Rooms that are due, under their locks, with what waits in them.
#[derive(Default)]
struct Found {
    due: Vec<Claimable>,
    lines: Lines,
    /// All rooms that were looked at, also those that were put to sleep.
    seen: Vec<String>,
    forfeits: Forfeits,
    /// Of the integrations.
    revision: i64,
    /// When the clock was looked at before.
    noted: i64,
}

/// Looks for rooms that are due, until there are as many as asked for or no more. `None` if the clock was set back.
async fn find(tx: &Tx, terms: &ClaimTerms, at_work: &AtWork, now: Timestamp) -> Done<Option<Found>> {
    let mut found = Found::default();
    let mut passed_over = HashSet::new();
    // For each kind: how many more are wanted.
    let mut wanted = [terms.rooms, terms.retries];
    while wanted != [0, 0] {
        let mut round = Round::default();
        let noted = clock::ask_noted(&mut round);
        let revision = ask_revision(&mut round);
        let looks = [(DUE, wanted[0]), (DUE_FOR_RETRY, wanted[1])].map(|(due, most)| {
            // Those that this claim holds already, or has passed over, are found again.
            let limit = i64::try_from(most + found.due.len() + passed_over.len()).unwrap_or(i64::MAX);
            (most > 0).then(|| round.add(due, values![micros(now), limit]))
        });
        let mut answers = round.run(tx).await?;
        (found.noted, found.revision) =
            (clock::noted(&mut answers, noted)?, revision_of(&mut answers, revision)?);
        if clock::went_back(found.noted, now) {
            return Ok(None);
        }
        let held: HashSet<String> = found.due.iter().map(|due| due.room.as_str().to_owned()).collect();
        let (mut new, before) = ([Vec::new(), Vec::new()], passed_over.len());
        for (kind, asked) in looks.into_iter().enumerate() {
            for row in asked.map_or_else(Vec::new, |asked| answers.take(asked)) {
                let due = read_claimable(&row, now)?;
                if at_work(&due.room) {
                    passed_over.insert(due.room);
                } else if !held.contains(due.room.as_str()) && new[kind].len() < wanted[kind] {
                    new[kind].push(due);
                }
            }
        }
        let missing = [0, 1].map(|kind| wanted[kind] - new[kind].len());
        let others_may_follow = passed_over.len() > before;
        let asleep = found.look_at(tx, new, terms.line, now).await?;
        // Where all were awake, or there were fewer than asked for, there is no more to be had.
        wanted = [0, 1].map(|kind| match missing[kind] {
            0 => asleep[kind],
            missing if others_may_follow => missing + asleep[kind],
            _ => 0,
        });
    }
    Ok(Some(found))
}

impl Found {
    /// Asks what waits in these rooms, and puts those to sleep in which nothing does. Returns how many of each kind
    /// those were.
    async fn look_at(
        &mut self,
        tx: &Tx,
        new: [Vec<Claimable>; 2],
        line: usize,
        now: Timestamp,
    ) -> Done<[usize; 2]> {
        let keys: Vec<String> = new.iter().flatten().map(|due| due.room.as_str().to_owned()).collect();
        if keys.is_empty() {
            return Ok([0, 0]);
        }
        let mut round = Round::default();
        let forfeits = tokens::ask_forfeits(&mut round, &keys);
        round.add(
            "UPDATE notifications SET state = 'pending' \
             WHERE room = ANY($1) AND state = 'gathering' AND ready_at <= $2",
            values![keys.clone(), micros(now)],
        );
        let heads = line::ask(&mut round, keys.clone(), line, now);
        let mut answers = round.run(tx).await?;
        self.forfeits.extend(tokens::forfeits(&mut answers, forfeits)?);
        let awake = self.lines.keep(&answers.take(heads))?;
        self.seen.extend(keys);
        let (mut asleep, mut counts) = (Vec::new(), [0, 0]);
        for (kind, due) in
            new.into_iter().enumerate().flat_map(|(kind, due)| due.into_iter().map(move |d| (kind, d)))
        {
            if awake.contains(due.room.as_str()) {
                self.due.push(due);
            } else {
                counts[kind] += 1;
                asleep.push(due.room);
            }
        }
        put_to_sleep(tx, &asleep, now).await?;
        Ok(counts)
    }
}

/// A room that can be claimed, under its lock.
pub struct Claimable {
    pub room: RoomKey,
    /// The number of the latest claim.
    pub claim: i64,
    pub state: RoomState,
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

/// What can't be read of a room's state begins anew, since a room must not stand still for it.
pub fn read_claimable(row: &Row, now: Timestamp) -> Result<Claimable, tokio_postgres::Error> {
    let room = RoomKey::new(row.try_get::<_, &str>(0)?);
    let meter = meters::room(row.try_get(2)?, &room, now);
    let failures = row.try_get::<_, Option<i64>>(3)?.and_then(|failures| u32::try_from(failures).ok());
    let retry_at = row.try_get::<_, Option<i64>>(4)?;
    let retry = failures.zip(retry_at).map(|(failures, at)| Retry { failures, at: time(at) });
    let expired_untold = u32::try_from(row.try_get::<_, i64>(5)?).unwrap_or_default();
    Ok(Claimable { room, claim: row.try_get(1)?, state: RoomState { meter, retry, expired_untold } })
}

/// These rooms are this claim's from now on, by their new numbers.
pub fn write_claims<'r>(
    round: &mut Round,
    claims: impl Iterator<Item = (&'r RoomKey, i64)>,
    (now, lease): (Timestamp, Duration),
    revision: i64,
) {
    let (keys, numbers): (Vec<String>, Vec<i64>) =
        claims.map(|(room, claim)| (text(room.as_str()), claim)).unzip();
    if keys.is_empty() {
        return;
    }
    round.add(
        "UPDATE rooms AS r SET claim = u.claim, lease_until = $3, due_at = $3, lease = $4, \
         hold_until = NULL, fresh_at = NULL, claimed_at_revision = $5 \
         FROM unnest($1::text[], $2::bigint[]) AS u(room, claim) WHERE r.room = u.room",
        values![keys, numbers, micros(later(now, lease)), span(lease), revision,],
    );
}

/// Rooms with nothing ready sleep until what gathers there is, or a throttle opens.
async fn put_to_sleep(tx: &Tx, asleep: &[RoomKey], now: Timestamp) -> Done<()> {
    if asleep.is_empty() {
        return Ok(());
    }
    let keys = texts(asleep.iter().map(RoomKey::as_str));
    let nows = vec![micros(now); keys.len()];
    let (mut of_rooms, mut dues) = (Vec::new(), Vec::new());
    for row in rows(tx, LEFT, values![keys, nows]).await? {
        let next = [row.try_get::<_, Option<i64>>(1)?, row.try_get::<_, Option<i64>>(2)?];
        of_rooms.push(row.try_get::<_, String>(0)?);
        dues.push(next.into_iter().flatten().min());
    }
    execute(
        tx,
        "UPDATE rooms AS r SET due_at = u.due_at, hold_until = NULL, fresh_at = NULL, lease_until = NULL, \
         claim = claim + 1 FROM unnest($1::text[], $2::bigint[]) AS u(room, due_at) WHERE r.room = u.room",
        values![of_rooms, dues],
    )
    .await?;
    Ok(())
}

/// Notes in each line what it has the beginning of, and more is ready that is to be told together with it.
async fn go_on(tx: &Tx, lines: &mut [RoomLine]) -> Done<()> {
    let (mut places, mut seqs, mut integrations, mut gathers) = (vec![], vec![], vec![], vec![]);
    for (place, line) in lines.iter().enumerate() {
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
    let of_rooms = texts(places.iter().map(|place| lines[*place].room.as_str()));
    let found = rows(
        tx,
        "SELECT u.place FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[]) WITH ORDINALITY \
         AS u(room, seq, integration, gather, place) WHERE (SELECT TRUE FROM notifications AS n \
         WHERE n.integration BETWEEN u.integration AND u.integration AND n.event_no IS NOT NULL \
         AND n.state = 'pending' AND n.seq > u.seq AND n.room = u.room AND n.gather = u.gather \
         ORDER BY n.integration, n.seq LIMIT 1)",
        values![
            of_rooms,
            seqs,
            texts(integrations.iter().map(IntegrationId::as_str)),
            texts(gathers.iter().map(GatherKey::as_str)),
        ],
    )
    .await?;
    for row in found {
        let at = usize::try_from(row.try_get::<_, i64>(0)? - 1).unwrap_or_default();
        lines[places[at]].going_on.push((integrations[at].clone(), gathers[at].clone()));
    }
    Ok(())
}

/// See `ports::Storage::look_again`. Those that others are at are looked at by these.
pub async fn look_again(tx: &Tx, now: Timestamp) -> Done<()> {
    let sql = "UPDATE rooms SET due_at = CASE WHEN due_at > $1 THEN $1 ELSE due_at END, hold_until = NULL \
               WHERE room IN (SELECT room FROM rooms WHERE hold_until > $1 AND lease_until IS NULL \
               AND retry_failures IS NULL ORDER BY room FOR UPDATE SKIP LOCKED)";
    execute(tx, sql, values![micros(now)]).await?;
    Ok(())
}

/// When the next room gets due. A held room is due when its lease lapses.
pub async fn next_due(c: &deadpool_postgres::Client) -> Done<Option<Timestamp>> {
    let next = c.prepare_cached(NEXT_DUE).await?;
    Ok(c.query_one(&next, &[]).await?.try_get::<_, Option<i64>>(0)?.map(time))
}
