//! Settling a step on a held room.

use hipchat_notifier::adapters::store::release::{Held, Left};
use hipchat_notifier::adapters::store::state::Ending;
use hipchat_notifier::domain::ids::{IntegrationId, RoomKey};
use hipchat_notifier::domain::reason::DeadLetterReason;
use hipchat_notifier::ports::{Settled, Settlement, Then, Transition};
use jiff::Timestamp;

use super::Tables;

impl Tables {
    pub(super) fn settle(&mut self, s: &Settlement) -> Settled {
        if let Some(settled) = self.settle_straight(s) {
            return settled;
        }
        let any = self.flaws.no_fencing || self.flaws.no_leases;
        let Some(room) = self
            .rooms
            .get(&s.room)
            .filter(|room| any || (room.claim == s.claim && room.lease_until.is_some()))
        else {
            return Settled::LostClaim;
        };
        let held = Held { lease: room.lease, fresh_at: room.fresh_at, revision: room.revision };
        for transition in &s.transitions {
            self.transition(&s.room, &held, transition);
        }
        for calls in &s.calls {
            self.spend(&s.room, calls, s.now);
        }
        self.spend_throttles(s);
        for (integration, until) in s.closed.iter().filter(|(id, _)| self.integrations.contains_key(id)) {
            self.throttles.entry(integration.clone()).or_default().closed_until =
                Some(until.as_microsecond());
        }
        let next = if s.then == Then::Hold {
            held.renewed(s.now)
        } else {
            self.give_back(&s.room);
            let left = Left {
                next_ready: self.next_ready(&s.room),
                next_opening: self.next_opening(&s.room, s.now),
                has_ready: self.has_ready(&s.room, s.now),
            };
            held.released(s, &left)
        };
        if let Some(room) = self.rooms.get_mut(&s.room) {
            room.state = s.state.clone();
            room.lease_until = next.lease_until;
            room.due_at = next.due_at;
            room.hold_until = next.hold_until;
            room.fresh_at = next.fresh_at;
        }
        next.settled()
    }

    pub(super) fn spend_throttles(&mut self, s: &Settlement) {
        for (integration, meter) in s.throttles.iter().filter(|(id, _)| self.integrations.contains_key(id)) {
            self.throttles.entry(integration.clone()).or_default().meter = Some(meter.clone());
        }
    }

    fn transition(&mut self, room: &RoomKey, held: &Held, transition: &Transition) {
        match transition {
            Transition::Sent { .. }
            | Transition::Digested { .. }
            | Transition::Suppressed { .. }
            | Transition::Expired { .. } => match Ending::by(transition) {
                Some(ending) if ending.outcome.is_told() => self.told(transition.seqs(), &ending),
                Some(ending) => self.end_waiting(room, transition.seqs(), &ending),
                None => {}
            },
            Transition::Attempted { seqs, at, status, detail, plain_next } => {
                for seq in self.still_waiting(room, seqs) {
                    self.count_attempt(seq, *at, *status);
                    if let Some(note) = self.notes.get_mut(&seq) {
                        detail.clone_into(&mut note.detail);
                        note.plain = *plain_next;
                    }
                }
            }
            Transition::DeadLettered { seqs, reason, detail, at, status, attempted } => {
                for seq in self.still_waiting(room, seqs) {
                    if *attempted {
                        self.count_attempt(seq, *at, *status);
                    }
                    self.bury(seq, *reason, detail, *at);
                }
            }
            Transition::Broken { integration, seqs, detail, at, status } => {
                for seq in self.still_waiting(room, seqs) {
                    self.count_attempt(seq, *at, *status);
                }
                self.broken(integration, held.revision, detail, *at);
            }
        }
    }

    /// What was posted is in the room, whatever the notification became meanwhile.
    fn told(&mut self, seqs: &[i64], ending: &Ending<'_>) {
        for seq in seqs {
            if self.notes.get(seq).is_some_and(|note| !note.state.is_told()) {
                self.end(*seq, ending);
            }
        }
    }

    fn end_waiting(&mut self, room: &RoomKey, seqs: &[i64], ending: &Ending<'_>) {
        for seq in self.still_waiting(room, seqs) {
            self.end(seq, ending);
        }
    }

    fn broken(&mut self, id: &IntegrationId, claimed_at: u64, detail: &str, at: Timestamp) {
        let Some(kept) = self.integrations.get_mut(id).filter(|kept| kept.url_revision <= claimed_at) else {
            return;
        };
        kept.suspended = Some(detail.to_owned());
        self.revision += 1;
        for seq in self.waiting_of(id) {
            self.bury(seq, DeadLetterReason::IntegrationBroken, detail, at);
        }
    }
}
