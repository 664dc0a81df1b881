//! The named changes of a notification. Nothing else ends one.

use hipchat_notifier::adapters::store::state::{DEAD_LETTERING, Ending};
use hipchat_notifier::domain::ids::{EventId, IntegrationId, RoomKey};
use hipchat_notifier::domain::reason::{Belief, DeadLetterReason, Outcome, SuppressReason};
use hipchat_notifier::ports::{Letter, StreakKey};
use jiff::Timestamp;

use super::{KeptLetter, KeptStreak, Note, State, Tables, key_of};

impl Tables {
    /// Puts a new one into the journal, and into its line if it waits, at the place `seq`.
    pub(super) fn add(&mut self, note: Note, seq: i64) {
        self.last_written = self.last_written.max(seq);
        if note.state.waits() {
            self.lines.entry(note.room.clone()).or_default().insert(seq);
        }
        self.by_event.entry(note.event.clone()).or_default().insert(note.integration.clone(), seq);
        self.notes.insert(seq, note);
    }

    /// All that wait for one integration, in order.
    pub(super) fn waiting_of(&self, integration: &IntegrationId) -> Vec<i64> {
        let of_it = |seq: &&i64| self.notes.get(seq).is_some_and(|note| note.integration == *integration);
        let mut seqs: Vec<i64> = self.lines.values().flatten().filter(of_it).copied().collect();
        seqs.sort_unstable();
        seqs
    }

    /// Those of `seqs` that wait in this room's line.
    pub(super) fn still_waiting(&self, room: &RoomKey, seqs: &[i64]) -> Vec<i64> {
        let line = self.lines.get(room);
        seqs.iter().filter(|seq| line.is_some_and(|line| line.contains(seq))).copied().collect()
    }

    /// Ends one, whatever it was.
    pub(super) fn end(&mut self, seq: i64, ending: &Ending<'_>) {
        let Some(note) = self.notes.get_mut(&seq) else { return };
        let was = note.state;
        note.state = State::Ended(ending.outcome);
        ending.reason.clone_into(&mut note.reason);
        note.detail = ending.detail.to_string();
        note.decided_at = ending.at;
        note.gather = None;
        let told = ending.outcome.is_told();
        if told {
            note.sent_at = Some(ending.at);
            note.attempts += 1;
            note.first_attempt_at.get_or_insert(ending.at);
        }
        note.last_status = ending.status.or(note.last_status);
        let (room, event, streak) = (note.room.clone(), note.event.clone(), note.streak.clone());
        if let Some(line) = self.lines.get_mut(&room) {
            line.remove(&seq);
        }
        if was == State::Burying {
            self.letters.retain(|_, letter| letter.seq != Some(seq));
        } else if !told && let Some(streak) = streak {
            self.doubt(&streak, seq);
        }
        if was.is_open() {
            self.let_go(&event);
        }
    }

    /// The news `seq` of a streak is lost.
    pub(super) fn doubt(&mut self, streak: &StreakKey, seq: i64) {
        if self.flaws.believes_lost_news || !self.integrations.contains_key(&streak.integration) {
            return;
        }
        let touched = Some(self.clock).filter(|clock| *clock != 0);
        let new = KeptStreak { touched, ..KeptStreak::default() };
        let kept = self.streaks.entry(key_of(streak)).or_insert(new);
        if kept.news <= seq {
            kept.streak.belief = Belief::Unsure;
        }
    }

    pub(super) fn let_go(&mut self, event: &EventId) {
        let Some(kept) = self.events.get_mut(event) else { return };
        kept.open = kept.open.saturating_sub(1);
        if kept.open == 0 {
            self.events.remove(event);
        }
    }

    pub(super) fn suppress_waiting(
        &mut self,
        id: &IntegrationId,
        reason: SuppressReason,
        detail: &str,
        at: Timestamp,
    ) {
        let ending = Ending {
            outcome: Outcome::Suppressed,
            reason: reason.as_str(),
            detail: detail.into(),
            at,
            status: None,
        };
        for seq in self.waiting_of(id) {
            self.end(seq, &ending);
        }
    }

    pub(super) fn count_attempt(&mut self, seq: i64, at: Timestamp, status: Option<u16>) {
        let Some(note) = self.notes.get_mut(&seq) else { return };
        note.attempts += 1;
        note.first_attempt_at.get_or_insert(at);
        note.last_status = status;
    }

    /// Gives one up: into the outbox.
    pub(super) fn bury(&mut self, seq: i64, reason: DeadLetterReason, detail: &str, at: Timestamp) {
        let Some(note) = self.notes.get_mut(&seq) else { return };
        note.state = State::Burying;
        DEAD_LETTERING.clone_into(&mut note.reason);
        detail.clone_into(&mut note.detail);
        note.decided_at = at;
        note.gather = None;
        let note = note.clone();
        if let Some(line) = self.lines.get_mut(&note.room) {
            line.remove(&seq);
        }
        self.last_letter += 1;
        let letter = Letter {
            id: self.last_letter,
            envelope: self.events.get(&note.event).map(|e| e.received.envelope.clone()).unwrap_or_default(),
            reason,
            detail: detail.to_owned(),
            event: Some(note.event),
            integration: Some(note.integration),
            attempts: note.attempts,
            last_status: note.last_status,
            first_attempt_at: note.first_attempt_at,
            at,
        };
        self.letters.insert(letter.id, KeptLetter { seq: Some(seq), letter });
        if let Some(streak) = &note.streak {
            self.doubt(streak, seq);
        }
    }

    /// A dead letter comes back: its earlier end makes room for the new beginning.
    pub(super) fn exhume(&mut self, event: &EventId, integration: &IntegrationId) {
        let Some(seq) = self.by_event.get(event).and_then(|of_event| of_event.get(integration)).copied()
        else {
            return;
        };
        let state = self.notes.get(&seq).map(|note| note.state);
        if !matches!(state, Some(State::Burying | State::Ended(Outcome::DeadLettered))) {
            return;
        }
        self.strike(seq);
        if state == Some(State::Burying) {
            self.letters.retain(|_, letter| letter.seq != Some(seq));
            self.let_go(event);
        }
    }

    /// Takes one out of the journal.
    pub(super) fn strike(&mut self, seq: i64) {
        let Some(note) = self.notes.remove(&seq) else { return };
        if let Some(of_event) = self.by_event.get_mut(&note.event) {
            of_event.remove(&note.integration);
            if of_event.is_empty() {
                self.by_event.remove(&note.event);
            }
        }
    }

    /// Something for `room` gets ready at `ready_at`.
    pub(super) fn wake_room(&mut self, room: &RoomKey, ready_at: i64) {
        let room = self.rooms.entry(room.clone()).or_default();
        if room.lease_until.is_none() {
            let at = room.hold_until.map_or(ready_at, |hold| ready_at.max(hold));
            room.due_at = Some(room.due_at.map_or(at, |due| due.min(at)));
        } else {
            room.fresh_at = Some(room.fresh_at.map_or(ready_at, |fresh| fresh.min(ready_at)));
        }
    }
}
