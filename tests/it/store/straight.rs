//! What is told straight from intake: written first, where others use the store too; or else once, with its outcome,
//! and first whenever anything else comes near it. So nothing can be told from the outside.

use hipchat_notifier::domain::frequency::Streak;
use hipchat_notifier::domain::pacing::Budget;
use hipchat_notifier::domain::reason::Belief;
use hipchat_notifier::ports::{
    ClaimTerms, IntakeChanges, Retry, RoomLine, Settled, Then, TokenCalls, Transition,
};

use super::lab::*;

/// The failure `id` of `who`'s monitor, which moves its streak.
fn failure(id: &str, who: &str, ms: i64) -> IntakeChanges {
    let streak = Streak { failures: 1, first_failed_at: Some(at(ms)), newest: None, belief: Belief::Failing };
    IntakeChanges {
        events: vec![news(id, who, ms)],
        streaks: vec![(streak_key(who, "m"), streak)],
        ..IntakeChanges::default()
    }
}

fn two(first: IntakeChanges, second: IntakeChanges) -> IntakeChanges {
    IntakeChanges {
        events: [first.events, second.events].concat(),
        streaks: [first.streaks, second.streaks].concat(),
        ..IntakeChanges::default()
    }
}

/// An attempt at millisecond 2 that got no answer.
fn unanswered(line: &RoomLine) -> Transition {
    let (status, detail) = (None, "no answer".into());
    Transition::Attempted { seqs: seqs(line), at: at(2), status, detail, plain_next: false }
}

async fn written(desk: &Desk, taken: &Taken) {
    if let Some(in_hand) = taken.in_hand {
        desk.0.written(in_hand).await.unwrap();
    }
}

pub async fn the_outcome_is_the_only_write(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    let taken = desk.take_telling(0, TERMS, failure("e1", "a", 0)).await;
    let line = taken.line();
    assert_eq!((&line.room, ids(line)), (&room("1"), vec!["e1".to_owned()]));
    assert_eq!(line.waiting[0].received.envelope, envelope("e1"));
    assert!(desk.explain("e1").await.is_empty(), "the broker has it still");
    assert!(desk.claim(0).await.is_empty());

    let mut s = settlement(line, 5, all_sent(line, 5), RELEASE);
    s.state.meter.record(Budget::ROOM, at(5), 1);
    let (token, hint) = (line.tokens.keys().next().unwrap().clone(), Default::default());
    s.calls = vec![TokenCalls { token, calls: 1, hint, blocked_until: None }];
    assert_eq!(desk.0.settle(s.clone()).await.unwrap(), Settled::AtRest);
    written(&desk, &taken).await;
    let entry = &desk.explain("e1").await[0];
    assert_eq!((entry.attempts, entry.received_at, entry.sent_at), (1, at(0), Some(at(5))));
    assert_eq!(desk.fate("e1", "a").await, "sent failure");
    assert_eq!(desk.belief("a").await, Some(Belief::Failing));
    assert_eq!(desk.0.next_due().await.unwrap(), None);
    assert_eq!(desk.0.settle(s).await.unwrap(), Settled::LostClaim, "only once");

    // All that it changed is there for who comes later, also after a restart.
    drop(desk);
    let desk = Desk(lab.worker().await.unwrap());
    desk.tell("e2", "a", 6).await;
    let next = desk.claim_one(6).await;
    assert!(next.claim > taken.line().claim && next.waiting[0].seq > taken.line().waiting[0].seq);
    assert_eq!(next.state.meter.spent(Budget::ROOM, at(6)), 1);
    let one = ClaimTerms { token_budget: Budget { messages: 1, ..Budget::TOKEN }, ..TERMS };
    desk.finish(&next, 7, vec![]).await;
    let next = desk.0.claim_rooms(one, at(8)).await.unwrap().remove(0);
    assert_eq!(next.tokens.values().next().unwrap().calls, 0, "the call was counted");
}

pub async fn what_is_handed_out_is_written_and_its_room_is_held(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    let taken = desk.take_telling(0, TERMS, failure("e1", "a", 0)).await;
    let line = taken.line();
    assert_eq!((&line.room, ids(line)), (&room("1"), vec!["e1".to_owned()]));
    assert_eq!(line.waiting[0].received.envelope, envelope("e1"));
    assert!(taken.in_hand.is_none(), "the broker may forget it");
    assert_eq!(desk.fate("e1", "a").await, "pending failure");
    assert_eq!(desk.belief("a").await, Some(Belief::Failing));
    assert!(desk.claim(29_999).await.is_empty(), "by its lease");

    // Where its worker has died, another goes on, and it can't.
    let other = Desk(lab.tool().await.unwrap());
    let lapsed = other.claim_one(30_000).await;
    assert_eq!((ids(&lapsed), seqs(&lapsed)), (ids(line), seqs(line)));
    assert!(lapsed.claim > line.claim);
    assert_eq!(desk.settle(line, 30_001, all_sent(line, 30_001), RELEASE).await, Settled::LostClaim);
    let told = other.settle(&lapsed, 30_002, all_sent(&lapsed, 30_002), RELEASE).await;
    assert_eq!(told, Settled::AtRest);
    let next = other.take_telling(30_003, TERMS, failure("e2", "a", 30_003)).await;
    assert!(next.line().claim > lapsed.claim);
    assert_eq!(other.0.next_due().await.unwrap(), Some(at(60_003)), "when that lease lapses");
}

