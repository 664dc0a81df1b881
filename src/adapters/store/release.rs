//! When a room is looked at next, after a step on it was settled. Pure.

use std::cmp::{max, min};

use jiff::Timestamp;

use super::rows::{micros, time};
use crate::ports::{Settled, Settlement, Then};

/// A held room's row, as far as settling looks at it.
pub struct Held {
    /// Microseconds.
    pub lease: i64,
    /// When the first of what arrived meanwhile gets ready.
    pub fresh_at: Option<i64>,
    /// Of the integrations, as the holder knew them.
    pub revision: u64,
}

/// What waits in a room that is given back, after its settlement.
pub struct Left {
    /// When the first of what gathers gets ready.
    pub next_ready: Option<Timestamp>,
    /// When the first throttle opens that keeps something waiting.
    pub next_opening: Option<Timestamp>,
    /// Whether something can be told now, as far as its integration's throttle goes.
    pub has_ready: bool,
}

/// When and by whom a room is looked at next.
#[derive(Default)]
pub struct Next {
    pub lease_until: Option<i64>,
    pub due_at: Option<i64>,
    pub hold_until: Option<i64>,
    pub fresh_at: Option<i64>,
}

impl Next {
    /// What became of the settlement that came to this.
    pub fn settled(&self) -> Settled {
        if self.due_at.is_none() { Settled::AtRest } else { Settled::Applied }
    }
}

impl Held {
    /// A sign of life: the lease counts from now.
    pub fn renewed(&self, now: Timestamp) -> Next {
        let lapse = Some(micros(now).saturating_add(self.lease));
        Next { lease_until: lapse, due_at: lapse, hold_until: None, fresh_at: self.fresh_at }
    }

    /// When to look at a released room again: when the holder says, or earlier if something that it has not seen
    /// is ready before, but not before anything can be sent at all. Ready ones are never left without a time.
    pub fn released(&self, s: &Settlement, left: &Left) -> Next {
        let (look_at, until) = match s.then {
            Then::Hold => return self.renewed(s.now),
            Then::Release { due } => (due, None),
            Then::Rest { until } => (Some(until), Some(until)),
        };
        let retry = s.state.retry.map(|retry| retry.at);
        // Before this nothing can go out to the room, whatever arrives.
        let hold =
            [retry, s.state.meter.blocked_until, until].into_iter().flatten().filter(|at| *at > s.now).max();
        let not_before = |at: Timestamp| hold.map_or(at, |hold| max(at, hold));
        let mut due = [None, None, left.next_ready.map(not_before), left.next_opening.map(not_before)];
        if left.has_ready {
            // What is ready beside those that were closed, the holder has not seen.
            let look_at = look_at.filter(|_| s.closed.is_empty());
            due[0] = Some(look_at.unwrap_or_else(|| not_before(s.now)));
            due[1] = self.fresh_at.map(|at| not_before(time(at)));
        }
        let due = due.into_iter().flatten().reduce(min);
        Next { due_at: due.map(micros), hold_until: hold.map(micros), ..Next::default() }
    }
}
