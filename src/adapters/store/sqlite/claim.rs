//! Claiming rooms: which are due, what waits in their lines, and what their tokens may spend.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use rusqlite::{OptionalExtension, Row, params};

use super::db::Db;
use super::errors::{Done, Fail, misread, text};
use super::memory::Memory;
use super::notifications::bury;
use super::{clock, standing, straight, tokens};
use crate::adapters::store::meters;
use crate::adapters::store::purse::{self, Needs};
use crate::adapters::store::rows::{self, micros, span, time};
use crate::adapters::store::terms::LINE_BYTES;
use crate::domain::envelope::Received;
use crate::domain::ids::{EventId, GatherKey, IntegrationId, RoomKey, TokenKey};
use crate::domain::pacing::{Meter, later};
use crate::domain::reason::{DeadLetterReason, SendReason};
use crate::domain::story::Story;
use crate::ports::{ClaimTerms, Retry, RoomLine, RoomState, Waiting};

/// Claims rooms that are due at `now`, longest due first, those to be retried last. A room in which nothing ready
/// waits (it was paused away, say) is put back to sleep and not handed out. Those that are `at_work` are passed over.
pub fn claim_rooms(
    db: &Db<'_>,
    memory: &mut Memory,
    terms: &ClaimTerms,
    at_work: &dyn Fn(&RoomKey) -> bool,
    now: Timestamp,
) -> Done<Vec<RoomLine>> {
    if clock::note(db, now)? == clock::Noted::SetBack {
        memory.forget();
    }
    let mut lines: Vec<RoomLine> = Vec::new();
    let mut asking: Vec<(i64, RoomKey, HashMap<TokenKey, u32>)> = Vec::new();
    let mut events = Events { db, read: HashMap::new() };
    for (due, most) in [(DUE, terms.rooms), (DUE_FOR_RETRY, terms.retries)] {
        let enough = lines.len() + most;
        let mut passed_over = HashSet::new();
        while lines.len() < enough {
            let mut rooms = due_rooms(db, due, enough - lines.len() + passed_over.len(), now)?;
            rooms.retain(|room| !passed_over.contains(room));
            if rooms.is_empty() {
                break;
            }
            for room in rooms {
                if memory.in_flight.has(&room) {
                    // Something was moved here from another room while this one is told.
                    straight::write_down(db, memory, &room)?;
                    continue;
                }
                if at_work(&room) {
                    passed_over.insert(room);
                    continue;
                }
                // The lapsed holder's calls count before anybody's share is reckoned.
                tokens::forfeit(db, memory, &room, now)?;
                if let Some(line) = claim(db, &mut events, room, terms, now)? {
                    let room_left = line.state.meter.available(terms.room_budget, now);
                    let head = line.waiting.first().map_or(i64::MAX, |w| w.seq);
                    asking.push((head, line.room.clone(), needs_of(db, memory, &line.waiting, room_left)?));
                    lines.push(line);
                }
            }
        }
    }
    // Rooms that waited for the same token are due at the same moment: whose head is oldest is served first, or
    // the others might never be.
    asking.sort_by_key(|(head, ..)| *head);
    let needs: Needs = asking.into_iter().map(|(_, room, needs)| (room, needs)).collect();
    let mut grants = tokens::reserve(db, memory, &needs, terms.token_budget, now)?;
    for line in &mut lines {
        line.tokens = grants.remove(&line.room).unwrap_or_default();
    }
    Ok(lines)
}

/// See `ports::Storage::look_again`.
pub fn look_again(db: &Db<'_>, now: Timestamp) -> Done<()> {
    db.execute(
        "UPDATE rooms SET due_at = min(due_at, ?1), hold_until = NULL \
         WHERE hold_until > ?1 AND lease_until IS NULL AND retry_failures IS NULL",
        [micros(now)],
    )?;
    Ok(())
}

/// When the next room gets due. A held room is due when its lease lapses.
pub fn next_due(db: &Db<'_>) -> Done<Option<Timestamp>> {
    let due: Option<i64> = db.query_row(NEXT_DUE, [], |row| row.get(0))?;
    Ok(due.map(time))
}

/// Rooms that are due and whose last attempt did not fail. A held room has its lapse as `due_at`, so what is found here
/// is free or lapsed.
pub const DUE: &str =
    "SELECT room FROM rooms WHERE due_at <= ?1 AND retry_failures IS NULL ORDER BY due_at, room LIMIT ?2";

