//! Taking events in, and what ends a session.

use std::time::Duration;

use super::*;

#[tokio::test]
async fn events_come_in_order_and_are_acknowledged_only_when_durable() {
    let broker = Broker::fresh().await;
    for n in 0..500 {
        broker.publish("monitor.acme.1", &format!("m-{n}"), b"{}").await;
    }
    let small = BrokerOptions { batch: 100, ..broker.options() };
    let worker = Worker::start(small, 0);
    worker.sees("m-0").await;
    worker.stop.send(true).expect("listens");
    // One is decided, and one was read meanwhile.
    worker.intake.lets.add_permits(2);
    let first = worker.intake.clone();
    worker.task.await.expect("no panic").expect("a clean end");
    let taken = first.seen.lock().expect("not poisoned").len();
    broker.depth_becomes(&broker.topology.queue, 500 - taken as u32).await;

    let worker = Worker::start(broker.options(), Semaphore::MAX_PERMITS);
    worker.sees("m-499").await;
    let expected: Vec<String> = (taken..500).map(|n| format!("m-{n}")).collect();
    assert_eq!(worker.ids(), expected, "what was acknowledged does not come again, and the rest in order");
    worker.stop().await;
    broker.depth_becomes(&broker.topology.queue, 0).await;
}

#[tokio::test]
async fn a_session_that_dies_before_the_acknowledgement_gives_the_event_back() {
    let broker = Broker::fresh().await;
    let proxy = Proxy::before(broker.host_and_port()).await;
    let worker = Worker::start(broker.options_by(&broker.url_by(&proxy.address)), 0);
    broker.publish("monitor.acme.1", "m-1", b"{}").await;
    worker.sees("m-1").await;
    proxy.cut();
    eventually("the loss is noticed while the intake works", async || worker.health.verdict().err()).await;
    worker.intake.lets.add_permits(Semaphore::MAX_PERMITS / 2);
    eventually("it comes again", async || (worker.ids() == ["m-1", "m-1"]).then_some(())).await;
    worker.stop().await;
    broker.depth_becomes(&broker.topology.queue, 0).await;
}

#[tokio::test]
async fn whatever_ends_a_session_the_next_one_follows() {
    let broker = Broker::fresh().await;
    let proxy = Proxy::before(broker.host_and_port()).await;
    let worker = Worker::start(broker.options_by(&broker.url_by(&proxy.address)), Semaphore::MAX_PERMITS);
    let gone = async |what: &str| {
        eventually(&format!("{what} is noticed"), async || worker.health.verdict().err()).await;
        worker.is_ready().await;
        broker.publish("activity.acme.collection.update", what, b"{}").await;
        worker.sees(what).await;
    };
    worker.is_ready().await;

    proxy.make_broker_close_the_channel().await;
    gone("a channel closed by the broker").await;
    proxy.make_broker_close_the_connection().await;
    gone("a connection closed by the broker").await;
    proxy.cut();
    gone("a connection cut").await;
    broker.delete_queue(&broker.topology.queue).await;
    gone("a queue deleted").await;
    worker.stop().await;
}

#[tokio::test]
async fn a_session_that_ends_while_the_store_is_broken_is_followed_by_another() {
    let broker = Broker::fresh().await;
    let proxy = Proxy::before(broker.host_and_port()).await;
    let worker = Worker::start(broker.options_by(&broker.url_by(&proxy.address)), 0);
    let again = async |id: &str| {
        worker.intake.lets.add_permits(1);
        worker.is_ready().await;
        let copies = || worker.ids().iter().filter(|seen| *seen == id).count();
        eventually(&format!("{id} comes again"), async || (copies() == 2).then_some(())).await;
        worker.intake.lets.add_permits(1);
        broker.depth_becomes(&broker.topology.queue, 0).await;
    };
    let loss = async || {
        eventually("the loss is noticed", async || worker.health.verdict().err()).await;
    };
    broker.publish("monitor.acme.1", "closed", b"{}").await;
    worker.sees("closed").await;
    proxy.make_broker_close_the_channel().await;
    loss().await;
    again("closed").await;

    broker.publish("monitor.acme.1", "cancelled", b"{}").await;
    worker.sees("cancelled").await;
    broker.delete_queue(&broker.topology.queue).await;
    worker.intake.lets.add_permits(1);
    loss().await;
    worker.is_ready().await;
    broker.publish("monitor.acme.1", "after", b"{}").await;
    worker.sees("after").await;
    worker.intake.lets.add_permits(1);
    worker.stop().await;
    broker.depth_becomes(&broker.topology.queue, 0).await;
}

