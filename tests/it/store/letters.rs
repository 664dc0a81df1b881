//! The outbox of letters, forgetting, and the gauges.

use std::sync::Arc;

use hipchat_notifier::domain::envelope::Envelope;
use hipchat_notifier::domain::frequency::Streak;
use hipchat_notifier::domain::reason::{Belief, DeadLetterReason, SuppressReason};
use hipchat_notifier::ports::{
    CollationKey, Fate, Gauges, IntakeChanges, IntakeQuery, Letter, Then, Transition,
};

use super::lab::*;

fn malformed(n: u8) -> Letter {
    Letter {
        id: 0,
        envelope: Envelope { body: vec![n, 0xff, 0x00], message_id: None, ..envelope("x") },
        reason: DeadLetterReason::MalformedEvent,
        detail: format!("field metrics: missing ({n})"),
        event: None,
        integration: None,
        attempts: 0,
        last_status: None,
        first_attempt_at: None,
        at: at(i64::from(n)),
    }
}

async fn post(desk: &Desk, letters: Vec<Letter>) -> usize {
    let letters = letters.into_iter().map(Arc::new).collect();
    desk.change(IntakeChanges { letters, ..IntakeChanges::default() }).await.letters
}

pub async fn malformed_events_are_stored_whole(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    let known = Letter {
        event: Some(event("e1")),
        integration: Some(integration("a")),
        attempts: 3,
        last_status: Some(503),
        first_attempt_at: Some(at(-9)),
        ..malformed(2)
    };
    let empty = Letter { envelope: Envelope::default(), ..malformed(3) };
    let letters = vec![malformed(1), known, empty];
    assert_eq!(post(&desk, letters.clone()).await, 3);
    let mut stored = desk.0.letters(9).await.unwrap();
    assert!(stored.iter().all(|l| l.id > 0));
    for letter in &mut stored {
        letter.id = 0;
    }
    assert_eq!(stored, letters);
}

pub async fn letters_go_oldest_first_and_leave_when_buried(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    post(&desk, (0..5).map(malformed).collect()).await;
    let first = desk.0.letters(2).await.unwrap();
    let bodies: Vec<u8> = first.iter().map(|l| l.envelope.body[0]).collect();
    assert_eq!(bodies, [0, 1]);
    assert_eq!(desk.0.letters(2).await.unwrap(), first, "until they are confirmed");
    desk.0.buried(&[first[1].id], at(1)).await.unwrap();
    let left: Vec<u8> = desk.0.letters(9).await.unwrap().iter().map(|l| l.envelope.body[0]).collect();
    assert_eq!(left, [0, 2, 3, 4]);
}

pub async fn large_letters_come_in_rounds(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    let large = |n| Letter {
        envelope: Envelope { body: vec![n; 3 * 1024 * 1024], ..Envelope::default() },
        ..malformed(n)
    };
    post(&desk, (0..3).map(large).collect()).await;
    let mut seen = Vec::new();
    while let round = desk.0.letters(9).await.unwrap()
        && !round.is_empty()
    {
        assert!(round.len() <= 2);
        let ids: Vec<i64> = round.iter().map(|l| l.id).collect();
        seen.extend(round.iter().map(|l| l.envelope.body[0]));
        desk.0.buried(&ids, at(1)).await.unwrap();
    }
    assert_eq!(seen, [0, 1, 2]);
}

