//! RabbitMQ's adapter against a real RabbitMQ.

mod letters;
mod places;
mod sessions;
mod supervision;
mod tls;

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
use hipchat_notifier::ports::{BrokerError, Decided, Letter, LetterBox, TakeIn, Undurable};
use lapin::BasicProperties;
use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use crate::support::broker::{Broker, Producer, eventually};
use crate::support::log::Log;
use crate::support::proxy::{NESTED, NOT_UTF8, Proxy};

/// Records what it is given, and decides it when the test lets it; that is durable then, but for one event. Each event
/// `straight` stands for as many notifications that are told straight as one batch may have two events of.
struct Recorder {
    seen: Mutex<Vec<Received>>,
    /// The sizes of the bodies of each batch.
    batches: Mutex<Vec<Vec<usize>>>,
    /// Batches that may be decided.
    lets: Semaphore,
    /// Batches with the event `slow` that may become durable. Of one with the event `undurable` nobody knows, the first
    /// time.
    lets_slow: Arc<Semaphore>,
}

#[async_trait]
impl TakeIn for Recorder {
    async fn take_in(&self, batch: Vec<Received>) -> Decided {
        let sizes = batch.iter().map(|received| received.envelope.body.len()).collect();
        self.batches.lock().expect("not poisoned").push(sizes);
        let has = |batch: &[Received], id| {
            batch.iter().any(|received| received.envelope.message_id.as_deref() == Some(id))
        };
        let straight = |received: &&Received| received.envelope.message_id.as_deref() == Some("straight");
        let in_hand = 32 * batch.iter().filter(straight).count();
        let (slow, undurable) = (has(&batch, "slow"), has(&batch, "undurable"));
        let again = has(&self.seen.lock().expect("not poisoned"), "undurable");
        self.seen.lock().expect("not poisoned").extend(batch);
        self.lets.acquire().await.expect("never closed").forget();
        let lets_slow = self.lets_slow.clone();
        let durable = async move {
            if slow {
                lets_slow.acquire().await.expect("never closed").forget();
            }
            if undurable && !again { Err(Undurable) } else { Ok(()) }
        };
        Decided { in_hand, durable: Box::pin(durable) }
    }

    /// When one more batch may be decided.
    async fn able(&self) {
        let _ = self.lets.acquire().await.expect("never closed");
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
    /// With `lets` batches that may be decided.
    fn start(options: BrokerOptions, lets: usize) -> Self {
        let intake = Arc::new(Recorder {
            seen: Mutex::default(),
            batches: Mutex::default(),
            lets: Semaphore::new(lets),
            lets_slow: Arc::new(Semaphore::new(0)),
        });
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
    let buried = letterbox.bury(letters).await;
    assert!(buried.failed.is_none(), "{:?}", buried.failed);
    assert_eq!(buried.confirmed, letters.iter().map(|letter| letter.id).collect::<Vec<_>>());
    letterbox.close().await;
}

#[tokio::test]
async fn declaring_the_topology_twice_changes_nothing() {
    let broker = Broker::fresh().await;
    broker.publish("monitor.acme.1", "m-1", b"{}").await;
    topology::declare(broker.connection(), &broker.topology).await.expect("as it stands");
    broker.depth_becomes(&broker.topology.queue, 1).await;
}

#[tokio::test]
async fn a_queue_with_other_arguments_is_named_and_left_alone() {
    let broker = Broker::bare().await;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongInt(20));
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    let channel = broker.connection().create_channel().await.expect("a channel");
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
    let log = Log::catch();
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
    let text = log.text();
    assert!(text.contains("can't be reached") && text.contains("taking in events"), "{text}");
    assert!(secret == "guest" || !text.contains(&secret), "{text}");
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
    let mut publisher = Publisher::open(&broker.options()).await.expect("open");
    let told = publisher.publish(&events).await.expect("published");
    assert_eq!(told, [Publication::Confirmed, Publication::Unroutable, Publication::Confirmed]);
    publisher.close().await;
    broker.depth_becomes(&broker.topology.queue, 2).await;
}
