//! Who wants to hear of what, in which room, and how often: the integration, and whether an event is for it.

use std::time::Duration;

use wildmatch::WildMatch;

use super::event::{Activity, Event, MonitorRun, Subject};
use super::ids::{IntegrationId, RoomKey, TeamId, TokenKey};
use super::pacing::Budget;

/// One integration, validated. Its room URL with the token lives elsewhere (see `ports::RoomTarget`), so
/// this type can be logged and shown.
#[derive(Debug, Clone, PartialEq)]
pub struct Integration {
    pub id: IntegrationId,
    pub name: String,
    /// `None`: every team.
    pub team: Option<TeamId>,
    pub interest: Interest,
    pub room: RoomKey,
    pub token: TokenKey,
    pub throttle: Throttle,
    pub message: MessageStyle,
    pub state: IntegrationState,
}

/// Which kind of event, of whom, and by which frequency rule.
#[derive(Debug, Clone, PartialEq)]
pub enum Interest {
    /// `kind = "monitor-results"`.
    MonitorResults { monitors: Box<[Glob]>, rule: RunRule },
    /// `kind = "team-activity"`.
    TeamActivity { filters: Box<ActivityFilters>, rule: ActivityRule },
}

impl Interest {
    /// The contract's word for the kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::MonitorResults { .. } => "monitor-results",
            Self::TeamActivity { .. } => "team-activity",
        }
    }

    /// The contract's word for `notify.on`.
    pub fn notify_on(&self) -> &'static str {
        match self {
            Self::MonitorResults { rule, .. } => rule.as_str(),
            Self::TeamActivity { rule, .. } => rule.as_str(),
        }
    }
}

/// `notify.on` for monitor results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunRule {
    All,
    /// Postman's own rule, and the default with 3.
    FailuresThenSuccess {
        failures: u32,
    },
    Failures,
    FailuresAndRecovery,
    AfterFailures {
        failures: u32,
    },
    Changes,
}

impl RunRule {
    /// What an integration gets that says nothing, as in Postman.
    pub const DEFAULT: Self = Self::FailuresThenSuccess { failures: Self::DEFAULT_FAILURES };
    /// Postman's number.
    pub const DEFAULT_FAILURES: u32 = 3;

    /// The contract's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::FailuresThenSuccess { .. } => "failures-then-success",
            Self::Failures => "failures",
            Self::FailuresAndRecovery => "failures-and-recovery",
            Self::AfterFailures { .. } => "after-failures",
            Self::Changes => "changes",
        }
    }
}

/// `notify.on` for team activity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActivityRule {
    /// Zero `collate`: every activity on its own.
    Each { collate: Duration },
    /// One message per interval, counted from the Unix epoch.
    Digest { every: Duration },
}

impl ActivityRule {
    /// `collate` when an integration does not say.
    pub const DEFAULT_COLLATE: Duration = Duration::from_secs(5 * 60);

    /// The contract's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Each { .. } => "each",
            Self::Digest { .. } => "digest",
        }
    }
}

/// An integration's own limit, on top of the room's, and what happens to what is over any limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Throttle {
    /// `None`: only the room's and the token's budgets count.
    pub budget: Option<Budget>,
    pub overflow: Overflow,
}

/// What becomes of notifications that wait because a budget is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overflow {
    /// They are merged into one digest.
    #[default]
    Digest,
    /// Each goes out on its own, later.
    Queue,
}

/// How messages look and whom they wake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MessageStyle {
    pub detail: Detail,
    pub ping: Ping,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Detail {
    #[default]
    Full,
    /// One line.
    Compact,
}

/// HipChat's `notify` flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ping {
    #[default]
    Failures,
    All,
    Never,
}

/// Whether an integration is heard from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum IntegrationState {
    #[default]
    Active,
    /// By its owner.
    Paused,
    /// By the worker, because the room refused it for good; the reason is a sentence for people.
    Suspended { reason: String },
}

impl IntegrationState {
    /// All words of [`Self::as_str`].
    pub const WORDS: [&'static str; 3] = ["active", "paused", "suspended"];

    /// The contract's word.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Suspended { .. } => "suspended",
        }
    }
}

/// Bytes of a value that a pattern is held against. A name can be as long as a body, and thousands of patterns may
/// be held against each.
const MATCHED: usize = 1_024;

