//! The ways into the dead-letter queue and out of it.

use super::*;

#[tokio::test]
async fn a_letter_holds_the_event_byte_for_byte_and_says_why() {
    let broker = Broker::fresh().await;
    let bodies =
        [("empty", vec![]), ("not UTF-8", vec![0xff, 0, 0xfe]), ("1 MiB + 1", vec![b'x'; (1 << 20) + 1])];
    for (name, body) in bodies {
        bury(&broker, &[letter(1, body.clone())]).await;
        let found = broker.take(&broker.topology.dead_letters).await;
        assert!(found.data == body, "{name}");
        let properties = &found.properties;
        assert_eq!(properties.message_id().as_ref().map(|id| id.as_str()), Some("m-1"), "{name}");
        assert_eq!(*properties.delivery_mode(), Some(2), "{name}");
        let headers = properties.headers().as_ref().expect("headers");
        for (header, value) in [
            ("team", "acme"),
            ("x-dead-letter-reason", "retries-exhausted"),
            ("x-dead-letter-detail", "the room did not answer for 24 h"),
            ("x-event-id", "e-1"),
            ("x-integration-id", "odd"),
            ("x-attempts", "3"),
            ("x-last-status", "503"),
            ("x-dead-lettered-at", "2026-01-02T03:04:05Z"),
            ("x-original-exchange", "postman.events"),
            ("x-original-routing-key", "monitor.acme.1"),
        ] {
            let found = headers.inner().get(header);
            assert_eq!(found, Some(&AMQPValue::LongString(value.into())), "{name}: {header}");
        }
    }
}

#[tokio::test]
async fn an_event_with_as_many_headers_as_fit_can_still_be_buried() {
    let broker = Broker::fresh().await;
    let mut huge = letter(1, b"{}".to_vec());
    huge.envelope.headers.insert("large".into(), "x".repeat(120_000));
    huge.envelope.headers.insert("x-dead-letter-reason".into(), "of an earlier time".into());
    huge.detail = "d".repeat(50_000);
    bury(&broker, &[huge]).await;
    let found = broker.take(&broker.topology.dead_letters).await;
    let headers = found.properties.headers().clone().expect("headers");
    let text = |name: &str| headers.inner().get(name).cloned();
    assert_eq!(text("large"), None);
    assert_eq!(text("x-headers-dropped"), Some(AMQPValue::LongString("large".into())));
    assert_eq!(text("team"), Some(AMQPValue::LongString("acme".into())));
    assert_eq!(text("x-dead-letter-reason"), Some(AMQPValue::LongString("retries-exhausted".into())));
}

#[tokio::test]
async fn what_an_event_came_with_never_keeps_letters_from_being_buried() {
    let broker = Broker::fresh().await;
    let huge = "ä".repeat(500);
    let mut worst = letter(1, b"1".to_vec());
    worst.envelope = Envelope {
        message_id: Some(huge.clone()),
        content_type: Some(huge.clone()),
        exchange: huge.clone(),
        routing_key: huge.clone(),
        headers: BTreeMap::from([
            (huge.clone(), huge.clone()),
            ("CC".into(), "a text where the broker wants a list".into()),
            ("BCC".into(), "so too".into()),
        ]),
        ..worst.envelope
    };
    worst.event = Some(EventId::new(huge.clone()));
    bury(&broker, &[worst, letter(2, b"2".to_vec())]).await;
    let found = broker.take(&broker.topology.dead_letters).await;
    assert_eq!((found.data.as_slice(), found.routing_key.as_str()), (b"1".as_slice(), &huge[..254]));
    assert_eq!(broker.take(&broker.topology.dead_letters).await.data, b"2");
}

#[tokio::test]
async fn letters_find_their_queue_again_after_it_was_deleted() {
    let broker = Broker::fresh().await;
    let letterbox = RabbitLetterBox::new(broker.options());
    assert_eq!(letterbox.bury(&[letter(1, b"1".to_vec())]).await.confirmed, [1]);
    broker.delete_queue(&broker.topology.dead_letters).await;
    let buried = letterbox.bury(&[letter(2, b"2".to_vec())]).await;
    assert!(buried.confirmed == [2] && buried.failed.is_none(), "declared anew: {buried:?}");
    assert_eq!(broker.take(&broker.topology.dead_letters).await.data, b"2");
}

