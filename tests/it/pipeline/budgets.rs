//! Budgets as a room's server counts them: a call that it refused for its limits is a budget that was not kept, unless
//! messages stand in that window of which the workers could not know.

use jiff::SignedDuration;

use super::oracle::Fault;
use super::workload::Scale;
use crate::support::rooms::{Attempt, Posted};

/// Each refused call needs a message of its own that could not be noted, within the longest window before it.
pub fn check(room: &str, calls: &[Attempt], unnoted: &[&Posted], scale: Scale, faults: &mut Vec<Fault>) {
    let window = SignedDuration::try_from(scale.room.1.max(scale.token.1)).expect("short");
    let within = |then: jiff::Timestamp, at: jiff::Timestamp| {
        (SignedDuration::ZERO..=window).contains(&at.duration_since(then))
    };
    // A refusal that was asked of the sandbox says nothing of the worker.
    let refused = |call: &&Attempt| call.status == Some(429) && call.fault.as_deref() != Some("status");
    let refused: Vec<_> = calls.iter().filter(refused).map(|call| call.at).collect();
    for at in &refused {
        let allowed = unnoted.iter().filter(|posted| within(posted.received_at, *at)).count();
        let tried = refused.iter().filter(|then| within(**then, *at)).count();
        if tried > allowed {
            faults.push(Fault::general(format!(
                "over the budgets of {room} at {at}: {tried} calls refused, {allowed} messages not noted"
            )));
        }
    }
}
