//! Claiming and giving back rooms: order, readiness, leases, fences, and when a room is looked at again.

use std::sync::Arc;

use hipchat_notifier::domain::ids::{GatherKey, RoomKey};
use hipchat_notifier::ports::{ClaimTerms, Fate, Retry, RoomLine, RoomState, Settled, Then};

use super::lab::*;

/// Told at `ready`, together with others of `key`.
fn gather(key: &str, ready: i64) -> Fate {
    Fate::Tell { story: story(0), ready_at: at(ready), gather: Some(GatherKey::new(key)) }
}

pub async fn rooms_go_longest_due_first(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    desk.tell("e1", "b", 20).await;
    desk.tell("e2", "c", 10).await;
    desk.tell("e3", "a", 30).await;
    desk.tell("e4", "c", 40).await;
    assert_eq!(desk.0.next_due().await.unwrap(), Some(at(10)));
    let two = ClaimTerms { rooms: 2, ..TERMS };
    let first = desk.0.claim_rooms(two, at(50)).await.unwrap();
    let rooms: Vec<_> = first.iter().map(|line| line.room.clone()).collect();
    assert_eq!(rooms, [room("3"), room("2")]);
    assert_eq!(ids(&first[0]), ["e2", "e4"]);
    assert_eq!(desk.claim_one(50).await.room, room("1"));
    assert!(desk.claim(50).await.is_empty());
}

pub async fn a_line_is_in_order_and_no_longer_than_asked(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    for n in 0..10 {
        let who = if n % 2 == 0 { "a" } else { "a2" };
        // Times that go back don't change the order in which events came.
        desk.tell(&format!("e{n}"), who, 100 - n).await;
    }
    let four = ClaimTerms { line: 4, ..TERMS };
    let line = desk.0.claim_rooms(four, at(200)).await.unwrap().remove(0);
    assert_eq!(ids(&line), ["e0", "e1", "e2", "e3"]);
    let one = &line.waiting[1];
    assert_eq!((&one.integration, one.story, one.ready_at), (&integration("a2"), story(1), at(99)));
    assert_eq!((one.attempts, one.first_attempt_at, one.plain, &one.gather), (0, None, false, &None));
    assert_eq!((&one.received.envelope, one.received.at), (&envelope("e1"), at(99)));
    // What is left is due at once, though the holder asked for no time.
    desk.finish(&line, 200, all_sent(&line, 200)).await;
    assert_eq!(ids(&desk.claim_one(200).await), ["e4", "e5", "e6", "e7", "e8", "e9"]);
}

pub async fn a_line_of_large_events_comes_in_parts(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    for n in 0..12i64 {
        let mut large = decided(&format!("e{n:02}"), n, &[("a", "1", tell(n))]);
        Arc::make_mut(&mut large.received).envelope.body = vec![b'x'; 1024 * 1024];
        desk.take(vec![large]).await;
    }
    let (mut seen, mut parts) = (Vec::new(), 0);
    while seen.len() < 12 {
        let line = desk.claim_one(100).await;
        assert!(!line.waiting.is_empty() && line.waiting.len() <= 8, "{}", line.waiting.len());
        seen.extend(ids(&line));
        parts += 1;
        desk.finish(&line, 100, all_sent(&line, 100)).await;
    }
    assert!(parts > 1);
    assert!(seen.is_sorted(), "{seen:?}");
}

pub async fn what_gathers_comes_when_ready(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    desk.take(vec![decided("g1", 0, &[("a", "1", gather("k", 500))])]).await;
    desk.take(vec![decided("g2", 1, &[("a", "1", gather("k", 300))])]).await;
    assert_eq!(desk.0.next_due().await.unwrap(), Some(at(300)));
    assert!(desk.claim(299).await.is_empty());
    desk.tell("e1", "a2", 2).await;
    let line = desk.claim_one(2).await;
    assert_eq!(ids(&line), ["e1"]);
    desk.finish(&line, 3, all_sent(&line, 3)).await;
    assert_eq!(desk.0.next_due().await.unwrap(), Some(at(300)), "whoever gathers is not forgotten");

    let line = desk.claim_one(300).await;
    assert_eq!(ids(&line), ["g2"]);
    assert_eq!(line.waiting[0].gather, Some(GatherKey::new("k")));
    // A due time for nothing that waits counts for nothing; what gathers does.
    let far = Then::Release { due: Some(at(9_000)) };
    desk.settle(&line, 301, all_sent(&line, 301), far).await;
    let line = desk.claim_one(500).await;
    assert_eq!(ids(&line), ["g1"]);
}

