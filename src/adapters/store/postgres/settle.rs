//! Settling steps on held rooms: the transitions, the rooms' new states, and when they are looked at again. What
//! rooms settle at the same time goes into one transaction.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;

use super::errors::Done;
use super::locks::{Keys, decide_alone};
use super::notifications::Ledger;
use super::rounds::{Answers, Place, Round, Tx, texts, values};
use super::standing;
use super::tokens::Spending;
use crate::adapters::store::release::{Held, Left, Next};
use crate::adapters::store::rows::{meter_text, micros, time};
use crate::adapters::store::state::Ending;
use crate::domain::ids::{IntegrationId, RoomKey};
use crate::domain::reason::DeadLetterReason;
use crate::ports::{Settled, Settlement, Then, Transition};

/// Applies settlements of different rooms; each wholly, or not at all if the room is no longer the settler's.
pub async fn settle(tx: &Tx, keys: &Keys, batch: &[&Settlement]) -> Done<Vec<Settled>> {
    let mut round = Round::default();
    if batch.iter().any(|s| s.transitions.iter().any(loses_news)) {
        decide_alone(&mut round, keys);
    }
    let held = ask_held(&mut round, batch);
    let seqs = batch.iter().flat_map(|s| &s.transitions).flat_map(|transition| transition.seqs());
    let open = Ledger::ask(&mut round, seqs.copied().collect());
    let tokens = batch.iter().flat_map(|s| &s.calls).map(|calls| &calls.token).collect();
    let tokens = Spending::ask(&mut round, &tokens);
    let mut answers = round.run(tx).await?;

    let held = read_held(&mut answers, held)?;
    let kept: Vec<(&Settlement, &Held)> =
        batch.iter().filter_map(|s| Some((*s, held.get(&s.room)?))).collect();
    let mut ledger = Ledger::default();
    ledger.keep(&answers.take(open))?;
    for (s, held) in &kept {
        for transition in &s.transitions {
            apply((tx, keys), &mut ledger, &s.room, held, transition).await?;
        }
    }
    let mut round = Round::default();
    ledger.write(&mut round);
    if let Some((first, _)) = kept.first() {
        spend(&mut round, Spending::read(&mut answers, tokens, first.now)?, &kept);
    }
    throttle(&mut round, &kept);
    let settled = finish(tx, round, &kept).await?;
    Ok(batch.iter().map(|s| settled.get(&s.room).copied().unwrap_or(Settled::LostClaim)).collect())
}

/// Writes all, and when each room is looked at next: that of those that are given back rests on what is left in them.
/// Returns what became of each settlement, by room.
async fn finish<'s>(
    tx: &Tx,
    mut round: Round,
    kept: &[(&'s Settlement, &Held)],
) -> Done<HashMap<&'s RoomKey, Settled>> {
    let mut left = HashMap::new();
    if let Some(asked) = ask_left(&mut round, kept) {
        let mut answers = round.run(tx).await?;
        left = read_left(&mut answers, asked)?;
        round = Round::default();
    }
    let next = kept.iter().map(|(s, held)| match left.get(&s.room) {
        Some(left) => (*s, held.released(s, left)),
        None => (*s, held.renewed(s.now)),
    });
    let next: Vec<_> = next.collect();
    save(&mut round, &next);
    round.run_last(tx).await?;
    Ok(next.iter().map(|(s, next)| (&s.room, next.settled())).collect())
}

/// Whether beliefs may change, or an integration's standing: both are for one decider at a time.
fn loses_news(transition: &Transition) -> bool {
    match transition {
        Transition::Sent { .. } | Transition::Digested { .. } | Transition::Attempted { .. } => false,
        Transition::Suppressed { .. }
        | Transition::Expired { .. }
        | Transition::DeadLettered { .. }
        | Transition::Broken { .. } => true,
    }
}

/// Asks for the rooms that are held by these very claims, under their locks. A lease that has lapsed counts as long as
/// nobody else has claimed the room.
fn ask_held(round: &mut Round, batch: &[&Settlement]) -> Place {
    let claims: Vec<i64> = batch.iter().map(|s| i64::try_from(s.claim).unwrap_or(-1)).collect();
    round.add(
        "SELECT r.room, r.lease, r.fresh_at, r.claimed_at_revision FROM rooms AS r \
         JOIN unnest($1::text[], $2::bigint[]) AS u(room, claim) ON r.room = u.room AND r.claim = u.claim \
         WHERE r.lease_until IS NOT NULL ORDER BY r.room FOR UPDATE OF r",
        values![texts(batch.iter().map(|s| s.room.as_str())), claims],
    )
}

fn read_held(answers: &mut Answers, asked: Place) -> Done<HashMap<RoomKey, Held>> {
    let found = answers.take(asked);
    let mut held = HashMap::with_capacity(found.len());
    for row in found {
        let room = RoomKey::new(row.try_get::<_, &str>(0)?);
        let revision = row.try_get::<_, i64>(3)?.unsigned_abs();
        held.insert(room, Held { lease: row.try_get(1)?, fresh_at: row.try_get(2)?, revision });
    }
    Ok(held)
}