#[tokio::test]
async fn letters_that_are_confirmed_before_the_connection_breaks_are_told() {
    let broker = Broker::fresh().await;
    let proxy = Proxy::before(broker.host_and_port()).await;
    let letterbox = RabbitLetterBox::new(broker.options_by(&broker.url_by(&proxy.address)));
    assert_eq!(letterbox.bury(&[letter(1, b"1".to_vec())]).await.confirmed, [1]);
    // One window of small letters, and then one that the proxy does not let pass.
    let letters = [letter(2, b"2".to_vec()), letter(3, vec![b'x'; 9 << 20]), letter(4, b"4".to_vec())];
    proxy.break_after(2 << 20);
    let buried = letterbox.bury(&letters).await;
    assert_eq!(buried.confirmed, [2]);
    assert!(matches!(buried.failed, Some(BrokerError::Unavailable(_))), "{:?}", buried.failed);
    proxy.mend();
    assert_eq!(letterbox.bury(&letters[1..]).await.confirmed, [3, 4]);
    broker.depth_becomes(&broker.topology.dead_letters, 4).await;
}

#[tokio::test]
async fn looking_never_removes_a_letter_and_keeps_the_order() {
    let broker = Broker::fresh().await;
    let letters: Vec<Letter> = (0..1000).map(|id| letter(id, format!("{id}").into_bytes())).collect();
    bury(&broker, &letters).await;
    let expected: Vec<Option<String>> = (0..1000).map(|id| Some(format!("e-{id}"))).collect();
    let desk = DeadLetters::new(broker.options());
    let mut ids = Vec::new();
    for look in 0..5 {
        let found = desk.list(&LetterFilter::default(), None).await.expect("listed");
        let events: Vec<_> = found.iter().map(|letter| letter.event_id.clone()).collect();
        assert_eq!(events.len(), 1000, "look {look}");
        let moved = events.iter().zip(&expected).find(|(found, expected)| found != expected);
        assert_eq!(moved, None, "look {look}: the order is kept");
        let now: Vec<String> = found.into_iter().map(|letter| letter.id).collect();
        assert!(look == 0 || now == ids, "ids are stable");
        ids = now;
        // A look that ends early must not shuffle either.
        assert_eq!(desk.list(&LetterFilter::default(), Some(7)).await.expect("listed").len(), 7);
    }
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 1000, "ids tell letters apart");
    let shown = desk.show(&ids[700]).await.expect("looked").expect("is there");
    assert_eq!(shown.envelope.body, b"700");
    assert_eq!(desk.show("no-such-letter").await.expect("looked"), None);
}

#[tokio::test]
async fn chosen_letters_are_put_back_or_discarded_and_no_others() {
    let broker = Broker::fresh().await;
    let letters: Vec<Letter> = (0..1000).map(|id| letter(id, format!("{id}").into_bytes())).collect();
    bury(&broker, &letters).await;
    broker.publish_to(&broker.topology.dead_letters, "k", b"foreign", BasicProperties::default()).await;
    let desk = DeadLetters::new(broker.options());

    let odd = LetterFilter { integration: Some("odd".into()), ..Default::default() };
    let chosen: HashSet<String> =
        desk.list(&odd, None).await.expect("listed").into_iter().map(|letter| letter.id).collect();
    let done = desk.replay(&chosen, |_| ()).await.expect("put back");
    assert_eq!((done.letters, done.missing), (500, 0));
    broker.depth_becomes(&broker.topology.queue, 500).await;

    let worker = Worker::start(broker.options(), Semaphore::MAX_PERMITS);
    worker.sees("m-999").await;
    let first = worker.intake.seen.lock().expect("not poisoned")[0].envelope.clone();
    assert_eq!((first.exchange.as_str(), first.routing_key.as_str()), ("postman.events", "monitor.acme.1"));
    assert_eq!((first.body.as_slice(), first.header("x-integration-id")), (b"1".as_slice(), Some("odd")));
    worker.stop().await;

    let rest = desk.list(&LetterFilter::default(), None).await.expect("listed");
    let expected: Vec<String> = (0..1000).step_by(2).map(|id| format!("e-{id}")).collect();
    let found: Vec<String> = rest.iter().filter_map(|letter| letter.event_id.clone()).collect();
    assert_eq!(found.iter().zip(&expected).find(|(found, expected)| found != expected), None, "in order");
    assert_eq!((found.len(), rest.len()), (500, 501), "all others, and the foreign one");
    assert_eq!(rest.last().map(|letter| letter.reason), Some(DeadLetterReason::WorkerFault));

    let mut chosen: HashSet<String> = rest[1..].iter().map(|letter| letter.id.clone()).collect();
    chosen.insert("no-such-letter".into());
    let done = desk.discard(&chosen, |_| ()).await.expect("discarded");
    assert_eq!((done.letters, done.missing), (500, 1));
    let rest = desk.list(&LetterFilter::default(), None).await.expect("listed");
    assert_eq!(rest.iter().map(|letter| letter.event_id.as_deref()).collect::<Vec<_>>(), [Some("e-0")]);
    assert_eq!(broker.depth(&broker.topology.queue).await, 0, "discarding puts nothing back");
}

