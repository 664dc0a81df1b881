//! Integrations: who may change them, and what a change means for what waits.

use hipchat_notifier::domain::frequency::Streak;
use hipchat_notifier::domain::integration::IntegrationState;
use hipchat_notifier::domain::reason::Belief;
use hipchat_notifier::ports::{
    Applied, Definition, IntakeChanges, IntakeQuery, ManagedBy, StoreError, Stored, StreakKey, Then,
    Transition,
};
use secrecy::ExposeSecret;

use super::lab::*;

async fn apply(desk: &Desk, definitions: Vec<Definition>, by: ManagedBy) -> Applied {
    desk.0.apply(definitions, by, at(100)).await.unwrap()
}

fn counts(applied: Applied) -> [usize; 4] {
    let changes = &applied.changes;
    [changes.added.len(), changes.changed.len(), applied.unchanged, changes.removed.len()]
}

fn paused(id: &str, room_id: &str, token: &str) -> Definition {
    Definition { paused: true, ..definition(id, room_id, token) }
}

/// Suspends integration `a` by a room that refuses it.
async fn suspend(desk: &Desk, ms: i64) {
    desk.tell(&format!("refused{ms}"), "a", ms).await;
    let line = desk.claim_one(ms).await;
    let broken = Transition::Broken {
        integration: integration("a"),
        seqs: seqs(&line),
        detail: "404".into(),
        at: at(ms),
        status: Some(404),
    };
    desk.finish(&line, ms, vec![broken]).await;
    assert!(matches!(state(desk).await, IntegrationState::Suspended { .. }));
}

/// The state of integration `a`.
async fn state(desk: &Desk) -> IntegrationState {
    desk.0.list().await.unwrap()[0].state.clone()
}

