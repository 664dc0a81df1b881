//! What a pending notification waits for, and until when: what `explain` says of it.

use std::fmt;

use jiff::Timestamp;

use super::line::RoomState;
use super::pacing::{Budget, Meter};
use super::reason::WaitReason;

/// Where a pending notification is, as the store has it.
#[derive(Debug, Clone, PartialEq)]
pub enum Whereabouts {
    /// Collated with its repeats; told at this time.
    Collation { until: Timestamp },
    /// In a scheduled digest, told at this time.
    Digest { until: Timestamp },
    /// In its room's line.
    Line(Box<Place>),
    /// Given up; its letter is not confirmed yet.
    Outbox,
}

/// A place in a room's line, and all that may keep it waiting.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Place {
    /// Others before it in the line, without those that wait for their own integration's throttle.
    pub ahead: u64,
    pub room: RoomState,
    /// When the room is looked at next.
    pub due_at: Option<Timestamp>,
    /// Until when a worker has the room in hand.
    pub held_until: Option<Timestamp>,
    /// Until when the integration's own throttle is closed.
    pub throttled_until: Option<Timestamp>,
    /// What was spent of the token's budget.
    pub token: Option<(Meter, Budget)>,
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitsFor {
    /// The end of a collation.
    Collation,
    /// The time of a scheduled digest.
    Digest,
    /// Something that keeps its room's line, or its integration's part of it.
    Pace(WaitReason),
    /// Those before it in the line.
    Line,
    /// A worker that posts it: it is due, or its room is looked at again at a known time.
    Worker,
    /// The answer to its attempt: a worker has it in hand.
    Answer,
    /// The confirm of its dead letter.
    DeadLetter,
}

impl WaitsFor {
    /// The stable string.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Collation => "collation",
            Self::Digest => "digest",
            Self::Pace(reason) => reason.as_str(),
            Self::Line => "line",
            Self::Worker => "worker",
            Self::Answer => "answer",
            Self::DeadLetter => "dead-letter",
        }
    }
}

/// A wait, as people and programs are told of it. Displays as a sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    pub waits_for: WaitsFor,
    /// When that ends, as far as it is known. Behind others it may take longer.
    pub until: Option<Timestamp>,
    /// Others before it in its room's line.
    pub ahead: u64,
}

/// What a notification that is at `whereabouts` waits for at `now`. Of several things, the one that ends last.
pub fn wait(whereabouts: &Whereabouts, room_budget: Budget, now: Timestamp) -> Wait {
    let of = |waits_for, until| Wait { waits_for, until, ahead: 0 };
    match whereabouts {
        Whereabouts::Outbox => of(WaitsFor::DeadLetter, None),
        Whereabouts::Collation { until } if *until > now => of(WaitsFor::Collation, Some(*until)),
        Whereabouts::Digest { until } if *until > now => of(WaitsFor::Digest, Some(*until)),
        Whereabouts::Collation { .. } | Whereabouts::Digest { .. } => of(WaitsFor::Worker, None),
        Whereabouts::Line(place) => in_line(place, room_budget, now),
    }
}

