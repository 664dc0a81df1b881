//! Rooms that hang until their timeout, more of them than dispatch has places.

use std::sync::atomic::AtomicBool;

use super::*;
use crate::support::broker::eventually;

/// Rooms of which the dead ones fail, and later hang.
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
        if is_dead && self.hang.load(Ordering::SeqCst) {
            self.hanging.fetch_add(1, Ordering::SeqCst);
            std::future::pending::<()>().await;
        }
        if !is_dead {
            self.heard.fetch_add(1, Ordering::SeqCst);
        }
        Answer {
            status: None,
            class: if is_dead { AnswerClass::Unavailable } else { AnswerClass::Accepted },
            detail: String::new(),
            room_limit: LimitHint::default(),
            token_limit: LimitHint::default(),
        }
    }
}

#[tokio::test]
async fn however_many_dead_rooms_are_retried_a_healthy_one_hears_at_once() {
    let watching = |id: &str, monitor: &str| {
        let line = format!("monitor-results\"\nmonitors = [\"{monitor}\"]");
        results(id, id, "all").replace("monitor-results\"", &line)
    };
    let dead: String = (0..20).map(|n| watching(&format!("dead-{n}"), "m")).collect();
    let mut bench = Bench::new(&(dead + &watching("well", "w"))).await;
    let rooms = Arc::new(DeadRooms::default());
    bench.dispatch.gateway = rooms.clone();
    bench.take("e1", &run("m", false)).await;
    bench.settle_down().await;
    bench.pass(2);
    rooms.hang.store(true, Ordering::SeqCst);

    let (switch, stop) = StopSwitch::new();
    let Bench { dispatch, intake, clock, .. } = bench;
    let running = tokio::spawn(Arc::new(dispatch).run(stop));
    eventually("retries are under way", async || (rooms.hanging.load(Ordering::SeqCst) > 0).then_some(()))
        .await;
    for n in 0..3 {
        let envelope = envelope(&format!("w{n}"), &run("w", true));
        intake.take_in(vec![Received { envelope, at: clock.now() }]).await;
        eventually("the healthy room hears it", async || {
            (rooms.heard.load(Ordering::SeqCst) == n + 1).then_some(())
        })
        .await;
    }
    assert_eq!(rooms.hanging.load(Ordering::SeqCst), 2, "a quarter of the eight places, on top of them");
    switch.stop();
    running.abort();
}
