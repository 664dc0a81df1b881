//! What rooms hear when all goes well, or slowly.

use super::*;

#[tokio::test]
async fn postmans_rule_end_to_end_and_the_same_event_twice_changes_nothing() {
    let bench = Bench::new(&results("one", "a", "failures-then-success")).await;
    for (id, passed) in
        [("e1", true), ("e2", false), ("e2", false), ("e3", false), ("e4", false), ("e5", false)]
    {
        bench.take(id, &run("m", passed)).await;
    }
    bench.take("e6", &run("m", true)).await;
    bench.settle_down().await;
    assert_eq!(bench.colours("a"), ["red", "red", "red", "green"]);
    assert!(bench.texts("a")[3].contains("recovered after 4 failed runs"), "{:?}", bench.texts("a")[3]);
    for (event, fate) in [
        ("e1", "suppressed/still-passing"),
        ("e2", "sent/failure"),
        ("e5", "suppressed/failures-already-told"),
        ("e6", "sent/recovered"),
        ("e7", "unknown"),
    ] {
        assert_eq!(bench.fate(event, "one").await, fate, "{event}");
    }
}

#[tokio::test]
async fn what_does_not_fit_the_budget_becomes_one_digest_and_the_room_waits_for_more() {
    let bench = Bench::new(&results("one", "a", "all")).await;
    for n in 0..3 {
        bench.take(&format!("e{n}"), &run(&format!("m{n}"), true)).await;
    }
    bench.settle_down().await;
    for n in 3..12 {
        bench.take(&format!("e{n}"), &run(&format!("m{n}"), n % 2 == 0)).await;
    }
    bench.settle_down().await;
    assert_eq!(bench.colours("a"), ["green", "green", "green", "red"], "three alone, nine in one digest");
    assert_eq!(bench.fate("e5", "one").await, "digested/over-budget");
    bench.take("e12", &run("m12", true)).await;
    bench.settle_down().await;
    bench.take("e13", &run("m13", true)).await;
    bench.settle_down().await;
    assert_eq!(bench.rooms.calls.load(Ordering::SeqCst), 5, "the fifth place is used; the room is full");
    assert_eq!(bench.fate("e13", "one").await, "pending/every-run");
    bench.pass(64);
    bench.settle_down().await;
    assert_eq!(bench.fate("e13", "one").await, "sent/every-run");
}

#[tokio::test]
async fn repeats_by_one_user_are_told_together_at_the_end_of_their_time() {
    let bench = Bench::new(&activities("feed", "a", "on = \"each\", collate = \"5m\"")).await;
    bench.take("e1", &update("ana", "r1")).await;
    bench.pass(10);
    bench.take("e2", &update("ana", "r1")).await;
    bench.take("e3", &update("ben", "r1")).await;
    bench.take("e4", &update("ana", "r1")).await;
    bench.settle_down().await;
    assert_eq!(bench.texts("a").len(), 2, "Ana's first and Ben's first");
    bench.pass(289);
    bench.settle_down().await;
    assert_eq!(bench.texts("a").len(), 2);
    bench.pass(1);
    bench.settle_down().await;
    assert_eq!(bench.texts("a").len(), 3);
    assert_eq!(bench.fate("e4", "feed").await, "digested/collated");
    bench.take("e5", &update("ana", "r1")).await;
    bench.settle_down().await;
    assert_eq!(bench.fate("e5", "feed").await, "sent/activity", "after the end, a first again");
}

#[tokio::test]
async fn a_digest_tells_an_interval_at_its_end_and_nothing_when_nothing_happened() {
    let bench = Bench::new(&activities("feed", "a", "on = \"digest\", every = \"1h\"")).await;
    for n in 0..4 {
        bench.take(&format!("e{n}"), &update("ana", &format!("r{n}"))).await;
    }
    bench.settle_down().await;
    assert!(bench.texts("a").is_empty());
    bench.pass(3600);
    bench.settle_down().await;
    let texts = bench.texts("a");
    assert_eq!(texts.len(), 1);
    assert!((0..4).all(|n| texts[0].contains(&format!("r{n}"))), "{texts:?}");
    bench.pass(7200);
    bench.settle_down().await;
    assert_eq!(bench.texts("a").len(), 1, "no message for an empty interval");
}