pub async fn a_claimed_room_is_nobody_elses(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    desk.tell("e1", "a", 0).await;
    let line = desk.claim_one(0).await;
    assert!(desk.claim(1).await.is_empty());
    desk.tell("e2", "a", 2).await;
    assert!(desk.claim(29_999).await.is_empty(), "also when something arrives");
    assert_eq!(desk.settle(&line, 3, all_sent(&line, 3), Then::Hold).await, Settled::Applied);
    assert!(desk.claim(30_001).await.is_empty());
}

pub async fn a_lapsed_claim_is_fenced_off(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    desk.tell("e1", "a", 0).await;
    let old = desk.claim_one(0).await;
    assert_eq!(desk.0.next_due().await.unwrap(), Some(at(30_000)), "when the lease lapses");
    let new = desk.claim_one(30_000).await;
    assert!(new.claim > old.claim);
    let mut late = settlement(&old, 30_001, all_sent(&old, 30_001), RELEASE);
    late.state.expired_untold = 7;
    assert_eq!(desk.0.settle(late).await.unwrap(), Settled::LostClaim);
    assert_eq!(desk.fate("e1", "a").await, "pending failure");
    assert_eq!(desk.settle(&new, 30_002, all_sent(&new, 30_002), RELEASE).await, Settled::AtRest);
    assert_eq!(desk.fate("e1", "a").await, "sent failure");

    // A lapsed claim that nobody has followed still holds.
    desk.tell("e2", "a", 40_000).await;
    let line = desk.claim_one(40_000).await;
    assert_eq!(line.state.expired_untold, 0, "nothing of the late settlement was kept");
    assert_eq!(desk.settle(&line, 90_000, all_sent(&line, 90_000), RELEASE).await, Settled::AtRest);
}

pub async fn rooms_that_are_at_work_are_passed_over(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    for (n, who) in ["a", "b", "c"].into_iter().enumerate() {
        desk.tell(&format!("e{n}"), who, n as i64).await;
    }
    let one_room = ClaimTerms { rooms: 1, ..TERMS };
    let claim = async |ms, at_work: &'static [&str]| {
        let is_at_work = Arc::new(move |key: &RoomKey| at_work.iter().any(|id| *key == room(id)));
        let lines = desk.0.claim_others(one_room, is_at_work, at(ms)).await.unwrap();
        lines.into_iter().map(|line| line.room).collect::<Vec<_>>()
    };
    assert_eq!(claim(10, &[]).await, [room("1")]);
    // Their leases have lapsed, as far as this clock can tell. The others still get their turn.
    assert_eq!(claim(90_000, &["1"]).await, [room("2")]);
    assert_eq!(claim(90_001, &["1", "2"]).await, [room("3")]);
    assert!(claim(190_000, &["1", "2", "3"]).await.is_empty());
    assert_eq!(claim(190_001, &["3"]).await, [room("1")]);
}

pub async fn holding_renews_the_lease(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    desk.tell("e1", "a", 0).await;
    let line = desk.claim_one(0).await;
    desk.settle(&line, 20_000, vec![], Then::Hold).await;
    assert!(desk.claim(49_999).await.is_empty());
    assert_eq!(ids(&desk.claim_one(50_000).await), ["e1"]);
}

pub async fn a_released_claim_is_over(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    desk.tell("e1", "a", 0).await;
    let line = desk.claim_one(0).await;
    desk.settle(&line, 1, vec![], Then::Release { due: Some(at(50)) }).await;
    assert_eq!(desk.settle(&line, 2, all_sent(&line, 2), RELEASE).await, Settled::LostClaim);
    assert_eq!(desk.fate("e1", "a").await, "pending failure");
}

pub async fn releasing_says_when_to_look_again(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    desk.tell("e1", "a", 0).await;
    let line = desk.claim_one(0).await;
    desk.settle(&line, 1, vec![], Then::Release { due: Some(at(700)) }).await;
    assert_eq!(desk.0.next_due().await.unwrap(), Some(at(700)));
    assert!(desk.claim(699).await.is_empty());
    let line = desk.claim_one(700).await;
    desk.finish(&line, 701, all_sent(&line, 701)).await;
    assert_eq!(desk.0.next_due().await.unwrap(), None);
}

pub async fn arrivals_wake_a_released_room(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    desk.tell("e1", "a", 0).await;
    let line = desk.claim_one(0).await;
    desk.settle(&line, 1, vec![], Then::Release { due: Some(at(700)) }).await;
    desk.tell("e2", "a2", 5).await;
    assert_eq!(ids(&desk.claim_one(5).await), ["e1", "e2"]);
}