/// A pattern with `*` (any run of characters) and `?` (any one); the whole value must match, by case.
#[derive(Debug, Clone, PartialEq)]
pub struct Glob {
    pattern: Box<str>,
    /// `None`: the pattern has no wildcard and stands for itself.
    wild: Option<Box<WildMatch>>,
}

impl Glob {
    /// Any text is a valid pattern.
    pub fn new(pattern: &str) -> Self {
        let wild = pattern.contains(['*', '?']).then(|| Box::new(WildMatch::new(pattern)));
        Self { pattern: pattern.into(), wild }
    }

    /// Whether the whole of `value` matches; of one that is longer than 1,024 bytes, its beginning.
    pub fn matches(&self, value: &str) -> bool {
        match &self.wild {
            Some(wild) => wild.matches(&value[..value.floor_char_boundary(MATCHED)]),
            None => &*self.pattern == value,
        }
    }

    /// The one value that matches, where the pattern has no wildcard.
    pub fn literal(&self) -> Option<&str> {
        self.wild.is_none().then_some(&*self.pattern)
    }
}

/// What a list of globs, and the same list with `not_` before its name, let through.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GlobFilter {
    /// Empty: everything.
    pub only: Vec<Glob>,
    pub not: Vec<Glob>,
}

impl GlobFilter {
    /// Whether something known by any of `names` (uid, name) passes. What has no name passes unless the
    /// filter asks for particular ones.
    pub fn passes(&self, names: &[Option<&str>]) -> bool {
        let hit = |globs: &[Glob]| names.iter().flatten().any(|name| globs.iter().any(|g| g.matches(name)));
        (self.only.is_empty() || hit(&self.only)) && !hit(&self.not)
    }
}

/// Filters for team activity; each is matched against the uid and the name where both exist.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ActivityFilters {
    pub models: GlobFilter,
    pub actions: GlobFilter,
    pub users: GlobFilter,
    pub collections: GlobFilter,
    pub workspaces: GlobFilter,
}

impl ActivityFilters {
    /// The first that does not let the activity through, by its name in an integrations file.
    fn stopping(&self, a: &Activity) -> Option<&'static str> {
        let user = [a.user_id.as_deref(), a.user_name.as_deref()];
        let collection = [a.collection_uid.as_deref(), a.collection_name.as_deref()];
        let workspace = [a.workspace_id.as_deref(), a.workspace_name.as_deref()];
        let all: [(&str, &GlobFilter, &[Option<&str>]); 5] = [
            ("models", &self.models, &[Some(&a.model)]),
            ("actions", &self.actions, &[Some(&a.action)]),
            ("users", &self.users, &user),
            ("collections", &self.collections, &collection),
            ("workspaces", &self.workspaces, &workspace),
        ];
        all.into_iter().find(|(_, filter, names)| !filter.passes(names)).map(|(name, ..)| name)
    }
}

/// Why an integration does not want to hear of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unwanted {
    /// It is for the other kind of event.
    Kind,
    /// It is for one team, and the event is of another or of none.
    Team,
    /// It is for other monitors.
    Monitor,
    /// One of its filters does not let the activity through: its name in an integrations file.
    Filter(&'static str),
}

impl Integration {
    /// Whether the integration wants to hear of `event`, whatever its state and rule say of it later.
    pub fn wants(&self, event: &Event) -> bool {
        self.why_not(event).is_none()
    }

    /// Why the integration does not want to hear of `event`; `None` if it does.
    pub fn why_not(&self, event: &Event) -> Option<Unwanted> {
        let of_team = self.team.is_none() || self.team == event.team;
        match (&self.interest, &event.subject) {
            (Interest::MonitorResults { .. }, Subject::Run(_))
            | (Interest::TeamActivity { .. }, Subject::Activity(_))
                if !of_team =>
            {
                Some(Unwanted::Team)
            }
            (Interest::MonitorResults { monitors, .. }, Subject::Run(run)) => {
                (!wants_monitor(monitors, run)).then_some(Unwanted::Monitor)
            }
            (Interest::TeamActivity { filters, .. }, Subject::Activity(activity)) => {
                filters.stopping(activity).map(Unwanted::Filter)
            }
            _ => Some(Unwanted::Kind),
        }
    }
}

fn wants_monitor(monitors: &[Glob], run: &MonitorRun) -> bool {
    monitors.is_empty() || monitors.iter().any(|g| g.matches(&run.monitor_uid))
}
