//! Taking in: once each, all or nothing, and what is put back from the dead-letter queue.

use hipchat_notifier::domain::frequency::Streak;
use hipchat_notifier::domain::reason::Belief;
use hipchat_notifier::domain::reason::{DeadLetterReason, SendReason, SuppressReason};
use hipchat_notifier::domain::story::Story;
use hipchat_notifier::ports::{
    CollationKey, Fate, IntakeChanges, IntakeQuery, Settled, StoreError, StreakKey, Then, Transition,
};

use super::lab::*;

pub async fn same_event_twice_is_one(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    let batch = || vec![decided("e1", 0, &[("a", "1", tell(0)), ("b", "2", passing())])];
    let first = desk.take(batch()).await;
    assert_eq!((first.pending, first.suppressed.get(&SuppressReason::StillPassing)), (1, Some(&1)));
    let second = desk.take(batch()).await;
    assert_eq!((second.pending, second.suppressed.len()), (0, 0));
    // Another decision on the same event changes nothing either.
    desk.take(vec![decided("e1", 9, &[("a", "1", passing()), ("b", "2", tell(9))])]).await;
    assert_eq!(desk.fate("e1", "a").await, "pending failure");
    assert_eq!(desk.fate("e1", "b").await, "suppressed still-passing");

    let line = desk.claim_one(10).await;
    assert_eq!(line.waiting.len(), 1);
    desk.finish(&line, 10, all_sent(&line, 10)).await;
    desk.take(batch()).await;
    assert_eq!(desk.fate("e1", "a").await, "sent failure");
    assert!(desk.claim(20).await.is_empty());
}

pub async fn same_event_twice_in_one_batch(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    let one = || decided("e1", 0, &[("a", "1", tell(0)), ("a", "1", tell(0)), ("b", "2", passing())]);
    let receipt = desk.take(vec![one(), one()]).await;
    assert_eq!((receipt.pending, receipt.suppressed[&SuppressReason::StillPassing]), (1, 1));
    let line = desk.claim_one(0).await;
    assert_eq!(line.waiting.len(), 1);
    desk.finish(&line, 1, all_sent(&line, 1)).await;
    assert_eq!(desk.0.gauges(at(1)).await.unwrap().pending, 0);
}

pub async fn a_decision_that_panics_changes_nothing(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    let error = desk
        .0
        .take_in(IntakeQuery::default(), Box::new(|_| panic!("a fault in a decision")))
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::Corrupt(_)), "{error}");
    desk.tell("e1", "a", 0).await;
    assert_eq!(desk.fate("e1", "a").await, "pending failure", "the store goes on");
}

pub async fn what_was_taken_in_is_known_to_the_next(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    let key = |region: &str| StreakKey {
        integration: integration("a"),
        monitor_uid: "m".into(),
        region: region.into(),
    };
    let of = |of: &str| CollationKey { integration: integration("a"), of: of.into() };
    // A model without a uid is told apart by its name, which may be long. Not one that packs well.
    let long: String = (0..9_000_u32).map(|n| format!("{:x}", n.wrapping_mul(2_654_435_761) >> 8)).collect();
    let newest = "2026-11-23T10:00:00.123456Z".parse().unwrap();
    let streak =
        Streak { failures: 2, first_failed_at: Some(at(-7)), newest: Some(newest), belief: Belief::Passing };
    desk.change(IntakeChanges {
        events: vec![decided("e1", 0, &[("a", "1", passing())])],
        streaks: vec![
            (key(""), Streak { failures: 1, ..streak }),
            (key("eu"), Streak::default()),
            (key(""), streak),
        ],
        collations: vec![(of("u/i"), at(300)), (of(&long), at(301))],
        letters: Vec::new(),
    })
    .await;
    let state = desk
        .look_up(IntakeQuery {
            events: vec![event("e1"), event("e2")],
            streaks: vec![key(""), key("eu"), key("us")],
            collations: vec![of("u/i"), of("u/j"), of(&long), of(&long[1..])],
        })
        .await;
    assert_eq!(state.known, [event("e1")].into());
    assert_eq!(state.streaks, [(key(""), streak), (key("eu"), Streak::default())].into());
    assert_eq!(state.collations, [(of("u/i"), at(300)), (of(&long), at(301))].into());
}

