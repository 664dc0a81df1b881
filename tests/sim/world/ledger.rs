//! What every commit means, reckoned beside the store: which notifications there are and how they end, what each room
//! believes, who holds which room. Whatever the worker or the store does otherwise is a fault, told at once.

mod flights;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use hipchat_notifier::domain::ids::{EventId, IntegrationId, RoomKey};
use hipchat_notifier::domain::line::{RoomLine, Transition};
use hipchat_notifier::domain::reason::DeadLetterReason;
use hipchat_notifier::ports::{
    DecidedEvent, Fate, IntakeChanges, Letter, NewNotification, Settled, Settlement, Then,
};
use jiff::Timestamp;

use super::broker::Means;
use super::plan::Plan;
use super::rulebook::{self, Believes, History, Run, Verdict};
use super::wishes::{Interest, Wish};

use self::flights::Flight;
pub use self::flights::Handed;

/// One event for one integration.
pub type Pair = (EventId, IntegrationId);
/// What is wrong, in sentences.
pub type Faults = Vec<String>;

/// An integration as it stands.
#[derive(Debug, Clone)]
pub struct Kept {
    pub wish: Wish,
    pub suspended: bool,
    url_revision: u64,
}

/// All of them at one moment.
pub type Registry = Arc<BTreeMap<IntegrationId, Kept>>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    Waits,
    /// Given up for this reason; its letter is in the outbox.
    Burying(String),
    Ended {
        outcome: &'static str,
        reason: String,
    },
}

/// One event as one integration's room should hear it.
#[derive(Debug, Clone)]
pub struct Note {
    pub order: u64,
    pub state: State,
    room: RoomKey,
    streak: Option<StreakKey>,
    seq: Option<i64>,
    letter: Option<i64>,
    reason: String,
    ready_at: Timestamp,
    gather: Option<String>,
}

type StreakKey = (IntegrationId, &'static str, &'static str);
type RepeatsKey = (IntegrationId, &'static str, &'static str);

/// Of integrations that were removed after a batch was read: what it is decided by goes no further than the batch.
#[derive(Default)]
struct Departed {
    histories: BTreeMap<StreakKey, History>,
    repeats: BTreeMap<RepeatsKey, Option<i64>>,
}

/// Which notifications of a room go in one order.
type Line = (RoomKey, Option<IntegrationId>, Option<String>);

#[derive(Debug, Clone)]
struct Holder {
    life: usize,
    claim: u64,
    since: Timestamp,
    held: bool,
    revision: u64,
}

/// The reckoning.
pub struct Ledger {
    plan: Plan,
    pub events: BTreeMap<String, (usize, Means)>,
    registry: Registry,
    revision: u64,
    /// Integrations that were changed on the way.
    pub touched: BTreeSet<IntegrationId>,
    snapshots: HashMap<usize, Registry>,
    /// The integrations that a life's batch in hand is decided by.
    batch: HashMap<usize, Registry>,
    pub notes: BTreeMap<Pair, Note>,
    known: BTreeSet<EventId>,
    seqs: HashMap<i64, Pair>,
    letters: HashMap<i64, Pair>,
    /// Letters that must be filed, by event, integration and reason.
    pub owed: BTreeMap<(Option<String>, Option<String>, String), u64>,
    histories: BTreeMap<StreakKey, History>,
    repeats: BTreeMap<RepeatsKey, Option<i64>>,
    departed: Departed,
    /// How often each integration was moved to another room.
    pub moves: BTreeMap<IntegrationId, usize>,
    holders: BTreeMap<RoomKey, Holder>,
    told: BTreeMap<Line, (i64, EventId)>,
    order: u64,
    /// The latest claim of each life and room.
    claims: BTreeMap<(usize, RoomKey), u64>,
    /// What is told straight from intake and not written.
    flights: BTreeMap<Pair, Flight>,
    /// How often a call of the store was held up, or a worker.
    pub disturbed: u64,
    /// Claims that ended by the clock's doing alone, in a store that several workers share.
    robbed: BTreeSet<(RoomKey, u64)>,
    /// Events that could not be taken in. If one is published once more, it comes after what came meanwhile.
    given_up: BTreeSet<EventId>,
    /// The latest event that each integration was taken one in for.
    latest_event: BTreeMap<IntegrationId, usize>,
    pub jumped: bool,
    pub replays: u64,
    pub repeats_published: u64,
}

