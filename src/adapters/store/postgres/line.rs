//! The heads of rooms' lines: what waits in each, with its events, and what of it can't be read.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use tokio_postgres::Row;

use super::errors::Done;
use super::notifications::Ledger;
use super::rounds::{self, Round, Tx, values};
use crate::adapters::store::meters;
use crate::adapters::store::rows::{envelope, micros, time};
use crate::adapters::store::terms::LINE_BYTES;
use crate::domain::envelope::Received;
use crate::domain::ids::{EventId, GatherKey, IntegrationId, TokenKey};
use crate::domain::pacing::Meter;
use crate::domain::reason::{DeadLetterReason, SendReason};
use crate::domain::story::Story;
use crate::ports::Waiting;

/// What each notification of a line wants to spend of a token.
pub type Wanted = Vec<(TokenKey, u32)>;

/// The head of a room's line, with what belongs to its integrations.
#[derive(Default)]
pub struct Head {
    pub waiting: Vec<Waiting>,
    pub throttles: HashMap<IntegrationId, Meter>,
    pub wanted: Wanted,
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
///
/// Whatever the server thinks of how much there is, only one way of finding them is open to it, since a guess that is
/// off costs seconds where much waits: a room is compared by a range, so that its line's index alone gives the order
/// asked for, and what belongs to a notification is looked up row by row. Where an integration of the room is
/// throttled, the line is put together of the others' own, so that a hundred thousand that wait for the throttle are not
/// read to find what stands behind them.
pub const HEADS: &str = "WITH r AS MATERIALIZED (SELECT u.room, \
      (SELECT TRUE FROM integrations AS i WHERE i.room = u.room \
        AND (SELECT TRUE FROM throttles AS t WHERE t.closed_until > $3 LIMIT 1) \
        AND (SELECT TRUE FROM throttles AS t WHERE t.integration = i.id AND t.closed_until > $3) LIMIT 1) \
        IS NOT NULL AS closed \
      FROM unnest($1::text[]) AS u(room)) \
    SELECT n.seq, n.event, n.integration, n.event_no, n.reason, n.failures, \
      n.first_failed_at, n.gather, n.ready_at, n.attempts, n.first_attempt_at, n.plain, n.received_at, r.room, \
      coalesce((SELECT octet_length(e.body) FROM events AS e WHERE e.no = n.event_no), 0), \
      (SELECT i.token FROM integrations AS i WHERE i.id = n.integration), \
      (SELECT t.meter FROM throttles AS t WHERE t.integration = n.integration), n.detail \
    FROM r CROSS JOIN LATERAL ( \
      (SELECT * FROM notifications AS n WHERE NOT r.closed AND n.room BETWEEN r.room AND r.room \
         AND n.state = 'pending' ORDER BY n.room, n.seq LIMIT $2) \
      UNION ALL \
      (SELECT o.* FROM integrations AS i CROSS JOIN LATERAL \
         (SELECT * FROM notifications AS n WHERE n.integration = i.id AND n.event_no IS NOT NULL \
            AND n.state = 'pending' ORDER BY n.seq LIMIT $2) AS o \
       WHERE r.closed AND i.room = r.room AND o.room = r.room AND \
         (SELECT TRUE FROM throttles AS c WHERE c.integration = i.id AND c.closed_until > $3) IS NULL \
       ORDER BY o.seq LIMIT $2)) AS n \
    ORDER BY r.room, n.seq";

/// Rooms' lines on their way from the server.
#[derive(Default)]
pub struct Lines {
    places: Vec<Place>,
    damaged: Damaged,
}

/// Asks for the heads of these rooms' lines, each of `limit` notifications at most.
pub fn ask(round: &mut Round, of_rooms: Vec<String>, limit: usize, now: Timestamp) -> rounds::Place {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    round.add(HEADS, values![of_rooms, limit, micros(now)])
}

impl Lines {
    /// Takes in heads that were asked for. Returns the rooms of which there are any.
    pub fn keep(&mut self, found: &[Row]) -> Done<HashSet<String>> {
        let (places, damaged) = sort_out(found)?;
        self.places.extend(places);
        self.damaged.extend(damaged);
        Ok(found.iter().map(|row| row.try_get(13)).collect::<Result<_, _>>()?)
    }