/// The others that are due.
pub const DUE_FOR_RETRY: &str =
    "SELECT room FROM rooms WHERE due_at <= ?1 AND retry_failures IS NOT NULL ORDER BY due_at, room LIMIT ?2";

pub const NEXT_DUE: &str = "SELECT min(due_at) FROM ( \
    SELECT min(due_at) AS due_at FROM rooms WHERE due_at IS NOT NULL AND retry_failures IS NULL \
    UNION ALL SELECT min(due_at) FROM rooms WHERE due_at IS NOT NULL AND retry_failures IS NOT NULL)";

fn due_rooms(db: &Db<'_>, due: &'static str, limit: usize, now: Timestamp) -> rusqlite::Result<Vec<RoomKey>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    db.query_all(due, params![micros(now), limit], |row| row.get::<_, String>(0).map(RoomKey::new))
}

fn claim(
    db: &Db<'_>,
    events: &mut Events<'_, '_>,
    room: RoomKey,
    terms: &ClaimTerms,
    now: Timestamp,
) -> Done<Option<RoomLine>> {
    db.execute(
        "UPDATE notifications SET state = 'pending' \
         WHERE room = ?1 AND state = 'gathering' AND ready_at <= ?2",
        params![room.as_str(), micros(now)],
    )?;
    let waiting = line(db, events, &room, terms.line, now)?;
    if waiting.is_empty() {
        let due = [next_ready(db, &room)?, next_opening(db, &room, now)?].into_iter().flatten().min();
        db.execute(
            "UPDATE rooms SET due_at = ?2, hold_until = NULL, fresh_at = NULL, lease_until = NULL, \
             claim = claim + 1 WHERE room = ?1",
            params![room.as_str(), due.map(micros)],
        )?;
        return Ok(None);
    }
    let revision = standing::revision(db)?;
    let lapse = micros(later(now, terms.lease));
    let (claim, state) = db.query_row(
        "UPDATE rooms SET claim = claim + 1, lease_until = ?2, due_at = ?2, lease = ?3, hold_until = NULL, \
             fresh_at = NULL, claimed_at_revision = ?4 WHERE room = ?1 \
             RETURNING claim, meter, retry_failures, retry_at, expired_untold",
        params![room.as_str(), lapse, span(terms.lease), i64::try_from(revision).unwrap_or(i64::MAX)],
        |row| Ok((row.get::<_, i64>(0)?, read_state(row, &room, now)?)),
    )?;
    let throttles = throttles(db, &waiting, now)?;
    let going_on = going_on(db, &room, &waiting)?;
    Ok(Some(RoomLine {
        claim: claim.unsigned_abs(),
        state,
        room,
        waiting,
        going_on,
        tokens: HashMap::new(),
        throttles,
    }))
}

/// Columns 1 to 4. What can't be read of them begins anew, since a room must not stand still for it.
pub fn read_state(row: &Row<'_>, room: &RoomKey, now: Timestamp) -> rusqlite::Result<RoomState> {
    let meter = meters::room(&text(row, 1)?.unwrap_or_default(), room, now);
    let failures = row.get::<_, Option<i64>>(2)?.and_then(|failures| u32::try_from(failures).ok());
    let retry_at = row.get::<_, Option<i64>>(3)?;
    let retry = failures.zip(retry_at).map(|(failures, at)| Retry { failures, at: time(at) });
    let expired_untold = u32::try_from(row.get::<_, i64>(4)?).unwrap_or_default();
    Ok(RoomState { meter, retry, expired_untold })
}

/// When the first of those that still gather gets ready.
pub fn next_ready(db: &Db<'_>, room: &RoomKey) -> rusqlite::Result<Option<Timestamp>> {
    let micros: Option<i64> = db.query_row(
        "SELECT min(ready_at) FROM notifications WHERE room = ?1 AND state = 'gathering'",
        [room.as_str()],
        |row| row.get(0),
    )?;
    Ok(micros.map(time))
}

/// Whether something of this room can be told as far as its integration's throttle goes.
pub fn has_ready(db: &Db<'_>, room: &RoomKey, now: Timestamp) -> rusqlite::Result<bool> {
    db.exists(
        "SELECT 1 FROM notifications WHERE room = ?1 AND state = 'pending' AND integration NOT IN \
         (SELECT integration FROM throttles WHERE closed_until > ?2) LIMIT 1",
        params![room.as_str(), micros(now)],
    )
}

