//! Transitions: each ends what it names, once, and the journal says so.

use hipchat_notifier::domain::ids::TokenKey;
use hipchat_notifier::domain::integration::IntegrationState;
use hipchat_notifier::domain::pacing::{Budget, Meter};
use hipchat_notifier::domain::reason::{DeadLetterReason, Outcome, SendReason, SuppressReason};
use hipchat_notifier::ports::{JournalEntry, ManagedBy, Retry, RoomState, Settled, Then, Transition};

use super::lab::*;

fn attempted(seqs: Vec<i64>, ms: i64, status: Option<u16>, plain_next: bool) -> Transition {
    Transition::Attempted { seqs, at: at(ms), status, detail: "HipChat said no".into(), plain_next }
}

pub fn given_up(seqs: Vec<i64>, ms: i64, attempted: bool) -> Transition {
    Transition::DeadLettered {
        seqs,
        reason: DeadLetterReason::RejectedByHipchat,
        detail: "HipChat refuses this message".into(),
        at: at(ms),
        status: Some(400),
        attempted,
    }
}

fn broken(who: &str, seqs: Vec<i64>, ms: i64) -> Transition {
    Transition::Broken {
        integration: integration(who),
        seqs,
        detail: "room not found".into(),
        at: at(ms),
        status: Some(404),
    }
}

pub async fn sent_and_digested(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    for n in 1..=3 {
        desk.tell(&format!("e{n}"), "a", n).await;
    }
    let line = desk.claim_one(10).await;
    let s = seqs(&line);
    let digest = Transition::Digested {
        seqs: vec![s[1], s[2]],
        reason: SendReason::OverBudget,
        at: at(20),
        status: 200,
    };
    desk.finish(&line, 21, vec![sent(s[0], 15), digest]).await;
    assert_eq!(
        desk.explain("e1").await,
        [JournalEntry {
            event: event("e1"),
            received_at: at(1),
            integration: integration("a"),
            outcome: Outcome::Sent,
            reason: "failure".into(),
            detail: String::new(),
            whereabouts: None,
            decided_at: at(15),
            sent_at: Some(at(15)),
            attempts: 1,
        }]
    );
    for id in ["e2", "e3"] {
        let entry = &desk.explain(id).await[0];
        assert_eq!((entry.outcome, entry.reason.as_str()), (Outcome::Digested, "over-budget"));
        assert_eq!((entry.sent_at, entry.attempts), (Some(at(20)), 1));
        assert_eq!(entry.detail, "told in one message with 1 other");
    }
    assert_eq!(desk.0.gauges(at(30)).await.unwrap().pending, 0);
    assert!(desk.explain("unknown").await.is_empty());
}

pub async fn attempts_are_counted_and_kept(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    desk.tell("e1", "a", 0).await;
    let line = desk.claim_one(0).await;
    let retry = Some(Retry { failures: 1, at: at(50) });
    let mut s = settlement(
        &line,
        6,
        vec![attempted(seqs(&line), 5, None, true)],
        Then::Release { due: Some(at(50)) },
    );
    s.state.retry = retry;
    desk.0.settle(s).await.unwrap();
    let entry = &desk.explain("e1").await[0];
    assert_eq!((entry.outcome, entry.reason.as_str()), (Outcome::Pending, "failure"));
    assert_eq!((entry.detail.as_str(), entry.attempts, entry.sent_at), ("HipChat said no", 1, None));

    let line = desk.claim_one(50).await;
    assert_eq!(line.state.retry, retry);
    let one = &line.waiting[0];
    assert_eq!((one.attempts, one.first_attempt_at, one.plain), (1, Some(at(5)), true));
    desk.settle(&line, 60, vec![attempted(seqs(&line), 60, Some(503), false)], Then::Hold).await;
    desk.finish(&line, 70, vec![given_up(seqs(&line), 70, true)]).await;
    let letter = desk.0.letters(9).await.unwrap().remove(0);
    assert_eq!((letter.attempts, letter.first_attempt_at), (3, Some(at(5))));
    assert_eq!(letter.last_status, Some(400));
}

pub async fn suppressed_and_expired(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    desk.tell("e1", "a", 0).await;
    desk.tell("e2", "a", 0).await;
    let line = desk.claim_one(0).await;
    let s = seqs(&line);
    let suppressed = Transition::Suppressed {
        seqs: vec![s[0]],
        reason: SuppressReason::Removed,
        detail: "gone".into(),
        at: at(3),
    };
    let expired = Transition::Expired { seqs: vec![s[1]], at: at(4), detail: "waited 24 h".into() };
    desk.finish(&line, 5, vec![suppressed, expired]).await;
    assert_eq!(desk.fate("e1", "a").await, "suppressed integration-removed");
    assert_eq!(desk.fate("e2", "a").await, "expired max-age");
    let entry = &desk.explain("e2").await[0];
    assert_eq!((entry.detail.as_str(), entry.decided_at, entry.attempts), ("waited 24 h", at(4), 0));
    assert!(desk.claim(10).await.is_empty());
}

