//! Taking a batch in.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use hipchat_notifier::adapters::store::fate::{Now, Standing, fate_by_now};
use hipchat_notifier::domain::frequency::Streak;
use hipchat_notifier::domain::ids::{IntegrationId, RoomKey};
use hipchat_notifier::domain::intake::IntakeState;
use hipchat_notifier::domain::reason::{Outcome, SendReason, SuppressReason};
use hipchat_notifier::domain::story::Story;
use hipchat_notifier::ports::{
    DecidedEvent, Fate, IntakeChanges, IntakeQuery, IntakeReceipt, Letter, NewNotification, StreakKey,
};

use super::straight::HandedOut;
use super::{Event, KeptLetter, Note, State, Tables, key_of, key_of_collation};

/// A day in microseconds.
const DAY: i64 = 86_400_000_000;

/// What a batch leaves for its end.
#[derive(Default)]
pub(super) struct Batch<'a> {
    ready: BTreeMap<RoomKey, i64>,
    pub news: HashMap<&'a StreakKey, i64>,
    untold: Vec<&'a StreakKey>,
    receipt: IntakeReceipt,
}

impl Tables {
    pub(super) fn gather(&self, query: &IntakeQuery) -> IntakeState {
        let mut state = IntakeState::default();
        if !self.flaws.no_dedup {
            state.known = query.events.iter().filter(|id| self.by_event.contains_key(id)).cloned().collect();
        }
        let streak = |key: &StreakKey| Some((key.clone(), self.streaks.get(&key_of(key))?.streak));
        state.streaks = query.streaks.iter().filter_map(streak).collect();
        state.collations = query
            .collations
            .iter()
            .filter_map(|key| Some((key.clone(), *self.collations.get(&key_of_collation(key))?)))
            .collect();
        state
    }

    pub(super) fn standing(&self, id: &IntegrationId) -> Option<Standing> {
        let kept = self.integrations.get(id)?;
        Some(Standing {
            room: kept.definition.room.as_str().to_owned(),
            token: kept.definition.token.clone(),
            paused: kept.definition.paused,
            suspended: kept.suspended.clone(),
            closed_until: self.throttles.get(id).and_then(|throttled| throttled.closed_until),
        })
    }

    /// Places in the lines, in the order of the events: for the first notification of each.
    pub(super) fn places(&mut self, events: &[DecidedEvent]) -> Vec<i64> {
        let mut places = Vec::new();
        for event in events {
            places.push(self.last_seq + 1);
            self.last_seq += i64::try_from(event.notifications.len()).unwrap_or_default();
        }
        places
    }

    pub(super) fn take_in(
        &mut self,
        changes: &IntakeChanges,
        places: &[i64],
        handed: Option<&HandedOut>,
    ) -> IntakeReceipt {
        let mut batch = Batch::default();
        for (event, &place) in changes.events.iter().zip(places) {
            if handed.is_some_and(|handed| handed.seqs.contains(&place)) {
                continue;
            }
            for new in event.notifications.iter().filter(|new| matches!(new.fate, Fate::Retell { .. })) {
                self.exhume(&event.id, &new.integration);
            }
            for (seq, new) in (place..).zip(&event.notifications) {
                self.notification(event, new, seq, &mut batch);
            }
        }
        let at = changes.events.last().map(|event| event.received.at.as_microsecond());
        for (key, streak) in &changes.streaks {
            if handed.is_none_or(|handed| !handed.integrations.contains(&key.integration)) {
                self.keep_streak(key, streak, batch.news.get(key).copied(), at);
            }
        }
        for (key, until) in
            changes.collations.iter().filter(|(key, _)| self.integrations.contains_key(&key.integration))
        {
            self.collations.insert(key_of_collation(key), *until);
        }
        for letter in &changes.letters {
            self.last_letter += 1;
            let letter = Letter { id: self.last_letter, ..Letter::clone(letter) };
            self.letters.insert(letter.id, KeptLetter { seq: None, letter });
        }
        batch.receipt.letters = changes.letters.len();
        self.finish(&mut batch);
        batch.receipt
    }

