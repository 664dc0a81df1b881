//! RabbitMQ's adapter against a real RabbitMQ.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use hipchat_notifier::adapters::clock::SystemClock;
use hipchat_notifier::adapters::rabbitmq::{
    BrokerHealth, BrokerOptions, DeadLetters, LetterFilter, Publication, Publisher, RabbitLetterBox, consume,
    topology,
};
use hipchat_notifier::domain::envelope::{Envelope, Received};
use hipchat_notifier::domain::ids::{EventId, IntegrationId};
use hipchat_notifier::domain::reason::DeadLetterReason;
use hipchat_notifier::ports::{BrokerError, Letter, LetterBox, TakeIn};
use lapin::BasicProperties;
use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use crate::support::broker::{Broker, eventually};
use crate::support::proxy::Proxy;

/// Records what it is given, and makes it durable when the test lets it.
struct Recorder {
    seen: Mutex<Vec<Received>>,
    lets: Semaphore,
}

#[async_trait]
impl TakeIn for Recorder {
    async fn take_in(&self, batch: Vec<Received>) {
        self.seen.lock().expect("not poisoned").extend(batch);
        self.lets.acquire().await.expect("never closed").forget();
    }
}

/// A running consumer.
struct Worker {
    intake: Arc<Recorder>,
    health: Arc<BrokerHealth>,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<(), BrokerError>>,
}

impl Worker {
    /// With `lets` batches that may become durable.
    fn start(options: BrokerOptions, lets: usize) -> Self {
        let intake = Arc::new(Recorder { seen: Mutex::default(), lets: Semaphore::new(lets) });
        let health = Arc::new(BrokerHealth::new());
        let (stop, shutdown) = watch::channel(false);
        let taking: Arc<dyn TakeIn> = Arc::clone(&intake) as _;
        let task =
            tokio::spawn(consume(options, taking, Arc::new(SystemClock), Arc::clone(&health), shutdown));
        Self { intake, health, stop, task }
    }

    fn ids(&self) -> Vec<String> {
        let seen = self.intake.seen.lock().expect("not poisoned");
        seen.iter().map(|received| received.envelope.message_id.clone().unwrap_or_default()).collect()
    }

    async fn sees(&self, id: &str) {
        eventually(&format!("{id} arrives"), async || self.ids().iter().any(|seen| seen == id).then_some(()))
            .await;
    }

    async fn is_ready(&self) {
        eventually("the session is ready", async || self.health.verdict().ok()).await;
    }

    async fn stop(self) {
        self.stop.send(true).expect("the consumer listens");
        self.task.await.expect("no panic").expect("a clean end");
    }
}

fn letter(id: i64, body: Vec<u8>) -> Letter {
    Letter {
        id,
        envelope: Envelope {
            body,
            message_id: Some(format!("m-{id}")),
            content_type: Some("application/json".into()),
            headers: BTreeMap::from([("team".into(), "acme".into())]),
            exchange: "postman.events".into(),
            routing_key: "monitor.acme.1".into(),
        },
        reason: DeadLetterReason::RetriesExhausted,
        detail: "the room did not answer for 24 h".into(),
        event: Some(EventId::new(format!("e-{id}"))),
        integration: Some(IntegrationId::new(if id % 2 == 0 { "even" } else { "odd" })),
        attempts: 3,
        last_status: Some(503),
        first_attempt_at: None,
        at: "2026-01-02T03:04:05Z".parse().expect("a time"),
    }
}

async fn bury(broker: &Broker, letters: &[Letter]) {
    let letterbox = RabbitLetterBox::new(broker.options());
    letterbox.bury(letters).await.expect("buried");
    letterbox.close().await;
}

#[tokio::test]
async fn declaring_the_topology_twice_changes_nothing() {
    let broker = Broker::fresh().await;
    broker.publish("monitor.acme.1", "m-1", b"{}").await;
    topology::declare(&broker.connection, &broker.topology).await.expect("as it stands");
    broker.depth_becomes(&broker.topology.queue, 1).await;
}

