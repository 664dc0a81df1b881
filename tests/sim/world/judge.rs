//! The judgement at the end of a history: what was published, what each room got, the journal and the dead-letter queue
//! must fit together. The ledger has seen every commit; here it is compared with what is there.

use std::collections::{BTreeMap, BTreeSet};

use hipchat_notifier::domain::ids::{EventId, IntegrationId, RoomKey};

use super::backend::at_once;
use super::broker::Means;
use super::gateway::{End, Post};
use super::ledger::{self, Pair, State};
use super::{Figures, Inner, World};

/// Says all that does not fit.
pub fn judge(world: &World, inner: &mut Inner) {
    let mut faults = Vec::new();
    check_rest(world, inner, &mut faults);
    check_journal(world, inner, &mut faults);
    check_lost(world, inner, &mut faults);
    check_posts(world, inner, &mut faults);
    check_letters(world, inner, &mut faults);
    if !inner.ledger.jumped {
        check_room_budgets(world, inner, &mut faults);
        check_token_budgets(world, inner, &mut faults);
        check_throttles(inner, &mut faults);
    }
    faults.into_iter().for_each(|says| world.fault(inner, says));
}

/// All has ended.
fn check_rest(world: &World, inner: &Inner, faults: &mut Vec<String>) {
    let gauges = world.store_gauges();
    if gauges.pending > 0 || gauges.letters > 0 || inner.queue.len() > 0 {
        let open: Vec<&Pair> = inner
            .ledger
            .notes
            .iter()
            .filter(|(_, note)| !matches!(note.state, State::Ended { .. }))
            .map(|(pair, _)| pair)
            .collect();
        faults.push(format!("not all has ended: {gauges:?}, {open:?}"));
    }
}

/// The journal has what the ledger has, one outcome for each.
fn check_journal(world: &World, inner: &mut Inner, faults: &mut Vec<String>) {
    let mut expected: BTreeMap<Pair, (&str, &str)> = BTreeMap::new();
    for (pair, note) in &inner.ledger.notes {
        if let State::Ended { outcome, reason } = &note.state {
            expected.insert(pair.clone(), (outcome, reason));
        }
    }
    let mut found = 0;
    for id in inner.ledger.events.keys() {
        for entry in at_once(world.store().explain(&EventId::new(id))).unwrap_or_default() {
            found += 1;
            let pair = (entry.event.clone(), entry.integration.clone());
            let says = (entry.outcome.as_str(), entry.reason.as_str());
            match expected.remove(&pair) {
                Some(expected) if expected == says => {}
                other => faults.push(format!("{pair:?} is {says:?} in the journal, and should be {other:?}")),
            }
        }
    }
    for (pair, expected) in expected {
        faults.push(format!("{pair:?} is not in the journal, and should be {expected:?}"));
    }
    inner.figures.notifications = found;
}

/// No event is lost: each that somebody wanted all the time has its outcomes, or a letter that says why not.
fn check_lost(world: &World, inner: &Inner, faults: &mut Vec<String>) {
    let ledger = &inner.ledger;
    for (id, (_, means)) in &ledger.events {
        let filed = |reason: &str| {
            inner.dead_letters.filed.iter().any(|letter| {
                letter.reason.as_str() == reason && letter.event.as_ref().is_some_and(|e| e.as_str() == id)
            })
        };
        if *means == Means::Malformed {
            if !filed("malformed-event") {
                faults.push(format!("{id} is malformed, and no letter says so"));
            }
            continue;
        }
        for wish in world.plan.wishes.iter().filter(|wish| ledger::wants(wish, means)) {
            let integration = IntegrationId::new(&wish.id);
            let pair = (EventId::new(id), integration.clone());
            let lost = !ledger.touched.contains(&integration) && !ledger.notes.contains_key(&pair);
            if lost && !filed("worker-fault") {
                faults.push(format!("lost: {id} has no outcome for {integration}"));
            }
        }
    }
}