    pub(super) fn finish(&mut self, batch: &mut Batch<'_>) {
        // After the streaks, whose beliefs rest on the telling.
        for streak in &batch.untold {
            self.doubt(streak, i64::MAX);
        }
        for (room, ready_at) in &batch.ready {
            self.wake_room(room, *ready_at);
        }
    }

    pub(super) fn keep_streak(
        &mut self,
        key: &StreakKey,
        streak: &Streak,
        news: Option<i64>,
        at: Option<i64>,
    ) {
        if self.flaws.forgets_streaks || !self.integrations.contains_key(&key.integration) {
            return;
        }
        let kept = self.streaks.entry(key_of(key)).or_default();
        kept.streak = *streak;
        kept.news = news.unwrap_or(kept.news);
        if kept.touched.zip(at).is_none_or(|(touched, at)| touched < at - DAY) {
            kept.touched = at;
        }
    }

    /// Writes one notification unless it is known already, at the place `seq`.
    pub(super) fn notification<'a>(
        &mut self,
        event: &'a DecidedEvent,
        new: &'a NewNotification,
        seq: i64,
        batch: &mut Batch<'a>,
    ) {
        let standing = self.standing(&new.integration);
        let (story, ready_at, gather) = match fate_by_now(&new.fate, event.received.at, standing.as_ref()) {
            Now::Suppressed(reason, detail) => {
                return self.suppressed(event, new, seq, (reason, &detail), batch);
            }
            Now::Told(story, ready_at, gather) => (story, ready_at, gather),
        };
        if self.is_known(event, new) {
            return;
        }
        let kept = self.events.entry(event.id.clone());
        kept.or_insert_with(|| Event { received: Arc::clone(&event.received), open: 0 }).open += 1;
        let closed_until = standing.as_ref().and_then(|standing| standing.closed_until);
        let room = standing.map_or_else(|| new.room.clone(), |standing| RoomKey::new(standing.room));
        let note = Note {
            room: room.clone(),
            state: if ready_at <= event.received.at { State::Pending } else { State::Gathering },
            reason: story.reason.as_str().to_owned(),
            story: *story,
            gather: gather.cloned(),
            ready_at,
            streak: new.streak.clone(),
            ..self.blank(event, new)
        };
        self.add(note, seq);
        if let Some(streak) = &new.streak {
            batch.news.insert(streak, seq);
        }
        let ready_at = ready_at.as_microsecond();
        let wake_at = closed_until.map_or(ready_at, |until| until.max(ready_at));
        let first = batch.ready.entry(room).or_insert(wake_at);
        *first = wake_at.min(*first);
        batch.receipt.pending += 1;
    }

    fn suppressed<'a>(
        &mut self,
        event: &DecidedEvent,
        new: &'a NewNotification,
        seq: i64,
        (reason, detail): (SuppressReason, &str),
        batch: &mut Batch<'a>,
    ) {
        if self.is_known(event, new) {
            return;
        }
        let state = State::Ended(Outcome::Suppressed);
        let (reason_text, detail) = (reason.as_str().to_owned(), detail.to_owned());
        self.add(Note { state, reason: reason_text, detail, ..self.blank(event, new) }, seq);
        if !matches!(new.fate, Fate::Suppress { .. }) {
            batch.untold.extend(new.streak.as_ref());
        }
        *batch.receipt.suppressed.entry(reason).or_default() += 1;
    }

    fn is_known(&self, event: &DecidedEvent, new: &NewNotification) -> bool {
        let known =
            self.by_event.get(&event.id).is_some_and(|of_event| of_event.contains_key(&new.integration));
        known && !self.flaws.no_dedup
    }

    pub(super) fn blank(&self, event: &DecidedEvent, new: &NewNotification) -> Note {
        Note {
            event: event.id.clone(),
            integration: new.integration.clone(),
            room: new.room.clone(),
            state: State::Pending,
            reason: String::new(),
            detail: String::new(),
            story: Story::plain(SendReason::EveryRun),
            gather: None,
            ready_at: event.received.at,
            streak: None,
            attempts: 0,
            first_attempt_at: None,
            last_status: None,
            plain: false,
            received_at: event.received.at,
            decided_at: event.received.at,
            sent_at: None,
        }
    }
}
