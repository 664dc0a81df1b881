//! The named changes of notifications, made on rows that were read under their locks and written back together.
//! Nothing else writes `state`; whatever ends a notification lets go of its event here.

use std::collections::BTreeMap;

use jiff::Timestamp;
use tokio_postgres::Row;

use super::errors::Done;
use super::rounds::{Place, Round, Tx, rows, texts, values};
use crate::adapters::store::rows::micros;
use crate::adapters::store::state::{self, BURYING, DEAD_LETTERING, Ending};
use crate::domain::ids::IntegrationId;
use crate::domain::reason::DeadLetterReason;

/// A notification's row, as far as changes look at it.
pub struct Open {
    pub seq: i64,
    pub room: String,
    pub ready_at: Option<i64>,
    event: String,
    integration: String,
    monitor: Option<String>,
    region: Option<String>,
    event_no: Option<i64>,
    state: String,
    reason: String,
    detail: String,
    attempts: i64,
    first_attempt_at: Option<i64>,
    last_status: Option<i64>,
    plain: bool,
    decided_at: i64,
    sent_at: Option<i64>,
    gather: Option<String>,
    changed: bool,
}

macro_rules! columns {
    () => {
        "seq, room, ready_at, event, integration, monitor, region, event_no, state, reason, detail, attempts, \
         first_attempt_at, last_status, plain, decided_at, sent_at, gather"
    };
}

impl Open {
    fn read(row: &Row) -> Result<Self, tokio_postgres::Error> {
        Ok(Self {
            seq: row.try_get(0)?,
            room: row.try_get(1)?,
            ready_at: row.try_get(2)?,
            event: row.try_get(3)?,
            integration: row.try_get(4)?,
            monitor: row.try_get(5)?,
            region: row.try_get(6)?,
            event_no: row.try_get(7)?,
            state: row.try_get(8)?,
            reason: row.try_get(9)?,
            detail: row.try_get(10)?,
            attempts: row.try_get(11)?,
            first_attempt_at: row.try_get(12)?,
            last_status: row.try_get(13)?,
            plain: row.try_get(14)?,
            decided_at: row.try_get(15)?,
            sent_at: row.try_get(16)?,
            gather: row.try_get(17)?,
            changed: false,
        })
    }

    /// What it tells of.
    pub fn event(&self) -> &str {
        &self.event
    }

    /// Whom it is for.
    pub fn integration(&self) -> &str {
        &self.integration
    }

    /// Whether it is in its room already.
    pub fn is_told(&self) -> bool {
        state::is_told(&self.state)
    }

    /// Whether its letter is in the outbox.
    pub fn is_burying(&self) -> bool {
        self.state == BURYING
    }

    /// Counts an attempt, with the answer's status if there was an answer.
    fn count_attempt(&mut self, at: i64, status: Option<u16>) {
        self.attempts += 1;
        self.first_attempt_at.get_or_insert(at);
        self.last_status = status.map(i64::from);
        self.changed = true;
    }
}

/// A letter that a notification became.
struct Burial {
    seq: i64,
    reason: DeadLetterReason,
    detail: String,
    at: i64,
}

/// Streaks (integration, monitor, region) whose news will not be told, and the latest of it (seq).
pub type Doubts = BTreeMap<[String; 3], i64>;

/// Notifications held under their locks, and what their changes entail.
#[derive(Default)]
pub struct Ledger {
    open: BTreeMap<i64, Open>,
    burials: Vec<Burial>,
    /// Numbers whose letters leave the outbox.
    withdrawn: Vec<i64>,
    /// How many need each event no more.
    freed: BTreeMap<i64, i64>,
    doubted: Doubts,
}

impl Ledger {
    /// Locks and reads these, those of them that the journal still has.
    pub async fn load(&mut self, tx: &Tx, seqs: &[i64]) -> Done<()> {
        let mut round = Round::default();
        let asked = Self::ask(&mut round, seqs.to_vec());
        let mut answers = round.run(tx).await?;
        self.keep(&answers.take(asked))
    }

    /// Asks for these under their locks; what comes is for [`Ledger::keep`].
    pub fn ask(round: &mut Round, seqs: Vec<i64>) -> Place {
        const SQL: &str =
            concat!("SELECT ", columns!(), " FROM notifications WHERE seq = ANY($1) ORDER BY seq FOR UPDATE");
        round.add(SQL, values![seqs])
    }

