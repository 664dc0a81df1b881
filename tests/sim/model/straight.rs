//! What is told straight from intake: handed out instead of written, and written with its outcome, or before anything
//! else comes near it. All of it goes with the process.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::convert::Infallible;
use std::time::Duration;

use hipchat_notifier::adapters::store::handing::{Choice, kept_streak, told_alone, waiting};
use hipchat_notifier::adapters::store::meters::sane;
use hipchat_notifier::adapters::store::purse::{self, Grants, Purse};
use hipchat_notifier::domain::frequency::Streak;
use hipchat_notifier::domain::ids::{IntegrationId, RoomKey, TokenKey};
use hipchat_notifier::domain::line::RoomState;
use hipchat_notifier::domain::pacing::{Budget, Meter, later};
use hipchat_notifier::domain::reason::Outcome;
use hipchat_notifier::ports::{
    DecidedEvent, IntakeChanges, IntakeQuery, NewNotification, RoomLine, Settled, Settlement, Straight,
    StreakKey,
};
use jiff::Timestamp;
use tokio::sync::mpsc;

use super::intake::Batch;
use super::{Note, State, Tables};

/// A notification that is handed out and not written.
pub(super) struct Entry {
    event: DecidedEvent,
    moved: Option<(StreakKey, Streak)>,
    seq: i64,
    room: RoomKey,
    token: TokenKey,
    claim: u64,
    revision: u64,
    held_since: Timestamp,
    lease: Duration,
    /// Ends with this entry.
    _open: mpsc::Sender<Infallible>,
}

impl Entry {
    fn integration(&self) -> &IntegrationId {
        &self.event.notifications[0].integration
    }
}

/// What was handed out of one batch.
pub(super) struct HandedOut {
    /// Whose streaks go with their outcomes.
    pub integrations: HashSet<IntegrationId>,
    pub seqs: BTreeSet<i64>,
    /// Ends when all is durable.
    pub ended: mpsc::Receiver<Infallible>,
}

impl Tables {
    /// Writes down what a batch has to know of before it can be decided.
    pub(super) fn before_decision(&mut self, query: &IntakeQuery) {
        let asked: HashSet<&IntegrationId> = query
            .streaks
            .iter()
            .map(|key| &key.integration)
            .chain(query.collations.iter().map(|key| &key.integration))
            .collect();
        self.write_down_where(|entry| {
            asked.contains(entry.integration()) || query.events.contains(&entry.event.id)
        });
    }

    /// Writes down what a batch's decisions come after.
    pub(super) fn before_writing(&mut self, changes: &IntakeChanges) {
        let comes_near = |entry: &Entry, new: &NewNotification| {
            new.room == entry.room || new.integration == *entry.integration()
        };
        self.write_down_where(|entry| {
            let touches = |event: &DecidedEvent| {
                event.id == entry.event.id || event.notifications.iter().any(|new| comes_near(entry, new))
            };
            changes.events.iter().any(touches)
        });
    }

    /// Writes down what is left of `seqs`, whose rooms take long.
    pub(super) fn write_down_slow(&mut self, seqs: &BTreeSet<i64>) {
        self.write_down_where(|entry| seqs.contains(&entry.seq));
    }

    fn write_down_where(&mut self, which: impl Fn(&Entry) -> bool) {
        if self.flaws.forgets_what_is_told {
            return;
        }
        let rooms: Vec<RoomKey> =
            self.in_flight.values().filter(|entry| which(entry)).map(|entry| entry.room.clone()).collect();
        rooms.iter().for_each(|room| self.write_down(room));
    }

    /// As if intake had written it and a claim had taken its room.
    pub(super) fn write_down(&mut self, room: &RoomKey) {
        let Some(entry) = self.in_flight.remove(room) else { return };
        let mut batch = Batch::default();
        self.notification(&entry.event, &entry.event.notifications[0], entry.seq, &mut batch);
        let news = entry.moved.as_ref().and_then(|(key, _)| batch.news.get(key).copied());
        self.keep_moved(&entry, news);
        self.finish(&mut batch);
        let lapse = later(entry.held_since, entry.lease).as_microsecond();
        let kept = self.rooms.entry(room.clone()).or_default();
        kept.claim = entry.claim;
        (kept.lease_until, kept.due_at) = (Some(lapse), Some(lapse));
        kept.lease = i64::try_from(entry.lease.as_micros()).unwrap_or(i64::MAX);
        (kept.hold_until, kept.fresh_at) = (None, None);
        kept.revision = entry.revision;
        self.reservations.insert((entry.token, room.clone()), 1);
    }

    fn keep_moved(&mut self, entry: &Entry, news: Option<i64>) {
        let Some((key, streak)) = &entry.moved else { return };
        let Some(kept) = self.integrations.get(&key.integration) else { return };
        let streak = kept_streak(*streak, kept.definition.room == entry.event.notifications[0].room);
        self.keep_streak(key, &streak, news, Some(entry.event.received.at.as_microsecond()));
    }

