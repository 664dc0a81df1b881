//! Producers that publish whatever they like, and one that behaves.

use std::collections::BTreeMap;

use hipchat_notifier::adapters::rabbitmq::{Publication, Publisher};
use hipchat_notifier::domain::envelope::Envelope;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldArray, FieldTable};
use serde_json::json;

use super::*;
use crate::support::broker::Producer;
use crate::support::proxy::{NESTED, NOT_UTF8, Proxy};
use crate::support::rooms::Hipchat;

const KEY: &str = "monitor.acme.1-orders";
const MIB: usize = 1 << 20;
/// Lines of the log that may be about any number of malformed events: so many a minute, and what else is said.
const LINES: usize = 400;

/// Malformed events, and good ones among them.
fn crowd() -> (usize, usize) {
    if std::env::var("PROVE").is_ok_and(|size| size == "full") { (100_000, 1_000) } else { (2_000, 100) }
}

struct Scene {
    worker: Worker,
    at_first: u64,
    site: Site,
    hipchat: Hipchat,
    broker: Broker,
}

const TOKEN: &str = "goodToken0aB3xY9zQ7wE5rT1uI4oP6";

impl Scene {
    async fn new() -> Self {
        let (broker, hipchat) = (Broker::fresh().await, Hipchat::with_limits(None, None).await);
        let site =
            Site::on(&broker).with("PACING__ROOM__MESSAGES", "100000").with("PACING__TOKEN__CALLS", "100000");
        site.apply(&every_run("good", &hipchat.room_url("good", TOKEN))).await;
        let worker = site.start().await;
        let at_first = worker.peak_memory();
        Self { worker, at_first, site, hipchat, broker }
    }

    /// Waits until the room has heard exactly these, in this order.
    async fn hears(&self, ids: &[String]) {
        let heard = eventually(&format!("the room hears {}", ids.len()), async || {
            Some(self.hipchat.messages("good").await).filter(|messages| messages.len() >= ids.len())
        })
        .await;
        assert_eq!(heard.len(), ids.len());
        for (one, id) in heard.iter().zip(ids) {
            assert!(one.message.contains(&format!("/{id}\"")), "{id}: {}", one.message);
        }
    }

    /// The end: nothing waits, nothing leaked, and memory stayed bounded.
    async fn ends(mut self) -> String {
        self.broker.depth_becomes(&self.broker.topology.queue, 0).await;
        memory_is_bounded(&self.worker, self.at_first);
        assert!(self.worker.terminate().await.0.success());
        let log = self.worker.log();
        assert_eq!(leaks(&self.site, &log, &[TOKEN.to_owned()]).await, Vec::<String>::new());
        log
    }
}

fn event(id: &str, body: Vec<u8>) -> Envelope {
    Envelope { body, message_id: Some(id.to_owned()), routing_key: KEY.to_owned(), ..Envelope::default() }
}

