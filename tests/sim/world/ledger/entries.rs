//! How notifications come to be, and what a room believes while they are on their way.

use hipchat_notifier::domain::ids::RoomKey;
use hipchat_notifier::ports::{DecidedEvent, Fate, NewNotification};

use super::{Believes, Ledger, Note, State, StreakKey, Verdict};

impl Ledger {
    /// Writes a notification down as it is by now: a change of its integration may have come between.
    pub(super) fn enter(
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
    pub(super) fn retold(&mut self, event: &DecidedEvent) {
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
    pub(super) fn doubt(&mut self, key: &StreakKey, order: u64) {
        if self.registry.contains_key(&key.0) {
            let history = self.histories.entry(key.clone()).or_default();
            if history.news <= order {
                history.believes = Believes::Unsure;
            }
        }
    }
}
