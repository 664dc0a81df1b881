//! Who holds which room, and by which claim.

use hipchat_notifier::domain::ids::RoomKey;
use hipchat_notifier::domain::line::RoomLine;
use hipchat_notifier::ports::{Settled, Settlement, Then};
use jiff::Timestamp;

use super::{Faults, Ledger, State};

#[derive(Debug, Clone)]
pub(super) struct Holder {
    life: usize,
    claim: u64,
    since: Timestamp,
    held: bool,
    /// Of the integrations, when it was handed out.
    pub(super) revision: u64,
}

impl Ledger {
    /// A room was handed out at `now`, to who `asked` then: some time ago, if it was stopped meanwhile. Its lease lasts
    /// from when it asked on.
    pub fn claimed(&mut self, life: usize, line: &RoomLine, (asked, now): (Timestamp, Timestamp)) -> Faults {
        let mut faults = Faults::new();
        let room = &line.room;
        if self.jumped && self.plan.shared {
            let robbed = self.holders.get(room).filter(|holder| holder.held);
            self.robbed.extend(robbed.map(|holder| (room.clone(), holder.claim)));
        }
        if let Some(held_for) = self.is_still_held(room, now) {
            faults.push(format!("{room} was handed out while it was held for {held_for} us"));
        }
        for waiting in &line.waiting {
            let pair = (waiting.event.clone(), waiting.integration.clone());
            match self.notes.get_mut(&pair) {
                Some(note) if note.state == State::Waits && note.room == *room => {
                    note.seq = Some(waiting.seq)
                }
                other => faults.push(format!("{room} was handed out with {pair:?}, which is {other:?}")),
            }
            self.seqs.insert(waiting.seq, pair);
        }
        self.held(life, line, asked);
        faults
    }

    /// For how many microseconds the room is held by a lease that has not lapsed.
    pub(super) fn is_still_held(&self, room: &RoomKey, now: Timestamp) -> Option<i128> {
        // Where the clock jumps, a lease lapses early or late.
        let holder = self.holders.get(room).filter(|holder| holder.held && !self.jumped)?;
        let held_for = now.duration_since(holder.since).as_micros();
        (held_for < self.plan.lease.as_micros().cast_signed()).then_some(held_for)
    }

    pub(super) fn held(&mut self, life: usize, line: &RoomLine, since: Timestamp) {
        let (claim, room) = (line.claim, line.room.clone());
        let holder = Holder { life, claim, since, held: true, revision: self.revision };
        self.holders.insert(room.clone(), holder);
        self.claims.insert((life, room), claim);
    }

    /// The only worker has started anew: whoever held a room is gone.
    pub fn claims_voided(&mut self) {
        self.flights.clear();
        self.holders.values_mut().for_each(|holder| holder.held = false);
    }

    /// The number of the latest claim of `room` by `life`.
    pub fn own_claim(&self, life: usize, room: &RoomKey) -> Option<u64> {
        self.claims.get(&(life, room.clone())).copied()
    }

    /// Why `life` must not post to `room`.
    pub fn may_not_post(&self, life: usize, room: &RoomKey) -> Option<String> {
        match self.holders.get(room) {
            Some(holder) if holder.life == life && holder.held => None,
            // Only another's settlement could tell it that the clock has taken the room away.
            _ if self
                .own_claim(life, room)
                .is_some_and(|claim| self.robbed.contains(&(room.clone(), claim))) =>
            {
                None
            }
            other => Some(format!("it does not hold that room: {other:?}")),
        }
    }

    /// A settlement was answered.
    pub fn settled(&mut self, life: usize, s: &Settlement, settled: Settled, now: Timestamp) -> Faults {
        let mut faults = Faults::new();
        let holds = |holder: &&mut Holder| holder.claim == s.claim && holder.held && holder.life == life;
        let held = self.holders.get_mut(&s.room).filter(holds);
        match (settled, held) {
            (Settled::LostClaim, None) => return faults,
            // Lapsed, and looked at by somebody who found nothing to tell.
            (Settled::LostClaim, Some(holder))
                if self.jumped
                    || now.duration_since(holder.since).as_micros()
                        >= self.plan.lease.as_micros().cast_signed() =>
            {
                return faults;
            }
            (Settled::LostClaim, Some(_)) => {
                faults.push(format!("{} was lost though nobody else had it", s.room));
                return faults;
            }
            (Settled::Applied | Settled::AtRest, None) => {
                faults.push(format!("{} was settled by who does not hold it any more", s.room));
                return faults;
            }
            (Settled::Applied | Settled::AtRest, Some(holder)) => {
                holder.since = s.now;
                holder.held = s.then == Then::Hold;
            }
        }
        for transition in &s.transitions {
            self.transition(&s.room, transition, now, &mut faults);
        }
        faults
    }
}
