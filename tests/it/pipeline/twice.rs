//! Messages that a room got once more, and what explains each: it took the first and did not say so, or whoever
//! posted it was cut off before the answer could be noted.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::oracle::Fault;
use crate::support::rooms::{Attempt, Posted};

/// How long after a kill a room may still read what the worker had sent, on a busy machine.
const READ_LATE: Duration = Duration::from_secs(1);

/// When calls to rooms may have been cut off, or their answers kept from being noted: the moment of a kill, or all of
/// a freeze.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    pub from: Timestamp,
    pub to: Timestamp,
}

impl Cut {
    /// At one moment.
    pub fn at(moment: Timestamp) -> Self {
        Self { from: moment, to: moment }
    }
}

/// One room's messages that nothing in the journal stands for.
pub struct Twice<'a> {
    pub room: &'a str,
    pub extra: &'a [&'a Posted],
    pub calls: &'a [Attempt],
    pub cuts: &'a [Cut],
    /// How long before a cut that which it cut off may have got into the room.
    pub reach: Duration,
}

impl Twice<'_> {
    /// Each must be explained: by the room's own record that it took the message and did not say so, or by a cut.
    /// Rooms have one message in flight, so a cut explains one in each. Returns how many the room has withheld an
    /// answer of.
    pub fn check(&self, faults: &mut Vec<Fault>) -> usize {
        let (withheld, others): (Vec<&Posted>, Vec<&Posted>) =
            self.extra.iter().partition(|posted| self.is_withheld(posted));
        let mut spent = BTreeSet::new();
        for posted in others {
            let may_explain = |(n, cut): &(usize, &Cut)| !spent.contains(n) && self.reaches(cut, posted);
            // The one that reaches least far on is of no use for a later message.
            match self.cuts.iter().enumerate().filter(may_explain).min_by_key(|(_, cut)| cut.to) {
                Some((n, _)) => drop(spent.insert(n)),
                None => faults.push(Fault::general(format!(
                    "{} was told twice, and nothing was cut off near: {}, cuts at {:?}",
                    self.room,
                    posted.received_at,
                    self.cuts.iter().map(|cut| (cut.from, cut.to)).collect::<Vec<_>>()
                ))),
            }
        }
        withheld.len()
    }

    fn is_withheld(&self, posted: &Posted) -> bool {
        let mut calls = self.calls.iter().filter(|call| call.sequence == Some(posted.sequence));
        calls.any(|call| !call.status.is_some_and(|status| (200..300).contains(&status)))
    }

    fn reaches(&self, cut: &Cut, posted: &Posted) -> bool {
        let at = posted.received_at;
        let span = |duration| SignedDuration::try_from(duration).expect("short");
        cut.from.duration_since(at) < span(self.reach) && at.duration_since(cut.to) < span(READ_LATE)
    }
}
