//! One event as one integration hears it: told now, told later, or not at all.
//!
//! Gathers nothing itself: the caller hands over what the store knows and keeps what this changes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;

use super::activity;
use super::event::{Activity, Event, MonitorRun, Subject};
use super::frequency::{self, Streak, Verdict};
use super::ids::{EventId, GatherKey, IntegrationId};
use super::integration::{Integration, IntegrationState, Interest, RunRule};
use super::reason::{STALE_IN_WORDS, SendReason, SuppressReason};
use super::story::Story;

/// Whose streak: the contract keeps it per integration, monitor and region.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StreakKey {
    pub integration: IntegrationId,
    pub monitor_uid: Arc<str>,
    /// Empty where the run names no region.
    pub region: Arc<str>,
}

/// Whose repeats: one user on one instance, as one integration hears of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CollationKey {
    pub integration: IntegrationId,
    /// User, model and instance in one text, made by `domain::activity`.
    pub of: String,
}

/// What the store knows, as far as it was asked for. What is missing is new.
#[derive(Debug, Clone, Default)]
pub struct IntakeState {
    /// Ids that have a notification already, whatever became of it.
    pub known: HashSet<EventId>,
    pub streaks: HashMap<StreakKey, Streak>,
    /// Until when repeats are gathered.
    pub collations: HashMap<CollationKey, Timestamp>,
}

/// What intake decided of a notification.
#[derive(Debug, Clone)]
pub enum Fate {
    /// To be told, not before `ready_at`. If the registry says by now that the integration is gone, paused or
    /// suspended, it ends as suppressed with that reason; if its room is another by now, it goes to that
    /// one's line. A notification that is known already stays as it is.
    Tell { story: Story, ready_at: Timestamp, gather: Option<GatherKey> },
    /// Not to be told.
    Suppress { reason: SuppressReason, detail: String },
    /// A dead letter put back for this integration. If the journal knows the notification as dead-lettered or
    /// on its way there (or not at all), it becomes pending anew, at the end of its room's line, with no attempts;
    /// if it knows it as anything else, nothing changes. It is ready at once, and its age counts from this event's
    /// own receipt. An integration that is gone makes it suppressed (`integration-removed`).
    Retell { story: Story },
}

impl Fate {
    /// Whether it tells the room how things are now, so that its loss would leave the room unsure of them. A late
    /// run, and a letter that is put back, are about the past.
    pub fn is_news(&self) -> bool {
        matches!(self, Self::Tell { story, .. } if story.reason != SendReason::Stale)
    }
}

impl IntakeState {
    /// Decides `event` for one integration that wants it, and moves the streak or the collation that belongs
    /// to it. `now` is when the worker got the event.
    ///
    /// A paused or suspended integration's streak stays where it is: it is what the room has been told.
    pub fn decide(&mut self, event: &Event, integration: &Integration, now: Timestamp) -> Fate {
        if let Some(fate) = silenced(&integration.state) {
            return fate;
        }
        match (&event.subject, &integration.interest) {
            (Subject::Run(run), Interest::MonitorResults { rule, .. }) => {
                let streak = self.streaks.entry(streak_key(integration, run)).or_default();
                match frequency::decide(*rule, streak, run, now) {
                    Verdict::Tell(story) => Fate::Tell { story, ready_at: now, gather: None },
                    Verdict::Suppress(reason) => {
                        Fate::Suppress { reason, detail: explain_silence(reason, *rule, streak) }
                    }
                }
            }
            (Subject::Activity(activity), Interest::TeamActivity { rule, .. }) => {
                let key = collation_key(integration, activity);
                let mut until = self.collations.get(&key).copied();
                let telling = activity::decide(*rule, &key.of, &mut until, now);
                if let Some(until) = until {
                    self.collations.insert(key, until);
                }
                Fate::Tell {
                    story: Story::plain(telling.reason),
                    ready_at: telling.ready_at,
                    gather: telling.gather,
                }
            }
            // `Integration::wants` lets no event of the other kind through; told rather than lost if it did.
            (Subject::Run(_), Interest::TeamActivity { .. }) => tell_at_once(SendReason::EveryRun, now),
            (Subject::Activity(_), Interest::MonitorResults { .. }) => {
                tell_at_once(SendReason::Activity, now)
            }
        }
    }
}

fn tell_at_once(reason: SendReason, now: Timestamp) -> Fate {
    Fate::Tell { story: Story::plain(reason), ready_at: now, gather: None }
}

/// The streak that a run of `integration` would move.
pub fn streak_key(integration: &Integration, run: &MonitorRun) -> StreakKey {
    StreakKey {
        integration: integration.id.clone(),
        monitor_uid: run.monitor_uid.clone(),
        region: run.region.clone().unwrap_or_default(),
    }
}

/// The collation that an activity would be a repeat in.
pub fn collation_key(integration: &Integration, activity: &Activity) -> CollationKey {
    CollationKey { integration: integration.id.clone(), of: activity::repeat_of(activity) }
}

/// What becomes of an event for an integration that is not heard from.
fn silenced(state: &IntegrationState) -> Option<Fate> {
    let (reason, detail) = match state {
        IntegrationState::Active => return None,
        IntegrationState::Paused => (SuppressReason::Paused, "the integration is paused".to_owned()),
        IntegrationState::Suspended { reason } => {
            (SuppressReason::Suspended, format!("the integration is suspended: {reason}"))
        }
    };
    Some(Fate::Suppress { reason, detail })
}

/// The sentence that `explain` and `simulate` show beside the reason.
fn explain_silence(reason: SuppressReason, rule: RunRule, streak: &Streak) -> String {
    let n = streak.failures;
    match (reason, rule) {
        (SuppressReason::StillPassing, _) => "a success with no failed run before it".to_owned(),
        (SuppressReason::FailuresAlreadyTold, RunRule::FailuresThenSuccess { failures }) => {
            format!("failed run {n} in a row; the first {failures} were told, the next success will be")
        }
        (SuppressReason::BelowThreshold, RunRule::AfterFailures { failures }) if n > 0 => {
            format!("failed run {n} in a row; the rule tells at {failures}")
        }
        (SuppressReason::BelowThreshold, _) => {
            "a success after failed runs that were too few to be told".to_owned()
        }
        (SuppressReason::AlreadyFailing, _) => format!("failed run {n} in a row; that it fails was told"),
        (SuppressReason::SuccessNotWanted, _) => "the rule tells failed runs only".to_owned(),
        (SuppressReason::Stale, _) => STALE_IN_WORDS.to_owned(),
        (reason, _) => reason.to_string(),
    }
}

#[cfg(test)]
#[path = "intake_tests.rs"]
mod tests;