    /// The tokens that they want to spend of.
    pub fn tokens(&self) -> impl Iterator<Item = &TokenKey> {
        self.places.iter().filter_map(|place| place.token.as_ref())
    }

    /// Asks for the events of all, each once.
    pub fn ask_events(&self, round: &mut Round) -> rounds::Place {
        let mut nos: Vec<i64> = self.places.iter().map(|place| place.event_no).collect();
        nos.sort_unstable();
        nos.dedup();
        let sql = "SELECT no, properties, body, received_at FROM events WHERE no = ANY($1)";
        round.add(sql, values![nos])
    }

    /// The heads by room, with the events that were asked for. What can't be read of them is set aside, and where that
    /// was all that was found of a line, what stands behind it is looked at.
    pub async fn heads(
        self,
        tx: &Tx,
        events: &[Row],
        limit: usize,
        now: Timestamp,
    ) -> Done<HashMap<String, Head>> {
        let mut heads: HashMap<String, Head> = HashMap::new();
        let mut wanting = self.complete(tx, &mut heads, events, now).await?;
        while !wanting.is_empty() {
            let (mut round, mut lines) = (Round::default(), Self::default());
            let asked = ask(&mut round, wanting, limit, now);
            lines.keep(&round.run(tx).await?.take(asked))?;
            let mut round = Round::default();
            let asked = lines.ask_events(&mut round);
            let events = round.run(tx).await?.take(asked);
            wanting = lines.complete(tx, &mut heads, &events, now).await?;
        }
        Ok(heads)
    }

    /// Puts all places into their lines. Returns the rooms of which nothing whole was found, but something damaged.
    async fn complete(
        mut self,
        tx: &Tx,
        heads: &mut HashMap<String, Head>,
        found: &[Row],
        now: Timestamp,
    ) -> Done<Vec<String>> {
        let events = read_events(found)?;
        for place in self.places {
            let (room, seq) = (place.room.clone(), place.waiting.seq);
            let head = heads.entry(room.clone()).or_default();
            if let Err(fault) = complete(head, place, &events, now) {
                self.damaged.push((room, seq, fault));
            }
        }
        set_aside(tx, &self.damaged, now).await?;
        let mut wanting: Vec<String> = self.damaged.into_iter().map(|(room, ..)| room).collect();
        wanting.retain(|room| heads.get(room).is_none_or(|head| head.waiting.is_empty()));
        wanting.sort_unstable();
        wanting.dedup();
        Ok(wanting)
    }
}

/// Rows that can't be read, by room and number, with what is wrong.
type Damaged = Vec<(String, i64, String)>;

/// The readable rows, each line cut where its events get too large together; and the others.
fn sort_out(found: &[Row]) -> Done<(Vec<Place>, Damaged)> {
    let (mut places, mut damaged): (Vec<Place>, _) = (Vec::with_capacity(found.len()), Vec::new());
    let mut bytes: HashMap<&str, usize> = HashMap::new();
    for row in found {
        let room: &str = row.try_get(13)?;
        let used = bytes.entry(room).or_default();
        if *used >= LINE_BYTES {
            continue;
        }
        match read_place(row) {
            Ok(place) => {
                *used += place.bytes;
                places.push(place);
            }
            Err(fault) => damaged.push((room.to_owned(), row.try_get(0)?, fault)),
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
        last_answer: row.try_get(17).map_err(shape)?,
        plain: row.try_get(11).map_err(shape)?,
        received: Arc::new(Received { envelope: Default::default(), at: received_at }),
        read: None,
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

/// The events that were asked for, by number.
fn read_events(found: &[Row]) -> Done<HashMap<i64, Arc<Received>>> {
    let mut events = HashMap::with_capacity(found.len());
    for row in found {
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
async fn set_aside(tx: &Tx, damaged: &Damaged, now: Timestamp) -> Done<()> {
    if damaged.is_empty() {
        return Ok(());
    }
    let mut ledger = Ledger::default();
    let faults: BTreeMap<i64, &String> = damaged.iter().map(|(_, seq, fault)| (*seq, fault)).collect();
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
    let mut round = Round::default();
    ledger.write(&mut round);
    round.run(tx).await?;
    Ok(())
}
