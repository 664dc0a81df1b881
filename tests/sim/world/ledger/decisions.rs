//! What a batch decided, against the rules.

use std::collections::BTreeMap;

use hipchat_notifier::domain::ids::IntegrationId;
use hipchat_notifier::domain::reason::DeadLetterReason;
use hipchat_notifier::ports::{DecidedEvent, Fate, IntakeChanges};
use jiff::Timestamp;

use super::{Faults, Handed, History, Kept, Ledger, Means, Registry, RepeatsKey, StreakKey, Verdict, wants};
use crate::world::rulebook::{self, Run};
use crate::world::wishes::Interest;

/// Of integrations that were removed after a batch was read: what it is decided by goes no further than the batch.
#[derive(Default)]
pub(super) struct Departed {
    histories: BTreeMap<StreakKey, History>,
    repeats: BTreeMap<RepeatsKey, Option<i64>>,
}

impl Ledger {
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

    pub(super) fn is_for_all_who_want_it(
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

    pub(super) fn is_in_order(&mut self, event: &DecidedEvent, n: usize, faults: &mut Faults) {
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
    pub(super) fn verdict(
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
}

/// The worker's decision, in the rulebook's words.
fn decision(fate: &Fate) -> Verdict {
    match fate {
        Fate::Tell { story, .. } | Fate::Retell { story } => Verdict::Told(story.reason.as_str()),
        Fate::Suppress { reason, .. } => Verdict::Suppressed(reason.as_str()),
    }
}

/// How the worker's decision differs from the rules', if it does.
pub(super) fn differs(fate: &Fate, verdict: Verdict) -> Option<String> {
    let found = decision(fate);
    (found != verdict).then(|| format!("{found:?}"))
}
