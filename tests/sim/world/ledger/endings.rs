//! How notifications end: by what a settlement says, or in a letter.

use std::sync::Arc;

use hipchat_notifier::domain::ids::{EventId, IntegrationId, RoomKey};
use hipchat_notifier::domain::line::Transition;
use hipchat_notifier::ports::{Letter, Settled, Settlement};
use jiff::Timestamp;

use super::{Faults, Ledger, Pair, State};

impl Ledger {
    /// The notifications that an applied settlement says were told.
    pub fn told_by(&self, s: &Settlement, settled: Settled) -> Vec<Pair> {
        let is_told =
            |transition: &&Transition| transition.outcome().is_some_and(|(outcome, _)| outcome.is_told());
        let transitions = s.transitions.iter().filter(|_| settled != Settled::LostClaim).filter(is_told);
        transitions.flat_map(Transition::seqs).filter_map(|seq| self.seqs.get(seq).cloned()).collect()
    }

    pub(super) fn transition(
        &mut self,
        room: &RoomKey,
        transition: &Transition,
        now: Timestamp,
        faults: &mut Faults,
    ) {
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
    pub(super) fn lose(&mut self, pair: &Pair, state: State) {
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

    pub(super) fn owe(&mut self, event: Option<&EventId>, integration: Option<&IntegrationId>, reason: &str) {
        let event = event.map(|event| event.as_str().to_owned());
        let integration = integration.map(|integration| integration.as_str().to_owned());
        *self.owed.entry((event, integration, reason.to_owned())).or_default() += 1;
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
}