pub async fn who_dies_meanwhile_has_taken_nothing_in(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    assert_eq!(desk.take_telling(0, TERMS, failure("e1", "a", 0)).await.lines.len(), 1);
    drop(desk);
    let desk = Desk(lab.worker().await.unwrap());
    assert!(desk.explain("e1").await.is_empty());
    assert_eq!(desk.belief("a").await, None, "so it is decided again as before");
    let again = desk.take_telling(1, TERMS, failure("e1", "a", 1)).await;
    assert_eq!(ids(again.line()), ["e1"]);
}

pub async fn what_takes_long_is_written_down_and_its_room_stays_held(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    let taken = desk.take_telling(0, TERMS, failure("e1", "a", 0)).await;
    written(&desk, &taken).await;
    assert_eq!(desk.fate("e1", "a").await, "pending failure");
    assert_eq!(desk.belief("a").await, Some(Belief::Failing));
    assert!(desk.claim(29_999).await.is_empty());
    let line = taken.line();
    desk.finish(line, 3, all_sent(line, 3)).await;
    assert_eq!(desk.fate("e1", "a").await, "sent failure");
}

/// As where the session ends that waits for it.
pub async fn who_stops_waiting_for_what_takes_long_changes_nothing(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    let taken = desk.take_telling(0, TERMS, failure("e1", "a", 0)).await;
    let soon = std::time::Duration::from_millis(1);
    assert!(tokio::time::timeout(soon, desk.0.written(taken.in_hand.unwrap())).await.is_err());
    assert!(desk.explain("e1").await.is_empty());
    written(&desk, &taken).await;
    assert_eq!(desk.fate("e1", "a").await, "pending failure", "who asks again waits for it too");
    written(&desk, &taken).await;
}

pub async fn what_fails_waits_as_any_other(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    let taken = desk.take_telling(0, TERMS, failure("e1", "a", 0)).await;
    let line = taken.line();
    let failed = Transition::Attempted {
        seqs: seqs(line),
        at: at(1),
        status: Some(503),
        detail: "down".into(),
        plain_next: false,
    };
    let mut s = settlement(line, 1, vec![failed], Then::Hold);
    s.state.retry = Some(Retry { failures: 1, at: at(1_000) });
    assert_eq!(desk.0.settle(s.clone()).await.unwrap(), Settled::Applied);
    written(&desk, &taken).await;
    let entry = &desk.explain("e1").await[0];
    assert_eq!((entry.attempts, entry.detail.as_str()), (1, "down"));
    s.transitions.clear();
    s.then = Then::Rest { until: at(1_000) };
    assert_eq!(desk.0.settle(s).await.unwrap(), Settled::Applied);
    let again = desk.claim_one(1_000).await;
    assert_eq!((seqs(&again), again.waiting[0].attempts), (seqs(line), 1));
    let later = desk.take_telling(1_001, TERMS, failure("e2", "a", 1_001)).await;
    assert!(later.lines.is_empty(), "a room that fails, or is held, is not idle");
}

pub async fn who_comes_later_comes_behind_it(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    let first = desk.take_telling(0, TERMS, failure("e1", "a", 0)).await;
    // The same event again, and another for the same room.
    let again = desk.take_telling(1, TERMS, two(failure("e1", "a", 1), failure("e2", "a2", 1))).await;
    assert!(again.lines.is_empty());
    written(&desk, &first).await;
    assert_eq!(desk.fate("e1", "a").await, "pending failure");
    assert!(desk.claim(2).await.is_empty(), "the room is held");
    desk.finish(first.line(), 2, all_sent(first.line(), 2)).await;
    let line = desk.claim_one(2).await;
    assert_eq!(ids(&line), ["e2"]);
    assert!(line.claim > first.line().claim && line.waiting[0].seq > first.line().waiting[0].seq);
}