    /// Settles a handed out room, if it was told and that is all; `None` if there is more to it.
    pub(super) fn settle_straight(&mut self, s: &Settlement) -> Option<Settled> {
        let seq = self.in_flight.get(&s.room).filter(|entry| entry.claim == s.claim)?.seq;
        let Some(told) = told_alone(s, seq) else {
            self.write_down(&s.room);
            return None;
        };
        let entry = self.in_flight.remove(&s.room)?;
        let new = &entry.event.notifications[0];
        let note = Note {
            state: State::Ended(Outcome::Sent),
            reason: told.reason.to_owned(),
            detail: told.detail,
            attempts: 1,
            first_attempt_at: Some(told.at),
            last_status: Some(told.status),
            decided_at: told.at,
            sent_at: Some(told.at),
            ..self.blank(&entry.event, new)
        };
        self.add(note, seq);
        if !self.flaws.outcome_is_all_of_it {
            let is_news = entry.moved.as_ref().is_some_and(|(key, _)| new.streak.as_ref() == Some(key));
            self.keep_moved(&entry, is_news.then_some(seq));
        }
        let room = self.rooms.entry(s.room.clone()).or_default();
        room.claim = entry.claim;
        room.state.meter = s.state.meter.clone();
        room.state.expired_untold = s.state.expired_untold;
        let is_at_rest = room.due_at.is_none();
        for calls in &s.calls {
            self.spend(&s.room, calls, s.now);
        }
        self.spend_throttles(s);
        Some(if is_at_rest { Settled::AtRest } else { Settled::Applied })
    }

    /// Chooses what of a batch is told straight, and hands it out.
    pub(super) fn hand_out(
        &mut self,
        changes: &IntakeChanges,
        places: &[i64],
        straight: &Straight,
    ) -> HandedOut {
        let choice = Choice::among(changes);
        let (open, ended) = mpsc::channel(1);
        let mut handed = HandedOut { integrations: HashSet::new(), seqs: BTreeSet::new(), ended };
        for (event, &seq) in changes.events.iter().zip(places) {
            if handed.seqs.len() == straight.most {
                break;
            }
            let Some((new, story)) = choice.fits(event) else { continue };
            if !(straight.is_quick)(&new.room) || !self.hears(new) {
                continue;
            }
            let Some((claim, state)) = self.idle(&new.room, straight) else { continue };
            let Some(kept) = self.integrations.get(&new.integration) else { continue };
            let token = kept.definition.token.clone();
            let Some(tokens) = self.grant_one(&new.room, &token, straight) else { continue };
            self.in_flight.insert(
                new.room.clone(),
                Entry {
                    event: event.clone(),
                    moved: choice.moved(&new.integration).cloned(),
                    seq,
                    room: new.room.clone(),
                    token,
                    claim,
                    revision: self.revision,
                    held_since: straight.now,
                    lease: straight.terms.lease,
                    _open: open.clone(),
                },
            );
            handed.integrations.insert(new.integration.clone());
            handed.seqs.insert(seq);
            (straight.hand)(RoomLine {
                room: new.room.clone(),
                claim,
                state,
                waiting: vec![waiting(seq, event, new, *story)],
                going_on: Vec::new(),
                tokens,
                throttles: HashMap::new(),
            });
        }
        handed
    }

    fn hears(&self, new: &NewNotification) -> bool {
        self.integrations.get(&new.integration).is_some_and(|kept| {
            !kept.definition.paused && kept.suspended.is_none() && kept.definition.room == new.room
        }) && !self.throttles.contains_key(&new.integration)
    }

    /// The next claim and the state of a room in which nothing waits and that may be told something now.
    fn idle(&self, room: &RoomKey, straight: &Straight) -> Option<(u64, RoomState)> {
        let now = straight.now;
        if self.in_flight.contains_key(room) {
            return None;
        }
        let Some(kept) = self.rooms.get(room) else { return Some((1, RoomState::default())) };
        let rests = kept.due_at.is_none()
            && kept.lease_until.is_none()
            && kept.hold_until.is_none_or(|until| until <= now.as_microsecond());
        let meter = sane(kept.state.meter.clone(), now);
        let open = kept.state.retry.is_none() && meter.available(straight.terms.room_budget, now) > 0;
        let passes = open && (rests || self.flaws.passes_lines);
        passes.then(|| (kept.claim + 1, RoomState { meter, ..kept.state.clone() }))
    }

    fn grant_one(&mut self, room: &RoomKey, token: &TokenKey, straight: &Straight) -> Option<Grants> {
        let purse = self.purse(token, straight.terms.token_budget, straight.now);
        let needs = vec![(room.clone(), HashMap::from([(token.clone(), 1)]))];
        let mut grants = purse::share(&needs, HashMap::from([(token.clone(), purse)]), straight.now);
        grants.remove(room).filter(|grants| grants.values().all(|grant| grant.calls > 0))
    }

    /// What is left of a token, with what is handed out.
    pub(super) fn purse(&mut self, token: &TokenKey, budget: Budget, now: Timestamp) -> Purse {
        let kept = self.tokens.entry(token.clone()).or_insert((Meter::default(), budget));
        kept.1 = budget;
        let meter = sane(kept.0.clone(), now);
        let of_token = self.reservations.iter().filter(|((of, _), _)| of == token);
        let reserved: u32 = of_token.map(|(_, calls)| *calls).sum();
        let handed = self.in_flight.values().filter(|entry| entry.token == *token).count();
        Purse::new(meter, budget, reserved.saturating_add(u32::try_from(handed).unwrap_or(u32::MAX)), now)
    }
}
