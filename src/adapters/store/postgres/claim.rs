//! Claiming rooms: which are due, what waits in their lines, and what their tokens may spend. All rooms of a claim
//! go through each statement together.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use deadpool_postgres::Transaction;
use jiff::Timestamp;
use tokio_postgres::Row;

use super::errors::Done;
use super::link::{Script, rows, texts, values};
use super::notifications::Ledger;
use super::settle::LEFT;
use super::{clock, standing, tokens};
use crate::adapters::store::meters;
use crate::adapters::store::purse::{self, Needs};
use crate::adapters::store::rows::{envelope, micros, span, time};
use crate::adapters::store::terms::LINE_BYTES;
use crate::domain::envelope::Received;
use crate::domain::ids::{EventId, GatherKey, IntegrationId, RoomKey, TokenKey};
use crate::domain::pacing::{Meter, later};
use crate::domain::reason::{DeadLetterReason, SendReason};
use crate::domain::story::Story;
use crate::ports::{ClaimTerms, Retry, RoomLine, RoomState, Waiting};

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

/// What each notification of a line wants to spend of a token.
type Wanted = Vec<(TokenKey, u32)>;

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

/// The head of a room's line, with what belongs to its integrations.
#[derive(Default)]
struct Head {
    waiting: Vec<Waiting>,
    throttles: HashMap<IntegrationId, Meter>,
    wanted: Wanted,
}

/// A line's row before its event is read.
struct Place {
    room: String,
    waiting: Waiting,
    event_no: i64,
    received_at: Timestamp,
    reason: String,
    /// Of its event's body.
    bytes: usize,
    token: Option<TokenKey>,
    throttle: Option<String>,
}

/// The heads of several rooms' lines, each in order.
pub const HEADS: &str = "SELECT n.seq, n.event, n.integration, n.event_no, n.reason, n.failures, \
    n.first_failed_at, n.gather, n.ready_at, n.attempts, n.first_attempt_at, n.plain, n.received_at, r.room, \
    coalesce(octet_length(e.body), 0), i.token, t.meter \
    FROM unnest($1::text[]) AS r(room) CROSS JOIN LATERAL \
    (SELECT * FROM notifications AS n WHERE n.room = r.room AND n.state = 'pending' AND NOT EXISTS \
       (SELECT 1 FROM throttles AS c WHERE c.integration = n.integration AND c.closed_until > $3) \
     ORDER BY n.seq LIMIT $2) AS n \
    LEFT JOIN events AS e ON e.no = n.event_no \
    LEFT JOIN integrations AS i ON i.id = n.integration \
    LEFT JOIN throttles AS t ON t.integration = n.integration \
    ORDER BY r.room, n.seq";

async fn heads(
    tx: &Transaction<'_>,
    keys: &[&str],
    limit: usize,
    now: Timestamp,
) -> Done<HashMap<String, Head>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut heads: HashMap<String, Head> = HashMap::new();
    let mut wanting: Vec<&str> = keys.to_vec();
    // Again where all that was found of a line is damaged: something whole may stand behind it.
    while !wanting.is_empty() {
        let found = rows(tx, HEADS, &[&wanting, &limit, &micros(now)]).await?;
        let (places, mut damaged) = sort_out(&found)?;
        let events = events(tx, &places).await?;
        for place in places {
            let seq = place.waiting.seq;
            let head = heads.entry(place.room.clone()).or_default();
            if let Err(fault) = complete(head, place, &events, now) {
                damaged.push((seq, fault));
            }
        }
        set_aside(tx, &damaged, now).await?;
        if damaged.is_empty() {
            break;
        }
        let empty = |room: &&str| heads.get(*room).is_none_or(|head| head.waiting.is_empty());
        wanting.retain(empty);
    }
    Ok(heads)
}

/// Rows that can't be read, by number, with what is wrong.
type Damaged = Vec<(i64, String)>;

/// The readable rows, each line cut where its events get too large together; and the others.
fn sort_out(found: &[Row]) -> Done<(Vec<Place>, Damaged)> {
    let (mut places, mut damaged): (Vec<Place>, _) = (Vec::with_capacity(found.len()), Vec::new());
    let mut bytes: HashMap<String, usize> = HashMap::new();
    for row in found {
        let used = bytes.entry(row.try_get(13)?).or_default();
        if *used >= LINE_BYTES {
            continue;
        }
        match read_place(row) {
            Ok(place) => {
                *used += place.bytes;
                places.push(place);
            }
            Err(fault) => damaged.push((row.try_get(0)?, fault)),
        }
    }
    Ok((places, damaged))
}

