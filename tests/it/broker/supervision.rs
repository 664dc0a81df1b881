//! What ends a session without anybody saying so, and what keeps deliveries from coming while it lasts: noticed in
//! bounded time, said in one line, and healed.

use std::time::Duration;

use hipchat_notifier::adapters::rabbitmq::{SessionState, Topology};
use tokio::net::TcpListener;

use super::*;
use crate::support::process::Site;

#[tokio::test]
async fn a_silent_broker_is_noticed_and_left_alone_until_it_speaks_again() {
    let broker = Broker::fresh().await;
    let log = Log::catch();
    let proxy = Proxy::before(broker.host_and_port()).await;
    let url = format!("{}?heartbeat=1", broker.url_by(&proxy.address));
    let worker = Worker::start(broker.options_by(&url), Semaphore::MAX_PERMITS);
    worker.is_ready().await;
    // Half-open: the peer is gone and has not said so.
    proxy.stall(true);
    let why = eventually("the silence is noticed", async || worker.health.verdict().err()).await;
    assert!(why.contains("silent for too long"), "{why}");
    // It accepts, and says nothing.
    let mute =
        eventually("mute", async || worker.health.verdict().err().filter(|why| why.contains("no answer")));
    assert!(mute.await.contains("while connecting to"));
    proxy.stall(false);
    worker.is_ready().await;
    broker.publish("monitor.acme.1", "m-1", b"{}").await;
    worker.sees("m-1").await;
    worker.stop().await;
    let lines = |what: &str| log.text().matches(what).count();
    assert_eq!(lines("session with RabbitMQ ended"), 1, "{}", log.text());
}

#[tokio::test]
async fn a_blocked_connection_is_said_and_is_not_ready_until_it_is_unblocked() {
    let broker = Broker::fresh().await;
    let log = Log::catch();
    let proxy = Proxy::before(broker.host_and_port()).await;
    let worker = Worker::start(broker.options_by(&broker.url_by(&proxy.address)), Semaphore::MAX_PERMITS);
    worker.is_ready().await;
    proxy.block("low on disk").await;
    let why = eventually("it is blocked", async || worker.health.verdict().err()).await;
    assert!(why.contains("low on disk"), "{why}");
    proxy.unblock().await;
    worker.is_ready().await;
    broker.publish("monitor.acme.1", "m-1", b"{}").await;
    worker.sees("m-1").await;
    worker.stop().await;
    let lines = |what: &str| log.text().matches(what).count();
    assert_eq!((lines("has blocked the connection"), lines("has unblocked")), (1, 1), "{}", log.text());
}

#[tokio::test]
async fn a_consumer_that_starves_while_the_queue_grows_subscribes_anew() {
    let broker = Broker::fresh().await;
    let log = Log::catch();
    let proxy = Proxy::before(broker.host_and_port()).await;
    let options = BrokerOptions {
        prefetch: 1,
        look_every: Duration::from_millis(500),
        ..broker.options_by(&broker.url_by(&proxy.address))
    };
    let worker = Worker::start(options, Semaphore::MAX_PERMITS);
    worker.is_ready().await;
    proxy.keep_deliveries(true);
    for n in 0..3 {
        broker.publish("monitor.acme.1", &format!("m-{n}"), b"{}").await;
    }
    eventually("it is noticed", async || worker.health.verdict().err()).await;
    proxy.keep_deliveries(false);
    worker.sees("m-2").await;
    assert_eq!(worker.ids(), ["m-0", "m-1", "m-2"]);
    worker.stop().await;
    let text = log.text();
    assert!(text.contains("2 events wait, but none is delivered to the active consumer"), "{text}");
}

/// RabbitMQ does not say who of several is the active consumer.
#[tokio::test]
async fn a_worker_that_stands_by_is_not_taken_for_a_starved_one() {
    let broker = Broker::fresh().await;
    let log = Log::catch();
    let quick = || BrokerOptions { prefetch: 1, look_every: Duration::from_millis(200), ..broker.options() };
    let active = Worker::start(quick(), 0);
    active.is_ready().await;
    let standby = Worker::start(quick(), 0);
    standby.is_ready().await;
    for n in 0..3 {
        broker.publish("monitor.acme.1", &format!("m-{n}"), b"{}").await;
    }
    active.sees("m-0").await;
    // Several looks of the one that stands by, while events wait.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(standby.health.state(), SessionState::StandingBy);
    assert!(!log.text().contains("none is delivered"), "{}", log.text());
    active.intake.lets.add_permits(Semaphore::MAX_PERMITS / 2);
    active.sees("m-2").await;
    active.stop().await;
    broker.publish("monitor.acme.1", "m-3", b"{}").await;
    standby.sees("m-3").await;
    assert_eq!(standby.health.state(), SessionState::Consuming);
    let taken_over = "taking in events from RabbitMQ, since the worker that did is gone";
    assert_eq!(log.text().matches(taken_over).count(), 1, "{}", log.text());
    standby.intake.lets.add_permits(1);
    broker.depth_becomes(&broker.topology.queue, 0).await;
    standby.stop().await;
}

