//! Claiming rooms, and what they may spend of their tokens.

use std::collections::HashMap;
use std::sync::Arc;

use hipchat_notifier::adapters::store::meters::sane;
use hipchat_notifier::adapters::store::purse::{self, Grants, Needs};
use hipchat_notifier::adapters::store::terms::{LINE_BYTES, NOTE_EVERY, TOLERATED};
use hipchat_notifier::domain::envelope::Received;
use hipchat_notifier::domain::ids::{GatherKey, IntegrationId, RoomKey, TokenKey};
use hipchat_notifier::domain::pacing::{Budget, Meter, later};
use hipchat_notifier::domain::reason::SendReason;
use hipchat_notifier::ports::{ClaimTerms, RoomLine, TokenCalls, Waiting};
use jiff::Timestamp;

use super::{State, Tables};

pub(super) fn time(micros: i64) -> Timestamp {
    Timestamp::from_microsecond(micros).unwrap_or(if micros < 0 { Timestamp::MIN } else { Timestamp::MAX })
}

impl Tables {
    pub(super) fn claim_rooms(
        &mut self,
        terms: &ClaimTerms,
        at_work: &dyn Fn(&RoomKey) -> bool,
        now: Timestamp,
    ) -> Vec<RoomLine> {
        self.note_clock(now);
        let mut lines: Vec<RoomLine> = Vec::new();
        for (retrying, most) in [(false, terms.rooms), (true, terms.retries)] {
            let enough = lines.len() + most;
            for room in self.due(retrying, now) {
                if lines.len() == enough {
                    break;
                }
                if self.in_flight.contains_key(&room) {
                    // Something was moved here from another room while this one is told.
                    self.write_down(&room);
                    continue;
                }
                if at_work(&room) {
                    continue;
                }
                self.forfeit(&room, now);
                lines.extend(self.claim(room, terms, now));
            }
        }
        let mut asking: Vec<(i64, RoomKey, HashMap<TokenKey, u32>)> =
            lines.iter().map(|line| self.needs(line, terms, now)).collect();
        asking.sort_by_key(|(head, ..)| *head);
        let needs: Needs = asking.into_iter().map(|(_, room, needs)| (room, needs)).collect();
        let mut grants = self.reserve(&needs, terms.token_budget, now);
        for line in &mut lines {
            line.tokens = grants.remove(&line.room).unwrap_or_default();
        }
        lines
    }

    pub(super) fn next_due(&self) -> Option<Timestamp> {
        self.rooms.values().filter_map(|room| room.due_at).min().map(time)
    }

    fn due(&self, retrying: bool, now: Timestamp) -> Vec<RoomKey> {
        let now = now.as_microsecond();
        let mut due: Vec<(i64, &RoomKey)> = self
            .rooms
            .iter()
            .filter(|(_, room)| room.state.retry.is_some() == retrying)
            .filter_map(|(key, room)| {
                let held = self.flaws.no_leases && room.lease_until.is_some();
                Some((if held { 0 } else { room.due_at? }, key))
            })
            .filter(|(at, _)| *at <= now)
            .collect();
        due.sort_unstable();
        due.into_iter().map(|(_, key)| key.clone()).collect()
    }

    fn claim(&mut self, key: RoomKey, terms: &ClaimTerms, now: Timestamp) -> Option<RoomLine> {
        for seq in self.lines.get(&key).into_iter().flatten() {
            if let Some(note) = self.notes.get_mut(seq).filter(|note| note.ready_at <= now) {
                note.state = State::Pending;
            }
        }
        let mut waiting = self.line(&key, terms.line, now);
        let going_on = self.going_on(&key, &waiting);
        let left = [self.next_ready(&key), self.next_opening(&key, now)];
        let (revision, flaws) = (self.revision, self.flaws);
        let room = self.rooms.get_mut(&key)?;
        room.claim += 1;
        room.hold_until = None;
        room.fresh_at = None;
        if waiting.is_empty() {
            room.lease_until = None;
            room.due_at = left.into_iter().flatten().min().map(Timestamp::as_microsecond);
            return None;
        }
        let lapse = later(now, terms.lease).as_microsecond();
        (room.lease_until, room.due_at) = (Some(lapse), Some(lapse));
        room.lease = i64::try_from(terms.lease.as_micros()).unwrap_or(i64::MAX);
        room.revision = revision;
        let mut state = room.state.clone();
        state.meter = if flaws.forgets_budgets { Meter::default() } else { sane(state.meter, now) };
        let claim = room.claim;
        let mut throttles = HashMap::new();
        for one in &waiting {
            if let Some(meter) = self.throttles.get(&one.integration).and_then(|t| t.meter.clone()) {
                throttles.insert(one.integration.clone(), sane(meter, now));
            }
        }
        if flaws.newest_first {
            waiting.reverse();
        }
        let tokens = HashMap::new();
        Some(RoomLine { room: key, claim, state, waiting, going_on, tokens, throttles })
    }

