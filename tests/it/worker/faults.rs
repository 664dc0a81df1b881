//! What becomes of notifications when rooms, integrations or the store fail.

use std::sync::atomic::AtomicBool;

use hipchat_notifier::domain::reason::DeadLetterReason;
use hipchat_notifier::ports::{
    AtWork, ClaimTerms, Decide, Gauges, InHand, IntakeQuery, IntakeReceipt, RoomLine, Settled, Settlement,
    StoreError, Undurable,
};

use super::*;
use crate::support::log::Log;

#[tokio::test]
async fn a_room_in_an_outage_is_retried_later_and_later_and_in_order() {
    let bench = Bench::new(&results("one", "a", "all")).await;
    bench.script(&[Says::Status(503), Says::Silence, Says::Status(502)]);
    bench.take("e1", &run("m1", true)).await;
    bench.take("e2", &run("m2", false)).await;
    bench.settle_down().await;
    assert_eq!(bench.rooms.calls.load(Ordering::SeqCst), 1, "the second waits behind the first");
    for calls in [2, 3] {
        bench.pass(if calls == 2 { 1 } else { 2 });
        bench.settle_down().await;
        assert_eq!(bench.rooms.calls.load(Ordering::SeqCst), calls);
    }
    bench.pass(4);
    bench.settle_down().await;
    assert_eq!(bench.colours("a").last(), Some(&"red"), "the failed run came second");
    let entry = &bench.store.explain(&EventId::new("e1")).await.unwrap()[0];
    assert_eq!((entry.outcome.is_told(), entry.attempts), (true, 4));
}

#[tokio::test]
async fn what_was_tried_for_too_long_goes_to_the_dead_letters() {
    let bench = Bench::new(&results("one", "a", "all")).await;
    bench.script(&[Says::Status(500); 200]);
    bench.take("e1", &run("m", true)).await;
    for _ in 0..40 {
        bench.settle_down().await;
        bench.pass(300);
    }
    bench.settle_down().await;
    assert_eq!(bench.fate("e1", "one").await, "dead-lettered/retries-exhausted");
    let letters = bench.letters();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].envelope, envelope("e1", &run("m", true)), "byte for byte, with its properties");
    assert!(letters[0].attempts > 5 && letters[0].last_status == Some(500), "{:?}", letters[0]);
    let last = " attempts in 1h (retry.give_up_after); the last: as scripted; replay when it does again";
    assert!(letters[0].detail.ends_with(last), "{}", letters[0].detail);
}

#[tokio::test]
async fn a_refused_message_is_tried_once_more_without_its_card() {
    let bench = Bench::new(&results("one", "a", "all")).await;
    bench.script(&[Says::Status(400)]);
    bench.take("e1", &run("m", true)).await;
    bench.settle_down().await;
    let got = bench.rooms.got.lock().unwrap().clone();
    assert_eq!(got.len(), 1);
    assert!(got[0].1.card.is_none());
    assert_eq!(bench.fate("e1", "one").await, "sent/every-run");
    bench.script(&[Says::Status(400), Says::Status(422)]);
    bench.take("e2", &run("m", true)).await;
    bench.take("e3", &run("m", true)).await;
    bench.settle_down().await;
    assert_eq!(bench.fate("e2", "one").await, "dead-lettered/rejected-by-hipchat");
    assert_eq!(bench.fate("e3", "one").await, "sent/every-run", "the line goes on");
}

#[tokio::test]
async fn a_broken_integration_is_suspended_with_all_that_waits_for_it_and_comes_back_by_replay() {
    let both = results("one", "a", "failures-then-success") + &results("two", "a", "all");
    let bench = Bench::new(&both).await;
    bench.script(&[Says::Status(401)]);
    for n in 0..2 {
        bench.take(&format!("e{n}"), &run("m", false)).await;
    }
    bench.settle_down().await;
    bench.take("late", &run("m", false)).await;
    bench.settle_down().await;
    assert_eq!(bench.fate("e0", "one").await, "dead-lettered/integration-broken");
    assert_eq!(bench.fate("e1", "one").await, "dead-lettered/integration-broken");
    assert_eq!(bench.fate("late", "one").await, "suppressed/integration-suspended");
    assert_eq!(bench.fate("e1", "two").await, "sent/every-run", "its room's other integration goes on");

    let letter = bench.letters().remove(0);
    let mut replay = letter.envelope.clone();
    replay.headers.insert("x-integration-id".into(), "one".into());
    replay.headers.insert("x-event-id".into(), "e0".into());
    bench.take_envelope(replay.clone()).await;
    bench.settle_down().await;
    assert_eq!(bench.letters().len(), 3, "replayed too early it goes back, and is not lost");

    bench.store.resume(&IntegrationId::new("one")).await.unwrap();
    bench.catalogue.refresh().await.unwrap();
    bench.take_envelope(replay.clone()).await;
    bench.take_envelope(replay).await;
    bench.settle_down().await;
    assert_eq!(bench.fate("e0", "one").await, "sent/replayed");
    assert_eq!(bench.fate("e0", "two").await, "sent/every-run", "a replay is for one integration alone");
    assert_eq!(bench.texts("a").len(), 4, "two's three and the replayed one, once");
}