impl Ledger {
    pub fn new(plan: &Plan) -> Self {
        Self {
            plan: plan.clone(),
            events: BTreeMap::new(),
            registry: Registry::default(),
            revision: 0,
            touched: BTreeSet::new(),
            snapshots: HashMap::new(),
            batch: HashMap::new(),
            notes: BTreeMap::new(),
            known: BTreeSet::new(),
            seqs: HashMap::new(),
            letters: HashMap::new(),
            owed: BTreeMap::new(),
            histories: BTreeMap::new(),
            repeats: BTreeMap::new(),
            departed: Departed::default(),
            moves: BTreeMap::new(),
            holders: BTreeMap::new(),
            told: BTreeMap::new(),
            order: 0,
            claims: BTreeMap::new(),
            flights: BTreeMap::new(),
            disturbed: 0,
            robbed: BTreeSet::new(),
            given_up: BTreeSet::new(),
            latest_event: BTreeMap::new(),
            jumped: false,
            replays: 0,
            repeats_published: 0,
        }
    }

    pub fn published(&mut self, id: &str, means: Means) {
        let n = self.events.len();
        self.events.insert(id.to_owned(), (n, means));
    }

    pub fn published_again(&mut self, _id: &str) {
        self.repeats_published += 1;
    }

    pub fn replayed(&mut self) {
        self.replays += 1;
    }

    pub fn clock_jumped(&mut self, _by: i64) {
        self.jumped = true;
    }

    pub fn registry(&self) -> Registry {
        self.registry.clone()
    }

    /// A life knows the integrations as they were at some moment.
    pub fn snapshot_of(&mut self, life: usize, registry: Registry) {
        self.snapshots.insert(life, registry);
    }

    /// A life has a new batch in hand.
    pub fn batch_received(&mut self, life: usize) {
        self.batch.remove(&life);
    }

    /// It has read it, by the integrations that it knew then.
    pub fn batch_begun(&mut self, life: usize) -> Registry {
        let known = self.snapshots.get(&life).cloned().unwrap_or_default();
        self.batch.entry(life).or_insert(known).clone()
    }

    // ------------------------------------------------------------------------------------------ intake

    /// A batch was committed that was read by `snapshot`, but for what was handed out of it.
    pub fn taken_in(&mut self, snapshot: &Registry, changes: &IntakeChanges, handed: &Handed<'_>) -> Faults {
        let mut faults = Faults::new();
        let mut untold = Vec::new();
        self.departed = Departed::default();
        for event in &changes.events {
            let is_replay = event.notifications.iter().any(|new| matches!(new.fate, Fate::Retell { .. }));
            let line = handed.lines.iter().find(|line| line.waiting[0].event == event.id);
            if let Some(line) = line {
                self.handed_out(event, snapshot, (handed, line), &mut faults);
            } else if is_replay {
                self.retold(event);
            } else {
                self.decided(event, snapshot, &mut untold, &mut faults);
            }
        }
        for key in untold {
            self.doubt(&key, u64::MAX);
        }
        for letter in &changes.letters {
            self.given_up
                .extend(letter.event.clone().filter(|_| letter.reason == DeadLetterReason::WorkerFault));
            self.owe(letter.event.as_ref(), letter.integration.as_ref(), letter.reason.as_str());
        }
        faults
    }

    fn owe(&mut self, event: Option<&EventId>, integration: Option<&IntegrationId>, reason: &str) {
        let event = event.map(|event| event.as_str().to_owned());
        let integration = integration.map(|integration| integration.as_str().to_owned());
        *self.owed.entry((event, integration, reason.to_owned())).or_default() += 1;
    }