pub async fn apply_adds_changes_and_leaves_alone(lab: &dyn Lab) {
    let desk = Desk(lab.worker().await.unwrap());
    assert_eq!(desk.0.revision().await.unwrap(), 0);
    let both = || vec![definition("b", "2", "tb"), definition("a", "1", "ta")];
    assert_eq!(counts(apply(&desk, both(), ManagedBy::Operator).await), [2, 0, 0, 0]);
    let first = desk.0.revision().await.unwrap();
    assert!(first > 0);
    assert_eq!(counts(apply(&desk, both(), ManagedBy::Operator).await), [0, 0, 2, 0]);
    assert_eq!(desk.0.revision().await.unwrap(), first, "nothing has changed");

    let mut changed = both();
    changed[0].json = r#"{"id":"b","name":"B"}"#.into();
    assert_eq!(counts(apply(&desk, changed, ManagedBy::Operator).await), [0, 1, 1, 0]);
    assert!(desk.0.revision().await.unwrap() > first);
    let other_token = vec![definition("a", "1", "other")];
    assert_eq!(counts(apply(&desk, other_token, ManagedBy::Operator).await), [0, 1, 0, 0]);

    desk.tell("e1", "b", 0).await;
    let stored = desk.0.list().await.unwrap();
    let seen: Vec<_> = stored.iter().map(|s| (s.definition.id.as_str(), s.pending)).collect();
    assert_eq!(seen, [("a", 0), ("b", 1)]);
    assert_eq!(stored[1].definition.json, r#"{"id":"b","name":"B"}"#);
    assert_eq!(stored[0].definition.room, room("1"));
    assert_eq!(stored[0].definition.token.as_str(), "fingerprint-other");
    assert_eq!((stored[0].managed_by, stored[0].definition.paused), (ManagedBy::Operator, false));
}

pub async fn they_are_handed_out_one_by_one_as_they_are_listed(lab: &dyn Lab) {
    let desk = Desk(lab.worker().await.unwrap());
    assert_eq!(desk.handed_out().await.unwrap().len(), 0);
    // One file serves one worker.
    drop(desk);
    let desk = Desk::new(lab).await;
    apply(&desk, vec![paused("f", "5", "t")], ManagedBy::File).await;
    suspend(&desk, 1).await;
    let seen = |all: Vec<Stored>| -> Vec<_> {
        let url = |stored: &Stored| stored.definition.room_url.expose_secret().to_owned();
        all.into_iter()
            .map(|stored| (url(&stored), format!("{:?}", Stored { pending: 0, ..stored })))
            .collect()
    };
    let listed = seen(desk.0.list().await.unwrap());
    assert_eq!(listed.len(), 5);
    assert_eq!(seen(desk.handed_out().await.unwrap()), listed);
}

pub async fn the_file_owns_what_it_holds(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    let files = vec![definition("f1", "5", "t"), definition("f2", "5", "t"), definition("a", "1", "ta")];
    let applied = apply(&desk, files, ManagedBy::File).await;
    assert_eq!(applied.taken_over, [integration("a")]);
    assert_eq!(counts(applied), [2, 1, 0, 0], "a is taken over");
    desk.take(vec![decided("e1", 0, &[("f2", "5", tell(0))])]).await;
    let fewer = vec![paused("f1", "5", "t"), definition("a", "1", "ta")];
    let applied = apply(&desk, fewer, ManagedBy::File).await;
    assert_eq!(applied.changes.to_string(), "changed f1; removed f2");
    assert_eq!(applied.taken_over, []);
    assert_eq!(counts(applied), [0, 1, 1, 1]);
    assert_eq!(desk.fate("e1", "f2").await, "suppressed integration-removed");
    let left: Vec<_> =
        desk.0.list().await.unwrap().iter().map(|s| (s.definition.id.to_string(), s.managed_by)).collect();
    let expected = [
        ("a", ManagedBy::File),
        ("a2", ManagedBy::Operator),
        ("b", ManagedBy::Operator),
        ("c", ManagedBy::Operator),
        ("f1", ManagedBy::File),
    ];
    assert_eq!(left, expected.map(|(id, by)| (id.to_owned(), by)), "operators' own are left alone");
}

pub async fn what_a_file_managed_that_is_gone_is_operators(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    let revision = async || desk.0.revision().await.unwrap();
    let before = revision().await;
    assert_eq!(desk.0.release().await.unwrap(), []);
    assert_eq!(revision().await, before);
    let files = vec![definition("f2", "5", "t"), paused("f1", "5", "t")];
    apply(&desk, files, ManagedBy::File).await;
    let before = revision().await;
    assert_eq!(desk.0.release().await.unwrap(), [integration("f1"), integration("f2")]);
    assert!(revision().await > before);
    let list = desk.0.list().await.unwrap();
    assert!(list.iter().all(|stored| stored.managed_by == ManagedBy::Operator));
    assert_eq!(list[4].state, IntegrationState::Paused, "else it is as it was");
    desk.0.remove(&integration("f1"), at(101)).await.unwrap();
}

pub async fn what_an_operator_may_not_do(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    apply(&desk, vec![paused("f", "5", "t")], ManagedBy::File).await;
    let revision = desk.0.revision().await.unwrap();
    let f = integration("f");
    let refused = |error: StoreError, word: &str| match error {
        StoreError::Refused(text) => assert!(text.contains(word), "{text}"),
        other => panic!("{other:?}"),
    };
    let two = vec![definition("new", "7", "t"), definition("f", "5", "t")];
    refused(desk.0.apply(two, ManagedBy::Operator, at(1)).await.unwrap_err(), "managed by integrations.file");
    refused(desk.0.pause(&f, at(1)).await.unwrap_err(), "managed by integrations.file");
    refused(desk.0.remove(&f, at(1)).await.unwrap_err(), "managed by integrations.file");
    refused(desk.0.resume(&f).await.unwrap_err(), "paused in integrations.file");
    let nobody = integration("nobody");
    refused(desk.0.pause(&nobody, at(1)).await.unwrap_err(), "no integration nobody");
    refused(desk.0.remove(&nobody, at(1)).await.unwrap_err(), "no integration nobody");
    refused(desk.0.resume(&nobody).await.unwrap_err(), "no integration nobody");
    let twice = vec![definition("d", "7", "t"), definition("d", "8", "t")];
    refused(desk.0.apply(twice, ManagedBy::File, at(1)).await.unwrap_err(), "d is defined twice");
    assert_eq!(desk.0.list().await.unwrap().len(), 5, "all or nothing");
    assert_eq!(desk.0.revision().await.unwrap(), revision);
}

pub async fn pausing_suppresses_what_waits(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    for (id, who) in [("e1", "a"), ("e2", "a2"), ("e3", "b")] {
        desk.tell(id, who, 0).await;
    }
    let revision = desk.0.revision().await.unwrap();
    desk.0.pause(&integration("a"), at(7)).await.unwrap();
    assert!(desk.0.revision().await.unwrap() > revision);
    assert_eq!(state(&desk).await, IntegrationState::Paused);
    let entry = &desk.explain("e1").await[0];
    assert_eq!((entry.reason.as_str(), entry.decided_at), ("integration-paused", at(7)));
    apply(&desk, vec![paused("b", "2", "tb")], ManagedBy::Operator).await;
    assert_eq!(desk.fate("e3", "b").await, "suppressed integration-paused");
    assert_eq!(ids(&desk.claim_one(9).await), ["e2"]);

    desk.0.resume(&integration("a")).await.unwrap();
    assert_eq!(state(&desk).await, IntegrationState::Active);
    assert_eq!(desk.fate("e1", "a").await, "suppressed integration-paused", "what is over is over");
    let revision = desk.0.revision().await.unwrap();
    desk.0.resume(&integration("a")).await.unwrap();
    desk.0.pause(&integration("b"), at(11)).await.unwrap();
    assert_eq!(desk.0.revision().await.unwrap(), revision, "it was so already");
}

/// After so many failed runs in a row, of which the room knows.
fn failing(failures: u32) -> Streak {
    let belief = if failures > 0 { Belief::Failing } else { Belief::Passing };
    Streak { failures, belief, ..Streak::default() }
}

async fn streaks(desk: &Desk, keys: Vec<StreakKey>) -> Vec<(StreakKey, Streak)> {
    let state = desk.look_up(IntakeQuery { streaks: keys.clone(), ..IntakeQuery::default() }).await;
    keys.into_iter().filter_map(|key| state.streaks.get(&key).map(|streak| (key, *streak))).collect()
}

pub async fn removing_suppresses_and_forgets(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    let keep = vec![(streak_key("a", "m"), failing(3)), (streak_key("b", "m"), failing(3))];
    let changes = || IntakeChanges { streaks: keep.clone(), ..IntakeChanges::default() };
    desk.change(changes()).await;
    desk.tell("e1", "a", 0).await;
    desk.0.remove(&integration("a"), at(4)).await.unwrap();
    assert_eq!(desk.fate("e1", "a").await, "suppressed integration-removed");
    let keys = || vec![streak_key("a", "m"), streak_key("b", "m")];
    assert_eq!(streaks(&desk, keys()).await, keep[1..]);
    desk.change(changes()).await;
    assert_eq!(streaks(&desk, keys()).await, keep[1..], "nor does a late decision bring it back");
    apply(&desk, vec![definition("a", "1", "ta")], ManagedBy::Operator).await;
    assert_eq!(streaks(&desk, keys()).await, keep[1..], "who comes anew begins anew");
}

pub async fn a_new_room_takes_the_line_along(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    for (id, who) in [("e1", "a"), ("e2", "b"), ("e3", "a"), ("e4", "a2"), ("e5", "b")] {
        desk.tell(id, who, 0).await;
    }
    let held = desk.claim(0).await;
    assert_eq!(held.len(), 2);
    // Room 2 is held while a's line joins it, and is looked at again at once.
    apply(&desk, vec![definition("a", "2", "ta")], ManagedBy::Operator).await;
    let b = held.iter().find(|line| line.room == room("2")).unwrap();
    let far = hipchat_notifier::ports::Then::Release { due: Some(at(99_000)) };
    desk.settle(b, 1, vec![], far).await;
    let line = desk.claim_one(1).await;
    assert_eq!(ids(&line), ["e1", "e2", "e3", "e5"], "in the order of the events");
    let a = held.iter().find(|line| line.room == room("1")).unwrap();
    desk.finish(a, 2, vec![]).await;
    assert_eq!(ids(&desk.claim_one(2).await), ["e4"]);
}

pub async fn a_room_that_rests_is_looked_at_again_after_a_change(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    for (n, change) in
        ["another token", "paused", "paused by its definition", "removed"].into_iter().enumerate()
    {
        let ms = 1000 * n as i64;
        for who in ["a", "a2"] {
            desk.tell(&format!("{who} before it is {change}"), who, ms).await;
        }
        // For the token of `a`, say, which is at the head of the line.
        let line = desk.claim_one(ms).await;
        desk.settle(&line, ms + 1, vec![], Then::Rest { until: at(ms + 300_000) }).await;
        assert!(desk.claim(ms + 200).await.is_empty());
        match change {
            "another token" => {
                apply(&desk, vec![definition("a", "1", "new")], ManagedBy::Operator).await;
            }
            "paused" => desk.0.pause(&integration("a"), at(ms + 3)).await.unwrap(),
            "paused by its definition" => {
                apply(&desk, vec![paused("a", "1", "new")], ManagedBy::Operator).await;
            }
            _ => desk.0.remove(&integration("a"), at(ms + 3)).await.unwrap(),
        }
        let line = desk.claim_one(ms + 200).await;
        assert!(ids(&line).contains(&format!("a2 before it is {change}")), "{change}: {line:?}");
        desk.finish(&line, ms + 201, all_sent(&line, ms + 201)).await;
        apply(&desk, vec![definition("a", "1", "new")], ManagedBy::Operator).await;
    }
}

pub async fn a_new_room_knows_nothing_of_what_fails(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    let key = streak_key("a", "m");
    let streak_of_a = vec![(key.clone(), failing(5))];
    desk.change(IntakeChanges { streaks: streak_of_a.clone(), ..IntakeChanges::default() }).await;
    apply(&desk, vec![definition("a", "1", "another")], ManagedBy::Operator).await;
    assert_eq!(streaks(&desk, vec![key.clone()]).await, streak_of_a, "the room is the same");
    apply(&desk, vec![definition("a", "9", "another")], ManagedBy::Operator).await;
    assert_eq!(streaks(&desk, vec![key]).await[0].1.belief, Belief::Unsure);
}

pub async fn a_new_url_lifts_a_suspension(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    let streaks_a = vec![(streak_key("a", "m"), failing(1))];
    desk.change(IntakeChanges { streaks: streaks_a, ..IntakeChanges::default() }).await;
    suspend(&desk, 1).await;
    let named = Definition { json: r#"{"name":"other"}"#.into(), ..definition("a", "1", "ta") };
    apply(&desk, vec![named], ManagedBy::Operator).await;
    assert!(matches!(state(&desk).await, IntegrationState::Suspended { .. }), "the URL is the old one");
    apply(&desk, vec![definition("a", "1", "better")], ManagedBy::Operator).await;
    assert_eq!(state(&desk).await, IntegrationState::Active);
    assert!(streaks(&desk, vec![streak_key("a", "m")]).await[0].1.belief == Belief::Unsure);
    suspend(&desk, 2).await;
    apply(&desk, vec![definition("a", "9", "better")], ManagedBy::Operator).await;
    assert_eq!(state(&desk).await, IntegrationState::Active);
}

pub async fn resuming_tells_failing_streaks_anew(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    let monitors = [("a", "fails"), ("a", "passes"), ("b", "fails"), ("a", "failed too seldom to be told")];
    let keys = monitors.map(|(who, monitor)| streak_key(who, monitor));
    let values = [failing(5), failing(0), failing(5), Streak { belief: Belief::Passing, ..failing(1) }];
    let before: Vec<_> = keys.iter().cloned().zip(values).collect();
    desk.change(IntakeChanges { streaks: before.clone(), ..IntakeChanges::default() }).await;
    let retold = |streak: Streak| Streak { belief: Belief::Unsure, ..streak };

    suspend(&desk, 1).await;
    assert_eq!(streaks(&desk, keys.to_vec()).await, before);
    desk.0.resume(&integration("a")).await.unwrap();
    assert_eq!(state(&desk).await, IntegrationState::Active);
    let mut after = before.clone();
    after[0].1 = retold(after[0].1);
    assert_eq!(streaks(&desk, keys.to_vec()).await, after);

    // A pause that ends by an apply is the same.
    apply(&desk, vec![paused("b", "2", "tb")], ManagedBy::Operator).await;
    apply(&desk, vec![definition("b", "2", "tb")], ManagedBy::Operator).await;
    after[2].1 = retold(after[2].1);
    assert_eq!(streaks(&desk, keys.to_vec()).await, after);

    // One that the file manages may be lifted from its suspension, not from its pause.
    apply(&desk, vec![definition("a", "1", "ta")], ManagedBy::File).await;
    suspend(&desk, 3).await;
    desk.0.resume(&integration("a")).await.unwrap();
    assert_eq!(state(&desk).await, IntegrationState::Active);
}

pub async fn revisions_are_seen_through_every_handle(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    let tool = Desk(lab.tool().await.unwrap());
    let mut last = desk.0.revision().await.unwrap();
    assert_eq!(tool.0.revision().await.unwrap(), last);
    desk.tell("e1", "a", 0).await;
    for turn in 0..3 {
        match turn {
            0 => tool.0.pause(&integration("a"), at(1)).await.unwrap(),
            1 => tool.0.resume(&integration("a")).await.unwrap(),
            _ => tool.0.remove(&integration("a"), at(3)).await.unwrap(),
        }
        let now = desk.0.revision().await.unwrap();
        assert!(now > last);
        last = now;
    }
    assert_eq!(desk.fate("e1", "a").await, "suppressed integration-paused");
    assert_eq!(desk.0.list().await.unwrap().len(), 3);
    suspend_b(&desk).await;
    assert!(tool.0.revision().await.unwrap() > last);
}

async fn suspend_b(desk: &Desk) {
    desk.tell("e9", "b", 9).await;
    let line = desk.claim_one(9).await;
    let broken = Transition::Broken {
        integration: integration("b"),
        seqs: seqs(&line),
        detail: "401".into(),
        at: at(9),
        status: Some(401),
    };
    desk.finish(&line, 9, vec![broken]).await;
}

pub async fn secrets_come_back_and_stay_hidden(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    let stored = desk.0.list().await.unwrap();
    assert_eq!(stored[0].definition.room_url.expose_secret(), secret_url("1", "ta").expose_secret());
    assert!(!format!("{stored:?}").contains("auth_token"));
}
