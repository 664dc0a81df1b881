//! One room against the journal: each message stands for the notifications that ended at one moment, each of
//! those is in the room once, in the order of the events, and the message says what happened.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use hipchat_notifier::domain::reason::Outcome;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use super::expected::{Gathered, Pair, Verdict};
use super::oracle::{Entries, Fault, repeats};
use super::workload::{Means, Workload};
use crate::support::rooms::Posted;

/// What there is to compare.
pub struct Room<'a> {
    pub name: &'a str,
    pub work: &'a Workload,
    pub verdicts: &'a BTreeMap<Pair, Verdict>,
    pub entries: &'a Entries,
    pub posted: &'a [Posted],
}

/// What a room has heard.
pub struct Heard<'a> {
    /// When each notification was told that the journal has as told.
    pub told: Vec<(Pair, Timestamp)>,
    /// Messages that nothing in the journal stands for.
    pub extra: Vec<&'a Posted>,
}

/// Checks one room.
pub fn check<'a>(room: &Room<'a>, faults: &mut Vec<Fault>) -> Heard<'a> {
    let mut by_card: HashMap<&str, Vec<&Posted>> = HashMap::new();
    for posted in room.posted {
        by_card.entry(posted.card_id().unwrap_or("none")).or_default().push(posted);
    }
    let (mut placed, mut taken, mut told) = (Vec::new(), BTreeSet::new(), Vec::new());
    for pairs in room.messages().values() {
        // Of a message that came twice the last is the one whose answer was noted: what came before it was in
        // flight when something broke off.
        let Some(posted) = by_card.get(room.card_id(pairs).as_str()).and_then(|posted| posted.last()) else {
            faults.push(Fault::of(pairs[0].0, format!("told, but not in {}: {pairs:?}", room.name)));
            continue;
        };
        if !taken.insert(posted.sequence) {
            faults.push(Fault::of(pairs[0].0, "two messages with one card"));
        }
        room.check_text(pairs, posted, faults);
        placed.extend(pairs.iter().map(|pair| (posted.sequence, *pair)));
        told.extend(pairs.iter().map(|pair| (*pair, posted.received_at)));
    }
    room.check_order(placed, faults);
    let extra = room.posted.iter().filter(|posted| !taken.contains(&posted.sequence)).collect();
    Heard { told, extra }
}

impl Room<'_> {
    /// The journal's messages: what ended at the same moment was told together.
    fn messages(&self) -> BTreeMap<Timestamp, Vec<Pair>> {
        let mut messages: BTreeMap<Timestamp, Vec<Pair>> = BTreeMap::new();
        let here = |w: usize| self.work.wishes[w].room == self.name;
        for (pair, entry) in self.entries.iter().filter(|((_, w), _)| here(*w)) {
            if let Some(at) = entry.sent_at.filter(|_| entry.outcome.is_told()) {
                messages.entry(at).or_default().push(*pair);
            }
        }
        for pairs in messages.values_mut() {
            pairs.sort_by_key(|(e, w)| (*e, &self.work.wishes[*w].id));
        }
        messages
    }

    /// The id that the card of a message with these notifications has: made of them and of nothing else.
    fn card_id(&self, pairs: &[Pair]) -> String {
        let mut hash = Sha256::new();
        for (e, w) in pairs {
            for part in [&self.work.wishes[*w].id, &self.work.events[*e].id] {
                hash.update((part.len() as u64).to_be_bytes());
                hash.update(part);
            }
        }
        hex::encode(&hash.finalize()[..16])
    }

    /// The message names its event, or counts its events.
    fn check_text(&self, pairs: &[Pair], posted: &Posted, faults: &mut Vec<Fault>) {
        let events: BTreeSet<usize> = pairs.iter().map(|(e, _)| *e).collect();
        let outcome = self.entries[&pairs[0]].outcome;
        let text = &posted.message;
        let mut want = Vec::new();
        if outcome == Outcome::Sent {
            want.push(self.work.events[pairs[0].0].id.clone());
        }
        if (outcome == Outcome::Sent) != (pairs.len() == 1) {
            faults.push(Fault::of(pairs[0].0, format!("{} with {} others", outcome, pairs.len() - 1)));
        }
        let is_failure = |e: &&usize| matches!(self.work.events[**e].means, Means::Run { failed: true, .. });
        let is_activity = |e: &&usize| matches!(self.work.events[**e].means, Means::Activity { .. });
        let failures = events.iter().filter(is_failure).count();
        let activities = events.iter().filter(is_activity).count();
        if outcome == Outcome::Digested && failures > 0 {
            want.push(format!("{failures} run{} failed in", if failures == 1 { "" } else { "s" }));
        }
        if outcome == Outcome::Digested && activities > 0 && self.entries[&pairs[0]].reason != "collated" {
            want.push(format!("{activities} activit{}", if activities == 1 { "y" } else { "ies" }));
        }
        for want in want.iter().filter(|want| !text.contains(want.as_str())) {
            faults.push(Fault::of(pairs[0].0, format!("{want:?} is not in {text:?}")));
        }
        if text.contains("again-") {
            faults.push(Fault::of(pairs[0].0, format!("tells an id's second body: {text:?}")));
        }
    }

    /// The room's line is in the order of the events; what waits for its own throttle, or gathers, is so among
    /// its like.
    fn check_order(&self, mut placed: Vec<(u64, Pair)>, faults: &mut Vec<Fault>) {
        placed.sort_by_key(|(sequence, (e, w))| (*sequence, *e, &self.work.wishes[*w].id));
        let gathered = repeats(self.work, self.verdicts, self.entries);
        let mut last: BTreeMap<(Option<usize>, Option<Gathered>), usize> = BTreeMap::new();
        for (_, pair @ (e, w)) in &placed {
            let gather = gathered.get(pair).and_then(|(_, gather)| *gather);
            let throttled = self.work.wishes[*w].throttle.is_some();
            let line = (throttled || gather.is_some()).then_some(*w);
            let before = last.insert((line, gather), *e);
            if before.is_some_and(|before| before > *e) {
                let says = format!("{} heard it after {before:?}, which came later", self.name);
                faults.push(Fault::of(*e, says));
            }
        }
    }
}