async fn apply(
    (tx, keys): (&Tx, &Keys),
    ledger: &mut Ledger,
    room: &RoomKey,
    held: &Held,
    transition: &Transition,
) -> Done<()> {
    match transition {
        Transition::Sent { .. }
        | Transition::Digested { .. }
        | Transition::Suppressed { .. }
        | Transition::Expired { .. } => match Ending::by(transition) {
            Some(ending) if ending.outcome.is_told() => tell(ledger, transition.seqs(), &ending),
            Some(ending) => end_waiting(ledger, room, transition.seqs(), &ending),
            None => {}
        },
        Transition::Attempted { seqs, at, status, detail, plain_next } => {
            for seq in ledger.still_waiting(room.as_str(), seqs) {
                ledger.attempted(seq, *at, *status, detail, *plain_next);
            }
        }
        Transition::DeadLettered { seqs, reason, detail, at, status, attempted } => {
            for seq in ledger.still_waiting(room.as_str(), seqs) {
                if *attempted {
                    ledger.count_attempt(seq, *at, *status);
                }
                ledger.bury(seq, *reason, detail, *at);
            }
        }
        Transition::Broken { integration, seqs, detail, at, status } => {
            for seq in ledger.still_waiting(room.as_str(), seqs) {
                ledger.count_attempt(seq, *at, *status);
            }
            broken((tx, keys), ledger, held, integration, (detail, *at)).await?;
        }
    }
    Ok(())
}

/// What was posted is in the room, whatever the row became meanwhile.
fn tell(ledger: &mut Ledger, seqs: &[i64], told: &Ending<'_>) {
    for seq in seqs {
        if ledger.find(*seq).is_some_and(|open| !open.is_told()) {
            ledger.end(*seq, told);
        }
    }
}

fn end_waiting(ledger: &mut Ledger, room: &RoomKey, seqs: &[i64], ending: &Ending<'_>) {
    for seq in ledger.still_waiting(room.as_str(), seqs) {
        ledger.end(seq, ending);
    }
}

async fn broken(
    (tx, keys): (&Tx, &Keys),
    ledger: &mut Ledger,
    held: &Held,
    integration: &IntegrationId,
    (detail, at): (&str, Timestamp),
) -> Done<()> {
    if !standing::suspend(tx, keys, integration, detail, held.revision).await? {
        // Its URL was changed after the claim: the refusal says nothing about the new one.
        return Ok(());
    }
    for seq in ledger.load_waiting(tx, &[integration]).await? {
        ledger.bury(seq, DeadLetterReason::IntegrationBroken, detail, at);
    }
    Ok(())
}

fn spend(round: &mut Round, mut spending: Spending, kept: &[(&Settlement, &Held)]) {
    let made = || kept.iter().flat_map(|(s, _)| s.calls.iter().map(move |calls| (*s, calls)));
    for (s, calls) in made() {
        spending.spend(calls, s.now);
    }
    let spent: Vec<_> = made().map(|(s, calls)| (&s.room, calls)).collect();
    let released: Vec<String> = released(kept).map(|s| s.room.as_str().to_owned()).collect();
    spending.write(round, &spent, &released);
}

fn released<'a>(kept: &'a [(&Settlement, &Held)]) -> impl Iterator<Item = &'a Settlement> {
    kept.iter().map(|(s, _)| *s).filter(|s| s.then != Then::Hold)
}

/// Integrations' own throttles: what was spent, and until when they are closed. One that was removed meanwhile
/// leaves nothing behind.
fn throttle(round: &mut Round, kept: &[(&Settlement, &Held)]) {
    let meters: BTreeMap<&str, String> = kept
        .iter()
        .flat_map(|(s, _)| &s.throttles)
        .map(|(integration, meter)| (integration.as_str(), meter_text(meter)))
        .collect();
    if !meters.is_empty() {
        round.add(
            "INSERT INTO throttles (integration, meter) \
             SELECT i.id, u.meter FROM unnest($1::text[], $2::text[]) AS u(id, meter) \
             JOIN integrations AS i ON i.id = u.id ORDER BY i.id FOR KEY SHARE OF i \
             ON CONFLICT (integration) DO UPDATE SET meter = excluded.meter",
            values![texts(meters.keys().copied()), meters.into_values().collect::<Vec<_>>()],
        );
    }
    let closed: BTreeMap<&str, i64> = kept
        .iter()
        .flat_map(|(s, _)| &s.closed)
        .map(|(integration, until)| (integration.as_str(), micros(*until)))
        .collect();
    if !closed.is_empty() {
        round.add(
            "INSERT INTO throttles (integration, closed_until) \
             SELECT i.id, u.until FROM unnest($1::text[], $2::bigint[]) AS u(id, until) \
             JOIN integrations AS i ON i.id = u.id ORDER BY i.id FOR KEY SHARE OF i \
             ON CONFLICT (integration) DO UPDATE SET closed_until = excluded.closed_until",
            values![texts(closed.keys().copied()), closed.into_values().collect::<Vec<_>>()],
        );
    }
}