/// What is told is in its room, once; what is there more than once has a cause.
fn check_posts(world: &World, inner: &mut Inner, faults: &mut Vec<String>) {
    let mut told: BTreeMap<&Pair, BTreeMap<&RoomKey, u32>> = BTreeMap::new();
    let undisturbed = world.plan.store_is_undisturbed() && !inner.ledger.jumped;
    let mut repeats = 0;
    for (at, post) in inner.server.posts.iter().enumerate() {
        match &post.end {
            End::Told(pairs) => {
                for pair in pairs {
                    *told.entry(pair).or_default().entry(&post.room).or_default() += 1;
                }
                check_told(at, post, pairs, faults);
            }
            End::Untold if post.in_room && !post.answer_lost => {
                faults.push(format!(
                    "post {at} is in the room, and was noted as if it were not: {}",
                    post.text
                ));
            }
            End::Open => faults.push(format!("post {at} was never settled: {}", post.text)),
            End::Lost if undisturbed => {
                faults.push(format!("post {at} lost its room though nothing held it up: {}", post.text));
            }
            End::Untold | End::Crashed | End::Lost => repeats += u64::from(post.in_room),
        }
    }
    for (pair, note) in &inner.ledger.notes {
        let is_told = matches!(note.state, State::Ended { outcome: "sent" | "digested", .. });
        let rooms = told.remove(pair).unwrap_or_default();
        // Who is moved while its message is on its way is told in the new room too: what is there, no room hears twice.
        let most = 1 + inner.ledger.moves.get(&pair.1).copied().unwrap_or(0);
        let is_right = if is_told { (1..=most).contains(&rooms.len()) } else { rooms.is_empty() };
        if !is_right || rooms.values().any(|times| *times > 1) {
            faults.push(format!("{pair:?} is {:?}, and was told in {rooms:?}", note.state));
        }
    }
    inner.figures.repeats = repeats;
}

fn check_told(at: usize, post: &Post, pairs: &[Pair], faults: &mut Vec<String>) {
    if !post.in_room {
        faults.push(format!("post {at} counts as told, and is not in the room: {pairs:?}"));
    }
    if let [(event, _)] = pairs
        && post.text.contains("go.example")
        && !post.text.contains(&format!("go.example/{event}/"))
    {
        faults.push(format!("post {at} should tell {event}, and tells {}", post.text));
    }
}

/// Every letter that was to be written is in the queue; without a lost confirm or a crash once.
fn check_letters(world: &World, inner: &Inner, faults: &mut Vec<String>) {
    let mut filed: BTreeMap<(Option<String>, Option<String>, String), BTreeSet<i64>> = BTreeMap::new();
    let mut copies: BTreeMap<i64, u32> = BTreeMap::new();
    for letter in &inner.dead_letters.filed {
        let event = letter.event.as_ref().map(|event| event.as_str().to_owned());
        let integration = letter.integration.as_ref().map(|integration| integration.as_str().to_owned());
        filed.entry((event, integration, letter.reason.as_str().to_owned())).or_default().insert(letter.id);
        *copies.entry(letter.id).or_default() += 1;
    }
    for (pair, note) in &inner.ledger.notes {
        let State::Ended { outcome: "dead-lettered", reason } = &note.state else { continue };
        let key = (Some(pair.0.as_str().to_owned()), Some(pair.1.as_str().to_owned()), reason.clone());
        if !filed.contains_key(&key) {
            faults.push(format!("{pair:?} is dead-lettered ({reason}), and no letter is in the queue"));
        }
    }
    for (key, owed) in inner.ledger.owed.iter().filter(|((_, integration, _), _)| integration.is_none()) {
        let there = filed.get(key).map_or(0, BTreeSet::len) as u64;
        if there < *owed {
            faults.push(format!("{owed} letters of {key:?} are owed, and {there} are in the queue"));
        }
    }
    let Figures { crashes, freezes, .. } = inner.figures;
    // Whoever does not stop in time is killed, too.
    if world.plan.rates.confirm_lost == 0 && crashes == 0 && freezes == 0 && !inner.ledger.jumped {
        for (id, copies) in copies.into_iter().filter(|(_, copies)| *copies > 1) {
            faults.push(format!("letter {id} is in the queue {copies} times though every confirm came"));
        }
    }
}