pub async fn arrivals_during_a_claim_are_not_missed(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    for (name, then) in [("none", RELEASE), ("later", Then::Release { due: Some(at(3_600_000)) })] {
        desk.tell(&format!("{name}-1"), "a", 0).await;
        let line = desk.claim_one(10).await;
        desk.tell(&format!("{name}-2"), "a2", 5).await;
        desk.take(vec![decided(&format!("{name}-3"), 6, &[("a", "1", gather("k", 20))])]).await;
        desk.settle(&line, 11, vec![], then).await;
        let line = desk.claim_one(11).await;
        assert_eq!(line.waiting.len(), 2, "{name}");
        desk.finish(&line, 12, all_sent(&line, 12)).await;
        let line = desk.claim_one(20).await;
        desk.finish(&line, 21, all_sent(&line, 21)).await;
    }
}

pub async fn a_resting_room_is_not_woken(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    desk.tell("e1", "a", 0).await;
    let line = desk.claim_one(0).await;
    desk.tell("during", "a", 1).await;
    desk.settle(&line, 2, vec![], Then::Rest { until: at(800) }).await;
    desk.tell("after", "a", 5).await;
    assert_eq!(desk.0.next_due().await.unwrap(), Some(at(800)));
    assert!(desk.claim(799).await.is_empty());
    let line = desk.claim_one(800).await;
    assert_eq!(ids(&line), ["e1", "during", "after"]);
    // The rest is over with the next claim.
    desk.finish(&line, 801, all_sent(&line, 801)).await;
    desk.tell("e2", "a", 802).await;
    assert_eq!(ids(&desk.claim_one(802).await), ["e2"]);
}

pub async fn a_worker_that_begins_looks_again_at_rooms_that_rest(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    let state = RoomState { retry: Some(Retry { failures: 1, at: at(600) }), ..RoomState::default() };
    for (who, then, state) in [
        ("a", Then::Rest { until: at(800) }, RoomState::default()),
        ("b", Then::Release { due: Some(at(600)) }, state),
        ("c", Then::Rest { until: at(900) }, RoomState::default()),
    ] {
        desk.tell(&format!("{who}-1"), who, 0).await;
        let line = desk.claim_one(0).await;
        let mut s = settlement(&line, 1, vec![], then);
        s.state = state;
        desk.0.settle(s).await.unwrap();
    }
    desk.0.look_again(at(5)).await.unwrap();
    let mut lines = desk.claim(5).await;
    lines.sort_by_key(|line| line.room.clone());
    assert_eq!(lines.iter().map(|line| line.room.clone()).collect::<Vec<_>>(), [room("1"), room("3")]);
    // What is held, or rests no more, is left as it is.
    desk.settle(&lines[0], 6, vec![], Then::Rest { until: at(20) }).await;
    desk.0.look_again(at(30)).await.unwrap();
    assert_eq!(desk.claim_one(30).await.room, room("1"));
    assert!(desk.claim(599).await.is_empty(), "one is held, and one is to be retried");
    assert_eq!(desk.claim_one(600).await.room, room("2"));
}

pub async fn a_retrying_room_is_not_woken(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    let mut blocked = RoomState::default();
    blocked.meter.blocked_until = Some(at(600));
    let retry = RoomState { retry: Some(Retry { failures: 1, at: at(600) }), ..RoomState::default() };
    for (who, state) in [("a", retry), ("b", blocked)] {
        desk.tell(&format!("{who}-1"), who, 0).await;
        let line = desk.claim_one(0).await;
        let mut s = settlement(&line, 1, vec![], Then::Release { due: Some(at(600)) });
        s.state = state.clone();
        desk.0.settle(s).await.unwrap();
        desk.tell(&format!("{who}-2"), who, 5).await;
        assert!(desk.claim(599).await.is_empty(), "{who}");
        let line = desk.claim_one(600).await;
        assert_eq!(line.state, state);
        desk.finish(&line, 601, all_sent(&line, 601)).await;
    }
}

