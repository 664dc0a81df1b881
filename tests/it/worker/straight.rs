//! Rooms that are told straight from intake: the whole way through intake, handover and dispatch.

use hipchat_notifier::ports::{RoomLine, Straight};
use hipchat_notifier::worker::batch;

use super::*;

/// Takes `id` in while dispatch takes what is handed over, and returns how many rooms that were.
async fn take_and_tell(bench: &Bench, id: &str, body: &str) -> usize {
    let (_switch, stop) = StopSwitch::new();
    let handover = &bench.dispatch.handover;
    let is_taken = std::cell::Cell::new(false);
    let taking = async {
        bench.take(id, body).await;
        is_taken.set(true);
        handover.bell.ring();
    };
    let telling = async {
        let mut told = 0;
        while !is_taken.get() {
            while let Some((line, ())) = handover.take(|_| Some(())) {
                bench.dispatch.work_off(line, &stop).await;
                told += 1;
            }
            handover.bell.wait(Duration::from_secs(1)).await;
        }
        told
    };
    tokio::join!(taking, telling).1
}

async fn straight(toml: &str) -> Bench {
    let mut bench = Bench::new(toml).await;
    bench.intake.handover = Some(bench.dispatch.handover.clone());
    bench
}

#[tokio::test]
async fn a_room_that_answered_at_once_is_told_before_its_event_is_acknowledged() {
    let bench = straight(&results("one", "a", "all")).await;
    assert_eq!(take_and_tell(&bench, "e1", &run("m", true)).await, 0, "nothing is known of the room yet");
    bench.settle_down().await;
    for id in ["e2", "e3"] {
        assert_eq!(take_and_tell(&bench, id, &run("m", false)).await, 1, "{id}");
        assert_eq!(bench.fate(id, "one").await, "sent/every-run");
    }
    assert_eq!(take_and_tell(&bench, "e3", &run("m", false)).await, 0, "the same event twice is one");
    assert_eq!(bench.colours("a"), ["green", "red", "red"]);
    assert!(bench.dispatch.claim_due(8, 8, bench.moment()).await.is_empty(), "nothing is left to do");
}

#[tokio::test]
async fn a_room_that_fails_is_told_by_way_of_the_store_until_it_is_well_again() {
    let bench = straight(&results("one", "a", "all")).await;
    bench.take("e1", &run("m", true)).await;
    bench.settle_down().await;
    bench.script(&[Says::Status(503)]);
    assert_eq!(take_and_tell(&bench, "e2", &run("m", true)).await, 1);
    assert_eq!(bench.fate("e2", "one").await, "pending/every-run");
    assert_eq!(take_and_tell(&bench, "e3", &run("m", true)).await, 0);
    bench.pass(10);
    bench.settle_down().await;
    assert_eq!(bench.texts("a").len(), 3);
    assert_eq!(bench.fate("e2", "one").await, "sent/every-run");
    assert_eq!(take_and_tell(&bench, "e4", &run("m", true)).await, 1);
    assert_eq!(bench.texts("a").len(), 4);
}

#[tokio::test]
async fn a_budget_that_is_used_up_makes_a_digest_as_ever() {
    let bench = straight(&results("one", "a", "all")).await;
    bench.take("e0", &run("m", true)).await;
    bench.settle_down().await;
    for n in 1..5 {
        assert_eq!(take_and_tell(&bench, &format!("e{n}"), &run("m", true)).await, 1);
    }
    // The room may hear five in a minute, and six more do not fit.
    for n in 5..11 {
        assert_eq!(take_and_tell(&bench, &format!("e{n}"), &run("m", true)).await, 0);
    }
    bench.settle_down().await;
    assert_eq!(bench.texts("a").len(), 5);
    bench.pass(64);
    bench.settle_down().await;
    assert_eq!(bench.texts("a").len(), 6);
    for n in 5..11 {
        assert_eq!(bench.fate(&format!("e{n}"), "one").await, "digested/over-budget");
    }
}