/// Tells the room of "a" `e1`, straight and with a call of its token, and is done with it.
async fn told_once(desk: &Desk) {
    let taken = desk.take_telling(0, TERMS, failure("e1", "a", 0)).await;
    let line = taken.line();
    let (token, hint) = (line.tokens.keys().next().unwrap().clone(), Default::default());
    let mut s = settlement(line, 5, all_sent(line, 5), RELEASE);
    s.calls = vec![TokenCalls { token, calls: 1, hint, blocked_until: None }];
    s.state.meter.record(Budget::ROOM, at(5), 1);
    assert_eq!(desk.0.settle(s).await.unwrap(), Settled::AtRest);
    written(desk, &taken).await;
}

pub async fn nothing_overtakes_what_waits_in_a_room_that_was_told_so(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    told_once(&desk).await;
    desk.tell("e2", "a", 6).await;
    assert!(desk.take_telling(7, TERMS, failure("e3", "a", 7)).await.lines.is_empty());
    assert_eq!(ids(&desk.claim_one(8).await), ["e2", "e3"]);
}

pub async fn what_was_told_so_counts_for_its_room_and_its_token(lab: &dyn Lab) {
    let one = |budget: Budget| Budget { messages: 1, ..budget };
    let desk = Desk::new(lab).await;
    told_once(&desk).await;
    let room_is_full = ClaimTerms { room_budget: one(Budget::ROOM), ..TERMS };
    assert!(desk.take_telling(6, room_is_full, failure("e2", "a", 6)).await.lines.is_empty());
    let second = desk.claim_one(7).await;
    desk.finish(&second, 8, all_sent(&second, 8)).await;
    let token_is_empty = ClaimTerms { token_budget: one(Budget::TOKEN), ..TERMS };
    assert!(desk.take_telling(9, token_is_empty, failure("e3", "a", 9)).await.lines.is_empty());
}

/// What was written of its batch may be brought into its line, and was there first.
pub async fn it_keeps_its_place_among_those_of_its_batch(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    let first_two = two(failure("e1", "a", 0), failure("e2", "a2", 0));
    let taken = desk.take_telling(0, TERMS, two(first_two, failure("e3", "b", 0))).await;
    let line = taken.line();
    assert_eq!(ids(line), ["e3"]);
    let verb = lab.tool().await.unwrap();
    verb.apply(vec![definition("a", "2", "ta")], hipchat_notifier::ports::ManagedBy::Operator, at(1))
        .await
        .unwrap();
    desk.finish(line, 2, vec![unanswered(line)]).await;
    let lines = desk.claim(3).await;
    let of_two = lines.iter().find(|line| line.room == room("2")).expect("the room");
    assert_eq!(ids(of_two), ["e1", "e3"]);
}

pub async fn only_an_idle_and_open_room_and_what_stands_alone_is_told_straight(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    let none = |taken: Taken, why: &str| assert!(taken.lines.is_empty() && taken.in_hand.is_none(), "{why}");
    none(
        desk.take_telling(0, TERMS, two(failure("r1", "a", 0), failure("r2", "a2", 0))).await,
        "two for one room",
    );
    none(desk.take_telling(1, TERMS, failure("r3", "a", 1)).await, "something waits in the room");
    none(
        desk.take_telling(2, TERMS, two(failure("s1", "b", 2), failure("s2", "b", 2))).await,
        "two of one streak",
    );
    let both = IntakeChanges {
        events: vec![decided("both", 3, &[("c", "3", tell(3)), ("a", "1", passing())])],
        ..IntakeChanges::default()
    };
    none(desk.take_telling(3, TERMS, both).await, "an event for two");
    for line in desk.claim(3).await {
        desk.finish(&line, 3, all_sent(&line, 3)).await;
    }
    desk.0.pause(&integration("c"), at(4)).await.unwrap();
    none(desk.take_telling(4, TERMS, failure("p", "c", 4)).await, "paused");
    assert_eq!(desk.fate("p", "c").await, "suppressed integration-paused");
    let closed = ClaimTerms { token_budget: Budget { messages: 0, ..Budget::TOKEN }, ..TERMS };
    none(desk.take_telling(5, closed, failure("t", "b", 5)).await, "no call is left");
    let line = desk.claim_one(5).await;
    desk.finish(&line, 5, all_sent(&line, 5)).await;
    let full = ClaimTerms { room_budget: Budget { messages: 0, ..Budget::ROOM }, ..TERMS };
    none(desk.take_telling(6, full, failure("f", "b", 6)).await, "the room's budget is used up");
    let line = desk.claim_one(6).await;
    desk.finish(&line, 6, all_sent(&line, 6)).await;
    let taken = desk.take_telling(7, TERMS, two(failure("g1", "a", 7), failure("g2", "b", 7))).await;
    assert_eq!(taken.lines.len(), 2, "and then it is");
}