    /// Locks and reads all that wait to be told for these integrations. Returns their numbers, in order.
    pub async fn load_waiting(&mut self, tx: &Tx, of: &[&IntegrationId]) -> Done<Vec<i64>> {
        const SQL: &str = concat!(
            "SELECT ",
            columns!(),
            " FROM notifications WHERE integration = ANY($1) AND event_no IS NOT NULL \
             AND state IN ('pending', 'gathering') ORDER BY seq FOR UPDATE"
        );
        if of.is_empty() {
            return Ok(Vec::new());
        }
        let found = rows(tx, SQL, values![texts(of.iter().map(|id| id.as_str()))]).await?;
        self.keep(&found)?;
        let seqs: Result<Vec<i64>, _> = found.iter().map(|row| row.try_get(0)).collect();
        Ok(seqs?.into_iter().filter(|seq| self.waits(*seq)).collect())
    }

    /// Takes in rows that were asked for.
    pub fn keep(&mut self, found: &[Row]) -> Done<()> {
        for row in found {
            let open = Open::read(row)?;
            // What was changed already counts, not how it stands in the table.
            self.open.entry(open.seq).or_insert(open);
        }
        Ok(())
    }

    /// One that was read.
    pub fn find(&self, seq: i64) -> Option<&Open> {
        self.open.get(&seq)
    }

    fn waits(&self, seq: i64) -> bool {
        self.find(seq).is_some_and(|open| state::waits(&open.state))
    }

    /// Those of `seqs` that still wait in this room's line.
    pub fn still_waiting(&self, room: &str, seqs: &[i64]) -> Vec<i64> {
        let here = |seq: &i64| self.waits(*seq) && self.find(*seq).is_some_and(|open| open.room == room);
        seqs.iter().copied().filter(here).collect()
    }

    /// Ends one, whatever it was, and lets go of its event. If it ends untold, its room may be wrong about the
    /// monitor from now on (one whose letter is out lost its telling when it was given up).
    pub fn end(&mut self, seq: i64, ending: &Ending<'_>) {
        let Some(open) = self.open.get_mut(&seq) else { return };
        let at = micros(ending.at);
        let was_burying = open.is_burying();
        if ending.outcome.is_told() {
            let status = ending.status.map(i64::from).or(open.last_status);
            open.count_attempt(at, None);
            open.last_status = status;
            open.sent_at = Some(at);
        } else {
            open.sent_at = None;
        }
        open.state = ending.outcome.as_str().to_owned();
        open.reason = ending.reason.to_owned();
        open.detail = ending.detail.to_string();
        open.decided_at = at;
        open.gather = None;
        open.changed = true;
        if let Some(no) = open.event_no.take() {
            *self.freed.entry(no).or_default() += 1;
        }
        if was_burying {
            // Confirmed, or in the room after all: there is nothing more to bury.
            self.withdrawn.push(seq);
        } else if !ending.outcome.is_told() {
            self.doubt(seq);
        }
    }

    /// Counts an attempt that will be followed by another; `plain` says how.
    pub fn attempted(&mut self, seq: i64, at: Timestamp, status: Option<u16>, detail: &str, plain: bool) {
        self.count_attempt(seq, at, status);
        if let Some(open) = self.open.get_mut(&seq) {
            open.detail = detail.to_owned();
            open.plain = plain;
        }
    }

    /// Counts an attempt.
    pub fn count_attempt(&mut self, seq: i64, at: Timestamp, status: Option<u16>) {
        if let Some(open) = self.open.get_mut(&seq) {
            open.count_attempt(micros(at), status);
        }
    }

    /// Puts one that waits into the outbox of letters. It keeps its event until the letter is confirmed.
    pub fn bury(&mut self, seq: i64, reason: DeadLetterReason, detail: &str, at: Timestamp) {
        let Some(open) = self.open.get_mut(&seq) else { return };
        let at = micros(at);
        open.state = BURYING.to_owned();
        open.reason = DEAD_LETTERING.to_owned();
        open.detail = detail.to_owned();
        open.decided_at = at;
        open.gather = None;
        open.changed = true;
        self.burials.push(Burial { seq, reason, detail: detail.to_owned(), at });
        self.doubt(seq);
    }