pub async fn an_integration_that_is_deaf_by_now_is_not_told(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    desk.0.pause(&integration("a"), at(0)).await.unwrap();
    desk.tell("broken", "b", 0).await;
    let line = desk.claim_one(0).await;
    let refused = Transition::Broken {
        integration: integration("b"),
        seqs: seqs(&line),
        detail: "gone".into(),
        at: at(0),
        status: Some(404),
    };
    desk.finish(&line, 0, vec![refused]).await;
    desk.0.remove(&integration("c"), at(0)).await.unwrap();

    let fates = [("a", "1", tell(1)), ("b", "2", tell(1)), ("c", "3", tell(1))];
    let receipt = desk.take(vec![decided("e1", 1, &fates)]).await;
    assert_eq!((receipt.pending, receipt.suppressed.len()), (0, 3));
    assert_eq!(desk.fate("e1", "a").await, "suppressed integration-paused");
    assert_eq!(desk.fate("e1", "b").await, "suppressed integration-suspended");
    assert_eq!(desk.fate("e1", "c").await, "suppressed integration-removed");
    assert!(desk.claim(10).await.is_empty());

    // And one whose room changed is heard in the new one.
    desk.0
        .apply(vec![definition("a", "9", "ta")], hipchat_notifier::ports::ManagedBy::Operator, at(2))
        .await
        .unwrap();
    desk.tell("e2", "a", 3).await;
    assert_eq!(desk.claim_one(3).await.room, room("9"));
}

/// Takes `id` for integration `a` until it is dead-lettered, and the letter confirmed.
async fn bury(desk: &Desk, id: &str, ms: i64) {
    let line = desk.claim_one(ms).await;
    let given_up = Transition::DeadLettered {
        seqs: seqs(&line),
        reason: DeadLetterReason::RetriesExhausted,
        detail: "no answer for 24 h".into(),
        at: at(ms),
        status: None,
        attempted: true,
    };
    desk.finish(&line, ms, vec![given_up]).await;
    let letters: Vec<i64> = desk.0.letters(9).await.unwrap().iter().map(|l| l.id).collect();
    desk.0.buried(&letters, at(ms)).await.unwrap();
    assert_eq!(desk.fate(id, "a").await, "dead-lettered retries-exhausted");
}

fn retell() -> Fate {
    Fate::Retell { story: Story::plain(SendReason::Replayed) }
}

pub async fn a_dead_letter_put_back_is_told_anew(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    desk.tell("e1", "a", 0).await;
    bury(&desk, "e1", 1).await;
    desk.tell("e2", "a", 2).await;
    let receipt = desk.take(vec![decided("e1", 5, &[("a", "1", retell())])]).await;
    assert_eq!(receipt.pending, 1);
    assert_eq!(desk.fate("e1", "a").await, "pending replayed");
    let again = desk.take(vec![decided("e1", 6, &[("a", "1", retell())])]).await;
    assert_eq!(again.pending, 0, "once is enough");

    let line = desk.claim_one(10).await;
    assert_eq!(ids(&line), ["e2", "e1"], "at the end of the line");
    let back = &line.waiting[1];
    assert_eq!((back.attempts, back.first_attempt_at, back.plain), (0, None, false));
    assert_eq!(back.story, Story::plain(SendReason::Replayed));
    assert_eq!(back.received.envelope, envelope("e1"));
    assert_eq!(back.received.at, at(5), "its age counts anew");
    desk.finish(&line, 11, all_sent(&line, 11)).await;
    let entry = &desk.explain("e1").await[0];
    assert_eq!((entry.attempts, entry.received_at), (1, at(5)));
}

pub async fn a_letter_put_back_for_what_is_not_dead_changes_nothing(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    let back = || vec![decided("e1", 5, &[("a", "1", retell()), ("b", "2", retell())])];
    desk.take(vec![decided("e1", 0, &[("a", "1", tell(0)), ("b", "2", passing())])]).await;
    assert_eq!(desk.take(back()).await.pending, 0);
    assert_eq!(desk.fate("e1", "a").await, "pending failure");
    assert_eq!(desk.fate("e1", "b").await, "suppressed still-passing");
}

