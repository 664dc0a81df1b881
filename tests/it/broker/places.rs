//! The place as the queue's one consumer: given up by who can't make a batch durable, taken by who can.

use std::time::Duration;

use hipchat_notifier::adapters::rabbitmq::SessionState;

use super::*;

/// Short, so that a test need not wait.
const YIELD_AFTER: Duration = Duration::from_millis(700);

fn impatient(broker: &Broker) -> BrokerOptions {
    BrokerOptions { yield_after: Some(YIELD_AFTER), ..broker.options() }
}

async fn is_in(worker: &Worker, expected: &str) {
    let state = || worker.health.state();
    eventually(&format!("it is {expected}"), async || (state().as_str() == expected).then_some(())).await;
}

#[tokio::test]
async fn a_worker_that_can_make_nothing_durable_lets_another_go_on_and_stands_by_when_it_can() {
    let broker = Broker::fresh().await;
    let stuck = Worker::start(impatient(&broker), 0);
    stuck.is_ready().await;
    let able = Worker::start(impatient(&broker), Semaphore::MAX_PERMITS);
    is_in(&able, "standing-by").await;
    broker.publish("monitor.acme.1", "m-1", b"{}").await;
    stuck.sees("m-1").await;
    able.sees("m-1").await;
    let SessionState::Yielded { reason } = stuck.health.state() else { panic!("{:?}", stuck.health.state()) };
    assert!(reason.contains("durable"), "{reason}");
    assert!(stuck.health.verdict().is_err_and(|why| why.contains(&reason)));

    stuck.intake.lets.add_permits(Semaphore::MAX_PERMITS / 2);
    is_in(&stuck, "standing-by").await;
    broker.publish("monitor.acme.1", "m-2", b"{}").await;
    able.sees("m-2").await;
    assert_eq!(stuck.ids(), ["m-1"]);
    able.stop().await;
    broker.publish("monitor.acme.1", "m-3", b"{}").await;
    stuck.sees("m-3").await;
    is_in(&stuck, "consuming").await;
    stuck.stop().await;
    broker.depth_becomes(&broker.topology.queue, 0).await;
}

#[tokio::test]
async fn the_only_worker_waits_calmly_until_it_can_make_events_durable_and_loses_none() {
    let broker = Broker::fresh().await;
    let log = Log::catch();
    let worker = Worker::start(impatient(&broker), 0);
    for n in 0..3 {
        broker.publish("monitor.acme.1", &format!("m-{n}"), b"{}").await;
    }
    is_in(&worker, "yielded").await;
    broker.depth_becomes(&broker.topology.queue, 3).await;
    // Longer than it would take to give the place up twice more.
    tokio::time::sleep(3 * YIELD_AFTER).await;
    is_in(&worker, "yielded").await;
    let lines = |what: &str| log.text().matches(what).count();
    assert_eq!((lines("giving up the place"), lines("taking in events")), (1, 1), "{}", log.text());
    worker.intake.lets.add_permits(Semaphore::MAX_PERMITS / 2);
    broker.depth_becomes(&broker.topology.queue, 0).await;
    worker.is_ready().await;
    let taken = worker.ids();
    assert_eq!(taken[taken.len() - 3..], ["m-0", "m-1", "m-2"], "again, in order: {taken:?}");
    worker.stop().await;
}

#[tokio::test]
async fn a_worker_that_waits_to_be_able_again_can_be_stopped() {
    let broker = Broker::fresh().await;
    let worker = Worker::start(impatient(&broker), 0);
    broker.publish("monitor.acme.1", "m-1", b"{}").await;
    is_in(&worker, "yielded").await;
    tokio::time::timeout(Duration::from_secs(5), worker.stop()).await.expect("at once");
    broker.depth_becomes(&broker.topology.queue, 1).await;
}
