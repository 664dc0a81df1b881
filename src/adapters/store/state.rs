//! The words of a notification's `state`, and what each means. Pure.

use std::borrow::Cow;

use jiff::Timestamp;

use super::rows::time;
use crate::domain::reason::{Outcome, SendReason};
use crate::domain::waits::Whereabouts;
use crate::ports::{StoreError, Transition};

/// Its time has not come.
pub const GATHERING: &str = "gathering";
/// In its room's line.
pub const PENDING: &str = "pending";
/// Given up; its letter is in the outbox.
pub const BURYING: &str = "burying";
/// What `explain` says while a letter waits to be confirmed.
pub const DEAD_LETTERING: &str = "dead-lettering";

/// Whether a notification in this state still waits to be told.
pub fn waits(state: &str) -> bool {
    state == PENDING || state == GATHERING
}

/// Whether a notification in this state is in its room already.
pub fn is_told(state: &str) -> bool {
    state == Outcome::Sent.as_str() || state == Outcome::Digested.as_str()
}

/// Where a notification is, as far as its own row tells.
pub enum Where {
    /// `None`: it has ended.
    Known(Option<Whereabouts>),
    /// In its room's line, whose rows tell the rest.
    InLine,
}

/// Where a notification in this state is.
pub fn place(state: &str, reason: &str, ready_at: Option<i64>) -> Where {
    let until = ready_at.map_or(Timestamp::MIN, time);
    Where::Known(match state {
        BURYING => Some(Whereabouts::Outbox),
        GATHERING if reason == SendReason::Collated.as_str() => Some(Whereabouts::Collation { until }),
        GATHERING => Some(Whereabouts::Digest { until }),
        PENDING => return Where::InLine,
        _ => None,
    })
}

/// How a notification ends.
pub struct Ending<'a> {
    pub outcome: Outcome,
    pub reason: &'a str,
    pub detail: Cow<'a, str>,
    pub at: Timestamp,
    /// What the room's server answered, where it was told: that attempt counts with its end.
    pub status: Option<u16>,
}

impl<'a> Ending<'a> {
    /// How a transition ends its notifications; `None` if it leaves them pending, or for a letter.
    pub fn by(transition: &'a Transition) -> Option<Self> {
        let (outcome, reason) = transition.outcome()?;
        let (detail, at, status) = match transition {
            Transition::Sent { at, status, .. } | Transition::Digested { at, status, .. } => {
                (transition.detail_of_told().into(), *at, Some(*status))
            }
            Transition::Suppressed { detail, at, .. } | Transition::Expired { detail, at, .. } => {
                (detail.into(), *at, None)
            }
            Transition::Attempted { .. } | Transition::DeadLettered { .. } | Transition::Broken { .. } => {
                return None;
            }
        };
        Some(Self { outcome, reason, detail, at, status })
    }
}

/// The outcome that a stored state stands for.
pub fn outcome_of(state: &str) -> Result<Outcome, StoreError> {
    match state {
        GATHERING | BURYING => Ok(Outcome::Pending),
        other => Outcome::from_text(other).ok_or_else(|| {
            StoreError::Corrupt(format!("the journal holds an outcome that is none: {other:?}"))
        }),
    }
}