    fn line(&self, room: &RoomKey, limit: usize, now: Timestamp) -> Vec<Waiting> {
        let (mut waiting, mut bytes) = (Vec::new(), 0);
        for seq in self.lines.get(room).into_iter().flatten() {
            let Some(note) = self.notes.get(seq) else { continue };
            if note.state != State::Pending || self.is_closed(&note.integration, now) {
                continue;
            }
            if waiting.len() == limit || bytes >= LINE_BYTES {
                break;
            }
            let Some(event) = self.events.get(&note.event) else { continue };
            let received = match event.received.at == note.received_at {
                true => Arc::clone(&event.received),
                false => {
                    let envelope = event.received.envelope.clone();
                    Arc::new(Received { envelope, at: note.received_at })
                }
            };
            bytes += received.envelope.body.len();
            waiting.push(Waiting {
                seq: *seq,
                event: note.event.clone(),
                integration: note.integration.clone(),
                story: note.story,
                ready_at: note.ready_at,
                gather: note.gather.clone(),
                attempts: note.attempts,
                first_attempt_at: note.first_attempt_at,
                last_answer: note.detail.clone(),
                plain: note.plain,
                received,
                read: None,
            });
        }
        waiting
    }

    pub(super) fn is_closed(&self, integration: &IntegrationId, now: Timestamp) -> bool {
        let until = self.throttles.get(integration).and_then(|throttled| throttled.closed_until);
        until.is_some_and(|until| until > now.as_microsecond())
    }

    fn going_on(&self, room: &RoomKey, waiting: &[Waiting]) -> Vec<(IntegrationId, GatherKey)> {
        let Some(last) = waiting.last() else { return Vec::new() };
        let mut found: Vec<(IntegrationId, GatherKey)> = Vec::new();
        let beyond = || self.lines.get(room).into_iter().flat_map(|line| line.range(last.seq + 1..));
        for one in waiting {
            let Some(gather) = &one.gather else { continue };
            let looked_at = one.story.reason == SendReason::ScheduledDigest || one.seq == last.seq;
            let key = (one.integration.clone(), gather.clone());
            if !looked_at || found.contains(&key) {
                continue;
            }
            let more = |seq: &i64| {
                self.notes.get(seq).is_some_and(|note| {
                    note.state == State::Pending
                        && note.integration == key.0
                        && note.gather.as_ref() == Some(&key.1)
                })
            };
            if beyond().any(more) {
                found.push(key);
            }
        }
        found
    }

    /// When the first of those that gather gets ready.
    pub(super) fn next_ready(&self, room: &RoomKey) -> Option<Timestamp> {
        let notes = self.lines.get(room).into_iter().flatten().filter_map(|seq| self.notes.get(seq));
        notes.filter(|note| note.state == State::Gathering).map(|note| note.ready_at).min()
    }

    pub(super) fn has_ready(&self, room: &RoomKey, now: Timestamp) -> bool {
        let mut notes = self.lines.get(room).into_iter().flatten().filter_map(|seq| self.notes.get(seq));
        notes.any(|note| note.state == State::Pending && !self.is_closed(&note.integration, now))
    }

    /// When the first throttle opens that keeps something of this room waiting.
    pub(super) fn next_opening(&self, room: &RoomKey, now: Timestamp) -> Option<Timestamp> {
        let now = now.as_microsecond();
        let notes = self.lines.get(room).into_iter().flatten().filter_map(|seq| self.notes.get(seq));
        notes
            .filter(|note| note.state == State::Pending)
            .filter_map(|note| self.throttles.get(&note.integration)?.closed_until)
            .filter(|until| *until > now)
            .min()
            .map(time)
    }