#[tokio::test]
async fn a_digest_that_fills_more_than_one_message_says_that_it_goes_on() {
    let bench = Bench::new(&activities("feed", "a", "on = \"digest\", every = \"1h\"")).await;
    for n in 0..250 {
        bench.take(&format!("e{n}"), &update("ana", &format!("r{n}"))).await;
    }
    bench.pass(3600);
    bench.settle_down().await;
    let goes_on: Vec<bool> =
        bench.texts("a").iter().map(|text| text.contains("The next message tells more of this.")).collect();
    assert_eq!(goes_on, [true, true, false], "100 at a time");
    assert_eq!(bench.fate("e249", "feed").await, "digested/scheduled-digest");
}

#[tokio::test]
async fn each_of_two_digests_of_a_room_says_whether_it_goes_on() {
    let digest = |id| activities(id, "a", "on = \"digest\", every = \"1h\"");
    let bench = Bench::new(&[digest("one"), digest("two")].concat()).await;
    for n in 0..60 {
        bench.take(&format!("e{n}"), &update("ana", &format!("r{n}"))).await;
    }
    bench.pass(3600);
    bench.settle_down().await;
    let goes_on: Vec<bool> =
        bench.texts("a").iter().map(|text| text.contains("The next message tells more of this.")).collect();
    assert_eq!(goes_on, [true, true, false, false], "50 of each, then 10 of each");
}

#[tokio::test]
async fn an_integrations_throttle_holds_it_and_not_the_others_of_the_room() {
    let throttled = results("slow", "a", "all")
        + "throttle = { messages = 1, per = \"10m\", overflow = \"queue\" }\n"
        + &results("quick", "a", "all")
            .replace("monitor-results\"", "monitor-results\"\nmonitors = [\"q*\"]");
    let bench = Bench::new(&throttled).await;
    bench.take("e1", &run("m1", true)).await;
    bench.take("e2", &run("m2", true)).await;
    bench.take("e3", &run("q3", true)).await;
    bench.settle_down().await;
    assert_eq!(bench.fate("e1", "slow").await, "sent/every-run");
    assert_eq!(bench.fate("e2", "slow").await, "pending/every-run");
    assert_eq!(bench.fate("e3", "quick").await, "sent/every-run");
    for event in ["e2", "e3"] {
        bench.pass(650);
        bench.settle_down().await;
        assert_eq!(bench.fate(event, "slow").await, "sent/every-run", "{event} on its own, in its turn");
    }
}

#[tokio::test]
async fn what_expired_is_counted_in_the_next_message() {
    let bench = Bench::new(&results("one", "a", "all")).await;
    bench.script(&[Says::TooMany { wait: 800 }, Says::TooMany { wait: 800 }, Says::TooMany { wait: 800 }]);
    bench.take("e1", &run("m", true)).await;
    bench.take("e2", &run("m", true)).await;
    for _ in 0..3 {
        bench.settle_down().await;
        bench.pass(801);
    }
    bench.take("e3", &run("m", true)).await;
    bench.settle_down().await;
    assert_eq!(bench.fate("e1", "one").await, "expired/max-age");
    let texts = bench.texts("a");
    assert_eq!(texts.len(), 1);
    assert!(texts[0].contains("2 other notifications"), "{texts:?}");
    bench.take("e4", &run("m", true)).await;
    bench.settle_down().await;
    assert!(!bench.texts("a")[1].contains("other notification"), "told once");
}

#[tokio::test]
async fn a_room_that_waits_holds_up_no_other() {
    let bench = Bench::new(&(results("one", "a", "all") + &results("two", "b", "all"))).await;
    bench.script(&[Says::TooMany { wait: 60 }]);
    bench.take("e1", &run("m", true)).await;
    bench.settle_down().await;
    let heard: Vec<usize> = ["a", "b"].iter().map(|room| bench.colours(room).len()).collect();
    assert_eq!(heard.iter().sum::<usize>(), 1, "one was told to wait, the other heard it");
    bench.pass(61);
    bench.settle_down().await;
    assert_eq!((bench.colours("a").len(), bench.colours("b").len()), (1, 1));
}

#[tokio::test]
async fn a_resumed_integration_hears_again_that_it_is_failing() {
    let bench = Bench::new(&results("one", "a", "failures-then-success")).await;
    for n in 0..5 {
        bench.take(&format!("f{n}"), &run("m", false)).await;
    }
    bench.settle_down().await;
    let id = IntegrationId::new("one");
    bench.store.pause(&id, bench.clock.now()).await.unwrap();
    bench.catalogue.refresh().await.unwrap();
    bench.take("p1", &run("m", true)).await;
    assert_eq!(bench.fate("p1", "one").await, "suppressed/integration-paused");
    bench.store.resume(&id).await.unwrap();
    bench.catalogue.refresh().await.unwrap();
    bench.take("f6", &run("m", false)).await;
    bench.settle_down().await;
    assert_eq!(bench.fate("f6", "one").await, "sent/still-failing");
}