/// Asks what waits in the rooms that are given back, if any is.
fn ask_left(round: &mut Round, kept: &[(&Settlement, &Held)]) -> Option<Place> {
    let of_rooms = texts(released(kept).map(|s| s.room.as_str()));
    let nows: Vec<i64> = released(kept).map(|s| micros(s.now)).collect();
    (!of_rooms.is_empty()).then(|| round.add(LEFT, values![of_rooms, nows]))
}

fn read_left(answers: &mut Answers, asked: Place) -> Done<HashMap<RoomKey, Left>> {
    let found = answers.take(asked);
    let mut left = HashMap::with_capacity(found.len());
    for row in found {
        left.insert(
            RoomKey::new(row.try_get::<_, &str>(0)?),
            Left {
                next_ready: row.try_get::<_, Option<i64>>(1)?.map(time),
                next_opening: row.try_get::<_, Option<i64>>(2)?.map(time),
                has_ready: row.try_get(3)?,
            },
        );
    }
    Ok(left)
}

/// What waits in rooms at a time each. What waits for an integration is in its room's line, so that much that is
/// throttled need not be read to find out whether something else is ready.
///
/// Each question is a scalar one with a limit and not an EXISTS, which the server may answer for all rooms at once by
/// reading everything that waits; and rooms and integrations are compared by ranges, as in [`super::line::HEADS`].
pub const LEFT: &str = "SELECT r.room, \
    (SELECT n.ready_at FROM notifications AS n WHERE n.room BETWEEN r.room AND r.room AND n.state = 'gathering' \
       ORDER BY n.room, n.ready_at LIMIT 1), \
    c.opening, \
    CASE WHEN c.closed THEN (SELECT TRUE FROM integrations AS i WHERE i.room = r.room \
        AND (SELECT TRUE FROM throttles AS t WHERE t.integration = i.id AND t.closed_until > r.now) IS NULL \
        AND (SELECT TRUE FROM notifications AS n WHERE n.integration BETWEEN i.id AND i.id \
          AND n.event_no IS NOT NULL AND n.state = 'pending' ORDER BY n.integration, n.seq LIMIT 1) LIMIT 1) \
      ELSE (SELECT TRUE FROM notifications AS n WHERE n.room BETWEEN r.room AND r.room AND n.state = 'pending' \
        ORDER BY n.room, n.seq LIMIT 1) END IS NOT NULL \
    FROM unnest($1::text[], $2::bigint[]) AS r(room, now) CROSS JOIN LATERAL \
      (SELECT count(*) > 0 AS closed, min(CASE WHEN (SELECT TRUE FROM notifications AS n \
           WHERE n.integration BETWEEN i.id AND i.id AND n.event_no IS NOT NULL AND n.state = 'pending' \
           ORDER BY n.integration, n.seq LIMIT 1) \
         THEN i.until END) AS opening \
       FROM (SELECT i.id, (SELECT t.closed_until FROM throttles AS t \
               WHERE t.integration = i.id AND t.closed_until > r.now) AS until \
             FROM integrations AS i WHERE i.room = r.room \
               AND (SELECT TRUE FROM throttles AS t WHERE t.closed_until > r.now LIMIT 1) OFFSET 0) AS i \
       WHERE i.until IS NOT NULL) AS c";

fn save(round: &mut Round, next: &[(&Settlement, Next)]) {
    if next.is_empty() {
        return;
    }
    let states = || next.iter().map(|(s, _)| &s.state);
    round.add(
        "UPDATE rooms AS r SET meter = u.meter, retry_failures = u.retry_failures, retry_at = u.retry_at, \
         expired_untold = u.expired_untold, lease_until = u.lease_until, due_at = u.due_at, \
         hold_until = u.hold_until, fresh_at = u.fresh_at \
         FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], \
         $7::bigint[], $8::bigint[], $9::bigint[]) AS u(room, meter, retry_failures, retry_at, \
         expired_untold, lease_until, due_at, hold_until, fresh_at) WHERE r.room = u.room",
        values![
            texts(next.iter().map(|(s, _)| s.room.as_str())),
            states().map(|state| meter_text(&state.meter)).collect::<Vec<_>>(),
            states().map(|state| state.retry.map(|retry| i64::from(retry.failures))).collect::<Vec<_>>(),
            states().map(|state| state.retry.map(|retry| micros(retry.at))).collect::<Vec<_>>(),
            states().map(|state| i64::from(state.expired_untold)).collect::<Vec<_>>(),
            next.iter().map(|(_, next)| next.lease_until).collect::<Vec<_>>(),
            next.iter().map(|(_, next)| next.due_at).collect::<Vec<_>>(),
            next.iter().map(|(_, next)| next.hold_until).collect::<Vec<_>>(),
            next.iter().map(|(_, next)| next.fresh_at).collect::<Vec<_>>(),
        ],
    );
}
