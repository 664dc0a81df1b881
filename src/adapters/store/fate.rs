//! What becomes of an intake's decision as its integration stands in the transaction that writes it. Pure.

use std::borrow::Cow;

use jiff::Timestamp;

use crate::domain::ids::{GatherKey, TokenKey};
use crate::domain::reason::SuppressReason;
use crate::domain::story::Story;
use crate::ports::Fate;

/// What intake and claims need to know of an integration.
#[derive(Debug, Clone)]
pub struct Standing {
    pub room: String,
    pub token: TokenKey,
    pub paused: bool,
    pub suspended: Option<String>,
    /// Its throttle lets nothing out before this.
    pub closed_until: Option<i64>,
}

/// What a decision comes to, as its integration stands now.
pub enum Now<'a> {
    /// The story, when it is ready, and what it gathers with.
    Told(&'a Story, Timestamp, Option<&'a GatherKey>),
    Suppressed(SuppressReason, Cow<'a, str>),
}

/// A decision may be a moment older than a change of its integration; the change wins. A dead letter that
/// was put back is told whatever the state, as long as there is somebody to tell: whoever put it back wants
/// to see what becomes of it.
pub fn fate_by_now<'a>(fate: &'a Fate, received_at: Timestamp, standing: Option<&Standing>) -> Now<'a> {
    let (told, deaf) = match fate {
        Fate::Suppress { reason, detail } => return Now::Suppressed(*reason, detail.into()),
        Fate::Tell { story, ready_at, gather } => {
            (Now::Told(story, *ready_at, gather.as_ref()), deaf(standing))
        }
        Fate::Retell { story } => {
            let gone = if standing.is_none() { deaf(None) } else { None };
            (Now::Told(story, received_at, None), gone)
        }
    };
    deaf.map_or(told, |(reason, detail)| Now::Suppressed(reason, detail.into()))
}

/// Why an integration is not to be told anything now, if so: a change that the decision had not seen yet.
fn deaf(standing: Option<&Standing>) -> Option<(SuppressReason, String)> {
    match standing {
        None => Some((SuppressReason::Removed, "there is no such integration any more".to_owned())),
        Some(Standing { paused: true, .. }) => Some((SuppressReason::Paused, String::new())),
        Some(Standing { suspended: Some(reason), .. }) => Some((SuppressReason::Suspended, reason.clone())),
        Some(_) => None,
    }
}