/// A run of monitor `m` that finished in this minute.
fn dated(minute: u32, passed: bool) -> String {
    run("m", passed).replacen('{', &format!(r#"{{"finished_at":"2025-11-24T15:{minute:02}:00Z","#), 1)
}

#[tokio::test]
async fn what_tells_of_the_past_leaves_no_doubt_of_the_present_when_it_is_lost() {
    let bench = Bench::new(&results("one", "a", "failures-and-recovery")).await;
    bench.take("e1", &dated(30, true)).await;
    let refused = [Says::Status(400), Says::Status(400)];
    bench.script(&refused);
    bench.take("late", &dated(20, false)).await;
    bench.settle_down().await;
    assert_eq!(bench.fate("late", "one").await, "dead-lettered/rejected-by-hipchat");
    bench.take("e2", &dated(31, true)).await;
    assert_eq!(
        bench.fate("e2", "one").await,
        "suppressed/still-passing",
        "no recovery from what nobody heard"
    );

    let mut replay = envelope("late", &dated(20, false));
    replay.headers.insert("x-integration-id".into(), "one".into());
    bench.script(&refused);
    bench.take_envelope(replay).await;
    bench.settle_down().await;
    assert_eq!(bench.letters().len(), 2, "put back in vain");
    bench.take("e3", &dated(32, true)).await;
    assert_eq!(bench.fate("e3", "one").await, "suppressed/still-passing");
}

#[tokio::test]
async fn a_token_that_has_no_call_left_is_not_used_until_its_reset() {
    let bench = Bench::new(&results("one", "a", "all")).await;
    for n in 0..3 {
        bench.take(&format!("e{n}"), &run(&format!("m{n}"), true)).await;
    }
    bench.script(&[Says::LastCall { wait: 90 }]);
    bench.settle_down().await;
    assert_eq!(bench.rooms.calls.load(Ordering::SeqCst), 1, "what was reserved of it counts no more");
    bench.pass(89);
    bench.settle_down().await;
    assert_eq!(bench.fate("e1", "one").await, "pending/every-run");
    bench.pass(1);
    bench.settle_down().await;
    assert_eq!(bench.fate("e2", "one").await, "sent/every-run");
}

#[tokio::test]
async fn an_event_that_comes_right_behind_its_own_replay_is_the_same_event() {
    for together in [true, false] {
        let bench = Bench::new(&[results("one", "a", "all"), results("two", "b", "all")].concat()).await;
        let event = envelope("e1", &run("m", false));
        let mut replay = event.clone();
        replay.headers.insert("x-integration-id".into(), "one".into());
        let at = bench.clock.now();
        let received: Vec<Received> =
            [replay, event].map(|envelope| Received { envelope, at }).into_iter().collect();
        for batch in received.chunks(if together { 2 } else { 1 }) {
            bench.intake.take_in(batch.to_vec()).await.durable.await.unwrap();
        }
        let fates = (bench.fate("e1", "one").await, bench.fate("e1", "two").await);
        assert_eq!(fates, ("pending/replayed".into(), "unknown".into()), "in one batch: {together}");
    }
}

#[tokio::test]
async fn integrations_that_cannot_be_read_are_looked_at_once_a_change() {
    let bench = Bench::new(&results("one", "a", "all")).await;
    let looks = Arc::new(AtomicUsize::new(0));
    let counted = looks.clone();
    let open = move |_: &_| {
        counted.fetch_add(1, Ordering::SeqCst);
        Err("written by a later version".to_owned())
    };
    let catalogue = Catalogue::new(bench.store.clone(), Box::new(open));
    for _ in 0..3 {
        catalogue.refresh().await.unwrap();
    }
    assert_eq!(looks.load(Ordering::SeqCst), 1, "or the log is told of the fault twice a second");
}

#[tokio::test]
async fn an_event_that_comes_right_after_a_change_is_decided_by_it() {
    let bench = Bench::new(&results("one", "a", "all")).await;
    let both = results("one", "a", "all") + &results("two", "b", "all");
    bench.store.apply(super::definitions(&both), ManagedBy::Operator, bench.clock.now()).await.unwrap();
    bench.take("e1", &run("m", true)).await;
    assert_eq!(bench.fate("e1", "two").await, "pending/every-run");
    bench.store.pause(&IntegrationId::new("two"), bench.clock.now()).await.unwrap();
    bench.take("e2", &run("m", true)).await;
    assert_eq!(bench.fate("e2", "two").await, "suppressed/integration-paused");
}