fn read_place(row: &Row) -> Result<Place, String> {
    let shape = |error: tokio_postgres::Error| error.to_string();
    let whole = |column: usize| {
        let number: i64 = row.try_get(column).map_err(shape)?;
        u32::try_from(number).map_err(|_| format!("{number} is no count"))
    };
    let received_at = time(row.try_get(12).map_err(shape)?);
    let waiting = Waiting {
        seq: row.try_get(0).map_err(shape)?,
        event: EventId::new(row.try_get::<_, &str>(1).map_err(shape)?),
        integration: IntegrationId::new(row.try_get::<_, &str>(2).map_err(shape)?),
        story: Story {
            reason: SendReason::EveryRun,
            failures: whole(5)?,
            first_failed_at: row.try_get::<_, Option<i64>>(6).map_err(shape)?.map(time),
        },
        ready_at: time(row.try_get(8).map_err(shape)?),
        gather: row.try_get::<_, Option<&str>>(7).map_err(shape)?.map(GatherKey::new),
        attempts: whole(9)?,
        first_attempt_at: row.try_get::<_, Option<i64>>(10).map_err(shape)?.map(time),
        plain: row.try_get(11).map_err(shape)?,
        received: Arc::new(Received { envelope: Default::default(), at: received_at }),
    };
    Ok(Place {
        room: row.try_get(13).map_err(shape)?,
        waiting,
        event_no: row.try_get(3).map_err(shape)?,
        received_at,
        reason: row.try_get(4).map_err(shape)?,
        bytes: usize::try_from(row.try_get::<_, i32>(14).map_err(shape)?).unwrap_or_default(),
        token: row.try_get::<_, Option<&str>>(15).map_err(shape)?.map(TokenKey::new),
        throttle: row.try_get(16).map_err(shape)?,
    })
}

/// The events of these places by number, each read once.
async fn events(tx: &Transaction<'_>, places: &[Place]) -> Done<HashMap<i64, Arc<Received>>> {
    let mut nos: Vec<i64> = places.iter().map(|place| place.event_no).collect();
    nos.sort_unstable();
    nos.dedup();
    let sql = "SELECT no, properties, body, received_at FROM events WHERE no = ANY($1)";
    let mut events = HashMap::with_capacity(nos.len());
    for row in rows(tx, sql, &[&nos]).await? {
        let (properties, body) = (row.try_get::<_, &str>(1)?, row.try_get::<_, Vec<u8>>(2)?);
        if let Some(envelope) = envelope(properties, body) {
            let received = Received { envelope, at: time(row.try_get(3)?) };
            events.insert(row.try_get(0)?, Arc::new(received));
        }
    }
    Ok(events)
}

/// Puts a place into its line, with its event.
fn complete(
    head: &mut Head,
    place: Place,
    events: &HashMap<i64, Arc<Received>>,
    now: Timestamp,
) -> Result<(), String> {
    let Place { mut waiting, event_no, received_at, reason, .. } = place;
    waiting.story.reason = SendReason::from_text(&reason)
        .ok_or_else(|| format!("event {}: {reason:?} is no reason to tell it", waiting.event))?;
    let received =
        events.get(&event_no).ok_or_else(|| format!("event number {event_no} is missing or unreadable"))?;
    waiting.received = match received.at == received_at {
        true => Arc::clone(received),
        // Put back from the dead-letter queue while others still needed the event: its age counts anew.
        false => Arc::new(Received { envelope: received.envelope.clone(), at: received_at }),
    };
    if let Some(text) = place.throttle
        && !head.throttles.contains_key(&waiting.integration)
    {
        let meter = meters::throttle(&text, &waiting.integration, now);
        head.throttles.insert(waiting.integration.clone(), meter);
    }
    head.wanted.extend(place.token.map(|token| (token, 1)));
    head.waiting.push(waiting);
    Ok(())
}

/// One that can't be read must not stop its room, let alone all rooms: it goes to the dead-letter queue with
/// what is left of it.
async fn set_aside(tx: &Transaction<'_>, damaged: &[(i64, String)], now: Timestamp) -> Done<()> {
    if damaged.is_empty() {
        return Ok(());
    }
    let mut ledger = Ledger::default();
    let faults: BTreeMap<i64, &String> = damaged.iter().map(|(seq, fault)| (*seq, fault)).collect();
    ledger.load(tx, &faults.keys().copied().collect::<Vec<_>>()).await?;
    for (seq, fault) in faults {
        if let Some(open) = ledger.find(seq) {
            tracing::error!(
                event_id = open.event(),
                integration_id = open.integration(),
                room = open.room,
                "a notification is damaged in the store and is given up: {fault}"
            );
        }
        let detail = format!("damaged in the store: {fault}");
        ledger.bury(seq, DeadLetterReason::WorkerFault, &detail, now);
    }
    let mut script = Script::default();
    ledger.write(&mut script);
    script.run(tx).await
}

/// When the next room gets due. A held room is due when its lease lapses.
pub async fn next_due(c: &deadpool_postgres::Client) -> Done<Option<Timestamp>> {
    let next = c.prepare_cached(NEXT_DUE).await?;
    Ok(c.query_one(&next, &[]).await?.try_get::<_, Option<i64>>(0)?.map(time))
}
