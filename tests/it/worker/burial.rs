//! The way from the outbox of letters to the dead-letter queue when one of the two fails.

use hipchat_notifier::domain::reason::DeadLetterReason;
use hipchat_notifier::ports::{
    AtWork, BrokerError, ClaimTerms, Decide, Gauges, IntakeQuery, IntakeReceipt, Readiness, RoomLine,
    Settled, Settlement, StoreError,
};

use super::*;

/// An outbox on a disk that may be full.
#[derive(Default)]
struct Outbox {
    letters: Mutex<Vec<Letter>>,
    /// So many times it can't let letters go.
    full: AtomicUsize,
}

#[async_trait]
impl Store for Outbox {
    async fn take_in(&self, _: IntakeQuery, _: Decide) -> Result<IntakeReceipt, StoreError> {
        Ok(IntakeReceipt::default())
    }

    async fn claim_others(
        &self,
        _: ClaimTerms,
        _: AtWork,
        _: Timestamp,
    ) -> Result<Vec<RoomLine>, StoreError> {
        Ok(Vec::new())
    }

    async fn next_due(&self) -> Result<Option<Timestamp>, StoreError> {
        Ok(None)
    }

    async fn settle(&self, _: Settlement) -> Result<Settled, StoreError> {
        Ok(Settled::LostClaim)
    }

    async fn letters(&self, limit: usize) -> Result<Vec<Letter>, StoreError> {
        Ok(self.letters.lock().unwrap().iter().take(limit).cloned().collect())
    }

    async fn buried(&self, letters: &[i64], _: Timestamp) -> Result<(), StoreError> {
        let left = self.full.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if left.is_ok() {
            return Err(StoreError::Unavailable("disk full".into()));
        }
        self.letters.lock().unwrap().retain(|letter| !letters.contains(&letter.id));
        Ok(())
    }

    async fn forget(&self, _: Timestamp, _: usize) -> Result<usize, StoreError> {
        Ok(0)
    }

    async fn forget_streaks(&self, _: Timestamp, _: usize) -> Result<usize, StoreError> {
        Ok(0)
    }

    async fn gauges(&self, _: Timestamp) -> Result<Gauges, StoreError> {
        Ok(Gauges::default())
    }
}

/// A dead-letter queue that confirms only so many letters of a round while it is in trouble.
#[derive(Default)]
struct Troubled {
    got: Mutex<Vec<i64>>,
    confirms: Mutex<VecDeque<usize>>,
    closed: AtomicUsize,
}

#[async_trait]
impl LetterBox for Troubled {
    async fn bury(&self, letters: &[Letter]) -> Buried {
        let confirms = self.confirms.lock().unwrap().pop_front();
        let ids = letters.iter().map(|letter| letter.id);
        let confirmed: Vec<i64> = ids.take(confirms.unwrap_or(usize::MAX)).collect();
        self.got.lock().unwrap().extend(&confirmed);
        let failed = confirms.map(|_| BrokerError::Unavailable("an alarm".into()));
        Buried { confirmed, failed }
    }

    async fn close(&self) {
        self.closed.fetch_add(1, Ordering::SeqCst);
    }
}

struct Graveyard {
    clock: Arc<HandClock>,
    outbox: Arc<Outbox>,
    queue: Arc<Troubled>,
    burial: Burial,
}

impl Graveyard {
    /// With the letters 1 to `letters` in the outbox.
    fn new(letters: i64) -> Self {
        let clock = Arc::new(HandClock(AtomicI64::new(1_764_000_000_000)));
        let outbox = Arc::new(Outbox::default());
        outbox.letters.lock().unwrap().extend((1..=letters).map(|id| letter(id, clock.now())));
        let queue = Arc::new(Troubled::default());
        let burial = Burial {
            store: outbox.clone(),
            letter_box: queue.clone(),
            clock: clock.clone(),
            metrics: Arc::new(Metrics::default()),
            trouble: Arc::new(Trouble::new("the dead-letter queue", clock.clone())),
            outbox: Arc::new(Trouble::new("the store", clock.clone())),
            wake: Arc::new(Bell::default()),
        };
        Self { clock, outbox, queue, burial }
    }

    fn published(&self) -> Vec<i64> {
        self.queue.got.lock().unwrap().clone()
    }
}

fn letter(id: i64, at: Timestamp) -> Letter {
    Letter {
        id,
        envelope: envelope("e", "{}"),
        reason: DeadLetterReason::MalformedEvent,
        detail: "wrong".into(),
        event: None,
        integration: None,
        attempts: 0,
        last_status: None,
        first_attempt_at: None,
        at,
    }
}

#[tokio::test(start_paused = true)]
async fn who_stops_notes_first_what_the_broker_has() {
    let Graveyard { outbox, queue, burial, .. } = Graveyard::new(2);
    outbox.full.store(3, Ordering::SeqCst);
    let (switch, stop) = StopSwitch::new();
    let running = tokio::spawn(burial.run(stop));
    while queue.got.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    switch.stop();
    running.await.unwrap();
    assert_eq!((outbox.full.load(Ordering::SeqCst), outbox.letters.lock().unwrap().len()), (0, 0));
    assert_eq!(*queue.got.lock().unwrap(), [1, 2]);
}