    fn needs(
        &self,
        line: &RoomLine,
        terms: &ClaimTerms,
        now: Timestamp,
    ) -> (i64, RoomKey, HashMap<TokenKey, u32>) {
        let room_left = line.state.meter.available(terms.room_budget, now);
        let token =
            |one: &Waiting| Some((self.integrations.get(&one.integration)?.definition.token.clone(), 1));
        let head = line.waiting.iter().map(|one| one.seq).min().unwrap_or(i64::MAX);
        (head, line.room.clone(), purse::needs(line.waiting.iter().filter_map(token), room_left))
    }

    fn reserve(&mut self, needs: &Needs, budget: Budget, now: Timestamp) -> HashMap<RoomKey, Grants> {
        let mut purses = HashMap::new();
        for token in purse::named(needs) {
            let purse = self.purse(&token, budget, now);
            purses.insert(token, purse);
        }
        let grants = purse::share(needs, purses, now);
        if !self.flaws.forgets_tokens {
            for (room, granted) in &grants {
                for (token, grant) in granted {
                    self.reservations.insert((token.clone(), room.clone()), grant.calls);
                }
            }
        }
        grants
    }

    pub(super) fn spend(&mut self, room: &RoomKey, calls: &TokenCalls, now: Timestamp) {
        if self.flaws.forgets_tokens {
            return;
        }
        let (meter, budget) =
            self.tokens.entry(calls.token.clone()).or_insert((Meter::default(), Budget::TOKEN));
        let mut kept = sane(std::mem::take(meter), now);
        if calls.calls > 0 {
            kept.record(*budget, now, calls.calls);
        }
        kept.correct(&calls.hint, now);
        if let Some(until) = calls.blocked_until {
            kept.block_until(until, now);
        }
        *meter = kept;
        if let Some(reserved) = self.reservations.get_mut(&(calls.token.clone(), room.clone())) {
            *reserved = reserved.saturating_sub(calls.calls);
        }
    }

    pub(super) fn give_back(&mut self, room: &RoomKey) {
        self.reservations.retain(|(_, of), _| of != room);
    }

    /// Counts as spent what a lapsed claim had reserved.
    fn forfeit(&mut self, room: &RoomKey, now: Timestamp) {
        let reserved: Vec<(TokenKey, u32)> = self
            .reservations
            .iter()
            .filter(|((_, of), calls)| of == room && **calls > 0)
            .map(|((token, _), calls)| (token.clone(), *calls))
            .collect();
        for (token, calls) in reserved {
            let (meter, budget) = self.tokens.entry(token).or_insert((Meter::default(), Budget::TOKEN));
            let mut kept = sane(std::mem::take(meter), now);
            kept.record(*budget, now, calls);
            *meter = kept;
        }
        self.give_back(room);
    }

    /// Notes the time, and moves what lies ahead if it went back.
    fn note_clock(&mut self, now: Timestamp) {
        let now = now.as_microsecond();
        let back = self.clock.saturating_sub(now);
        if back > TOLERATED {
            let earlier = |at: &mut Option<i64>| *at = at.map(|at| at - back);
            for room in self.rooms.values_mut() {
                for at in [&mut room.due_at, &mut room.hold_until, &mut room.fresh_at, &mut room.lease_until]
                {
                    earlier(at);
                }
                if let Some(retry) = &mut room.state.retry {
                    retry.at = time(retry.at.as_microsecond() - back);
                }
                // Void ones (0) are below it by now.
                if room.lease_until.is_some_and(|until| until + back > 0) {
                    (room.lease_until, room.due_at) = (Some(now + room.lease), Some(now + room.lease));
                }
            }
            self.throttles.values_mut().for_each(|throttled| earlier(&mut throttled.closed_until));
            for note in self.notes.values_mut().filter(|note| note.state == State::Gathering) {
                note.ready_at = time(note.ready_at.as_microsecond() - back);
            }
            for until in self.collations.values_mut() {
                *until = time(until.as_microsecond() - back);
            }
        }
        if back > TOLERATED || -back >= NOTE_EVERY {
            self.clock = now;
        }
    }
}