/// All count the consumers of a queue that has none, and one of them is to be the active one.
#[tokio::test(flavor = "multi_thread")]
async fn of_workers_that_start_at_the_same_moment_one_says_that_it_consumes() {
    for round in 0..10 {
        let broker = Broker::fresh().await;
        let workers: Vec<Worker> =
            (0..6).map(|_| Worker::start(broker.options(), Semaphore::MAX_PERMITS)).collect();
        for worker in &workers {
            worker.is_ready().await;
        }
        let consuming = |worker: &&Worker| worker.health.state() == SessionState::Consuming;
        let active: Vec<&Worker> = workers.iter().filter(consuming).collect();
        assert_eq!(active.len(), 1, "round {round}");
        broker.publish("monitor.acme.1", "m-1", b"{}").await;
        active[0].sees("m-1").await;
        assert_eq!(workers.iter().filter(consuming).count(), 1, "it was the one, round {round}");
        for worker in workers {
            worker.stop().await;
        }
    }
}

/// As if one had frozen in the middle of it.
#[tokio::test]
async fn who_never_ends_subscribing_is_not_waited_for_long() {
    let broker = Broker::fresh().await;
    let log = Log::catch();
    let other = broker.connection().create_channel().await.expect("a channel");
    let exclusive = QueueDeclareOptions { exclusive: true, ..Default::default() };
    let subscribing = format!("{}.subscribing", broker.topology.queue);
    other
        .queue_declare(subscribing.as_str().into(), exclusive, FieldTable::default())
        .await
        .expect("declared");
    let worker = Worker::start(broker.options(), Semaphore::MAX_PERMITS);
    worker.is_ready().await;
    broker.publish("monitor.acme.1", "m-1", b"{}").await;
    worker.sees("m-1").await;
    worker.stop().await;
    let text = log.text();
    assert!(!text.contains("session with RabbitMQ ended"), "a refusal ends no session: {text}");
}

/// A peer that takes every connection and holds it open without a word. Attempts are not kept: each would hold a
/// thread and a socket for as long as the peer likes.
#[tokio::test(flavor = "multi_thread")]
async fn attempts_at_a_mute_broker_leave_nothing_behind() {
    let mute = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = mute.local_addr().expect("an address").to_string();
    let broker = Broker::bare().await;
    let site = Site::on(&broker).with("AMQP__URL", &broker.url_by(&address));
    let worker = site.spawn();
    let mut held = Vec::new();
    while held.len() < 3 {
        let (connection, _) = tokio::time::timeout(Duration::from_secs(20), mute.accept())
            .await
            .expect("it tries again")
            .expect("accepted");
        held.push(connection);
    }
    eventually("only the attempt under way is there", async || {
        (worker.threads("lapin-io-loop") <= 1).then_some(())
    })
    .await;
}

/// Somebody has deleted it, or what binds the queue to it; the session itself notices neither.
#[tokio::test]
async fn an_exchange_that_is_deleted_and_a_binding_are_made_again() {
    let broker = Broker::fresh().await;
    let options = BrokerOptions { look_every: Duration::from_millis(200), ..broker.options() };
    let worker = Worker::start(options, Semaphore::MAX_PERMITS);
    worker.is_ready().await;
    let Topology { exchange, queue, .. } = &broker.topology;
    let channel = broker.connection().create_channel().await.expect("a channel");
    let (name, queue) = (exchange.as_str().into(), queue.as_str().into());
    channel.queue_unbind(queue, name, "monitor.#".into(), FieldTable::default()).await.expect("unbound");
    // Several looks.
    tokio::time::sleep(Duration::from_secs(2)).await;
    broker.publish("monitor.acme.1", "m-1", b"{}").await;
    worker.sees("m-1").await;
    let name = exchange.as_str().into();
    channel.exchange_delete(name, Default::default()).await.expect("deleted");
    eventually("it is missed", async || worker.health.verdict().err()).await;
    worker.is_ready().await;
    broker.publish("monitor.acme.1", "m-2", b"{}").await;
    worker.sees("m-2").await;
    worker.stop().await;
}