    fn decided(
        &mut self,
        event: &DecidedEvent,
        snapshot: &Registry,
        untold: &mut Vec<StreakKey>,
        faults: &mut Faults,
    ) {
        let id = event.id.as_str();
        let Some((n, means)) = self.events.get(id).cloned() else {
            return faults.push(format!("{id} was taken in and never published"));
        };
        if !self.known.insert(event.id.clone()) || self.flights.keys().any(|(of, _)| *of == event.id) {
            return faults.push(format!("{id} was taken in twice"));
        }
        self.is_for_all_who_want_it(event, &means, snapshot, faults);
        self.is_in_order(event, n, faults);
        for new in &event.notifications {
            let Some(kept) = snapshot.get(&new.integration) else { continue };
            let (mut verdict, streak) = self.verdict(&means, kept, event.received.at);
            if self.jumped && matches!(means, Means::Activity { .. }) {
                // A clock that is set back takes what is gathered along, at a moment that only the store knows.
                verdict = decision(&new.fate);
            }
            if let Some(says) = differs(&new.fate, verdict) {
                faults.push(format!("{id} for {}: {says}, by the rules {verdict:?}", new.integration));
            }
            self.enter(event, new, verdict, streak, untold);
        }
    }

    fn is_for_all_who_want_it(
        &self,
        event: &DecidedEvent,
        means: &Means,
        snapshot: &Registry,
        faults: &mut Faults,
    ) {
        let id = event.id.as_str();
        let wanting: Vec<&IntegrationId> =
            snapshot.iter().filter(|(_, kept)| wants(&kept.wish, means)).map(|(id, _)| id).collect();
        let found: Vec<&IntegrationId> = event.notifications.iter().map(|new| &new.integration).collect();
        if wanting != found {
            faults.push(format!("{id} is wanted by {wanting:?}, and was decided for {found:?}"));
        }
    }

    fn is_in_order(&mut self, event: &DecidedEvent, n: usize, faults: &mut Faults) {
        if self.given_up.contains(&event.id) {
            return;
        }
        for new in &event.notifications {
            let latest = self.latest_event.insert(new.integration.clone(), n);
            // What nobody wanted comes again as a new event, if somebody wants it by then.
            if latest.is_some_and(|latest| latest > n) && !self.touched.contains(&new.integration) {
                faults.push(format!("{} was taken in for {} after a later one", event.id, new.integration));
            }
        }
    }

    /// What the rules say, and whose history it is.
    fn verdict(
        &mut self,
        means: &Means,
        kept: &Kept,
        received_at: Timestamp,
    ) -> (Verdict, Option<StreakKey>) {
        if kept.wish.paused {
            return (Verdict::Suppressed("integration-paused"), None);
        }
        if kept.suspended {
            return (Verdict::Suppressed("integration-suspended"), None);
        }
        let id = IntegrationId::new(&kept.wish.id);
        let is_there = self.registry.contains_key(&id);
        let received_at = received_at.as_microsecond();
        match (means, &kept.wish.interest) {
            (Means::Run { monitor, region, failed, finished_at }, Interest::Runs { rule, .. }) => {
                let key = (id, *monitor, *region);
                let histories = if is_there { &mut self.histories } else { &mut self.departed.histories };
                let history = histories.entry(key.clone()).or_default();
                let run = Run { failed: *failed, finished_at: *finished_at, received_at };
                (history.judge(*rule, run), Some(key))
            }
            (Means::Activity { .. }, Interest::Digest { .. }) => (Verdict::Told("scheduled-digest"), None),
            (Means::Activity { user, uid }, Interest::Each { collate }) => {
                let repeats = if is_there { &mut self.repeats } else { &mut self.departed.repeats };
                let until = repeats.entry((id, *user, *uid)).or_default();
                (rulebook::repeat(until, *collate, received_at), None)
            }
            _ => (Verdict::Suppressed("not wanted"), None),
        }
    }

    /// Writes a notification down as it is by now: a change of its integration may have come between.
    fn enter(
        &mut self,
        event: &DecidedEvent,
        new: &NewNotification,
        verdict: Verdict,
        streak: Option<StreakKey>,
        untold: &mut Vec<StreakKey>,
    ) {
        self.order += 1;
        let suppressed = |reason: &str| State::Ended { outcome: "suppressed", reason: reason.to_owned() };
        let standing = self.registry.get(&new.integration);
        let (state, reason) = match (verdict, standing) {
            (Verdict::Suppressed(reason), _) => (suppressed(reason), reason),
            (Verdict::Told(reason), None) => (suppressed("integration-removed"), reason),
            (Verdict::Told(reason), Some(kept)) if kept.wish.paused => {
                (suppressed("integration-paused"), reason)
            }
            (Verdict::Told(reason), Some(kept)) if kept.suspended => {
                (suppressed("integration-suspended"), reason)
            }
            (Verdict::Told(reason), Some(_)) => (State::Waits, reason),
        };
        let streak = streak.filter(|_| reason != "stale" && matches!(verdict, Verdict::Told(_)));
        match (&streak, &state) {
            (Some(key), State::Waits) => {
                if let Some(history) = self.histories.get_mut(key) {
                    history.news = self.order;
                }
            }
            (Some(key), _) => untold.push(key.clone()),
            (None, _) => {}
        }
        let room = standing.map_or_else(|| new.room.clone(), |kept| RoomKey::new(kept.wish.room_key()));
        let (ready_at, gather) = match &new.fate {
            Fate::Tell { ready_at, gather, .. } => {
                (*ready_at, gather.as_ref().map(|key| key.as_str().to_owned()))
            }
            _ => (event.received.at, None),
        };
        let note = Note {
            order: self.order,
            state,
            room,
            streak,
            seq: None,
            letter: None,
            reason: reason.to_owned(),
            ready_at,
            gather,
        };
        self.notes.insert((event.id.clone(), new.integration.clone()), note);
    }