#[tokio::test]
async fn what_is_handed_over_when_the_worker_stops_is_given_back() {
    let bench = straight(&results("one", "a", "all")).await;
    bench.take("e1", &run("m", true)).await;
    bench.settle_down().await;
    let (switch, stop) = StopSwitch::new();
    switch.stop();
    let handover = &bench.dispatch.handover;
    let giving_back = async {
        loop {
            if let Some((line, ())) = handover.take(|_| Some(())) {
                return bench.dispatch.work_off(line, &stop).await;
            }
            handover.bell.wait(Duration::from_secs(1)).await;
        }
    };
    let body = run("m", true);
    tokio::join!(bench.take("e2", &body), giving_back);
    assert_eq!(bench.fate("e2", "one").await, "pending/every-run");
    assert_eq!(bench.texts("a").len(), 1, "no attempt is begun");
    bench.settle_down().await;
    assert_eq!(bench.texts("a").len(), 2);
}

/// A server that takes its time would hold up the acknowledgement of its batch, and of those that come after it.
#[tokio::test]
async fn a_room_that_takes_its_time_is_told_by_way_of_the_store() {
    let bench = straight(&results("one", "a", "all")).await;
    let room = hipchat_notifier::domain::ids::RoomKey::new("https://h.example/v2/room/a");
    bench.take("e1", &run("m", true)).await;
    bench.settle_down().await;
    bench.dispatch.handover.answered(&room, Some(Duration::from_millis(26)));
    assert_eq!(take_and_tell(&bench, "e2", &run("m", true)).await, 0);
    bench.settle_down().await;
    assert_eq!(take_and_tell(&bench, "e3", &run("m", true)).await, 1, "it was quick the last time");
    bench.dispatch.handover.answered(&room, None);
    assert_eq!(take_and_tell(&bench, "e4", &run("m", true)).await, 0);
}

#[tokio::test]
async fn what_is_taken_in_while_the_worker_stops_is_given_back() {
    let bench = straight(&results("one", "a", "all")).await;
    bench.take("e1", &run("m", true)).await;
    bench.settle_down().await;
    let Bench { dispatch, intake, clock, store, .. } = bench;
    let (dispatch, straight) = (Arc::new(dispatch), intake.handover.as_ref().unwrap().straight());
    let (switch, stop) = StopSwitch::new();
    switch.stop();
    dispatch.clone().run(stop.clone()).await;
    assert_eq!(intake.handover.as_ref().unwrap().straight().most, 0, "nobody takes it any more");

    // A batch that had begun before that.
    let due = intake.store.next_due().await.unwrap();
    assert_eq!(due, None);
    let handed = Arc::new(Mutex::new(None));
    let hand = {
        let (handed, hand) = (handed.clone(), straight.hand.clone());
        Arc::new(move |line: RoomLine| {
            *handed.lock().unwrap() = Some(line.room.clone());
            hand(line);
        })
    };
    let received = Received { envelope: envelope("e2", &run("m", true)), at: clock.now() };
    let read: Arc<[_]> = Arc::from([batch::read(received, &intake.catalogue.now())]);
    let query = batch::query(&read);
    let decide = Box::new(move |state| batch::decide(&read, state).0);
    intake.store.take_in_telling(query, decide, Straight { hand, ..straight }).await.unwrap();
    assert!(handed.lock().unwrap().is_some());
    dispatch.give_back_handed_over(&stop).await;
    let lines = store.claim_rooms(dispatch.terms.claim(8, 8), clock.now()).await.unwrap();
    assert_eq!(lines.len(), 1, "whoever comes next tells it at once");
}

/// Its place is another's then, as `worker::places` has it.
#[tokio::test]
async fn a_room_has_its_last_answer_when_nothing_more_of_its_line_is_to_be_told() {
    let (_switch, stop) = StopSwitch::new();
    for (says, begun) in [(Says::Status(503), false), (Says::Good, true)] {
        let bench = Bench::new(&results("one", "a", "all")).await;
        bench.take("e1", &run("m", true)).await;
        bench.script(&[says]);
        let held = bench.dispatch.claim_due(8, 8, bench.moment()).await.remove(0);
        let recording = held.recording.clone();
        bench.dispatch.work_off(held, &stop).await;
        assert_eq!(recording.has_begun(), begun);
    }
}