/// A message whose answer was never noted counts for the room, and not for the worker.
fn is_unnoted(post: &Post) -> bool {
    matches!(post.end, End::Crashed | End::Lost)
}

/// No window of the room's server holds more than the budget, but for what could not be noted.
fn check_room_budgets(world: &World, inner: &Inner, faults: &mut Vec<String>) {
    if world.plan.server_allows_less {
        return;
    }
    let budget = world.plan.rules.room;
    let mut by_room: BTreeMap<&RoomKey, Vec<(i64, bool)>> = BTreeMap::new();
    for post in inner.server.posts.iter().filter(|post| post.in_room) {
        if let Some(at) = post.received {
            by_room.entry(&post.room).or_default().push((at, is_unnoted(post)));
        }
    }
    let per = i64::try_from(budget.per.as_micros()).unwrap_or(i64::MAX);
    for post in inner.server.posts.iter().filter(|post| post.over_limit && !is_unnoted(post)) {
        let (Some(at), calls) = (post.received, by_room.get(&post.room)) else { continue };
        let mut before = calls.into_iter().flatten().filter(|(other, _)| *other <= at && *other > at - per);
        if !before.any(|(_, unnoted)| *unnoted) {
            faults.push(format!("{} was told more than its budget, at {at}: {}", post.room, post.text));
        }
    }
    for (room, calls) in by_room {
        check_windows(&format!("{room} got"), calls, budget.messages, budget.per, faults);
    }
}

fn check_token_budgets(world: &World, inner: &Inner, faults: &mut Vec<String>) {
    let budget = world.plan.token_budget;
    let mut by_token: BTreeMap<&str, Vec<(i64, bool)>> = BTreeMap::new();
    for post in &inner.server.posts {
        if let Some(at) = post.received {
            by_token.entry(&post.token).or_default().push((at, is_unnoted(post)));
        }
    }
    for (token, calls) in by_token {
        check_windows(&format!("{token} made calls:"), calls, budget.messages, budget.per, faults);
    }
}

/// An integration's own limit, where nobody has changed it.
fn check_throttles(inner: &Inner, faults: &mut Vec<String>) {
    let mut by_integration: BTreeMap<&IntegrationId, Vec<(i64, bool)>> = BTreeMap::new();
    for post in &inner.server.posts {
        if let (End::Told(pairs), Some(at)) = (&post.end, post.received) {
            let ids: BTreeSet<&IntegrationId> = pairs.iter().map(|(_, id)| id).collect();
            for id in ids {
                by_integration.entry(id).or_default().push((at, false));
            }
        }
    }
    for (id, kept) in inner.ledger.registry().iter() {
        let (Some((messages, per)), false) = (kept.wish.throttle, inner.ledger.touched.contains(id)) else {
            continue;
        };
        let per = std::time::Duration::from_secs(per);
        let calls = by_integration.remove(id).unwrap_or_default();
        check_windows(&format!("{id} told"), calls, messages, per, faults);
    }
}

fn check_windows(
    whose: &str,
    mut calls: Vec<(i64, bool)>,
    most: u32,
    per: std::time::Duration,
    faults: &mut Vec<String>,
) {
    calls.sort_unstable();
    let per = i64::try_from(per.as_micros()).unwrap_or(i64::MAX);
    for (n, (from, _)) in calls.iter().enumerate() {
        let window = calls[n..].iter().take_while(|(at, _)| *at < from + per);
        let (noted, unnoted) =
            window.fold(
                (0, 0),
                |(noted, unnoted), (_, free)| {
                    if *free { (noted, unnoted + 1) } else { (noted + 1, unnoted) }
                },
            );
        if noted > most {
            faults.push(format!("{whose} {noted} (and {unnoted} unnoted) from {from} in a window of {most}"));
            return;
        }
    }
}