pub async fn no_more_rooms_are_handed_out_than_asked_for(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    for (most, events) in [(0, ["f1", "f2"]), (1, ["g1", "g2"])] {
        let both = two(failure(events[0], "a", 0), failure(events[1], "b", 0));
        let taken = desk.take_telling_at_most(most, 0, TERMS, both).await;
        assert_eq!(taken.lines.len(), most);
        // The others wait as any.
        let claimed = desk.claim(1).await;
        assert_eq!(claimed.len(), 2 - most);
        for line in taken.lines.iter().chain(&claimed) {
            desk.finish(line, 2, all_sent(line, 2)).await;
        }
    }
}

pub async fn a_token_is_not_overdrawn_by_what_is_handed_out(lab: &dyn Lab) {
    let desk = Desk(lab.worker().await.unwrap());
    let definitions = ["x", "y", "z"].map(|id| definition(id, id, "t"));
    desk.0.apply(definitions.into(), hipchat_notifier::ports::ManagedBy::Operator, at(0)).await.unwrap();
    let two_calls = ClaimTerms { token_budget: Budget { messages: 2, ..Budget::TOKEN }, ..TERMS };
    let events = ["x", "y", "z"].map(|who| decided(who, 0, &[(who, who, tell(0))]));
    let taken =
        desk.take_telling(0, two_calls, IntakeChanges { events: events.into(), ..Default::default() }).await;
    assert_eq!(taken.lines.len(), 2);
    let line = desk.0.claim_rooms(two_calls, at(1)).await.unwrap().remove(0);
    assert_eq!((ids(&line), line.tokens.values().next().unwrap().calls), (vec!["z".to_owned()], 0));
}

/// Something is moved to a room, by another process, while that room is told straight.
pub async fn a_room_that_gets_more_meanwhile_is_not_claimed_twice(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    desk.tell("moved", "b", 0).await;
    let taken = desk.take_telling(1, TERMS, failure("e1", "a", 1)).await;
    let line = taken.line();
    let verb = lab.tool().await.unwrap();
    verb.apply(vec![definition("b", "1", "tb")], hipchat_notifier::ports::ManagedBy::Operator, at(2))
        .await
        .unwrap();
    assert!(desk.claim(3).await.is_empty(), "it is held");
    assert_eq!(desk.settle(line, 4, all_sent(line, 4), RELEASE).await, Settled::Applied);
    assert_eq!(ids(&desk.claim_one(4).await), ["moved"]);
    assert_eq!(desk.fate("e1", "a").await, "sent failure");
}

/// A verb pauses the integration, or moves it, while its room is told.
pub async fn a_change_of_its_integration_meanwhile_counts(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    let taken = desk.take_telling(0, TERMS, two(failure("e1", "a", 0), failure("e2", "b", 0))).await;
    let verb = lab.tool().await.unwrap();
    verb.pause(&integration("a"), at(1)).await.unwrap();
    verb.apply(vec![definition("b", "9", "tb")], hipchat_notifier::ports::ManagedBy::Operator, at(1))
        .await
        .unwrap();
    for line in &taken.lines {
        desk.finish(line, 2, vec![unanswered(line)]).await;
    }
    assert_eq!(desk.fate("e1", "a").await, "suppressed integration-paused");
    let line = desk.claim_one(3).await;
    assert_eq!((&line.room, ids(&line)), (&room("9"), vec!["e2".to_owned()]));
}

/// The new room knows nothing of what the old one was just told, or will be told by way of the line.
pub async fn who_is_moved_meanwhile_is_told_anew_what_fails(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    let taken = desk.take_telling(0, TERMS, two(failure("e1", "a", 0), failure("e2", "b", 0))).await;
    let verb = lab.tool().await.unwrap();
    let moved = vec![definition("a", "8", "ta"), definition("b", "9", "tb")];
    verb.apply(moved, hipchat_notifier::ports::ManagedBy::Operator, at(1)).await.unwrap();
    for (line, written_first) in taken.lines.iter().zip([false, true]) {
        if written_first {
            written(&desk, &taken).await;
        }
        desk.settle(line, 2, all_sent(line, 2), RELEASE).await;
    }
    for (id, who) in [("e1", "a"), ("e2", "b")] {
        assert_eq!(desk.fate(id, who).await, "sent failure");
        assert_eq!(desk.belief(who).await, Some(Belief::Unsure), "{who}");
    }
    assert!(desk.claim(3).await.is_empty());
}

/// What is in the room was told, whatever became of the integration before that could be noted.
pub async fn who_is_paused_meanwhile_was_told_all_the_same(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    let taken = desk.take_telling(0, TERMS, failure("e1", "a", 0)).await;
    let verb = lab.tool().await.unwrap();
    verb.pause(&integration("a"), at(1)).await.unwrap();
    written(&desk, &taken).await;
    assert_eq!(desk.fate("e1", "a").await, "suppressed integration-paused");
    let line = taken.line();
    desk.finish(line, 2, all_sent(line, 2)).await;
    assert_eq!(desk.fate("e1", "a").await, "sent failure");
}