pub async fn rooms_to_be_retried_take_no_others_place(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    for who in ["a", "b"] {
        desk.tell(&format!("{who}-1"), who, 0).await;
        let line = desk.claim_one(0).await;
        let mut failed = settlement(&line, 1, vec![], Then::Release { due: Some(at(600)) });
        failed.state.retry = Some(Retry { failures: 1, at: at(600) });
        desk.0.settle(failed).await.unwrap();
    }
    desk.tell("c-1", "c", 700).await;
    assert_eq!(desk.0.next_due().await.unwrap(), Some(at(600)));
    let rooms = |lines: Vec<RoomLine>| lines.into_iter().map(|line| line.room).collect::<Vec<_>>();
    let claim = |rooms, retries| desk.0.claim_rooms(ClaimTerms { rooms, retries, ..TERMS }, at(700));
    assert_eq!(rooms(claim(1, 0).await.unwrap()), [room("3")], "though the others are due longer");
    let first = claim(9, 1).await.unwrap();
    assert_eq!(rooms(first.clone()), [room("1")]);
    assert_eq!(rooms(claim(0, 9).await.unwrap()), [room("2")]);
    // One that has answered is as good as any.
    let mut well = settlement(&first[0], 701, all_sent(&first[0], 701), RELEASE);
    well.state.retry = None;
    desk.0.settle(well).await.unwrap();
    desk.tell("a-2", "a", 702).await;
    assert_eq!(
        rooms(desk.0.claim_rooms(ClaimTerms { retries: 0, ..TERMS }, at(702)).await.unwrap()),
        [room("1")]
    );
}

pub async fn a_room_with_nothing_ready_is_not_handed_out(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    desk.tell("e1", "a", 0).await;
    desk.take(vec![decided("g1", 0, &[("a2", "1", gather("k", 400))])]).await;
    desk.tell("e2", "b", 1).await;
    desk.0.pause(&integration("a"), at(1)).await.unwrap();
    let one = ClaimTerms { rooms: 1, ..TERMS };
    let lines = desk.0.claim_rooms(one, at(2)).await.unwrap();
    assert_eq!(lines.len(), 1, "an empty room takes nobody's place");
    assert_eq!(lines[0].room, room("2"));
    assert_eq!(desk.0.next_due().await.unwrap(), Some(at(400)));
    assert_eq!(ids(&desk.claim_one(400).await), ["g1"]);
}

/// Gives `line` back with integration `who` closed until `ms`.
async fn close(desk: &Desk, line: &RoomLine, now: i64, who: &str, ms: i64) {
    let mut s = settlement(line, now, vec![], Then::Release { due: Some(at(ms)) });
    s.closed = vec![(integration(who), at(ms))];
    assert_eq!(desk.0.settle(s).await.unwrap(), Settled::Applied);
}

pub async fn what_is_throttled_holds_nobody_else_up(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    for n in 0..6 {
        desk.tell(&format!("a{n}"), "a", n).await;
    }
    desk.tell("b0", "a2", 6).await;
    let four = ClaimTerms { line: 4, ..TERMS };
    let line = desk.0.claim_rooms(four, at(10)).await.unwrap().remove(0);
    assert_eq!(ids(&line), ["a0", "a1", "a2", "a3"]);
    close(&desk, &line, 11, "a", 60_000).await;
    let line = desk.0.claim_rooms(four, at(11)).await.unwrap().remove(0);
    assert_eq!(ids(&line), ["b0"], "at once");
    desk.finish(&line, 12, all_sent(&line, 12)).await;
    assert_eq!(desk.0.next_due().await.unwrap(), Some(at(60_000)));

    // What arrives for it does not wake the room; what arrives for others does, and goes alone.
    desk.tell("a6", "a", 20).await;
    assert_eq!(desk.0.next_due().await.unwrap(), Some(at(60_000)));
    desk.tell("b1", "a2", 30).await;
    assert_eq!(ids(&desk.claim_one(30).await), ["b1"]);
    let line = desk.claim_one(30_030).await;
    desk.finish(&line, 30_031, all_sent(&line, 30_031)).await;
    assert!(desk.claim(59_999).await.is_empty());
    assert_eq!(ids(&desk.claim_one(60_000).await), ["a0", "a1", "a2", "a3", "a4", "a5", "a6"]);
}

/// A line much longer than a claim hands out of it.
async fn deep_line(desk: &Desk, who: &str) {
    let deep = (0..1_000).map(|n| decided(&format!("e{n}"), 0, &[(who, home(who), tell(0))]));
    assert_eq!(desk.take(deep.collect()).await.pending, 1_000);
}

pub async fn a_deep_line_is_a_batch_at_a_time_and_lets_others_go_between(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    deep_line(&desk, "a").await;
    let one = ClaimTerms { rooms: 1, ..TERMS };
    let mut told = 0;
    for (turn, who) in [(10, "b"), (20, "c"), (30, "b")] {
        let deep = desk.0.claim_rooms(one, at(turn)).await.unwrap().remove(0);
        assert_eq!((deep.waiting.len(), &ids(&deep)[0]), (TERMS.line, &format!("e{told}")), "it goes on");
        told += TERMS.line;
        // While this batch is told, something comes for another room. There is one place for all of them.
        desk.tell(&format!("first-{turn}"), who, turn + 1).await;
        desk.finish(&deep, turn + 2, all_sent(&deep, turn + 2)).await;
        let other = desk.0.claim_rooms(one, at(turn + 3)).await.unwrap().remove(0);
        assert_eq!(ids(&other), [format!("first-{turn}")], "it waited for one batch and not for the line");
        desk.finish(&other, turn + 4, all_sent(&other, turn + 4)).await;
    }
}

