//! Rooms that wait in the store while events stream in, and what intake hands over would take every place.

use hipchat_notifier::domain::ids::TokenKey;
use hipchat_notifier::domain::line::{Retry, RoomState, TokenGrant, Waiting};
use hipchat_notifier::domain::reason::SendReason;
use hipchat_notifier::domain::story::Story;
use hipchat_notifier::ports::{
    AtWork, ClaimTerms, Decide, Gauges, IntakeQuery, IntakeReceipt, RoomLine, Settled, Settlement, StoreError,
};
use tokio::time::Instant;

use super::*;

/// After this long a room leaves its place to others.
const SLOW_AFTER: Duration = Duration::from_secs(1);

/// The integration whose rooms intake hands over.
const STREAM: &str = "stream";

/// A room of `integration` with one notification, held.
fn line(bench: &Bench, integration: &str, retry: bool) -> RoomLine {
    let (at, id) = (bench.clock.now(), IntegrationId::new(integration));
    let snapshot = bench.catalogue.now();
    let token: TokenKey = snapshot.integration(&id).unwrap().token.clone();
    let waiting = Waiting {
        seq: 1,
        event: EventId::new(integration),
        integration: id.clone(),
        story: Story::plain(SendReason::EveryRun),
        ready_at: at,
        gather: None,
        attempts: 0,
        first_attempt_at: None,
        last_answer: String::new(),
        plain: false,
        received: Arc::new(Received { envelope: envelope(integration, &run("m", true)), at }),
        read: None,
    };
    RoomLine {
        room: snapshot.target(&id).unwrap().room.clone(),
        claim: 1,
        state: RoomState { retry: retry.then_some(Retry { failures: 1, at }), ..RoomState::default() },
        waiting: vec![waiting],
        going_on: Vec::new(),
        tokens: [(token, TokenGrant { calls: 9, opens_at: at })].into(),
        throttles: Default::default(),
    }
}

/// Rooms that are due, each handed out once, in their order; and when they were claimed.
struct DueRooms {
    due: Mutex<Vec<RoomLine>>,
    claimed: Mutex<Vec<Instant>>,
    /// The room that is handed over.
    stream: RoomLine,
}

#[async_trait]
impl Store for DueRooms {
    async fn take_in(&self, _: IntakeQuery, _: Decide) -> Result<IntakeReceipt, StoreError> {
        Ok(IntakeReceipt::default())
    }

    async fn claim_others(
        &self,
        terms: ClaimTerms,
        _: AtWork,
        _: Timestamp,
    ) -> Result<Vec<RoomLine>, StoreError> {
        let (mut due, mut free) = (self.due.lock().unwrap(), (terms.rooms, terms.retries));
        let claimed: Vec<_> = due
            .extract_if(.., |line| {
                let free = if line.state.retry.is_some() { &mut free.1 } else { &mut free.0 };
                let fits = *free > 0;
                *free = free.saturating_sub(1);
                fits
            })
            .collect();
        self.claimed.lock().unwrap().extend(claimed.iter().map(|_| Instant::now()));
        Ok(claimed)
    }

    async fn next_due(&self) -> Result<Option<Timestamp>, StoreError> {
        Ok(self.due.lock().unwrap().first().map(|line| line.waiting[0].ready_at))
    }

    async fn settle(&self, settlement: Settlement) -> Result<Settled, StoreError> {
        Ok(if settlement.room == self.stream.room { Settled::AtRest } else { Settled::Applied })
    }

    async fn letters(&self, _: usize) -> Result<Vec<Letter>, StoreError> {
        Ok(Vec::new())
    }

    async fn buried(&self, _: &[i64], _: Timestamp) -> Result<(), StoreError> {
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

/// Rooms that answer slowly, but for the one that is handed over: it answers at once, and for each message that it
/// gets another is handed over.
struct Streaming {
    stream: RoomLine,
    handover: Arc<Handover>,
    told: AtomicUsize,
}

#[async_trait]
impl RoomGateway for Streaming {
    async fn post(&self, target: &RoomTarget, _: &RoomMessage) -> Answer {
        if target.room == self.stream.room {
            tokio::time::sleep(Duration::from_millis(10)).await;
            self.told.fetch_add(1, Ordering::SeqCst);
            (self.handover.straight().hand)(self.stream.clone());
        } else {
            tokio::time::sleep(3 * SLOW_AFTER).await;
        }
        Answer {
            status: Some(204),
            class: AnswerClass::Accepted,
            detail: String::new(),
            room_limit: LimitHint::default(),
            token_limit: LimitHint::default(),
        }
    }
}

/// Of the two quick places of each kind, what is handed over may have one of those for rooms that did not fail. So one
/// such room is claimed at once, or two of the others; and the last one as soon as they count as slow.
#[tokio::test(start_paused = true)]
async fn a_room_that_waits_in_the_store_is_claimed_while_events_stream_in() {
    for (retry, places) in [(false, 1), (true, 2)] {
        let ids = ["a", "b", "c"];
        let toml: String = ids.iter().chain([&STREAM]).map(|id| results(id, id, "all")).collect();
        let mut bench = Bench::new(&toml).await;
        let stream = line(&bench, STREAM, false);
        let due = ids[..=places].iter().map(|id| line(&bench, id, retry)).collect();
        let store =
            Arc::new(DueRooms { due: Mutex::new(due), claimed: Mutex::default(), stream: stream.clone() });
        let handover = bench.dispatch.handover.clone();
        let rooms = Arc::new(Streaming { stream, handover: handover.clone(), told: AtomicUsize::new(0) });
        bench.dispatch.terms.concurrency = 2;
        bench.dispatch.places = Arc::new(Places::new(2));
        bench.dispatch.store = store.clone();
        bench.dispatch.gateway = rooms.clone();
        for _ in 0..4 {
            (handover.straight().hand)(rooms.stream.clone());
        }
        let (switch, stop) = StopSwitch::new();
        let (begun, wake) = (Instant::now(), bench.dispatch.wake.clone());
        let dispatch = tokio::spawn(Arc::new(bench.dispatch).run(stop));
        // A look just before a place gets free: the next would come too late.
        tokio::time::sleep_until(begun + SLOW_AFTER - Duration::from_millis(10)).await;
        assert_eq!(store.claimed.lock().unwrap().len(), places, "retry: {retry}; at once");
        wake.ring();
        tokio::time::sleep_until(begun + SLOW_AFTER + Duration::from_millis(10)).await;
        let claimed = store.claimed.lock().unwrap().clone();
        assert_eq!(claimed.len(), places + 1, "retry: {retry}; as soon as there is a place");
        assert!(claimed[places - 1] - begun < Duration::from_millis(10), "retry: {retry}");
        assert!(rooms.told.load(Ordering::SeqCst) > 90, "what is handed over goes on: {:?}", rooms.told);
        switch.stop();
        dispatch.await.unwrap();
    }
}