#[tokio::test]
async fn letters_are_published_once_however_long_the_store_is_broken() {
    let yard = Graveyard::new(2);
    yard.outbox.full.store(3, Ordering::SeqCst);
    let mut owed = Owed::default();
    for _ in 0..3 {
        yard.burial.step(&mut owed).await.unwrap_err();
        assert_eq!(yard.published(), [1, 2]);
    }
    yard.outbox.letters.lock().unwrap().push(letter(3, yard.burial.clock.now()));
    assert_eq!(yard.burial.step(&mut owed).await.unwrap(), 2);
    assert_eq!(yard.published(), [1, 2], "what came since waits for the next round");
    assert_eq!(yard.burial.step(&mut owed).await.unwrap(), 1);
    assert_eq!(yard.published(), [1, 2, 3]);
    assert_eq!(yard.burial.step(&mut owed).await.unwrap(), 0);
}

#[tokio::test]
async fn of_a_round_that_breaks_only_the_rest_is_repeated() {
    let yard = Graveyard::new(5);
    yard.queue.confirms.lock().unwrap().extend([2, 0]);
    let mut owed = Owed::default();
    for _ in 0..2 {
        let error = yard.burial.step(&mut owed).await.unwrap_err();
        assert_eq!(error.to_string(), "an alarm");
        assert_eq!(yard.published(), [1, 2]);
        assert_eq!(yard.outbox.letters.lock().unwrap().len(), 3, "what is confirmed is let go");
    }
    assert_eq!(yard.burial.step(&mut owed).await.unwrap(), 3);
    assert_eq!(yard.published(), [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn a_letter_is_one_line_in_the_log_and_a_flood_of_one_kind_ends_as_a_count() {
    use crate::support::log::Log;
    let yard = Graveyard::new(120);
    let fault = Letter { reason: DeadLetterReason::WorkerFault, ..letter(121, yard.burial.clock.now()) };
    yard.outbox.letters.lock().unwrap().push(fault);
    let (log, mut owed) = (Log::catch(), Owed::default());
    while yard.burial.step(&mut owed).await.unwrap() > 0 {}
    assert_eq!(log.text().lines().count(), 51, "{}", log.text());
    assert_eq!(log.text().matches("malformed-event").count(), 50);
    assert!(log.text().contains("worker-fault"), "another kind is not hidden");
    yard.clock.0.fetch_add(60_000, Ordering::SeqCst);
    yard.burial.step(&mut owed).await.unwrap();
    let text = log.text();
    let last = text.lines().last().expect("a line");
    assert!(last.contains("70 more were dead-lettered and not told here"), "{last}");
    assert!(last.contains("malformed-event"), "{last}");
}

#[tokio::test]
async fn a_trouble_is_over_when_the_store_answers_though_nothing_is_to_be_buried() {
    let yard = Graveyard::new(0);
    yard.burial.trouble.failed("bury dead letters", &"disk full");
    yard.burial.step(&mut Owed::default()).await.unwrap();
    assert_eq!(yard.burial.trouble.ready().await, Ok(()));
}

#[tokio::test]
async fn the_store_and_the_queue_are_each_blamed_for_their_own_troubles() {
    let yard = Graveyard::new(2);
    yard.outbox.full.store(1, Ordering::SeqCst);
    yard.queue.confirms.lock().unwrap().extend([2, 0]);
    let mut owed = Owed::default();
    let faults = async || {
        let of = async |trouble: &Trouble| trouble.ready().await.err().unwrap_or_default();
        [of(&yard.burial.outbox).await, of(&yard.burial.trouble).await]
    };
    yard.burial.step(&mut owed).await.unwrap_err();
    let [store, queue] = faults().await;
    assert!(store.starts_with("the store: disk full") && queue.is_empty(), "{store:?} {queue:?}");
    yard.burial.step(&mut owed).await.unwrap();
    yard.outbox.letters.lock().unwrap().push(letter(3, yard.clock.now()));
    yard.burial.step(&mut owed).await.unwrap_err();
    let [store, queue] = faults().await;
    assert!(store.is_empty() && queue.starts_with("the dead-letter queue: an alarm"), "{store:?} {queue:?}");
}

#[tokio::test]
async fn who_stops_gives_the_connection_back() {
    let yard = Graveyard::new(1);
    let (switch, stop) = StopSwitch::new();
    let running = tokio::spawn(yard.burial.run(stop));
    while !yard.outbox.letters.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(yard.queue.closed.load(Ordering::SeqCst), 0);
    switch.stop();
    running.await.unwrap();
    assert_eq!(yard.queue.closed.load(Ordering::SeqCst), 1);
}