/// When the first throttle opens that keeps something of this room waiting.
pub fn next_opening(db: &Db<'_>, room: &RoomKey, now: Timestamp) -> rusqlite::Result<Option<Timestamp>> {
    db.query_row(
        "SELECT closed_until FROM throttles t WHERE closed_until > ?2 AND EXISTS \
         (SELECT 1 FROM notifications n WHERE n.integration = t.integration AND event_no IS NOT NULL \
          AND state = 'pending' AND room = ?1) ORDER BY closed_until LIMIT 1",
        params![room.as_str(), micros(now)],
        |row| row.get(0).map(time),
    )
    .optional()
}

/// What `waiting` has the beginning of, and more is ready that is to be told together with it.
fn going_on(
    db: &Db<'_>,
    room: &RoomKey,
    waiting: &[Waiting],
) -> rusqlite::Result<Vec<(IntegrationId, GatherKey)>> {
    let Some(last) = waiting.last() else { return Ok(Vec::new()) };
    // Of scheduled digests there are few. Collations may be many, and only the last is worth a look at what follows.
    let gatherings: HashSet<(&IntegrationId, &GatherKey)> = waiting
        .iter()
        .filter(|w| w.story.reason == SendReason::ScheduledDigest || w.seq == last.seq)
        .filter_map(|w| Some((&w.integration, w.gather.as_ref()?)))
        .collect();
    let more = "SELECT 1 FROM notifications WHERE room = ?1 AND state = 'pending' AND seq > ?2 AND integration = ?3 \
         AND gather = ?4 LIMIT 1";
    let mut going_on = Vec::new();
    for (integration, gather) in gatherings {
        if db.exists(more, params![room.as_str(), last.seq, integration.as_str(), gather.as_str()])? {
            going_on.push((integration.clone(), gather.clone()));
        }
    }
    Ok(going_on)
}

/// A line's row before its event is read.
struct Place {
    waiting: Waiting,
    event_no: i64,
    received_at: Timestamp,
    reason: String,
}

fn line(
    db: &Db<'_>,
    events: &mut Events<'_, '_>,
    room: &RoomKey,
    limit: usize,
    now: Timestamp,
) -> Done<Vec<Waiting>> {
    loop {
        let places = places(db, room, limit, now)?;
        if places.is_empty() {
            return Ok(Vec::new());
        }
        let (mut waiting, mut bytes) = (Vec::with_capacity(places.len()), 0);
        for (seq, place) in places {
            match place.and_then(|place| complete(events, place)) {
                Ok(one) => {
                    bytes += one.received.envelope.body.len();
                    waiting.push(one);
                }
                Err(Fail::Store(fault)) => set_aside(db, room, seq, &fault.to_string(), now)?,
                Err(fail) => return Err(fail),
            }
            if bytes >= LINE_BYTES {
                break;
            }
        }
        if !waiting.is_empty() {
            return Ok(waiting);
        }
    }
}

/// The rows at the head of a line; the error of one that can't be read stands in its place.
fn places(db: &Db<'_>, room: &RoomKey, limit: usize, now: Timestamp) -> Done<Vec<(i64, Done<Place>)>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let head = "SELECT seq, event, integration, event_no, reason, failures, first_failed_at, gather, ready_at, \
         attempts, first_attempt_at, plain, received_at, detail FROM notifications \
         WHERE room = ?1 AND state = 'pending' AND integration NOT IN \
         (SELECT integration FROM throttles WHERE closed_until > ?3) ORDER BY seq LIMIT ?2";
    db.with(head, |statement| {
        let mut rows = statement.query(params![room.as_str(), limit, micros(now)])?;
        let mut places = Vec::new();
        while let Some(row) = rows.next()? {
            let place = match read_place(row) {
                Ok(place) => Ok(place),
                Err(error) => Err(Fail::corrupt(misread(error)?)),
            };
            places.push((row.get(0)?, place));
        }
        Ok(places)
    })
}