pub async fn dead_letters_are_pending_until_buried(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    desk.tell("e1", "a", 0).await;
    let line = desk.claim_one(0).await;
    desk.finish(&line, 2, vec![given_up(seqs(&line), 1, false)]).await;
    assert_eq!(desk.fate("e1", "a").await, "pending dead-lettering");
    assert!(desk.claim(10).await.is_empty(), "it is in no line any more");
    let letter = desk.0.letters(9).await.unwrap().remove(0);
    assert_eq!(letter.envelope, envelope("e1"));
    assert_eq!(letter.reason, DeadLetterReason::RejectedByHipchat);
    assert_eq!(letter.detail, "HipChat refuses this message");
    assert_eq!((letter.event, letter.integration), (Some(event("e1")), Some(integration("a"))));
    assert_eq!((letter.attempts, letter.first_attempt_at, letter.at), (0, None, at(1)));
    desk.0.buried(&[letter.id], at(20)).await.unwrap();
    desk.0.buried(&[letter.id, 999], at(21)).await.unwrap();
    let entry = &desk.explain("e1").await[0];
    assert_eq!((entry.outcome, entry.reason.as_str()), (Outcome::DeadLettered, "rejected-by-hipchat"));
    assert_eq!((entry.detail.as_str(), entry.decided_at), ("HipChat refuses this message", at(20)));
    assert!(desk.0.letters(9).await.unwrap().is_empty());
}

pub async fn broken_takes_all_of_the_integration(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    for (id, who) in [("e1", "a"), ("e2", "a2"), ("e3", "a")] {
        desk.tell(id, who, 0).await;
    }
    let later = hipchat_notifier::ports::Fate::Tell { story: story(1), ready_at: at(900), gather: None };
    desk.take(vec![decided("e4", 0, &[("a", "1", later)])]).await;
    let revision = desk.0.revision().await.unwrap();
    let line = desk.claim_one(0).await;
    desk.finish(&line, 2, vec![broken("a", vec![seqs(&line)[0]], 1)]).await;

    assert!(desk.0.revision().await.unwrap() > revision);
    let stored = desk.0.list().await.unwrap();
    assert_eq!(stored[0].state, IntegrationState::Suspended { reason: "room not found".into() });
    assert_eq!(stored[1].state, IntegrationState::Active);
    let letters = desk.0.letters(9).await.unwrap();
    let told: Vec<_> =
        letters.iter().map(|l| (l.event.clone().unwrap().to_string(), l.attempts, l.last_status)).collect();
    let expected =
        [("e1", 1, Some(404)), ("e3", 0, None), ("e4", 0, None)].map(|(e, n, s)| (e.to_owned(), n, s));
    assert_eq!(told, expected);
    assert!(letters.iter().all(|l| l.reason == DeadLetterReason::IntegrationBroken));
    assert_eq!(ids(&desk.claim_one(3).await), ["e2"], "the room's others go on");
}

pub async fn broken_by_an_old_url_breaks_nothing(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    desk.tell("e1", "a", 0).await;
    let line = desk.claim_one(0).await;
    desk.0.apply(vec![definition("a", "1", "new-token")], ManagedBy::Operator, at(1)).await.unwrap();
    desk.finish(&line, 2, vec![broken("a", seqs(&line), 1)]).await;
    assert_eq!(desk.0.list().await.unwrap()[0].state, IntegrationState::Active);
    let line = desk.claim_one(3).await;
    assert_eq!(line.waiting[0].attempts, 1);
    assert!(line.tokens.contains_key(&TokenKey::new("fingerprint-new-token")));
    desk.finish(&line, 4, vec![broken("a", seqs(&line), 4)]).await;
    assert!(matches!(desk.0.list().await.unwrap()[0].state, IntegrationState::Suspended { .. }));
}