pub async fn a_letter_put_back_before_its_burial_is_recorded_is_told(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    let fates = [("a", "1", tell(0)), ("b", "2", tell(0)), ("c", "3", passing())];
    desk.take(vec![decided("e1", 0, &fates)]).await;
    for line in desk.claim(6).await {
        let given_up = Transition::DeadLettered {
            seqs: seqs(&line),
            reason: DeadLetterReason::RejectedByHipchat,
            detail: "no".into(),
            at: at(6),
            status: Some(400),
            attempted: false,
        };
        desk.finish(&line, 6, vec![given_up]).await;
    }
    // The broker has both; the worker has not written it down when the operator replays them.
    let letters: Vec<i64> = desk.0.letters(9).await.unwrap().iter().map(|l| l.id).collect();
    assert_eq!(letters.len(), 2);
    desk.tell("e2", "a", 7).await;
    let back = decided("e1", 8, &[("a", "1", retell()), ("b", "2", retell())]);
    assert_eq!(desk.take(vec![back]).await.pending, 2);
    desk.0.buried(&letters, at(9)).await.unwrap();
    assert!(desk.0.letters(9).await.unwrap().is_empty(), "nothing is left to bury");
    assert_eq!(desk.fate("e1", "a").await, "pending replayed");

    let lines = desk.claim(10).await;
    let a = lines.iter().find(|line| line.room == room("1")).unwrap();
    assert_eq!(ids(a), ["e2", "e1"], "at the end of the line");
    for line in &lines {
        let back = line.waiting.last().unwrap();
        assert_eq!((&back.received.envelope, back.attempts), (&envelope("e1"), 0));
        desk.finish(line, 11, all_sent(line, 11)).await;
    }
    assert_eq!(desk.fate("e1", "b").await, "sent failure");
    assert_eq!(desk.0.gauges(at(12)).await.unwrap().pending, 0);
}

pub async fn a_letter_put_back_after_the_journal_forgot_is_told(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    assert_eq!(desk.take(vec![decided("old", 5, &[("a", "1", retell())])]).await.pending, 1);
    let line = desk.claim_one(5).await;
    assert_eq!(line.waiting[0].received.envelope, envelope("old"));
    desk.finish(&line, 5, all_sent(&line, 5)).await;

    desk.0.remove(&integration("a"), at(6)).await.unwrap();
    desk.take(vec![decided("older", 7, &[("a", "1", retell())])]).await;
    assert_eq!(desk.fate("older", "a").await, "suppressed integration-removed");
}

pub async fn bodies_are_kept_while_needed(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    desk.take(vec![decided("e1", 0, &[("a", "1", tell(0)), ("b", "2", tell(0))])]).await;
    let lines = desk.claim(0).await;
    assert_eq!(lines.len(), 2);
    let (first, second) = (&lines[0], &lines[1]);
    desk.finish(first, 1, all_sent(first, 1)).await;
    // The other one's is still whole, also for a letter, and for one that is put back meanwhile.
    let given_up = Transition::DeadLettered {
        seqs: seqs(second),
        reason: DeadLetterReason::WorkerFault,
        detail: "x".into(),
        at: at(2),
        status: None,
        attempted: false,
    };
    assert_eq!(desk.settle(second, 2, vec![given_up], Then::Hold).await, Settled::Applied);
    let letters = desk.0.letters(9).await.unwrap();
    assert_eq!(letters[0].envelope, envelope("e1"));
    desk.0.buried(&[letters[0].id], at(3)).await.unwrap();
    desk.take(vec![decided("e1", 4, &[("b", "2", retell())])]).await;
    desk.finish(second, 4, vec![]).await;
    let line = desk.claim_one(5).await;
    assert_eq!(line.waiting[0].received.envelope, envelope("e1"));
}

pub async fn many_batches_at_once_all_count(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    let key = StreakKey { integration: integration("a"), monitor_uid: "m".into(), region: "".into() };
    let mut tasks = Vec::new();
    for n in 0..200 {
        let (desk, key) = (desk.clone(), key.clone());
        tasks.push(tokio::spawn(async move {
            let query = IntakeQuery { streaks: vec![key.clone()], ..IntakeQuery::default() };
            let decide = Box::new(move |state: hipchat_notifier::ports::IntakeState| {
                // Every tenth fails, and takes nothing of the others along.
                assert!(n % 10 != 0, "one that fails");
                let mut streak = state.streaks.get(&key).copied().unwrap_or_default();
                streak.failures += 1;
                IntakeChanges {
                    events: vec![decided(&format!("e{n}"), n, &[("a", "1", tell(n))])],
                    streaks: vec![(key, streak)],
                    ..IntakeChanges::default()
                }
            });
            desk.0.take_in(query, decide).await
        }));
    }
    let mut good = 0;
    for task in tasks {
        good += usize::from(task.await.unwrap().is_ok());
    }
    assert_eq!(good, 180);
    let state = desk.look_up(IntakeQuery { streaks: vec![key.clone()], ..IntakeQuery::default() }).await;
    assert_eq!(state.streaks[&key].failures, 180);
    assert_eq!(desk.0.gauges(at(0)).await.unwrap().pending, 180);
}