/// One that can't be read must not stop its room, let alone all rooms: it goes to the dead-letter queue with
/// what is left of it.
fn set_aside(db: &Db<'_>, room: &RoomKey, seq: i64, fault: &str, now: Timestamp) -> Done<()> {
    let (event_id, integration_id): (Vec<u8>, Vec<u8>) = db.query_row(
        "SELECT CAST(event AS BLOB), CAST(integration AS BLOB) FROM notifications WHERE seq = ?1",
        [seq],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    tracing::error!(
        event_id = %String::from_utf8_lossy(&event_id),
        integration_id = %String::from_utf8_lossy(&integration_id),
        %room,
        "a notification is damaged in the store and is given up: {fault}"
    );
    let detail = format!("damaged in the store: {fault}");
    bury(db, seq, DeadLetterReason::WorkerFault, &detail, now)?;
    Ok(())
}

fn read_place(row: &Row<'_>) -> rusqlite::Result<Place> {
    let received_at = time(row.get(12)?);
    Ok(Place {
        waiting: Waiting {
            seq: row.get(0)?,
            event: EventId::new(row.get::<_, String>(1)?),
            integration: IntegrationId::new(row.get::<_, String>(2)?),
            story: Story {
                reason: SendReason::EveryRun,
                failures: row.get(5)?,
                first_failed_at: row.get::<_, Option<i64>>(6)?.map(time),
            },
            ready_at: time(row.get(8)?),
            gather: row.get::<_, Option<String>>(7)?.map(GatherKey::new),
            attempts: row.get(9)?,
            first_attempt_at: row.get::<_, Option<i64>>(10)?.map(time),
            last_answer: text(row, 13)?.unwrap_or_default(),
            plain: row.get(11)?,
            received: Arc::new(Received { envelope: Default::default(), at: received_at }),
            read: None,
        },
        event_no: row.get(3)?,
        received_at,
        reason: row.get(4)?,
    })
}

fn complete(events: &mut Events<'_, '_>, place: Place) -> Done<Waiting> {
    let Place { mut waiting, event_no, received_at, reason } = place;
    waiting.story.reason = SendReason::from_text(&reason).ok_or_else(|| {
        Fail::corrupt(format!("event {}: {reason:?} is no reason to tell it", waiting.event))
    })?;
    let received = events.get(event_no)?;
    waiting.received = match received.at == received_at {
        true => received,
        // Put back from the dead-letter queue while others still needed the event: its age counts anew.
        false => Arc::new(Received { envelope: received.envelope.clone(), at: received_at }),
    };
    Ok(waiting)
}

/// Events by number, each read once for all the lines of a batch.
struct Events<'a, 'c> {
    db: &'a Db<'c>,
    read: HashMap<i64, Arc<Received>>,
}

impl Events<'_, '_> {
    fn get(&mut self, no: i64) -> Done<Arc<Received>> {
        if let Some(received) = self.read.get(&no) {
            return Ok(Arc::clone(received));
        }
        let row: Option<(Option<String>, Vec<u8>, i64)> = self
            .db
            .query_row("SELECT properties, body, received_at FROM events WHERE no = ?1", [no], |row| {
                Ok((text(row, 0)?, row.get(1)?, row.get(2)?))
            })
            .optional()?;
        let received = row.and_then(|(properties, body, at)| {
            Some(Received { envelope: rows::envelope(&properties?, body)?, at: time(at) })
        });
        let received = Arc::new(
            received.ok_or_else(|| Fail::corrupt(format!("event number {no} is missing or unreadable")))?,
        );
        self.read.insert(no, Arc::clone(&received));
        Ok(received)
    }
}

/// Calls that the line would need if each were told alone, by token; but no more than the room may be told.
fn needs_of(
    db: &Db<'_>,
    memory: &mut Memory,
    waiting: &[Waiting],
    room_left: u32,
) -> Done<HashMap<TokenKey, u32>> {
    let mut by_integration: HashMap<&IntegrationId, u32> = HashMap::new();
    for one in waiting {
        *by_integration.entry(&one.integration).or_default() += 1;
    }
    let mut wanted = Vec::with_capacity(by_integration.len());
    for (integration, count) in by_integration {
        if let Some(known) = memory.standings.of(db, integration)? {
            wanted.push((known.standing.token.clone(), count));
        }
    }
    Ok(purse::needs(wanted, room_left))
}

fn throttles(db: &Db<'_>, waiting: &[Waiting], now: Timestamp) -> Done<HashMap<IntegrationId, Meter>> {
    let mut found = HashMap::new();
    for one in waiting {
        if found.contains_key(&one.integration) {
            continue;
        }
        let kept: Option<Option<String>> = db
            .query_row(
                "SELECT meter FROM throttles WHERE integration = ?1",
                [one.integration.as_str()],
                |row| text(row, 0),
            )
            .optional()?;
        let Some(kept) = kept.flatten() else { continue };
        found.insert(one.integration.clone(), meters::throttle(&kept, &one.integration, now));
    }
    Ok(found)
}