    /// A dead letter came back for one integration.
    fn retold(&mut self, event: &DecidedEvent) {
        for new in &event.notifications {
            let pair = (event.id.clone(), new.integration.clone());
            let is_dead = |note: &Note| match &note.state {
                State::Burying(_) => true,
                State::Ended { outcome, .. } => *outcome == "dead-lettered",
                State::Waits => false,
            };
            match self.notes.get(&pair) {
                Some(note) if is_dead(note) => drop(self.notes.remove(&pair)),
                Some(_) => continue,
                None => {}
            }
            self.known.insert(event.id.clone());
            self.order += 1;
            let (state, room) = match self.registry.get(&new.integration) {
                Some(kept) => (State::Waits, RoomKey::new(kept.wish.room_key())),
                None => {
                    let reason = "integration-removed".to_owned();
                    (State::Ended { outcome: "suppressed", reason }, new.room.clone())
                }
            };
            let note = Note {
                order: self.order,
                state,
                room,
                streak: None,
                seq: None,
                letter: None,
                reason: "replayed".to_owned(),
                ready_at: event.received.at,
                gather: None,
            };
            self.notes.insert(pair, note);
        }
    }

    /// News of a history was lost. Where later news is told or waits, the room knows better.
    fn doubt(&mut self, key: &StreakKey, order: u64) {
        if self.registry.contains_key(&key.0) {
            let history = self.histories.entry(key.clone()).or_default();
            if history.news <= order {
                history.believes = Believes::Unsure;
            }
        }
    }

    // ------------------------------------------------------------------------------------------ rooms

    /// A room was handed out.
    pub fn claimed(&mut self, life: usize, line: &RoomLine, now: Timestamp) -> Faults {
        let mut faults = Faults::new();
        let room = &line.room;
        if self.jumped && self.plan.shared {
            let robbed = self.holders.get(room).filter(|holder| holder.held);
            self.robbed.extend(robbed.map(|holder| (room.clone(), holder.claim)));
        }
        if let Some(held_for) = self.is_still_held(room, now) {
            faults.push(format!("{room} was handed out while it was held for {held_for} us"));
        }
        for waiting in &line.waiting {
            let pair = (waiting.event.clone(), waiting.integration.clone());
            match self.notes.get_mut(&pair) {
                Some(note) if note.state == State::Waits && note.room == *room => {
                    note.seq = Some(waiting.seq)
                }
                other => faults.push(format!("{room} was handed out with {pair:?}, which is {other:?}")),
            }
            self.seqs.insert(waiting.seq, pair);
        }
        self.held(life, line, now);
        faults
    }

    /// For how many microseconds the room is held by a lease that has not lapsed.
    fn is_still_held(&self, room: &RoomKey, now: Timestamp) -> Option<i128> {
        // Where the clock jumps, a lease lapses early or late.
        let holder = self.holders.get(room).filter(|holder| holder.held && !self.jumped)?;
        let held_for = now.duration_since(holder.since).as_micros();
        (held_for < self.plan.lease.as_micros().cast_signed()).then_some(held_for)
    }

    fn held(&mut self, life: usize, line: &RoomLine, now: Timestamp) {
        let (claim, room) = (line.claim, line.room.clone());
        let holder = Holder { life, claim, since: now, held: true, revision: self.revision };
        self.holders.insert(room.clone(), holder);
        self.claims.insert((life, room), claim);
    }