pub async fn sent_wins_over_what_happened_meanwhile(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    desk.tell("paused", "a", 0).await;
    desk.tell("buried", "b", 0).await;
    let lines = desk.claim(0).await;
    let (a, b) = (&lines[0], &lines[1]);
    desk.0.pause(&integration("a"), at(1)).await.unwrap();
    assert_eq!(desk.fate("paused", "a").await, "suppressed integration-paused");
    desk.finish(a, 2, all_sent(a, 2)).await;
    assert_eq!(desk.fate("paused", "a").await, "sent failure");

    desk.settle(b, 1, vec![given_up(seqs(b), 1, true)], Then::Hold).await;
    desk.settle(b, 2, all_sent(b, 2), Then::Hold).await;
    assert_eq!(desk.fate("buried", "b").await, "sent failure");
    assert!(desk.0.letters(9).await.unwrap().is_empty(), "there is nothing to bury");
    // The same settlement again, after an answer that got lost.
    desk.settle(b, 3, all_sent(b, 3), Then::Hold).await;
    let entry = &desk.explain("buried").await[0];
    assert_eq!((entry.sent_at, entry.attempts), (Some(at(2)), 2));
}

pub async fn only_what_waits_in_this_room_is_touched(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    for (id, who) in [("e1", "a"), ("e2", "a"), ("e3", "b")] {
        desk.tell(id, who, 0).await;
    }
    let lines = desk.claim(0).await;
    let (a, b) = (&lines[0], &lines[1]);
    desk.settle(a, 1, vec![sent(seqs(a)[0], 1)], Then::Hold).await;
    let all = vec![seqs(a)[0], seqs(b)[0], 9_999];
    let transitions = vec![
        attempted(all.clone(), 2, None, true),
        Transition::Expired { seqs: all.clone(), at: at(2), detail: String::new() },
        given_up(all, 2, true),
    ];
    desk.finish(a, 3, transitions).await;
    assert_eq!(desk.fate("e1", "a").await, "sent failure");
    assert_eq!(desk.fate("e2", "a").await, "pending failure");
    assert_eq!(desk.fate("e3", "b").await, "pending failure");
    assert_eq!(desk.explain("e3").await[0].attempts, 0);
    assert!(desk.0.letters(9).await.unwrap().is_empty());
}

pub async fn room_state_and_throttles_come_back(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    desk.tell("e1", "a", 0).await;
    desk.tell("e2", "a2", 0).await;
    let line = desk.claim_one(0).await;
    assert_eq!(line.state, RoomState::default());
    assert!(line.throttles.is_empty());
    let mut meter = Meter::default();
    meter.record(Budget::ROOM, at(0), 3);
    let state = RoomState { meter: meter.clone(), retry: None, expired_untold: 2 };
    let mut s = settlement(&line, 1, vec![], RELEASE);
    s.state = state.clone();
    s.throttles = vec![(integration("a"), meter.clone()), (integration("gone"), meter.clone())];
    desk.0.settle(s).await.unwrap();
    drop(desk);

    let desk = Desk(lab.worker().await.unwrap());
    let line = desk.claim_one(1).await;
    assert_eq!(line.state, state, "also after a restart");
    assert_eq!(line.throttles, [(integration("a"), meter)].into());
}

pub async fn rooms_that_settle_at_once_do_not_mix(lab: &dyn Lab) {
    let desk = Desk(lab.worker().await.unwrap());
    let rooms = 40;
    let definitions = (0..rooms).map(|n| definition(&format!("i{n}"), &format!("r{n}"), "t")).collect();
    desk.0.apply(definitions, ManagedBy::Operator, at(0)).await.unwrap();
    for n in 0..rooms {
        let (who, place) = (format!("i{n}"), format!("r{n}"));
        desk.take(vec![decided(&format!("e{n}"), 0, &[(who.as_str(), place.as_str(), tell(0))])]).await;
    }
    let lines = desk.claim(1).await;
    assert_eq!(lines.len(), rooms);
    let tasks: Vec<_> = lines
        .into_iter()
        .enumerate()
        .map(|(n, mut line)| {
            let desk = desk.clone();
            tokio::spawn(async move {
                // Every other one comes too late.
                line.claim -= u64::from(n % 2 == 1);
                (line.room.clone(), desk.settle(&line, 2, all_sent(&line, 2), RELEASE).await)
            })
        })
        .collect();
    for (n, task) in tasks.into_iter().enumerate() {
        let (room, settled) = task.await.unwrap();
        let number = room.as_str().rsplit('r').next().unwrap().to_owned();
        let fate = desk.fate(&format!("e{number}"), &format!("i{number}")).await;
        match n % 2 {
            0 => assert_eq!((settled, fate.as_str()), (Settled::AtRest, "sent failure")),
            _ => assert_eq!((settled, fate.as_str()), (Settled::LostClaim, "pending failure")),
        }
    }
}