#[tokio::test]
async fn what_is_put_back_speaks_to_nobody_but_the_work_queue() {
    let broker = Broker::fresh().await;
    let (dead, work) = (&broker.topology.dead_letters, &broker.topology.queue);
    let user = url::Url::parse(&broker.url).expect("a URL").username().to_owned();
    let copy = |to: &str| AMQPValue::FieldArray(vec![AMQPValue::LongString(to.into())].into());
    let mut headers = FieldTable::default();
    headers.insert("CC".into(), copy(work));
    headers.insert("team".into(), AMQPValue::LongString("acme".into()));
    let properties = BasicProperties::default()
        .with_delivery_mode(1)
        .with_message_id("m-1".into())
        .with_content_type("application/json".into())
        .with_content_encoding("identity".into())
        .with_app_id("a producer".into())
        .with_timestamp(7)
        .with_expiration("86400000".into())
        .with_user_id(user.as_str().into())
        .with_headers(headers);
    broker.publish_to("", dead, b"{}", properties).await;
    assert_eq!(broker.take_event().await.data, b"{}", "the producer's own copy");

    let desk = DeadLetters::new(broker.options());
    let found = desk.list(&LetterFilter::default(), None).await.expect("listed");
    let ids: HashSet<String> = found.into_iter().map(|letter| letter.id).collect();
    assert_eq!(desk.replay(&ids, |_| ()).await.expect("put back").letters, 1);
    let back = broker.take_event().await;
    let mut headers = FieldTable::default();
    headers.insert("team".into(), AMQPValue::LongString("acme".into()));
    headers.insert("x-original-exchange".into(), AMQPValue::LongString("".into()));
    headers.insert("x-original-routing-key".into(), AMQPValue::LongString(dead.as_str().into()));
    let expected = BasicProperties::default()
        .with_delivery_mode(2)
        .with_message_id("m-1".into())
        .with_content_type("application/json".into())
        .with_content_encoding("identity".into())
        .with_app_id("a producer".into())
        .with_timestamp(7)
        .with_headers(headers);
    assert_eq!(back.properties, expected);
    assert_eq!(broker.depth(work).await, 0, "no copy");
}

#[tokio::test]
async fn what_the_broker_dead_letters_arrives_and_is_explained() {
    let broker = Broker::fresh().await;
    let properties = BasicProperties::default().with_delivery_mode(2).with_expiration("1".into());
    broker.publish_to(&broker.topology.exchange, "monitor.acme.9", b"late", properties).await;
    let desk = DeadLetters::new(broker.options());
    broker.depth_becomes(&broker.topology.dead_letters, 1).await;
    let found = desk.list(&LetterFilter::default(), None).await.expect("listed");
    assert!(found[0].detail.contains("expired"), "{}", found[0].detail);
    assert_eq!(found[0].routing_key, "monitor.acme.9");
    assert_eq!(found[0].exchange, broker.topology.exchange);
    assert!(found[0].dead_lettered_at.is_some());
}