pub async fn forgetting_spares_what_is_open(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    for n in 0..6 {
        desk.take(vec![decided(&format!("s{n}"), n, &[("a", "1", passing())])]).await;
    }
    desk.tell("waits", "a", 0).await;
    desk.tell("buries", "b", 0).await;
    let b = desk.claim(0).await.into_iter().find(|line| line.room == room("2")).unwrap();
    let given_up = Transition::DeadLettered {
        seqs: seqs(&b),
        reason: DeadLetterReason::WorkerFault,
        detail: String::new(),
        at: at(0),
        status: None,
        attempted: false,
    };
    desk.settle(&b, 0, vec![given_up], Then::Hold).await;
    let of = |of: &str| CollationKey { integration: integration("a"), of: of.into() };
    let collations = vec![(of("old"), at(3)), (of("new"), at(4))];
    desk.change(IntakeChanges { collations, ..IntakeChanges::default() }).await;

    assert_eq!(desk.0.forget(at(4), 3).await.unwrap(), 3, "no more than asked");
    assert!(desk.explain("s0").await.is_empty(), "the oldest first");
    assert_eq!(desk.fate("s3", "a").await, "suppressed still-passing");
    assert_eq!(desk.0.forget(at(4), 3).await.unwrap(), 1);
    assert_eq!(desk.0.forget(at(4), 3).await.unwrap(), 0);
    assert!(desk.explain("s3").await.is_empty());
    assert_eq!(desk.fate("s4", "a").await, "suppressed still-passing", "not from before");
    assert_eq!(desk.fate("waits", "a").await, "pending failure");
    assert_eq!(desk.fate("buries", "b").await, "pending dead-lettering");
    let query = IntakeQuery {
        events: vec![event("s0"), event("s4")],
        collations: vec![of("old"), of("new")],
        ..IntakeQuery::default()
    };
    let state = desk.look_up(query).await;
    assert_eq!(state.known, [event("s4")].into());
    assert_eq!(state.collations, [(of("new"), at(4))].into());
    // What is forgotten is new again.
    let receipt = desk.take(vec![decided("s0", 9, &[("a", "1", passing())])]).await;
    assert_eq!(receipt.suppressed[&SuppressReason::StillPassing], 1);
}

pub async fn streaks_are_forgotten_when_no_run_came_for_long(lab: &dyn Lab) {
    const DAY: i64 = 24 * 3_600_000;
    let desk = Desk::new(lab).await;
    let failing = Streak { failures: 2, belief: Belief::Failing, ..Streak::default() };
    let run = async |id: &str, monitor: &str, ms: i64| {
        let events = vec![decided(id, ms, &[("a", "1", passing())])];
        let streaks = vec![(streak_key("a", monitor), failing)];
        desk.change(IntakeChanges { events, streaks, ..IntakeChanges::default() }).await;
    };
    for (n, monitor) in ["gone-1", "gone-2", "gone-3", "alive"].into_iter().enumerate() {
        run(&format!("e{n}"), monitor, 0).await;
    }
    run("e9", "alive", 5 * DAY).await;
    assert_eq!(desk.0.forget_streaks(at(0), 9).await.unwrap(), 0);
    assert_eq!(desk.0.forget_streaks(at(4 * DAY), 2).await.unwrap(), 2, "no more than asked");
    assert_eq!(desk.0.forget_streaks(at(4 * DAY), 2).await.unwrap(), 1);
    assert_eq!(desk.0.forget_streaks(at(4 * DAY), 2).await.unwrap(), 0);
    let streaks = ["gone-1", "alive"].map(|monitor| streak_key("a", monitor)).to_vec();
    let state = desk.look_up(IntakeQuery { streaks, ..IntakeQuery::default() }).await;
    assert_eq!(state.streaks, [(streak_key("a", "alive"), failing)].into());
}

pub async fn gauges_tell_the_load(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    assert_eq!(desk.0.gauges(at(0)).await.unwrap(), Gauges::default());
    post(&desk, vec![malformed(1)]).await;
    let later = |ms| Fate::Tell { story: story(1), ready_at: at(ms), gather: None };
    desk.take(vec![decided("e1", 0, &[("a", "1", later(5_000)), ("b", "2", later(2_000))])]).await;
    let gauges = |ms| {
        let desk = &desk;
        async move { desk.0.gauges(at(ms)).await.unwrap() }
    };
    assert_eq!(gauges(1_000).await, Gauges { pending: 2, oldest_due_seconds: 0.0, letters: 1 });
    assert_eq!(gauges(4_500).await, Gauges { pending: 2, oldest_due_seconds: 2.5, letters: 1 });
    let b = desk.claim_one(4_500).await;
    let given_up = Transition::DeadLettered {
        seqs: seqs(&b),
        reason: DeadLetterReason::WorkerFault,
        detail: String::new(),
        at: at(4_500),
        status: None,
        attempted: false,
    };
    desk.finish(&b, 4_500, vec![given_up]).await;
    assert_eq!(gauges(6_000).await, Gauges { pending: 2, oldest_due_seconds: 1.0, letters: 2 });
}