    /// The only worker has started anew: whoever held a room is gone.
    pub fn claims_voided(&mut self) {
        self.flights.clear();
        self.holders.values_mut().for_each(|holder| holder.held = false);
    }

    /// The number of the latest claim of `room` by `life`.
    pub fn own_claim(&self, life: usize, room: &RoomKey) -> Option<u64> {
        self.claims.get(&(life, room.clone())).copied()
    }

    /// Why `life` must not post to `room`.
    pub fn may_not_post(&self, life: usize, room: &RoomKey) -> Option<String> {
        match self.holders.get(room) {
            Some(holder) if holder.life == life && holder.held => None,
            // Only another's settlement could tell it that the clock has taken the room away.
            _ if self
                .own_claim(life, room)
                .is_some_and(|claim| self.robbed.contains(&(room.clone(), claim))) =>
            {
                None
            }
            other => Some(format!("it does not hold that room: {other:?}")),
        }
    }

    /// The notifications that an applied settlement says were told.
    pub fn told_by(&self, s: &Settlement, settled: Settled) -> Vec<Pair> {
        let is_told =
            |transition: &&Transition| transition.outcome().is_some_and(|(outcome, _)| outcome.is_told());
        let transitions = s.transitions.iter().filter(|_| settled != Settled::LostClaim).filter(is_told);
        transitions.flat_map(Transition::seqs).filter_map(|seq| self.seqs.get(seq).cloned()).collect()
    }

    /// A settlement was answered.
    pub fn settled(&mut self, life: usize, s: &Settlement, settled: Settled, now: Timestamp) -> Faults {
        let mut faults = Faults::new();
        let holds = |holder: &&mut Holder| holder.claim == s.claim && holder.held && holder.life == life;
        let held = self.holders.get_mut(&s.room).filter(holds);
        match (settled, held) {
            (Settled::LostClaim, None) => return faults,
            // Lapsed, and looked at by somebody who found nothing to tell.
            (Settled::LostClaim, Some(holder))
                if self.jumped
                    || now.duration_since(holder.since).as_micros()
                        >= self.plan.lease.as_micros().cast_signed() =>
            {
                return faults;
            }
            (Settled::LostClaim, Some(_)) => {
                faults.push(format!("{} was lost though nobody else had it", s.room));
                return faults;
            }
            (Settled::Applied | Settled::AtRest, None) => {
                faults.push(format!("{} was settled by who does not hold it any more", s.room));
                return faults;
            }
            (Settled::Applied | Settled::AtRest, Some(holder)) => {
                holder.since = s.now;
                holder.held = s.then == Then::Hold;
            }
        }
        for transition in &s.transitions {
            self.transition(&s.room, transition, now, &mut faults);
        }
        faults
    }

    fn transition(&mut self, room: &RoomKey, transition: &Transition, now: Timestamp, faults: &mut Faults) {
        match transition {
            Transition::Sent { reason, .. } => {
                self.is_told(room, transition, "sent", reason.as_str(), faults)
            }
            Transition::Digested { reason, .. } => {
                self.is_told(room, transition, "digested", reason.as_str(), faults);
            }
            Transition::Attempted { .. } => {}
            Transition::Suppressed { seqs, reason, .. } => {
                for pair in self.waiting(room, seqs) {
                    self.lose(
                        &pair,
                        State::Ended { outcome: "suppressed", reason: reason.as_str().to_owned() },
                    );
                }
            }
            Transition::Expired { seqs, .. } => {
                for pair in self.waiting(room, seqs) {
                    let waited =
                        self.notes.get(&pair).map(|note| now.duration_since(note.ready_at).as_micros());
                    let longest = self.plan.rules.max_age.as_micros().cast_signed();
                    if !self.jumped && waited.is_some_and(|waited| waited < longest) {
                        faults.push(format!("{pair:?} expired after {waited:?} us"));
                    }
                    self.lose(&pair, State::Ended { outcome: "expired", reason: "max-age".to_owned() });
                }
            }
            Transition::DeadLettered { seqs, reason, .. } => {
                for pair in self.waiting(room, seqs) {
                    self.give_up(&pair, reason.as_str());
                }
            }
            Transition::Broken { integration, .. } => self.is_broken(room, integration),
        }
    }

