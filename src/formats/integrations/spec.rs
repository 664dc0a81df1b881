//! An integration's definition as data: what the store keeps as JSON and `show` prints.
//!
//! Fields are named as in the file, so that file, store and API read alike. Defaults are written out: what an
//! integration means does not change when a later version has other defaults.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::words::{self, DETAILS, MONITOR_RESULTS, OVERFLOWS, PINGS, TEAM_ACTIVITY};
use crate::domain::integration::{
    ActivityFilters, ActivityRule, Glob, GlobFilter, Interest, MessageStyle, RunRule, Throttle,
};
use crate::domain::pacing::Budget;
use crate::formats::duration;

/// The version of the JSON that this program writes. A reader ignores fields that it does not know, so the
/// number changes only when a known field changes its meaning.
const VERSION: u32 = 1;

/// `digest` without `every`.
pub(super) const DEFAULT_EVERY: Duration = Duration::from_secs(60 * 60);

/// One integration, without its room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntegrationSpec {
    pub version: u32,
    pub id: String,
    pub name: String,
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub monitors: Vec<String>,
    #[serde(flatten)]
    pub filters: FilterSpec,
    #[serde(default)]
    pub paused: bool,
    pub notify: NotifySpec,
    #[serde(default)]
    pub throttle: ThrottleSpec,
    #[serde(default)]
    pub message: MessageSpec,
}

macro_rules! filters {
    ($(($only:ident, $not:ident)),+ $(,)?) => {
        /// The globs that activities are filtered by.
        #[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
        pub struct FilterSpec {
            $(
                #[serde(default, skip_serializing_if = "Vec::is_empty")]
                pub $only: Vec<String>,
                #[serde(default, skip_serializing_if = "Vec::is_empty")]
                pub $not: Vec<String>,
            )+
        }

        impl FilterSpec {
            /// The fields' names.
            pub(super) const FIELDS: &'static [&'static str] = &[$(stringify!($only), stringify!($not)),+];

            /// The field of that name, which must be one of [`Self::FIELDS`].
            pub(super) fn field_mut(&mut self, name: &str) -> Option<&mut Vec<String>> {
                $(
                    if name == stringify!($only) {
                        return Some(&mut self.$only);
                    }
                    if name == stringify!($not) {
                        return Some(&mut self.$not);
                    }
                )+
                None
            }

            fn compiled(&self) -> ActivityFilters {
                ActivityFilters {
                    $($only: GlobFilter { only: globs(&self.$only), not: globs(&self.$not) }),+
                }
            }
        }
    };
}

filters! {
    (models, not_models),
    (actions, not_actions),
    (users, not_users),
    (collections, not_collections),
    (workspaces, not_workspaces),
}

/// `[integrations.notify]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NotifySpec {
    pub on: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collate: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<String>,
}

/// `[integrations.throttle]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThrottleSpec {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per: Option<String>,
    pub overflow: String,
}

impl Default for ThrottleSpec {
    fn default() -> Self {
        Self { messages: None, per: None, overflow: OVERFLOWS[0].0.to_owned() }
    }
}

/// `[integrations.message]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageSpec {
    pub detail: String,
    pub ping: String,
}

impl Default for MessageSpec {
    fn default() -> Self {
        Self { detail: DETAILS[0].0.to_owned(), ping: PINGS[0].0.to_owned() }
    }
}

impl IntegrationSpec {
    /// An integration of which only the id and the kind are known, with the defaults of that kind.
    pub(super) fn new(id: &str, kind: &str) -> Self {
        Self {
            version: VERSION,
            id: id.to_owned(),
            name: id.to_owned(),
            kind: kind.to_owned(),
            team: None,
            monitors: Vec::new(),
            filters: FilterSpec::default(),
            paused: false,
            notify: NotifySpec::default(),
            throttle: ThrottleSpec::default(),
            message: MessageSpec::default(),
        }
    }

    /// The stored form: one line, fields always in the same order.
    ///
    /// # Errors
    /// None in fact: every field is text, number or list.
    pub(super) fn to_stored_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(self)
    }

    /// Reads the stored form; unknown fields are ignored.
    ///
    /// # Errors
    /// When a known field is missing or of another type.
    pub fn from_json(json: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(json)
    }

    /// A sentence about a stored value that this version does not understand.
    pub(super) fn misread(&self, what: &str) -> String {
        format!(
            "integration \"{}\": {what} in its stored definition (version {}) is unknown to this version of \
             hipchat-notifier; apply the integration again, or run the version that stored it",
            self.id, self.version
        )
    }

    /// What the integration wants to hear of. The error names the value that is not understood.
    pub(super) fn interest(&self) -> Result<Interest, String> {
        match self.kind.as_str() {
            MONITOR_RESULTS => Ok(Interest::MonitorResults {
                monitors: globs(&self.monitors).into(),
                rule: self.notify.run_rule()?,
            }),
            TEAM_ACTIVITY => Ok(Interest::TeamActivity {
                filters: Box::new(self.filters.compiled()),
                rule: self.notify.activity_rule()?,
            }),
            other => Err(format!("the kind \"{other}\"")),
        }
    }

    pub(super) fn throttle(&self) -> Result<Throttle, String> {
        let spec = &self.throttle;
        let overflow = words::meaning(&OVERFLOWS, &spec.overflow)
            .ok_or_else(|| format!("throttle.overflow \"{}\"", spec.overflow))?;
        let budget = match (spec.messages, &spec.per) {
            (Some(messages), Some(per)) => {
                Some(Budget { messages, per: stored_duration("throttle.per", per)? })
            }
            _ => None,
        };
        Ok(Throttle { budget, overflow })
    }

    pub(super) fn style(&self) -> Result<MessageStyle, String> {
        let MessageSpec { detail, ping } = &self.message;
        Ok(MessageStyle {
            detail: words::meaning(&DETAILS, detail).ok_or_else(|| format!("message.detail \"{detail}\""))?,
            ping: words::meaning(&PINGS, ping).ok_or_else(|| format!("message.ping \"{ping}\""))?,
        })
    }
}

impl NotifySpec {
    fn run_rule(&self) -> Result<RunRule, String> {
        let failures = self.failures.unwrap_or(RunRule::DEFAULT_FAILURES);
        match self.on.as_str() {
            "all" => Ok(RunRule::All),
            "failures-then-success" => Ok(RunRule::FailuresThenSuccess { failures }),
            "failures" => Ok(RunRule::Failures),
            "failures-and-recovery" => Ok(RunRule::FailuresAndRecovery),
            "after-failures" => Ok(RunRule::AfterFailures { failures }),
            "changes" => Ok(RunRule::Changes),
            other => Err(format!("notify.on \"{other}\"")),
        }
    }

    fn activity_rule(&self) -> Result<ActivityRule, String> {
        let read = |field, text: &Option<String>, default| match text {
            Some(text) => stored_duration(field, text),
            None => Ok(default),
        };
        match self.on.as_str() {
            "each" => Ok(ActivityRule::Each {
                collate: read("notify.collate", &self.collate, ActivityRule::DEFAULT_COLLATE)?,
            }),
            "digest" => Ok(ActivityRule::Digest { every: read("notify.every", &self.every, DEFAULT_EVERY)? }),
            other => Err(format!("notify.on \"{other}\"")),
        }
    }
}

fn stored_duration(field: &str, text: &str) -> Result<Duration, String> {
    duration::parse(text).map_err(|_| format!("{field} \"{text}\""))
}

fn globs(patterns: &[String]) -> Vec<Glob> {
    patterns.iter().map(|pattern| Glob::new(pattern)).collect()
}