#[tokio::test]
async fn a_queue_with_other_arguments_is_named_and_left_alone() {
    let broker = Broker::bare().await;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongInt(20));
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    let channel = broker.connection.create_channel().await.expect("a channel");
    channel
        .queue_declare(broker.topology.dead_letters.as_str().into(), options, arguments)
        .await
        .expect("declared");

    let worker = Worker::start(broker.options(), 0);
    let error = worker.task.await.expect("no panic").expect_err("must refuse");
    let BrokerError::Misconfigured(text) = error else { panic!("{error}") };
    for part in [&broker.topology.dead_letters, "x-delivery-limit", "'20'", "'2147483647'", "delete"] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
    assert_eq!(broker.depth(&broker.topology.dead_letters).await, 0, "still there");
}

#[tokio::test]
async fn events_come_in_order_and_are_acknowledged_only_when_durable() {
    let broker = Broker::fresh().await;
    for n in 0..500 {
        broker.publish("monitor.acme.1", &format!("m-{n}"), b"{}").await;
    }
    let worker = Worker::start(broker.options(), 0);
    worker.sees("m-0").await;
    worker.stop.send(true).expect("listens");
    worker.intake.lets.add_permits(1);
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
async fn a_refused_login_is_a_fault_of_configuration_and_tells_no_password() {
    let broker = Broker::bare().await;
    let mut url = url::Url::parse(&broker.url).expect("a URL");
    url.set_password(Some("sesame-open-7")).expect("can have one");
    let cases = [
        ("password", url.to_string()),
        ("vhost", broker.url.replace("%2f", "no-such-vhost")),
        ("nobody listens", broker.url_by("127.0.0.1:1")),
    ];
    for (name, url) in cases {
        let options = broker.options_by(&url);
        let debug = format!("{options:?}");
        let error = DeadLetters::new(options).list(&LetterFilter::default(), None).await.expect_err(name);
        assert_eq!(
            matches!(error, BrokerError::Misconfigured(_)),
            name != "nobody listens",
            "{name}: {error}"
        );
        let secret = url::Url::parse(&url).expect("a URL").password().expect("has one").to_owned();
        assert!(!format!("{error} {error:?} {debug}").contains(&secret), "{name}: {error}");
    }
}

#[tokio::test]
async fn a_broker_that_is_not_there_is_waited_for_and_the_log_tells_no_password() {
    let broker = Broker::fresh().await;
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);

    let away = broker.url_by("127.0.0.1:1");
    let mut options = broker.options_by(&away);
    let worker = Worker::start(options.clone(), 0);
    let why = eventually("it says why", async || {
        worker.health.verdict().err().filter(|why| why.contains("can't be reached"))
    })
    .await;
    assert!(why.contains("127.0.0.1:1"), "{why}");
    worker.stop().await;

    options.addresses.extend(broker.options().addresses);
    let worker = Worker::start(options, 0);
    worker.is_ready().await;
    worker.stop().await;
    let secret = url::Url::parse(&broker.url).expect("a URL").password().expect("has one").to_owned();
    let text = String::from_utf8(log.0.lock().expect("not poisoned").clone()).expect("text");
    assert!(text.contains("can't be reached") && text.contains("taking in events"), "{text}");
    assert!(secret == "guest" || !text.contains(&secret), "{text}");
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("not poisoned").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

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

#[tokio::test]
async fn letters_find_their_queue_again_after_it_was_deleted() {
    let broker = Broker::fresh().await;
    let letterbox = RabbitLetterBox::new(broker.options());
    letterbox.bury(&[letter(1, b"1".to_vec())]).await.expect("buried");
    broker.delete_queue(&broker.topology.dead_letters).await;
    letterbox.bury(&[letter(2, b"2".to_vec())]).await.expect("declared anew");
    assert_eq!(broker.take(&broker.topology.dead_letters).await.data, b"2");
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

#[tokio::test]
async fn publishing_tells_of_each_event_whether_a_queue_has_it() {
    let broker = Broker::fresh().await;
    let event = |key: &str| Envelope {
        body: b"{}".to_vec(),
        message_id: Some(key.into()),
        routing_key: key.into(),
        ..Default::default()
    };
    let events = [event("monitor.a.b"), event("nobody.wants.this"), event("activity.a.b.c")];
    let mut publisher = Publisher::open(&broker.options(), false).await.expect("open");
    let told = publisher.publish(&events).await.expect("published");
    assert_eq!(told, [Publication::Confirmed, Publication::Unroutable, Publication::Confirmed]);
    publisher.close().await;
    broker.depth_becomes(&broker.topology.queue, 2).await;
}