    /// Those of `seqs` that wait in this room's line.
    fn waiting(&self, room: &RoomKey, seqs: &[i64]) -> Vec<Pair> {
        let waits = |(seq, pair): &(&i64, &Pair)| {
            self.notes.get(pair).is_some_and(|note| {
                note.state == State::Waits && note.room == *room && note.seq == Some(**seq)
            })
        };
        let pairs = seqs.iter().filter_map(|seq| Some((seq, self.seqs.get(seq)?)));
        pairs.filter(waits).map(|(_, pair)| pair.clone()).collect()
    }

    fn is_told(
        &mut self,
        room: &RoomKey,
        transition: &Transition,
        outcome: &'static str,
        reason: &str,
        faults: &mut Faults,
    ) {
        for seq in transition.seqs() {
            let Some(pair) = self.seqs.get(seq).cloned() else { continue };
            let touched = self.touched.contains(&pair.1);
            let kept = self.registry.get(&pair.1);
            let throttled = kept.is_none_or(|kept| kept.wish.throttle.is_some());
            let queues = !touched && kept.is_some_and(|kept| kept.wish.queue);
            let Some(note) = self.notes.get_mut(&pair).filter(|note| note.seq == Some(*seq)) else {
                continue;
            };
            if matches!(&note.state, State::Ended { outcome: "sent" | "digested", .. }) {
                continue;
            }
            let own_line = (touched || throttled || note.gather.is_some()).then(|| pair.1.clone());
            note.state = State::Ended { outcome, reason: reason.to_owned() };
            let gathered = matches!(note.reason.as_str(), "collated" | "scheduled-digest");
            let expected = if gathered || outcome == "sent" { note.reason.as_str() } else { "over-budget" };
            if reason != expected {
                faults.push(format!("{pair:?} was told as {reason}, and it is {expected}"));
            }
            if queues && outcome == "digested" && !gathered {
                faults.push(format!("{pair:?} was merged with others, and wants to be told alone"));
            }
            let line = (room.clone(), own_line, note.gather.clone());
            let before = self.told.insert(line, (*seq, pair.0.clone()));
            if let Some((before, event)) = before.filter(|(before, _)| before > seq) {
                faults.push(format!(
                    "{room} was told {pair:?} ({seq}) after {event} ({before}), which came later"
                ));
            }
        }
    }

    /// It will not be told.
    fn lose(&mut self, pair: &Pair, state: State) {
        let Some(note) = self.notes.get_mut(pair) else { return };
        note.state = state;
        let (streak, order) = (note.streak.clone(), note.order);
        if let Some(key) = streak {
            self.doubt(&key, order);
        }
    }

    fn give_up(&mut self, pair: &Pair, reason: &str) {
        self.lose(pair, State::Burying(reason.to_owned()));
        self.owe(Some(&pair.0), Some(&pair.1), reason);
    }

    fn waiting_of(&self, id: &IntegrationId) -> Vec<Pair> {
        let waits = |(pair, note): &(&Pair, &Note)| pair.1 == *id && note.state == State::Waits;
        let mut found: Vec<(u64, Pair)> =
            self.notes.iter().filter(waits).map(|(pair, note)| (note.order, pair.clone())).collect();
        found.sort();
        found.into_iter().map(|(_, pair)| pair).collect()
    }

    fn is_broken(&mut self, room: &RoomKey, id: &IntegrationId) {
        let known_to_holder = self.holders.get(room).map_or(0, |holder| holder.revision);
        let registry = Arc::make_mut(&mut self.registry);
        let Some(kept) = registry.get_mut(id).filter(|kept| kept.url_revision <= known_to_holder) else {
            return;
        };
        kept.suspended = true;
        self.revision += 1;
        for pair in self.waiting_of(id) {
            self.give_up(&pair, "integration-broken");
        }
    }

    // ------------------------------------------------------------------------------------------ letters

    pub fn letters_seen(&mut self, letters: &[Letter]) {
        for letter in letters {
            let (Some(event), Some(integration)) = (&letter.event, &letter.integration) else { continue };
            let pair = (event.clone(), integration.clone());
            if let Some(note) = self.notes.get_mut(&pair)
                && matches!(note.state, State::Burying(_))
                && !self.letters.contains_key(&letter.id)
            {
                note.letter = Some(letter.id);
                self.letters.insert(letter.id, pair);
            }
        }
    }