    /// A notification will not be told: what its room believes of the monitor is not known any more.
    fn doubt(&mut self, seq: i64) {
        let Some(open) = self.open.get(&seq) else { return };
        if let (Some(monitor), Some(region)) = (&open.monitor, &open.region) {
            let streak = [open.integration.clone(), monitor.clone(), region.clone()];
            let latest = self.doubted.entry(streak).or_insert(seq);
            *latest = seq.max(*latest);
        }
    }

    /// Moves one to another room's line.
    pub fn move_to(&mut self, seq: i64, room: &str) {
        if let Some(open) = self.open.get_mut(&seq) {
            open.room = room.to_owned();
            open.changed = true;
        }
    }

    /// Adds all changes to a round.
    pub fn write(self, round: &mut Round) {
        let changed: Vec<&Open> = self.open.values().filter(|open| open.changed).collect();
        if !changed.is_empty() {
            update(round, &changed);
        }
        let_go(round, &self.freed);
        if !self.withdrawn.is_empty() {
            round.add("DELETE FROM letters WHERE seq = ANY($1)", values![self.withdrawn]);
        }
        if !self.burials.is_empty() {
            let of = |burial: &Burial| &self.open[&burial.seq];
            insert_letters(round, &self.burials, of);
        }
        doubt_streaks(round, &self.doubted);
        count_open(round, -self.freed.values().sum::<i64>());
    }
}

fn update(round: &mut Round, changed: &[&Open]) {
    let column = |get: fn(&Open) -> &str| texts(changed.iter().map(|open| get(open)));
    round.add(
        "UPDATE notifications AS n SET room = u.room, state = u.state, reason = u.reason, detail = u.detail, \
         attempts = u.attempts, first_attempt_at = u.first_attempt_at, last_status = u.last_status, \
         plain = u.plain, decided_at = u.decided_at, sent_at = u.sent_at, event_no = u.event_no, \
         gather = u.gather \
         FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[], \
         $8::bigint[], $9::boolean[], $10::bigint[], $11::bigint[], $12::bigint[], $13::text[]) \
         AS u(seq, room, state, reason, detail, attempts, first_attempt_at, last_status, plain, decided_at, \
         sent_at, event_no, gather) WHERE n.seq = u.seq",
        values![
            changed.iter().map(|open| open.seq).collect::<Vec<_>>(),
            column(|open| &open.room),
            column(|open| &open.state),
            column(|open| &open.reason),
            column(|open| &open.detail),
            changed.iter().map(|open| open.attempts).collect::<Vec<_>>(),
            changed.iter().map(|open| open.first_attempt_at).collect::<Vec<_>>(),
            changed.iter().map(|open| open.last_status).collect::<Vec<_>>(),
            changed.iter().map(|open| open.plain).collect::<Vec<_>>(),
            changed.iter().map(|open| open.decided_at).collect::<Vec<_>>(),
            changed.iter().map(|open| open.sent_at).collect::<Vec<_>>(),
            changed.iter().map(|open| open.event_no).collect::<Vec<_>>(),
            changed.iter().map(|open| open.gather.clone()).collect::<Vec<_>>(),
        ],
    );
}

fn insert_letters<'a>(round: &mut Round, burials: &'a [Burial], of: impl Fn(&'a Burial) -> &'a Open) {
    let open: Vec<&Open> = burials.iter().map(of).collect();
    round.add(
        "INSERT INTO letters (seq, event, integration, event_no, reason, detail, attempts, last_status, \
         first_attempt_at, at) SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::bigint[], \
         $5::text[], $6::text[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[])",
        values![
            burials.iter().map(|burial| burial.seq).collect::<Vec<_>>(),
            open.iter().map(|open| open.event.clone()).collect::<Vec<_>>(),
            open.iter().map(|open| open.integration.clone()).collect::<Vec<_>>(),
            open.iter().map(|open| open.event_no).collect::<Vec<_>>(),
            texts(burials.iter().map(|burial| burial.reason.as_str())),
            texts(burials.iter().map(|burial| burial.detail.as_str())),
            open.iter().map(|open| open.attempts).collect::<Vec<_>>(),
            open.iter().map(|open| open.last_status).collect::<Vec<_>>(),
            open.iter().map(|open| open.first_attempt_at).collect::<Vec<_>>(),
            burials.iter().map(|burial| burial.at).collect::<Vec<_>>(),
        ],
    );
}