/// Deciding it would tell producers of a malformed event twice, and come to nothing else.
#[tokio::test]
async fn what_a_lost_session_had_only_gathered_is_left_to_the_next() {
    let broker = Broker::fresh().await;
    let proxy = Proxy::before(broker.host_and_port()).await;
    let worker = Worker::start(broker.options_by(&broker.url_by(&proxy.address)), 0);
    broker.publish("monitor.acme.1", "decided", b"{}").await;
    worker.sees("decided").await;
    broker.publish("monitor.acme.1", "gathered", b"{}").await;
    broker.depth_becomes(&broker.topology.queue, 0).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    proxy.make_broker_close_the_channel().await;
    eventually("the loss is noticed", async || worker.health.verdict().err()).await;
    worker.intake.lets.add_permits(Semaphore::MAX_PERMITS / 2);
    worker.sees("gathered").await;
    assert_eq!(worker.ids(), ["decided", "decided", "gathered"]);
    worker.stop().await;
    broker.depth_becomes(&broker.topology.queue, 0).await;
}

/// Nothing of it would come again.
#[tokio::test]
async fn what_has_come_of_a_queue_that_is_deleted_is_taken_in() {
    for batch in [1, 100] {
        let broker = Broker::fresh().await;
        let worker = Worker::start(BrokerOptions { batch, ..broker.options() }, 0);
        for id in ["m-0", "m-1", "m-2", "m-3", "m-4"] {
            broker.publish("monitor.acme.1", id, b"{}").await;
            broker.depth_becomes(&broker.topology.queue, 0).await;
        }
        worker.sees("m-0").await;
        broker.delete_queue(&broker.topology.queue).await;
        eventually("the loss is noticed", async || worker.health.verdict().err()).await;
        worker.intake.lets.add_permits(Semaphore::MAX_PERMITS / 2);
        worker.sees("m-4").await;
        assert_eq!(worker.ids(), ["m-0", "m-1", "m-2", "m-3", "m-4"], "batches of {batch}");
        worker.is_ready().await;
        worker.stop().await;
    }
}

#[tokio::test]
async fn a_batch_of_which_nobody_knows_what_is_written_comes_again() {
    let broker = Broker::fresh().await;
    let worker = Worker::start(broker.options(), Semaphore::MAX_PERMITS);
    worker.is_ready().await;
    broker.publish("monitor.acme.1", "undurable", b"{}").await;
    let twice = ["undurable", "undurable"];
    eventually("it comes again", async || (worker.ids() == twice).then_some(())).await;
    broker.depth_becomes(&broker.topology.queue, 0).await;
    worker.stop().await;
    broker.depth_becomes(&broker.topology.queue, 0).await;
}

#[tokio::test]
async fn a_consumer_that_is_cut_off_while_it_takes_in_acknowledges_nothing() {
    let broker = Broker::fresh().await;
    for n in 0..3 {
        broker.publish("monitor.acme.1", &format!("m-{n}"), b"{}").await;
    }
    let worker = Worker::start(broker.options(), 0);
    worker.sees("m-0").await;
    worker.stop.send(true).expect("listens");
    worker.task.abort();
    assert!(worker.task.await.expect_err("cut off").is_cancelled());
    broker.depth_becomes(&broker.topology.queue, 3).await;
}

#[tokio::test]
async fn a_batch_that_is_not_durable_yet_holds_up_acknowledgements_and_nothing_else() {
    let broker = Broker::fresh().await;
    let worker = Worker::start(broker.options(), Semaphore::MAX_PERMITS);
    worker.is_ready().await;
    for id in ["slow", "quick", "after"] {
        broker.publish("monitor.acme.1", id, b"{}").await;
        worker.sees(id).await;
    }
    worker.task.abort();
    assert!(worker.task.await.expect_err("cut off").is_cancelled());
    broker.depth_becomes(&broker.topology.queue, 3).await;

    let worker = Worker::start(broker.options(), Semaphore::MAX_PERMITS);
    worker.sees("after").await;
    worker.stop.send(true).expect("listens");
    worker.intake.lets_slow.add_permits(1);
    worker.task.await.expect("no panic").expect("a clean end");
    broker.depth_becomes(&broker.topology.queue, 0).await;
}

#[tokio::test]
async fn what_is_told_straight_comes_in_small_batches() {
    let broker = Broker::fresh().await;
    for _ in 0..60 {
        broker.publish("monitor.acme.1", "straight", b"{}").await;
    }
    broker.publish("monitor.acme.1", "last", b"{}").await;
    let options = BrokerOptions { batch: 10, ..broker.options() };
    let worker = Worker::start(options, Semaphore::MAX_PERMITS);
    worker.sees("last").await;
    let sizes: Vec<usize> =
        worker.intake.batches.lock().expect("not poisoned").iter().map(Vec::len).collect();
    // Two are in the hands of the intake and one is gathered before it is known of the first.
    let (first, later) = sizes.split_at(3);
    assert!(first.iter().all(|size| *size <= 10) && later.iter().all(|size| *size <= 2), "{sizes:?}");
    assert!(later.contains(&2), "{sizes:?}");
    worker.stop().await;
    broker.depth_becomes(&broker.topology.queue, 0).await;
}