/// No two alike, and each wrong in another way.
fn malformed(n: usize) -> Vec<u8> {
    match n % 6 {
        0 => format!("not json {n}").into_bytes(),
        1 => format!("{{\"monitor_uid\":{n}}}").into_bytes(),
        2 => [&b"{\"monitor_uid\":\"\xff"[..], n.to_string().as_bytes()].concat(),
        3 => format!("{{\"monitor_uid\":\"m\",\"metrics\":{{\"errors\":\"{n}\"}}}}").into_bytes(),
        4 => format!("{}{n}", "[".repeat(200)).into_bytes(),
        _ => format!("{{\"model\":\"{}\"}}", "\u{202e}\u{1b}[31m".repeat(50 + n % 50)).into_bytes(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_events_without_number_delay_no_good_one() {
    let (bad, good) = crowd();
    let scene = Scene::new().await;
    let mut publisher = Publisher::open(&scene.broker.options()).await.expect("the broker");
    let each = bad / good;
    let mut ids = Vec::new();
    for n in 0..good {
        let id = format!("good-{n}");
        let mut events: Vec<Envelope> =
            (n * each..(n + 1) * each).map(|n| event(&format!("bad-{n}"), malformed(n))).collect();
        events.push(event(&id, run(&id)));
        let published = publisher.publish(&events).await.expect("published");
        assert!(published.iter().all(|one| *one == Publication::Confirmed));
        ids.push(id);
    }
    publisher.close().await;
    scene.hears(&ids).await;
    // However many there are, each is a letter.
    let dead_letters = scene.broker.topology.dead_letters.clone();
    let mut last = 0;
    while (last as usize) < bad {
        last = eventually("more letters are there", async || {
            Some(scene.broker.depth(&dead_letters).await).filter(|depth| *depth > last)
        })
        .await;
    }
    assert_eq!(last as usize, bad);
    let log = scene.ends().await;
    let lines = log.lines().count();
    assert!(lines < LINES + good * 4, "{lines} lines are logged");
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_bodies_and_headers_of_any_size_and_kind_are_taken_or_buried() {
    let scene = Scene::new().await;
    let broker = &scene.broker;
    let (mut heard, mut buried) = (Vec::new(), Vec::new());

    // One id with two bodies: the first counts.
    broker.publish(KEY, "twice", &run("first")).await;
    broker.publish(KEY, "twice", &run("second")).await;
    heard.push("first".to_owned());

    // An id of a megabyte, in the one place where it fits.
    let data = json!({"monitor_uid": "m", "metrics": {}});
    let huge = json!({"specversion": "1.0", "id": "i".repeat(1_000_000), "type": "com.postman.monitor.run.completed", "data": data});
    let anonymous = BasicProperties::default().with_delivery_mode(2);
    broker.publish_to(&broker.topology.exchange, KEY, huge.to_string().as_bytes(), anonymous).await;
    buried.push(huge.to_string().into_bytes());

    // A body of exactly a mebibyte, and one byte more.
    for (id, size) in [("mebibyte", MIB), ("one-more", MIB + 1)] {
        let mut body = run(id);
        body.resize(size, b' ');
        broker.publish(KEY, id, &body).await;
        if size > MIB { buried.push(body) } else { heard.push(id.to_owned()) }
    }

    // A batch of CloudEvents is no event.
    let batch = b"[{\"specversion\":\"1.0\"}]".to_vec();
    let properties = BasicProperties::default()
        .with_delivery_mode(2)
        .with_message_id("batch".into())
        .with_content_type("application/cloudevents-batch+json".into());
    broker.publish_to(&broker.topology.exchange, KEY, &batch, properties).await;
    buried.push(batch);

    // Times at both ends of the calendar, the largest numbers, names that stand twice.
    let link = |id: &str| format!("\"run_url\":\"https://runs.example/{id}\"");
    for (id, fields) in [
        (
            "never",
            "\"finished_at\":\"9999-12-31T23:59:59-23:00\",\"started_at\":\"0000-01-01T00:00:00Z\""
                .to_owned(),
        ),
        ("first-day", "\"finished_at\":\"0000-01-01T00:00:00Z\"".to_owned()),
        (
            "most",
            format!(
                "\"metrics\":{{\"errors\":{max},\"failedTests\":{max},\"totalLatency\":{max},\"requestCount\":1}}",
                max = u64::MAX
            ),
        ),
        ("twice-named", "\"metrics\":{\"errors\":\"x\"},\"metrics\":{\"errors\":1}".to_owned()),
        ("markup", "\"monitor_name\":\"</b><script>alert(1)</script>\\u202e\\u0000\\ud800\"".to_owned()),
    ] {
        let body = format!("{{\"monitor_uid\":\"{id}\",\"metrics\":{{}},{},{fields}}}", link(id));
        broker.publish(KEY, id, body.as_bytes()).await;
        heard.push(id.to_owned());
    }

    // Headers of every type, nested as deep as a frame allows, with bytes that are no text, and as many as fit.
    let proxy = Proxy::before(broker.host_and_port()).await;
    let producer = Producer::at(&broker.url_by(&proxy.address)).await;
    for (id, headers) in [("types", of_every_type()), ("nested", nested()), ("crowded", crowded())] {
        let properties = BasicProperties::default()
            .with_delivery_mode(2)
            .with_message_id(id.into())
            .with_content_type(NOT_UTF8.into())
            .with_headers(headers);
        producer.publish_to(&broker.topology.exchange, KEY, &run(id), properties.clone()).await;
        heard.push(id.to_owned());
        // The same, where it has to be buried with all of it.
        let body = format!("{{{id}").into_bytes();
        let properties = properties.with_message_id(format!("bad-{id}").into());
        producer.publish_to(&broker.topology.exchange, KEY, &body, properties).await;
        buried.push(body);
    }

    // A room that an event would not reach is not reached by naming it.
    let headers = BTreeMap::from([("x-integration-id", "good"), ("x-event-id", "stolen")]);
    let mut table = FieldTable::default();
    for (name, value) in headers {
        table.insert(name.into(), AMQPValue::LongString(value.into()));
    }
    let properties = BasicProperties::default().with_delivery_mode(2).with_headers(table);
    let foreign = run("foreign");
    broker.publish_to(&broker.topology.exchange, "monitor.other.1", &foreign, properties).await;
    buried.push(foreign);

    broker.publish(KEY, "last", &run("last")).await;
    heard.push("last".to_owned());
    scene.hears(&heard).await;
    broker.depth_becomes(&broker.topology.dead_letters, buried.len() as u32).await;
    let mut letters: Vec<Vec<u8>> =
        broker.bodies(&broker.topology.dead_letters).await.into_values().flatten().collect();
    letters.sort_unstable();
    buried.sort_unstable();
    assert!(letters == buried, "byte for byte");
    let log = scene.ends().await;
    assert!(
        log.lines().all(|line| line.len() < 8_000),
        "a line of the log is not to be as long as an id may be"
    );
}

fn of_every_type() -> FieldTable {
    let mut list = FieldArray::default();
    list.push(AMQPValue::Void);
    list.push(AMQPValue::LongString(vec![0xff, 0xfe].into()));
    let values = [
        AMQPValue::Boolean(true),
        AMQPValue::ShortShortInt(-1),
        AMQPValue::ShortShortUInt(1),
        AMQPValue::ShortInt(-1),
        AMQPValue::ShortUInt(1),
        AMQPValue::LongInt(-1),
        AMQPValue::LongUInt(1),
        AMQPValue::LongLongInt(i64::MIN),
        AMQPValue::Float(f32::MIN),
        AMQPValue::Double(f64::MAX),
        AMQPValue::Timestamp(u64::MAX),
        AMQPValue::ByteArray(vec![0; 300].into()),
        AMQPValue::FieldArray(list),
        AMQPValue::FieldTable(FieldTable::default()),
        AMQPValue::Void,
    ];
    let mut table = FieldTable::default();
    // Also under names that mean something, where they are of the wrong type.
    let named = ["team", "x-event-id", "x-death", "x-original-exchange", "cloudEvents:id"];
    for (n, value) in values.into_iter().enumerate() {
        let name = named.get(n.wrapping_sub(11)).map_or_else(|| format!("h-{n}"), |name| (*name).to_owned());
        table.insert(name.into(), value);
    }
    table
}

fn nested() -> FieldTable {
    let mut table = FieldTable::default();
    table.insert(NESTED.into(), AMQPValue::ByteArray(vec![0; 7 * 14_000].into()));
    table
}

fn crowded() -> FieldTable {
    let mut table = FieldTable::default();
    for n in 0..1_000 {
        table.insert(format!("h-{n}").into(), AMQPValue::LongString("v".repeat(100).into()));
    }
    table
}