/// Counts notifications that have begun to wait, or that wait no more. Behind the events: connections share rows.
pub fn count_open(round: &mut Round, more: i64) {
    if more != 0 {
        round.add(
            "INSERT INTO open_counts AS c (slot, open) VALUES (pg_backend_pid() % 64, $1) \
             ON CONFLICT (slot) DO UPDATE SET open = c.open + excluded.open",
            values![more],
        );
    }
}

/// So many notifications less need each event; the last one takes its body along. They are still to be counted.
pub fn let_go(round: &mut Round, freed: &BTreeMap<i64, i64>) {
    if freed.is_empty() {
        return;
    }
    let nos: Vec<i64> = freed.keys().copied().collect();
    let counts: Vec<i64> = freed.values().copied().collect();
    // One after the other in the order of their numbers, so that two who share events never wait in a circle.
    round.add("SELECT 1 FROM events WHERE no = ANY($1) ORDER BY no FOR UPDATE", values![nos.clone()]);
    round.add(
        "DELETE FROM events AS e USING unnest($1::bigint[], $2::bigint[]) AS u(no, count) \
         WHERE e.no = u.no AND e.open <= u.count",
        values![nos.clone(), counts.clone()],
    );
    // Those that others still need.
    round.add(
        "UPDATE events AS e SET open = open - u.count \
         FROM unnest($1::bigint[], $2::bigint[]) AS u(no, count) WHERE e.no = u.no",
        values![nos, counts],
    );
}

/// Makes beliefs unsure because news is lost, also where no run has moved the streak yet. Where later news of it is
/// told or waits, the room knows, or will know, better.
pub fn doubt_streaks(round: &mut Round, doubts: &Doubts) {
    if doubts.is_empty() {
        return;
    }
    round.add(
        "INSERT INTO streaks AS s (integration, monitor, region, failures, belief, touched) \
         SELECT i.id, u.monitor, u.region, 0, 'unsure', (SELECT nullif(value, 0) FROM meta WHERE name = 'clock') \
         FROM unnest($1::text[], $2::text[], $3::text[]) AS u(integration, monitor, region) \
         JOIN integrations AS i ON i.id = u.integration ORDER BY 1, 2, 3 \
         ON CONFLICT (integration, monitor, region) DO UPDATE SET belief = 'unsure' \
         WHERE coalesce(s.news, 0) <= (SELECT d.seq \
           FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) AS d(integration, monitor, region, seq) \
           WHERE d.integration = s.integration AND d.monitor = s.monitor AND d.region = s.region)",
        values![
            texts(doubts.keys().map(|[integration, _, _]| integration.as_str())),
            texts(doubts.keys().map(|[_, monitor, _]| monitor.as_str())),
            texts(doubts.keys().map(|[_, _, region]| region.as_str())),
            doubts.values().copied().collect::<Vec<_>>(),
        ],
    );
}

/// Tells rooms that something for them gets ready, by room. A held room hears of it when it is given back; one that
/// can't send before `hold_until` stays asleep until then. Takes the rooms' locks, by their keys.
pub fn wake_rooms(round: &mut Round, ready: &BTreeMap<String, i64>) {
    if ready.is_empty() {
        return;
    }
    round.add(
        "INSERT INTO rooms AS r (room, due_at) \
         SELECT u.room, u.ready_at FROM unnest($1::text[], $2::bigint[]) AS u(room, ready_at) \
         ORDER BY u.room COLLATE \"C\" ON CONFLICT (room) DO UPDATE SET \
         due_at = CASE WHEN r.lease_until IS NOT NULL THEN r.due_at \
           ELSE least(r.due_at, greatest(excluded.due_at, r.hold_until)) END, \
         fresh_at = CASE WHEN r.lease_until IS NULL THEN r.fresh_at \
           ELSE least(r.fresh_at, excluded.due_at) END",
        values![ready.keys().cloned().collect::<Vec<_>>(), ready.values().copied().collect::<Vec<_>>()],
    );
}