    pub fn buried(&mut self, ids: &[i64]) {
        for id in ids {
            let Some(note) = self.letters.get(id).and_then(|pair| self.notes.get_mut(pair)) else { continue };
            if let State::Burying(reason) = &note.state
                && note.letter == Some(*id)
            {
                note.state = State::Ended { outcome: "dead-lettered", reason: reason.clone() };
            }
        }
    }

    // ------------------------------------------------------------------------------------------ integrations

    pub fn applied(&mut self, new: Wish) {
        let id = IntegrationId::new(&new.id);
        let next = self.revision + 1;
        let registry = Arc::make_mut(&mut self.registry);
        let Some(old) = registry.get_mut(&id) else {
            registry.insert(id.clone(), Kept { wish: new, suspended: false, url_revision: next });
            self.revision = next;
            if !self.events.is_empty() {
                self.touched.insert(id);
            }
            return;
        };
        self.touched.insert(id.clone());
        let before = std::mem::replace(&mut old.wish, new.clone());
        if before == new {
            return;
        }
        let moved = before.room != new.room;
        let url = moved || before.token != new.token;
        let was_suspended = old.suspended;
        if url {
            old.suspended = false;
            old.url_revision = next;
        }
        self.revision = next;
        if new.paused && !before.paused {
            self.silence(&id, "integration-paused");
        }
        if moved {
            *self.moves.entry(id.clone()).or_default() += 1;
            let room = RoomKey::new(new.room_key());
            for pair in self.waiting_of(&id) {
                if let Some(note) = self.notes.get_mut(&pair) {
                    note.room = room.clone();
                }
            }
        }
        if moved || ((before.paused || (was_suspended && url)) && !new.paused) {
            self.hears_again(&id);
        }
    }

    fn silence(&mut self, id: &IntegrationId, reason: &str) {
        for pair in self.waiting_of(id) {
            self.lose(&pair, State::Ended { outcome: "suppressed", reason: reason.to_owned() });
        }
    }

    fn hears_again(&mut self, id: &IntegrationId) {
        for (_, history) in self.histories.iter_mut().filter(|((of, ..), _)| of == id) {
            if history.failed_in_a_row > 0 && history.believes != Believes::Passing {
                history.believes = Believes::Unsure;
            }
        }
    }

    pub fn pause(&mut self, id: &IntegrationId) {
        self.touched.insert(id.clone());
        let Some(kept) = Arc::make_mut(&mut self.registry).get_mut(id) else { return };
        if !std::mem::replace(&mut kept.wish.paused, true) {
            self.revision += 1;
            self.silence(id, "integration-paused");
        }
    }

    pub fn resume(&mut self, id: &IntegrationId) {
        self.touched.insert(id.clone());
        let Some(kept) = Arc::make_mut(&mut self.registry).get_mut(id) else { return };
        if kept.wish.paused || kept.suspended {
            (kept.wish.paused, kept.suspended) = (false, false);
            self.revision += 1;
            self.hears_again(id);
        }
    }

    pub fn removed(&mut self, id: &IntegrationId) {
        self.touched.insert(id.clone());
        self.silence(id, "integration-removed");
        Arc::make_mut(&mut self.registry).remove(id);
        self.revision += 1;
        self.histories.retain(|(of, ..), _| of != id);
        self.repeats.retain(|(of, ..), _| of != id);
    }
}

/// Whether an integration wants to hear of such an event at all.
pub fn wants(wish: &Wish, means: &Means) -> bool {
    match means {
        Means::Run { monitor, .. } => wish.interest.wants_run(monitor),
        Means::Activity { .. } => !matches!(wish.interest, Interest::Runs { .. }),
        Means::Malformed => false,
    }
}

/// The worker's decision, in the rulebook's words.
fn decision(fate: &Fate) -> Verdict {
    match fate {
        Fate::Tell { story, .. } | Fate::Retell { story } => Verdict::Told(story.reason.as_str()),
        Fate::Suppress { reason, .. } => Verdict::Suppressed(reason.as_str()),
    }
}

/// How the worker's decision differs from the rules', if it does.
fn differs(fate: &Fate, verdict: Verdict) -> Option<String> {
    let found = decision(fate);
    (found != verdict).then(|| format!("{found:?}"))
}
