//! What of a batch may be told straight from intake, and when one was told and that is all. Pure.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;

use crate::domain::frequency::Streak;
use crate::domain::ids::{IntegrationId, RoomKey};
use crate::domain::reason::Belief;
use crate::domain::story::Story;
use crate::ports::{
    DecidedEvent, Fate, IntakeChanges, NewNotification, Settlement, StreakKey, Then, Transition, Waiting,
};

/// What a batch has, so that what hangs together is seen.
pub struct Choice<'a> {
    integrations: HashMap<&'a IntegrationId, u32>,
    rooms: HashMap<&'a RoomKey, u32>,
    streaks: HashMap<&'a IntegrationId, &'a (StreakKey, Streak)>,
    collating: HashSet<&'a IntegrationId>,
}

impl<'a> Choice<'a> {
    /// Among all of a batch.
    pub fn among(changes: &'a IntakeChanges) -> Self {
        let (mut integrations, mut rooms) = (HashMap::new(), HashMap::new());
        for new in changes.events.iter().flat_map(|event| &event.notifications) {
            *integrations.entry(&new.integration).or_default() += 1;
            if !matches!(new.fate, Fate::Suppress { .. }) {
                *rooms.entry(&new.room).or_default() += 1;
            }
        }
        Self {
            integrations,
            rooms,
            streaks: changes.streaks.iter().map(|moved| (&moved.0.integration, moved)).collect(),
            collating: changes.collations.iter().map(|(key, _)| &key.integration).collect(),
        }
    }

    /// The notification that is all there is of the event, ready, and alone in its room and for its integration.
    pub fn fits<'e>(&self, event: &'e DecidedEvent) -> Option<(&'e NewNotification, &'e Story)> {
        let [new] = &event.notifications[..] else { return None };
        let Fate::Tell { story, ready_at, gather: None } = &new.fate else { return None };
        let alone = self.integrations.get(&new.integration) == Some(&1)
            && self.rooms.get(&new.room) == Some(&1)
            && !self.collating.contains(&new.integration);
        (alone && *ready_at <= event.received.at).then_some((new, story))
    }

    /// The streak that the batch moves of an integration whose notification fits.
    pub fn moved(&self, integration: &IntegrationId) -> Option<&'a (StreakKey, Streak)> {
        self.streaks.get(integration).copied()
    }
}

/// A notification that fits, as its held room has it.
pub fn waiting(seq: i64, event: &DecidedEvent, new: &NewNotification, story: Story) -> Waiting {
    Waiting {
        seq,
        event: event.id.clone(),
        integration: new.integration.clone(),
        story,
        ready_at: event.received.at,
        gather: None,
        attempts: 0,
        first_attempt_at: None,
        plain: false,
        last_answer: String::new(),
        received: event.received.clone(),
        read: event.read.clone(),
    }
}

/// How a handed out notification was told.
pub struct Told {
    pub reason: &'static str,
    pub detail: String,
    pub at: Timestamp,
    pub status: u16,
}

/// How the one notification `seq` of a held room was told, if that is all that the settlement says; `None` if there is
/// more to it.
pub fn told_alone(s: &Settlement, seq: i64) -> Option<Told> {
    let [told @ Transition::Sent { seq: of, reason, at, status }] = &s.transitions[..] else { return None };
    let is_over = matches!(s.then, Then::Release { .. })
        && s.closed.is_empty()
        && s.state.retry.is_none()
        && s.state.meter.blocked_until.is_none();
    (is_over && *of == seq).then(|| Told {
        reason: reason.as_str(),
        detail: told.detail_of_told(),
        at: *at,
        status: *status,
    })
}

/// The streak that a handed out notification has moved, as it is kept. Where another process has moved the integration
/// to another room meanwhile, that room knows nothing of what fails.
pub fn kept_streak(streak: Streak, is_in_same_room: bool) -> Streak {
    if is_in_same_room || streak.failures == 0 || streak.belief == Belief::Passing {
        return streak;
    }
    Streak { belief: Belief::Unsure, ..streak }
}
