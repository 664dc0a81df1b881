//! Looking back, letters, and forgetting.

use hipchat_notifier::adapters::store::state::Ending;
use hipchat_notifier::adapters::store::terms::ROUND_BYTES;
use hipchat_notifier::domain::ids::{EventId, IntegrationId};
use hipchat_notifier::domain::reason::{Outcome, SendReason};
use hipchat_notifier::domain::waits::{Place, Whereabouts};
use hipchat_notifier::ports::{Gauges, JournalEntry, Letter};
use jiff::Timestamp;

use super::claims::time;
use super::{Note, State, Tables};

impl Tables {
    pub(super) fn explain(&self, event: &EventId) -> Vec<JournalEntry> {
        let notes = self.by_event.get(event).into_iter().flatten();
        notes.filter_map(|(_, seq)| Some(self.entry(*seq, self.notes.get(seq)?))).collect()
    }

    fn entry(&self, seq: i64, note: &Note) -> JournalEntry {
        JournalEntry {
            event: note.event.clone(),
            received_at: note.received_at,
            integration: note.integration.clone(),
            outcome: match note.state {
                State::Ended(outcome) => outcome,
                State::Gathering | State::Pending | State::Burying => Outcome::Pending,
            },
            reason: note.reason.clone(),
            detail: note.detail.clone(),
            whereabouts: self.whereabouts(seq, note),
            decided_at: note.decided_at,
            sent_at: note.sent_at,
            attempts: note.attempts,
        }
    }

    fn whereabouts(&self, seq: i64, note: &Note) -> Option<Whereabouts> {
        let until = note.ready_at;
        match note.state {
            State::Ended(_) => None,
            State::Burying => Some(Whereabouts::Outbox),
            State::Gathering if note.story.reason == SendReason::Collated => {
                Some(Whereabouts::Collation { until })
            }
            State::Gathering => Some(Whereabouts::Digest { until }),
            State::Pending => Some(Whereabouts::Line(Box::new(self.place(seq, note)))),
        }
    }

    fn place(&self, seq: i64, note: &Note) -> Place {
        let before = self.lines.get(&note.room).into_iter().flat_map(|line| line.range(..seq));
        let clock = time(self.clock);
        let counts = |other: &&i64| {
            self.notes
                .get(other)
                .is_some_and(|n| n.state == State::Pending && !self.is_closed(&n.integration, clock))
        };
        let ahead = before.filter(counts).count() as u64;
        let room = self.rooms.get(&note.room);
        let mut state = room.map(|room| room.state.clone()).unwrap_or_default();
        state.expired_untold = 0;
        let throttled = self.throttles.get(&note.integration);
        let kept = self.integrations.get(&note.integration);
        Place {
            ahead,
            room: state,
            due_at: room.and_then(|room| room.due_at).map(time),
            held_until: room.and_then(|room| room.lease_until).map(time),
            throttled_until: throttled.and_then(|throttled| throttled.closed_until).map(time),
            token: kept.and_then(|kept| self.tokens.get(&kept.definition.token).cloned()),
        }
    }

    pub(super) fn dead_lettered(&self, integration: &IntegrationId) -> u64 {
        let given_up = |note: &&Note| {
            note.integration == *integration
                && matches!(note.state, State::Burying | State::Ended(Outcome::DeadLettered))
        };
        self.notes.values().filter(given_up).count() as u64
    }

    pub(super) fn letters(&mut self, limit: usize) -> Vec<Letter> {
        let (mut found, mut bytes) = (Vec::new(), 0);
        for kept in self.letters.values().take(limit) {
            if bytes >= ROUND_BYTES {
                break;
            }
            bytes += kept.letter.envelope.body.len();
            found.push(kept.letter.clone());
        }
        if self.flaws.letters_go_once {
            let ids: Vec<i64> = found.iter().map(|letter| letter.id).collect();
            self.buried(&ids, found.last().map_or(Timestamp::MIN, |letter| letter.at));
        }
        found
    }

    pub(super) fn buried(&mut self, ids: &[i64], at: Timestamp) {
        for id in ids {
            let Some(kept) = self.letters.remove(id) else { continue };
            let Some(seq) = kept.seq else { continue };
            if self.notes.get(&seq).is_some_and(|note| note.state == State::Burying) {
                let (reason, detail) = (kept.letter.reason.as_str(), &kept.letter.detail);
                self.end(
                    seq,
                    &Ending {
                        outcome: Outcome::DeadLettered,
                        reason,
                        detail: detail.into(),
                        at,
                        status: None,
                    },
                );
            }
        }
    }

    pub(super) fn forget(&mut self, before: Timestamp, limit: usize) -> usize {
        let mut old: Vec<(Timestamp, i64)> = self
            .notes
            .iter()
            .filter(|(_, note)| !note.state.is_open() && note.decided_at < before)
            .map(|(seq, note)| (note.decided_at, *seq))
            .collect();
        old.sort_unstable();
        old.truncate(limit);
        for (_, seq) in &old {
            self.strike(*seq);
        }
        self.collations.retain(|_, until| *until >= before);
        old.len()
    }

    pub(super) fn forget_streaks(&mut self, before: Timestamp, limit: usize) -> usize {
        let before = before.as_microsecond();
        let mut old: Vec<_> = self
            .streaks
            .iter()
            .filter_map(|(key, kept)| Some((kept.touched?, key.clone())))
            .filter(|(touched, _)| *touched < before)
            .collect();
        old.sort();
        old.truncate(limit);
        for (_, key) in &old {
            self.streaks.remove(key);
        }
        old.len()
    }

    pub(super) fn gauges(&self, now: Timestamp) -> Gauges {
        let open = || self.notes.values().filter(|note| note.state.is_open());
        let oldest = open().filter(|note| note.state.waits()).map(|note| note.ready_at).min();
        let late = oldest.map_or(0.0, |at| now.duration_since(at).as_secs_f64().max(0.0));
        Gauges {
            pending: open().count() as u64,
            oldest_due_seconds: late,
            letters: self.letters.len() as u64,
        }
    }
}
