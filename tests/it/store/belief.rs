//! What the room believes of a monitor: unsure from the moment at which news of it is lost, however it is lost.

use hipchat_notifier::domain::frequency::Streak;
use hipchat_notifier::domain::reason::{Belief, DeadLetterReason, SuppressReason};
use hipchat_notifier::ports::{IntakeChanges, ManagedBy, RoomLine, Then, Transition};

use super::lab::*;

/// The belief that goes with telling a recovery.
const PASSED: Streak = Streak { failures: 0, first_failed_at: None, newest: None, belief: Belief::Passing };

/// Takes in `id`, a recovery that the rule wants told to `who`.
async fn recover(desk: &Desk, id: &str, who: &str, ms: i64) {
    let streaks = vec![(streak_key(who, "m"), PASSED), (streak_key(who, "other"), PASSED)];
    let changes = IntakeChanges { events: vec![news(id, who, ms)], streaks, ..IntakeChanges::default() };
    desk.change(changes).await;
}

fn endings(line: &RoomLine, ms: i64) -> [Transition; 4] {
    let (seqs, at, detail) = (seqs(line), at(ms), "why".to_owned());
    let reason = DeadLetterReason::RetriesExhausted;
    [
        Transition::Expired { seqs: seqs.clone(), at, detail: detail.clone() },
        Transition::Suppressed {
            seqs: seqs.clone(),
            reason: SuppressReason::Paused,
            detail: detail.clone(),
            at,
        },
        Transition::DeadLettered {
            seqs: seqs.clone(),
            reason,
            detail: detail.clone(),
            at,
            status: None,
            attempted: false,
        },
        Transition::Broken { integration: integration("a"), seqs, detail, at, status: Some(404) },
    ]
}

pub async fn news_that_is_lost_makes_it_unsure(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    for n in 0..4 {
        let (id, ms) = (format!("e{n}"), 10 * n as i64);
        recover(&desk, &id, "a", ms).await;
        assert_eq!(desk.belief("a").await, Some(Belief::Passing));
        let line = desk.claim_one(ms).await;
        let ending = endings(&line, ms + 1)[n].clone();
        desk.finish(&line, ms + 1, vec![ending.clone()]).await;
        assert_eq!(desk.belief("a").await, Some(Belief::Unsure), "{ending:?}");
    }
    let other = streak_key("a", "other");
    let query = hipchat_notifier::ports::IntakeQuery { streaks: vec![other.clone()], ..Default::default() };
    assert_eq!(desk.look_up(query).await.streaks[&other], PASSED, "another monitor's is its own");
}

pub async fn what_is_told_or_not_wanted_leaves_it(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    recover(&desk, "told", "a", 0).await;
    let line = desk.claim_one(0).await;
    desk.finish(&line, 1, all_sent(&line, 1)).await;
    let mut silent = news("silent", "a", 2);
    silent.notifications[0].fate = passing();
    desk.take(vec![silent]).await;
    assert_eq!(desk.belief("a").await, Some(Belief::Passing));

    // The burial of what was lost before does not touch what was told since.
    recover(&desk, "lost", "a", 3).await;
    let line = desk.claim_one(3).await;
    desk.finish(&line, 4, vec![endings(&line, 4)[2].clone()]).await;
    recover(&desk, "told-since", "a", 5).await;
    let letters: Vec<i64> = desk.0.letters(9).await.unwrap().iter().map(|l| l.id).collect();
    desk.0.buried(&letters, at(6)).await.unwrap();
    assert_eq!(desk.belief("a").await, Some(Belief::Passing));
}

pub async fn changes_of_the_integration_that_lose_news_make_it_unsure(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    recover(&desk, "e1", "a", 0).await;
    desk.0.pause(&integration("a"), at(1)).await.unwrap();
    assert_eq!(desk.belief("a").await, Some(Belief::Unsure));
    recover(&desk, "e2", "b", 2).await;
    let mut paused = definition("b", "2", "tb");
    paused.paused = true;
    desk.0.apply(vec![paused], ManagedBy::Operator, at(3)).await.unwrap();
    assert_eq!(desk.belief("b").await, Some(Belief::Unsure));
    // Decided before the pause was known: the streak that comes along says "told".
    recover(&desk, "e3", "b", 4).await;
    assert_eq!(desk.fate("e3", "b").await, "suppressed integration-paused");
    assert_eq!(desk.belief("b").await, Some(Belief::Unsure));
    recover(&desk, "e4", "c", 5).await;
    desk.0.remove(&integration("c"), at(6)).await.unwrap();
    assert_eq!(desk.belief("c").await, None, "who is gone believes nothing");
}

pub async fn lost_news_of_what_no_run_has_moved_yet_makes_it_unsure(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    desk.take(vec![news("e1", "a", 0)]).await;
    assert_eq!(desk.belief("a").await, None);
    let line = desk.claim_one(0).await;
    desk.finish(&line, 1, vec![endings(&line, 1)[0].clone()]).await;
    assert_eq!(desk.belief("a").await, Some(Belief::Unsure));
}

pub async fn later_news_settles_it(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    for (n, (first, second, expected)) in [
        ("lost", "told", Belief::Passing),
        ("told", "lost", Belief::Unsure),
        ("lost", "lost", Belief::Unsure),
    ]
    .into_iter()
    .enumerate()
    {
        let ms = 10 * n as i64;
        recover(&desk, &format!("first-{n}"), "a", ms).await;
        recover(&desk, &format!("second-{n}"), "a", ms).await;
        let line = desk.claim_one(ms).await;
        let end = |seq: i64, how: &str| match how {
            "told" => sent(seq, ms + 1),
            _ => Transition::Expired { seqs: vec![seq], at: at(ms + 1), detail: "why".to_owned() },
        };
        let [a, b] = seqs(&line)[..] else { panic!("{line:?}") };
        desk.settle(&line, ms + 1, vec![end(a, first)], Then::Hold).await;
        desk.finish(&line, ms + 2, vec![end(b, second)]).await;
        assert_eq!(desk.belief("a").await, Some(expected), "the first {first}, the second {second}");
    }
}