#[tokio::test]
async fn a_replay_for_an_integration_that_is_gone_says_so() {
    let bench = Bench::new(&results("one", "a", "all")).await;
    let mut replay = envelope("e1", &run("m", true));
    replay.headers.insert("x-integration-id".into(), "gone".into());
    bench.take_envelope(replay).await;
    bench.settle_down().await;
    let letters = bench.letters();
    assert_eq!(letters[0].reason, DeadLetterReason::IntegrationBroken);
    assert!(letters[0].detail.contains("\"gone\", which does not exist"), "{}", letters[0].detail);
}

/// `body` as a dead letter that was put back for `integration`; anybody who may publish can write the same.
fn put_back(id: &str, body: &str, integration: &str) -> Envelope {
    let mut envelope = envelope(id, body);
    envelope.headers.insert("x-integration-id".into(), integration.into());
    envelope.headers.insert("x-event-id".into(), id.into());
    envelope
}

#[tokio::test]
async fn naming_an_integration_opens_no_room_that_the_event_would_not_reach_without() {
    let runs = |id: &str, line: &str| {
        results(id, id, "all").replace("monitor-results\"", &format!("monitor-results\"\n{line}"))
    };
    let feed = activities("feed", "feed", "on = \"each\"")
        .replace("team-activity\"", "team-activity\"\nactions = [\"delete\"]");
    let bench = Bench::new(
        &(runs("other-team", "team = \"umbrella\"") + &runs("other-monitor", "monitors = [\"x*\"]") + &feed),
    )
    .await;
    for (id, body, integration) in [
        ("e1", run("m", false), "other-team"),
        ("e2", run("m", false), "other-monitor"),
        ("e3", run("m", false), "feed"),
        ("e4", update("ana", "r1"), "feed"),
        ("e5", update("ana", "r1"), "other-monitor"),
    ] {
        bench.take_envelope(put_back(id, &body, integration)).await;
        bench.settle_down().await;
        assert_eq!(bench.fate(id, integration).await, "unknown", "{id}");
        let letter = bench.letters().pop().expect("it is not lost");
        assert_eq!(letter.reason, DeadLetterReason::IntegrationBroken);
        assert_eq!(letter.integration, Some(IntegrationId::new(integration)), "it goes to no other");
        let expected = format!("replayed for integration {integration:?}, which does not want this event (");
        assert!(letter.detail.starts_with(&expected), "{}", letter.detail);
    }
    assert_eq!(bench.letters().len(), 5);
    assert_eq!(bench.rooms.calls.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_letter_whose_integration_does_not_want_it_any_more_comes_back_and_stays_dead_lettered() {
    let bench = Bench::new(&results("one", "a", "all")).await;
    bench.script(&[Says::Status(400), Says::Status(400)]);
    bench.take("e1", &run("m", false)).await;
    bench.settle_down().await;
    let narrowed =
        results("one", "a", "all").replace("monitor-results\"", "monitor-results\"\nmonitors = [\"other\"]");
    for (toml, expected) in
        [(narrowed, "dead-lettered/rejected-by-hipchat"), (results("one", "a", "all"), "sent/replayed")]
    {
        bench.store.apply(definitions(&toml), ManagedBy::Operator, bench.clock.now()).await.unwrap();
        bench.take_envelope(put_back("e1", &run("m", false), "one")).await;
        bench.settle_down().await;
        assert_eq!(bench.fate("e1", "one").await, expected);
    }
    assert_eq!((bench.letters().len(), bench.texts("a").len()), (2, 1));
}

#[tokio::test]
async fn a_malformed_event_goes_to_the_dead_letters_and_delays_no_other() {
    let bench = Bench::new(&results("one", "a", "all")).await;
    let good = |id: &str| Received { envelope: envelope(id, &run("m", true)), at: bench.clock.now() };
    let bad = Received { envelope: envelope("bad", "{\"monitor_uid\":1"), at: bench.clock.now() };
    bench.intake.take_in(vec![good("e1"), bad, good("e2")]).await.durable.await.unwrap();
    bench.settle_down().await;
    assert_eq!(bench.texts("a").len(), 2);
    let letters = bench.letters();
    assert_eq!((letters.len(), letters[0].reason), (1, DeadLetterReason::MalformedEvent));
    assert_eq!(letters[0].envelope.body, b"{\"monitor_uid\":1");
}

#[tokio::test]
async fn every_line_about_an_attempt_names_event_integration_and_room() {
    let log = Log::catch();
    let bench = Bench::new(&results("one", "a", "all")).await;
    bench.script(&[Says::Status(503), Says::Status(404)]);
    bench.take("e1", &run("m", true)).await;
    bench.settle_down().await;
    bench.pass(2);
    bench.settle_down().await;
    let text = log.text();
    let ids = [r#"event_id="e1""#, r#"integration_id="one""#, r#"room="https://h.example/v2/room/a""#];
    for (said, times) in [
        ("the client has something to say of itself", 2),
        ("attempt failed: as scripted", 1),
        ("integration suspended: as scripted", 1),
    ] {
        let lines: Vec<&str> = text.lines().filter(|line| line.contains(said)).collect();
        assert_eq!(lines.len(), times, "{said}: {text}");
        assert!(lines.iter().all(|line| ids.iter().all(|id| line.contains(id))), "{lines:#?}");
    }
}

/// A store that fails at will.
struct Failing {
    inner: Arc<dyn Store>,
    /// So many settlements end as `instead` says.
    settle: AtomicUsize,
    instead: Instead,
    poison: &'static str,
    corrupt: AtomicBool,
    /// How many notifications each batch made pending.
    pending: Arc<Mutex<Vec<usize>>>,
    /// Something of each batch is in hand, and waiting for it panics.
    panics: bool,
}

type Instead = fn() -> Result<Settled, StoreError>;

fn full() -> Result<Settled, StoreError> {
    Err(StoreError::Unavailable("disk full".into()))
}

impl Failing {
    fn new(inner: Arc<dyn Store>, settle: usize, instead: Instead, poison: &'static str) -> Self {
        let (settle, corrupt) = (AtomicUsize::new(settle), AtomicBool::new(true));
        Self { inner, settle, instead, poison, corrupt, pending: Arc::default(), panics: false }
    }

    fn wrap(inner: Arc<dyn Store>, settle: usize, poison: &'static str) -> Arc<dyn Store> {
        Self::settling(inner, settle, full, poison)
    }

    fn settling(
        inner: Arc<dyn Store>,
        settle: usize,
        instead: Instead,
        poison: &'static str,
    ) -> Arc<dyn Store> {
        Arc::new(Self::new(inner, settle, instead, poison))
    }
}

#[async_trait]
impl Store for Failing {
    async fn take_in(&self, query: IntakeQuery, decide: Decide) -> Result<IntakeReceipt, StoreError> {
        if query.events.iter().any(|id| id.as_str() == self.poison) && self.corrupt.load(Ordering::SeqCst) {
            return Err(StoreError::Corrupt("it trips over this one".into()));
        }
        let receipt = self.inner.take_in(query, decide).await?;
        self.pending.lock().unwrap().push(receipt.pending);
        Ok(IntakeReceipt { in_hand: self.panics.then_some(InHand { batch: 0, notifications: 1 }), ..receipt })
    }

    async fn written(&self, _: InHand) -> Result<(), StoreError> {
        panic!("a fault of the store");
    }

    async fn claim_others(
        &self,
        terms: ClaimTerms,
        at_work: AtWork,
        now: Timestamp,
    ) -> Result<Vec<RoomLine>, StoreError> {
        self.inner.claim_others(terms, at_work, now).await
    }

    async fn next_due(&self) -> Result<Option<Timestamp>, StoreError> {
        self.inner.next_due().await
    }

    async fn settle(&self, settlement: Settlement) -> Result<Settled, StoreError> {
        let left = self.settle.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        match left {
            Ok(_) => (self.instead)(),
            Err(_) => self.inner.settle(settlement).await,
        }
    }

    async fn letters(&self, limit: usize) -> Result<Vec<Letter>, StoreError> {
        self.inner.letters(limit).await
    }

    async fn buried(&self, letters: &[i64], at: Timestamp) -> Result<(), StoreError> {
        self.inner.buried(letters, at).await
    }

    async fn forget(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        self.inner.forget(before, limit).await
    }

    async fn forget_streaks(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        self.inner.forget_streaks(before, limit).await
    }

    async fn gauges(&self, now: Timestamp) -> Result<Gauges, StoreError> {
        self.inner.gauges(now).await
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_outlives_an_outage_of_the_store_so_the_room_hears_it_once() {
    let bench =
        Bench::with_store(&results("one", "a", "all"), |store| Failing::wrap(store, 40, "nothing")).await;
    bench.take("e1", &run("m", true)).await;
    bench.settle_down().await;
    assert_eq!(bench.texts("a").len(), 1, "posted once, recorded at the 41st try");
    assert_eq!(bench.fate("e1", "one").await, "sent/every-run");
    assert_eq!(bench.dispatch.unsettled.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn what_could_not_be_recorded_is_not_counted_and_is_told_as_it_is() {
    let lost: Instead = || Ok(Settled::LostClaim);
    let damaged: Instead = || Err(StoreError::Corrupt("it is damaged".into()));
    for (instead, says) in [
        (lost, "the room is not held by this worker any more"),
        (damaged, "can't be recorded: it is damaged; the room is left alone until its lease ends"),
    ] {
        let log = Log::catch();
        let toml = results("one", "a", "all");
        let bench = Bench::with_store(&toml, |store| Failing::settling(store, 1, instead, "nothing")).await;
        bench.take("e1", &run("m", true)).await;
        let counted = || bench.dispatch.metrics.render().contains("notifications_total{outcome=\"sent\"");
        let (_switch, stop) = StopSwitch::new();
        for line in bench.dispatch.claim_due(8, 8, bench.moment()).await {
            bench.dispatch.work_off(line, &stop).await;
        }
        assert_eq!(bench.texts("a").len(), 1);
        let text = log.text();
        assert!(text.contains(says) && !text.contains("trying again"), "{text}");
        assert!(!text.contains(": sent") && !counted(), "{text}");
        // Whoever has the room next records it.
        bench.pass(31);
        bench.settle_down().await;
        assert!(log.text().contains("sent") && counted(), "{}", log.text());
    }
}

#[tokio::test]
async fn nothing_is_claimed_while_an_answer_is_not_recorded() {
    let bench = Bench::new(&results("one", "a", "all")).await;
    bench.take("e1", &run("m", true)).await;
    bench.dispatch.unsettled.store(1, Ordering::SeqCst);
    assert!(bench.dispatch.claim_due(8, 8, bench.moment()).await.is_empty());
    bench.dispatch.unsettled.store(0, Ordering::SeqCst);
    assert_eq!(bench.dispatch.claim_due(8, 8, bench.moment()).await.len(), 1);
}

#[tokio::test]
async fn an_event_that_trips_the_store_over_is_set_aside_and_the_others_go_on() {
    let bench =
        Bench::with_store(&results("one", "a", "all"), |store| Failing::wrap(store, 0, "poison")).await;
    let received = |id: &str| Received { envelope: envelope(id, &run("m", true)), at: bench.clock.now() };
    bench
        .intake
        .take_in(vec![received("e1"), received("poison"), received("e2")])
        .await
        .durable
        .await
        .unwrap();
    bench.settle_down().await;
    assert_eq!(bench.texts("a").len(), 2);
    let letters = bench.letters();
    assert_eq!((letters.len(), letters[0].reason), (1, DeadLetterReason::WorkerFault));
    assert_eq!(letters[0].event, Some(EventId::new("poison")));
}

#[tokio::test]
async fn a_batch_that_thousands_want_is_decided_in_parts_and_in_order() {
    let all: String = (0..120).map(|n| results(&format!("i-{n}"), "a", "all")).collect();
    let pending = Arc::new(Mutex::new(Vec::new()));
    let counted = |inner| {
        let store = Failing { pending: pending.clone(), ..Failing::new(inner, 0, full, "nothing") };
        Arc::new(store) as Arc<dyn Store>
    };
    let bench = Bench::with_store(&all, counted).await;
    let received =
        |n: usize| Received { envelope: envelope(&format!("e{n}"), &run("m", true)), at: bench.clock.now() };
    bench.intake.take_in((0..100).map(received).collect()).await.durable.await.unwrap();
    assert_eq!(*pending.lock().unwrap(), [83 * 120, 17 * 120], "10,000 at most in one transaction");
    assert_eq!(bench.fate("e99", "i-119").await, "pending/every-run");
}

#[tokio::test]
async fn a_batch_whose_writing_panicked_is_not_acknowledged_and_that_is_said_once() {
    let log = Log::catch();
    let panicking = |inner| {
        Arc::new(Failing { panics: true, ..Failing::new(inner, 0, full, "nothing") }) as Arc<dyn Store>
    };
    let bench = Bench::with_store(&results("one", "a", "all"), panicking).await;
    let received = Received { envelope: envelope("e1", &run("m", true)), at: bench.clock.now() };
    assert_eq!(bench.intake.take_in(vec![received]).await.durable.await, Err(Undurable));
    let text = log.text();
    let lines: Vec<&str> = text.lines().filter(|line| line.contains("ERROR")).collect();
    let [line] = lines[..] else { panic!("{text}") };
    for said in [
        "a batch is not acknowledged",
        "panicked with message \"a fault of the store\"",
        "the broker gives it again",
    ] {
        assert!(line.contains(said), "{line}");
    }
}
