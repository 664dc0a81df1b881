//! The heads of rooms' lines: what waits in each, with its events, and what of it can't be read.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use deadpool_postgres::Transaction;
use jiff::Timestamp;
use tokio_postgres::Row;

use super::errors::Done;
use super::link::{Script, rows};
use super::notifications::Ledger;
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
const HEADS: &str = "SELECT n.seq, n.event, n.integration, n.event_no, n.reason, n.failures, \
    n.first_failed_at, n.gather, n.ready_at, n.attempts, n.first_attempt_at, n.plain, n.received_at, r.room, \
    coalesce(octet_length(e.body), 0), i.token, t.meter, n.detail \
    FROM unnest($1::text[]) AS r(room) CROSS JOIN LATERAL \
    (SELECT * FROM notifications AS n WHERE n.room = r.room AND n.state = 'pending' AND NOT EXISTS \
       (SELECT 1 FROM throttles AS c WHERE c.integration = n.integration AND c.closed_until > $3) \
     ORDER BY n.seq LIMIT $2) AS n \
    LEFT JOIN events AS e ON e.no = n.event_no \
    LEFT JOIN integrations AS i ON i.id = n.integration \
    LEFT JOIN throttles AS t ON t.integration = n.integration \
    ORDER BY r.room, n.seq";

/// The heads of these rooms' lines, each of `limit` notifications at most.
pub async fn heads(
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
        last_answer: row.try_get(17).map_err(shape)?,
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