#[tokio::test]
async fn large_bodies_come_in_batches_of_their_own() {
    let broker = Broker::fresh().await;
    let sizes = [10, 2 << 20, 10, 1 << 20, 1 << 20, 1 << 20, 1 << 20, 10];
    for (n, size) in sizes.into_iter().enumerate() {
        broker.publish("monitor.acme.1", &format!("m-{n}"), &vec![b'x'; size]).await;
    }
    let worker = Worker::start(broker.options(), Semaphore::MAX_PERMITS);
    worker.sees("m-7").await;
    let expected: Vec<String> = (0..sizes.len()).map(|n| format!("m-{n}")).collect();
    assert_eq!(worker.ids(), expected, "in order, each once");
    for batch in worker.intake.batches.lock().expect("not poisoned").iter() {
        let bytes: usize = batch.iter().sum();
        assert!(bytes <= 4 << 20, "{batch:?}");
        assert!(batch.len() == 1 || batch.iter().all(|size| *size <= 1 << 20), "{batch:?}");
    }
    worker.stop().await;
    broker.depth_becomes(&broker.topology.queue, 0).await;
}

#[tokio::test]
async fn where_an_event_says_it_came_from_is_believed_only_if_it_can_be() {
    let broker = Broker::fresh().await;
    let mut headers = FieldTable::default();
    headers.insert("x-original-exchange".into(), AMQPValue::LongString("events".into()));
    headers.insert("x-original-routing-key".into(), AMQPValue::LongString("k".repeat(256).into()));
    let properties =
        BasicProperties::default().with_delivery_mode(2).with_message_id("m-1".into()).with_headers(headers);
    broker.publish_to(&broker.topology.exchange, "monitor.acme.1", b"{}", properties).await;
    let worker = Worker::start(broker.options(), Semaphore::MAX_PERMITS);
    worker.sees("m-1").await;
    let envelope = worker.intake.seen.lock().expect("not poisoned")[0].envelope.clone();
    assert_eq!(
        (&envelope.exchange, envelope.routing_key.as_str()),
        (&broker.topology.exchange, "monitor.acme.1")
    );
    worker.stop().await;
}

/// What no client in Rust can say, and others can: bytes that are not UTF-8 where AMQP has short strings, and headers
/// nested without end.
#[tokio::test]
async fn a_message_that_lapin_could_not_read_is_taken_in_like_any_other() {
    let broker = Broker::fresh().await;
    let proxy = Proxy::before(broker.host_and_port()).await;
    let producer = Producer::at(&broker.url_by(&proxy.address)).await;
    let broken = |text: &str| text.replace('!', NOT_UTF8);
    let mut headers = FieldTable::default();
    headers.insert(broken("na!me").into(), AMQPValue::LongString("kept".into()));
    // One frame of 128 KiB holds no more.
    headers.insert(NESTED.into(), AMQPValue::ByteArray(vec![0; 7 * 18_000].into()));
    let properties = BasicProperties::default()
        .with_content_type(broken("application/!").into())
        .with_message_id(broken("m!-1").into())
        .with_headers(headers);
    producer.publish_to(&broker.topology.exchange, &broken("monitor.!.1"), b"{}", properties).await;
    broker.publish("monitor.acme.1", "m-2", b"{}").await;

    let worker = Worker::start(broker.options(), Semaphore::MAX_PERMITS);
    worker.sees("m-2").await;
    assert_eq!(worker.ids(), ["m??-1", "m-2"], "both, in order, and once");
    let envelope = worker.intake.seen.lock().expect("not poisoned")[0].envelope.clone();
    assert_eq!(envelope.routing_key, "monitor.??.1");
    assert_eq!(envelope.content_type.as_deref(), Some("application/??"));
    assert_eq!(envelope.headers.get("na??me").map(String::as_str), Some("kept"));
    worker.stop().await;
    broker.depth_becomes(&broker.topology.queue, 0).await;
}

/// RabbitMQ gives on in one frame what a producer with larger frames wrote in one.
#[tokio::test]
async fn a_message_whose_headers_no_frame_has_room_for_is_taken_in_without_them() {
    let broker = Broker::fresh().await;
    let mut headers = FieldTable::default();
    headers.insert("large".into(), AMQPValue::LongString("x".repeat(20_000).into()));
    let properties = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_message_id("m-1".into())
        .with_headers(headers);
    broker.publish_to(&broker.topology.exchange, "monitor.acme.1", b"{}", properties).await;
    broker.publish("monitor.acme.1", "m-2", b"{}").await;

    let small = broker.options_by(&format!("{}?frame_max=8192", broker.url));
    let worker = Worker::start(small, Semaphore::MAX_PERMITS);
    worker.sees("m-2").await;
    assert_eq!(worker.ids(), ["m-1", "m-2"], "both, in order, and once");
    let envelope = worker.intake.seen.lock().expect("not poisoned")[0].envelope.clone();
    assert_eq!(envelope.content_type.as_deref(), Some("application/json"));
    assert_eq!((envelope.headers.len(), &envelope.body[..]), (0, &b"{}"[..]));
    worker.stop().await;
    broker.depth_becomes(&broker.topology.queue, 0).await;
}
