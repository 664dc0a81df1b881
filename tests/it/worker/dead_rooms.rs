//! Rooms that hang until their timeout, many more of them than dispatch has quick places.

use std::sync::atomic::AtomicBool;

use super::*;
use crate::support::broker::eventually;

/// Rooms of which the dead ones fail, and later hang. The shaky ones fail until the dead hang.
#[derive(Default)]
struct DeadRooms {
    hang: AtomicBool,
    hanging: AtomicUsize,
    heard: AtomicUsize,
}

#[async_trait]
impl RoomGateway for DeadRooms {
    async fn post(&self, target: &RoomTarget, _: &RoomMessage) -> Answer {
        let is_dead = target.room.as_str().contains("dead");
        let is_hanging = self.hang.load(Ordering::SeqCst);
        if is_dead && is_hanging {
            self.hanging.fetch_add(1, Ordering::SeqCst);
            std::future::pending::<()>().await;
        }
        let fails = is_dead || (target.room.as_str().contains("shaky") && !is_hanging);
        if !fails {
            self.heard.fetch_add(1, Ordering::SeqCst);
        }
        Answer {
            status: None,
            class: if fails { AnswerClass::Unavailable } else { AnswerClass::Accepted },
            detail: String::new(),
            room_limit: LimitHint::default(),
            token_limit: LimitHint::default(),
        }
    }
}

/// An integration with a room of its own, told of `monitor` only.
fn watching(id: &str, monitor: &str) -> String {
    let line = format!("monitor-results\"\nmonitors = [\"{monitor}\"]");
    results(id, id, "all").replace("monitor-results\"", &line)
}

fn dead(rooms: usize) -> String {
    (0..rooms).map(|n| watching(&format!("dead-{n}"), "m")).collect()
}

#[tokio::test]
async fn however_many_dead_rooms_are_retried_a_healthy_one_hears_at_once() {
    let mut bench = Bench::new(&(dead(60) + &watching("well", "w"))).await;
    let rooms = Arc::new(DeadRooms::default());
    bench.dispatch.gateway = rooms.clone();
    bench.take("e1", &run("m", false)).await;
    bench.settle_down().await;
    bench.pass(2);
    rooms.hang.store(true, Ordering::SeqCst);

    let (switch, stop) = StopSwitch::new();
    let Bench { dispatch, intake, clock, .. } = bench;
    let running = tokio::spawn(Arc::new(dispatch).run(stop));
    eventually("retries have all they may have", async || {
        (rooms.hanging.load(Ordering::SeqCst) == 40).then_some(())
    })
    .await;
    for n in 0..3 {
        let envelope = envelope(&format!("w{n}"), &run("w", true));
        intake.take_in(vec![Received { envelope, at: clock.now() }]).await.durable.await.unwrap();
        eventually("the healthy room hears it", async || {
            (rooms.heard.load(Ordering::SeqCst) == n + 1).then_some(())
        })
        .await;
    }
    assert_eq!(rooms.hanging.load(Ordering::SeqCst), 40, "eight quick places, and the slow ones");
    switch.stop();
    running.abort();
}

#[tokio::test]
async fn a_room_that_failed_once_is_retried_while_many_dead_ones_hang() {
    let mut bench = Bench::new(&(dead(30) + &watching("shaky", "m"))).await;
    let rooms = Arc::new(DeadRooms::default());
    bench.dispatch.gateway = rooms.clone();
    bench.take("e1", &run("m", false)).await;
    bench.settle_down().await;
    bench.pass(2);
    rooms.hang.store(true, Ordering::SeqCst);
    all_is_heard_while_others_hang(bench, &rooms).await;
}

#[tokio::test]
async fn a_quick_room_waits_for_no_slow_ones_at_their_first_attempt() {
    let mut bench = Bench::new(&(dead(30) + &watching("well", "w"))).await;
    let rooms = Arc::new(DeadRooms::default());
    rooms.hang.store(true, Ordering::SeqCst);
    bench.dispatch.gateway = rooms.clone();
    bench.take("e1", &run("m", true)).await;
    bench.pass(1);
    bench.take("e2", &run("w", true)).await;
    all_is_heard_while_others_hang(bench, &rooms).await;
}

/// Runs `bench` until 30 rooms hang for good and the one healthy room was heard.
async fn all_is_heard_while_others_hang(bench: Bench, rooms: &DeadRooms) {
    let (switch, stop) = StopSwitch::new();
    let running = tokio::spawn(Arc::new(bench.dispatch).run(stop));
    eventually("the healthy room hears it", async || {
        (rooms.heard.load(Ordering::SeqCst) == 1 && rooms.hanging.load(Ordering::SeqCst) == 30).then_some(())
    })
    .await;
    switch.stop();
    running.abort();
}