fn in_line(place: &Place, room_budget: Budget, now: Timestamp) -> Wait {
    let meter = &place.room.meter;
    let room_reason =
        if meter.block(now).is_some() { WaitReason::RateLimited } else { WaitReason::RoomBudget };
    let paces = [
        (WaitReason::Retrying, place.room.retry.map(|retry| retry.at)),
        (room_reason, Some(meter.opens_at(room_budget, now))),
        (WaitReason::IntegrationThrottle, place.throttled_until),
        (WaitReason::TokenBudget, place.token.as_ref().map(|(meter, budget)| meter.opens_at(*budget, now))),
    ];
    let pace = paces
        .into_iter()
        .filter_map(|(reason, until)| Some((WaitsFor::Pace(reason), until.filter(|until| *until > now)?)))
        .max_by_key(|(_, until)| *until);
    let (waits_for, until) = match pace {
        Some((waits_for, until)) => (waits_for, Some(until)),
        None if place.ahead > 0 => (WaitsFor::Line, None),
        // What a worker has in hand, `due_at` says the lapse of.
        None if place.held_until.is_some_and(|until| until > now) => (WaitsFor::Answer, None),
        None => (WaitsFor::Worker, place.due_at.filter(|due| *due > now)),
    };
    Wait { waits_for, until, ahead: place.ahead }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.waits_for {
            WaitsFor::Collation => "collated with its repeats",
            WaitsFor::Digest => "waits for the scheduled digest",
            WaitsFor::Pace(WaitReason::RoomBudget) => "waits for the room's budget",
            WaitsFor::Pace(WaitReason::TokenBudget) => "waits for the token's budget",
            WaitsFor::Pace(WaitReason::IntegrationThrottle) => "waits for its integration's throttle",
            WaitsFor::Pace(WaitReason::RateLimited) => "waits as long as HipChat asked",
            WaitsFor::Pace(WaitReason::Retrying) => "waits for the room's next attempt",
            WaitsFor::Line => "waits in its room's line",
            WaitsFor::Worker if self.until.is_some() => "waits for the next look at its room",
            WaitsFor::Worker => "its turn has come",
            WaitsFor::Answer => "is being posted now",
            WaitsFor::DeadLetter => "waits until its dead letter is confirmed",
        })?;
        if let Some(until) = self.until {
            write!(f, ", until {until:.3}")?;
        }
        match self.ahead {
            0 => Ok(()),
            1 => f.write_str(", behind 1 other"),
            n => write!(f, ", behind {n} others"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::line::Retry;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_764_000_000 + second).unwrap()
    }

    fn spent(budget: Budget) -> Meter {
        let mut meter = Meter::default();
        meter.record(budget, at(0), budget.messages);
        meter
    }

    fn blocked() -> Meter {
        let mut meter = Meter::default();
        meter.block_until(at(50), at(0));
        meter
    }

    fn of_room(room: RoomState) -> Place {
        Place { room, ..Place::default() }
    }

    fn told(place: Place) -> (&'static str, Option<Timestamp>) {
        let wait = wait(&Whereabouts::Line(Box::new(place)), Budget::ROOM, at(1));
        (wait.waits_for.as_str(), wait.until)
    }

    #[test]
    fn each_thing_that_keeps_a_line_waiting_is_named_with_its_end() {
        let budget = of_room(RoomState { meter: spent(Budget::ROOM), ..RoomState::default() });
        let opens = budget.room.meter.opens_at(Budget::ROOM, at(1));
        assert_eq!(told(budget), ("room-budget", Some(opens)));
        let limited = of_room(RoomState { meter: blocked(), ..RoomState::default() });
        assert_eq!(told(limited), ("rate-limited", Some(at(50))));
        let retry = Some(Retry { failures: 1, at: at(5) });
        let retrying = of_room(RoomState { retry, ..RoomState::default() });
        assert_eq!(told(retrying.clone()), ("retrying", Some(at(5))));
        let throttled = Place { throttled_until: Some(at(9)), ..retrying };
        assert_eq!(told(throttled), ("integration-throttle", Some(at(9))), "the last to end counts");
        let token = Some((spent(Budget::TOKEN), Budget::TOKEN));
        let (word, until) = told(Place { token, ..Place::default() });
        assert!(word == "token-budget" && until.is_some_and(|until| until > at(290)), "{word} {until:?}");
    }

    #[test]
    fn what_nothing_keeps_waits_for_others_or_for_a_worker() {
        let retry = Some(Retry { failures: 1, at: at(0) });
        let over = of_room(RoomState { retry, ..RoomState::default() });
        assert_eq!(told(Place { ahead: 2, ..over.clone() }), ("line", None));
        assert_eq!(told(over.clone()), ("worker", None));
        assert_eq!(told(Place { due_at: Some(at(7)), ..over.clone() }), ("worker", Some(at(7))));
        let held = Place { due_at: Some(at(30)), held_until: Some(at(30)), ..over };
        assert_eq!(told(held.clone()), ("answer", None), "not when its lease lapses");
        let lapsed = Place { due_at: Some(at(0)), held_until: Some(at(0)), ..held.clone() };
        assert_eq!(told(lapsed), ("worker", None), "whoever had it is gone");
        let behind = Place { ahead: 1, ..held.clone() };
        assert_eq!(told(behind), ("line", None));
    }

    #[test]
    fn a_wait_reads_as_a_sentence() {
        let wait = |whereabouts: &Whereabouts, now| wait(whereabouts, Budget::ROOM, now).to_string();
        let digest = Whereabouts::Digest { until: at(60) };
        assert_eq!(wait(&digest, at(0)), "waits for the scheduled digest, until 2025-11-24T16:01:00.000Z");
        assert_eq!(wait(&digest, at(61)), "its turn has come");
        let later = Place { due_at: Some(at(7)), ..Place::default() };
        assert_eq!(
            wait(&Whereabouts::Line(Box::new(later)), at(0)),
            "waits for the next look at its room, until 2025-11-24T16:00:07.000Z"
        );
        let place = of_room(RoomState { meter: blocked(), ..RoomState::default() });
        let line = Whereabouts::Line(Box::new(Place { ahead: 3, ..place }));
        assert_eq!(
            wait(&line, at(0)),
            "waits as long as HipChat asked, until 2025-11-24T16:00:50.000Z, behind 3 others"
        );
        let held = Whereabouts::Line(Box::new(Place { held_until: Some(at(30)), ..Place::default() }));
        assert_eq!(wait(&held, at(0)), "is being posted now");
        assert_eq!(wait(&Whereabouts::Outbox, at(0)), "waits until its dead letter is confirmed");
    }
}