pub async fn a_deep_line_that_is_throttled_hides_nobody_behind_it(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    deep_line(&desk, "a").await;
    let deep = desk.claim_one(1).await;
    close(&desk, &deep, 2, "a", 9_000).await;
    assert_eq!(desk.0.next_due().await.unwrap(), Some(at(9_000)));
    for turn in [10, 20] {
        desk.tell(&format!("first-{turn}"), "a2", turn).await;
        let line = desk.claim_one(turn + 1).await;
        assert_eq!(ids(&line), [format!("first-{turn}")]);
        desk.finish(&line, turn + 2, all_sent(&line, turn + 2)).await;
    }
    assert_eq!(desk.0.next_due().await.unwrap(), Some(at(9_000)), "and wakes nobody before its time");
    assert_eq!(ids(&desk.claim_one(9_000).await)[0], "e0");
}

pub async fn changing_an_integration_opens_its_throttle(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    desk.tell("e1", "a", 0).await;
    let line = desk.claim_one(0).await;
    close(&desk, &line, 1, "a", 60_000).await;
    assert!(desk.claim(2).await.is_empty());
    let mut changed = definition("a", "1", "ta");
    changed.json = r#"{"id":"a","throttle":{}}"#.into();
    desk.0.apply(vec![changed], hipchat_notifier::ports::ManagedBy::Operator, at(3)).await.unwrap();
    assert_eq!(ids(&desk.claim_one(3).await), ["e1"]);
}

pub async fn a_clock_that_is_set_back_silences_nobody(lab: &dyn Lab) {
    const HOUR: i64 = 3_600_000;
    let desk = Desk::new(lab).await;
    for who in ["a", "b", "c"] {
        desk.tell(&format!("{who}1"), who, HOUR).await;
    }
    desk.take(vec![decided("g", HOUR, &[("c", "3", gather("k", HOUR + 9_000))])]).await;
    let lines = desk.claim(HOUR).await;
    assert_eq!(lines.len(), 3);
    // One rests with its budget used up and the server's word, one retries, and one is held by who dies.
    let mut rests = settlement(&lines[0], HOUR, vec![], Then::Rest { until: at(HOUR + 5_000) });
    rests.state.meter.record(TERMS.room_budget, at(HOUR), 30);
    rests.state.meter.block_until(at(HOUR + 5_000), at(HOUR));
    desk.0.settle(rests).await.unwrap();
    let mut retries = settlement(&lines[1], HOUR, vec![], Then::Release { due: Some(at(HOUR + 6_000)) });
    retries.state.retry = Some(Retry { failures: 1, at: at(HOUR + 6_000) });
    retries.closed = vec![(integration("b"), at(HOUR + 7_000))];
    desk.0.settle(retries).await.unwrap();

    assert!(desk.claim(0).await.is_empty(), "nothing is earlier than it would have been");
    assert!(desk.claim(4_999).await.is_empty());
    let line = desk.claim_one(5_000).await;
    let meter = &line.state.meter;
    let opens = meter.opens_at(TERMS.room_budget, at(5_000));
    assert!(opens > at(60_000), "what was spent counts: {opens}");
    assert!(opens < at(15 * 60_000 + 6_000), "but not for an hour: {opens}");
    assert!(desk.claim(6_999).await.is_empty());
    let line = desk.claim_one(7_000).await;
    assert_eq!((ids(&line), line.state.retry.unwrap().at), (vec!["b1".to_owned()], at(6_000)));
    assert_eq!(ids(&desk.claim_one(30_000).await), ["c1", "g"], "a lapsed claim's");
}

pub async fn a_clock_that_is_set_back_twice_takes_no_room_from_its_holder(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    desk.tell("a1", "a", 100_000).await;
    let line = desk.claim_one(100_000).await;
    desk.finish(&line, 100_001, all_sent(&line, 100_001)).await;
    // So little that no wait is moved, and then more.
    desk.tell("b1", "b", 50_000).await;
    let held = desk.claim_one(50_000).await;
    assert!(desk.claim(-20_000).await.is_empty(), "it is held");
    assert_eq!(desk.settle(&held, -19_000, all_sent(&held, -19_000), RELEASE).await, Settled::AtRest);
}
