//! A worker that was frozen, or whose clock was set ahead, while it waited for a room's answer: its leases have
//! lapsed, and it must not claim behind its own back.

use hipchat_notifier::domain::ids::TokenKey;
use hipchat_notifier::domain::line::{RoomState, TokenGrant, Waiting};
use hipchat_notifier::domain::reason::SendReason;
use hipchat_notifier::domain::story::Story;
use hipchat_notifier::ports::{
    AtWork, ClaimTerms, Decide, Gauges, IntakeQuery, IntakeReceipt, RoomLine, Settled, Settlement,
    StoreError, Then,
};
use std::sync::atomic::AtomicBool;

use tokio::sync::Notify;

use super::*;

/// A room that answers when it is let.
#[derive(Default)]
struct SlowRoom {
    asked: Notify,
    may_answer: Notify,
    calls: AtomicUsize,
}

#[async_trait]
impl RoomGateway for SlowRoom {
    async fn post(&self, _: &RoomTarget, _: &RoomMessage) -> Answer {
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.asked.notify_one();
        self.may_answer.notified().await;
        Answer {
            status: Some(204),
            class: AnswerClass::Accepted,
            detail: String::new(),
            room_limit: LimitHint::default(),
            token_limit: LimitHint::default(),
        }
    }
}

/// Holds one room with one notification, and hands it out to whoever asks once nobody holds it any more.
struct OneRoom {
    line: RoomLine,
    /// Until when it is held; `None` when its notification is told.
    lease_until: Mutex<Option<Timestamp>>,
    settled: Mutex<Vec<Settlement>>,
    /// Whether somebody else has claimed it since.
    taken: AtomicBool,
    /// Whether the latest claim would have passed it over.
    at_work: AtomicBool,
}

impl OneRoom {
    fn new(target: &RoomTarget, token: &TokenKey, at: Timestamp) -> Self {
        let waiting = Waiting {
            seq: 1,
            event: EventId::new("e1"),
            integration: IntegrationId::new("one"),
            story: Story::plain(SendReason::EveryRun),
            ready_at: at,
            gather: None,
            attempts: 0,
            first_attempt_at: None,
            last_answer: String::new(),
            plain: false,
            received: Arc::new(Received { envelope: envelope("e1", &run("m", true)), at }),
            read: None,
        };
        let line = RoomLine {
            room: target.room.clone(),
            claim: 1,
            state: RoomState::default(),
            waiting: vec![waiting],
            going_on: Vec::new(),
            tokens: [(token.clone(), TokenGrant { calls: 9, opens_at: at })].into(),
            throttles: Default::default(),
        };
        Self {
            line,
            lease_until: Mutex::new(Some(at)),
            settled: Mutex::default(),
            taken: AtomicBool::new(false),
            at_work: AtomicBool::new(false),
        }
    }
}

#[async_trait]
impl Store for OneRoom {
    async fn take_in(&self, _: IntakeQuery, _: Decide) -> Result<IntakeReceipt, StoreError> {
        Ok(IntakeReceipt::default())
    }

    async fn claim_others(
        &self,
        terms: ClaimTerms,
        at_work: AtWork,
        now: Timestamp,
    ) -> Result<Vec<RoomLine>, StoreError> {
        self.at_work.store(at_work(&self.line.room), Ordering::SeqCst);
        let mut lease_until = self.lease_until.lock().unwrap();
        if lease_until.is_none_or(|until| now < until) {
            return Ok(Vec::new());
        }
        *lease_until = Some(now + terms.lease);
        Ok(vec![self.line.clone()])
    }

    async fn next_due(&self) -> Result<Option<Timestamp>, StoreError> {
        Ok(*self.lease_until.lock().unwrap())
    }

    async fn settle(&self, settlement: Settlement) -> Result<Settled, StoreError> {
        if self.taken.load(Ordering::SeqCst) {
            return Ok(Settled::LostClaim);
        }
        *self.lease_until.lock().unwrap() = None;
        self.settled.lock().unwrap().push(settlement);
        Ok(Settled::Applied)
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

/// Lets the dispatch loop look at its store many times.
async fn many_looks() {
    for _ in 0..50 {
        tokio::time::advance(Duration::from_millis(500)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_claimed_before_a_freeze_is_told_only_by_whoever_still_holds_it() {
    let lease = Duration::from_secs(30);
    // A clock that was set back meanwhile hides the freeze; this process's own does not.
    for (taken, clock_goes) in [(false, 30_001), (true, 30_001), (false, -97_000), (true, -97_000)] {
        let mut bench = Bench::new(&results("one", "a", "all")).await;
        let id = IntegrationId::new("one");
        let snapshot = bench.catalogue.now();
        let (integration, target) = (snapshot.integration(&id).unwrap(), snapshot.target(&id).unwrap());
        let store = Arc::new(OneRoom::new(&target, &integration.token, bench.clock.now()));
        let room = Arc::new(SlowRoom::default());
        room.may_answer.notify_one();
        bench.dispatch.store = store.clone();
        bench.dispatch.gateway = room.clone();
        let line = bench.dispatch.claim_due(1, 0, bench.moment()).await.remove(0);
        // The freeze: the claim's answer is there, but nothing was done with it.
        assert_eq!(bench.dispatch.terms.lease, lease);
        bench.clock.0.fetch_add(clock_goes, Ordering::SeqCst);
        tokio::time::advance(lease).await;
        store.taken.store(taken, Ordering::SeqCst);
        let (_switch, stop) = StopSwitch::new();
        bench.dispatch.work_off(line, &stop).await;
        assert_eq!(room.calls.load(Ordering::SeqCst), usize::from(!taken), "taken: {taken}");
        let renewed = store.settled.lock().unwrap().first().map(|s| (s.then, s.transitions.is_empty()));
        assert_eq!(renewed, (!taken).then_some((Then::Hold, true)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_room_whose_lease_lapsed_in_a_freeze_is_not_told_twice_and_stopping_waits_for_its_answer() {
    for stopped_while_it_waits in [false, true] {
        let mut bench = Bench::new(&results("one", "a", "all")).await;
        let id = IntegrationId::new("one");
        let snapshot = bench.catalogue.now();
        let (integration, target) = (snapshot.integration(&id).unwrap(), snapshot.target(&id).unwrap());
        let store = Arc::new(OneRoom::new(&target, &integration.token, bench.clock.now()));
        let room = Arc::new(SlowRoom::default());
        bench.dispatch.store = store.clone();
        bench.dispatch.gateway = room.clone();
        let lease = bench.dispatch.terms.lease;
        let (switch, stop) = StopSwitch::new();
        let dispatch = tokio::spawn(Arc::new(bench.dispatch).run(stop));
        room.asked.notified().await;
        tokio::time::advance(Duration::from_secs(1)).await;
        many_looks().await;
        assert!(store.at_work.load(Ordering::SeqCst), "the store is told so with each claim");

        bench.clock.0.fetch_add(lease.as_millis() as i64 + 1, Ordering::SeqCst);
        many_looks().await;
        assert_eq!(room.calls.load(Ordering::SeqCst), 1, "it is not asked again while its answer is awaited");
        if stopped_while_it_waits {
            switch.stop();
            many_looks().await;
            assert!(!dispatch.is_finished(), "the attempt in flight may finish");
        }
        room.may_answer.notify_one();
        many_looks().await;
        switch.stop();
        dispatch.await.unwrap();
        assert_eq!(room.calls.load(Ordering::SeqCst), 1);
        let settled = store.settled.lock().unwrap();
        let told = settled.iter().flat_map(|settlement| &settlement.transitions).count();
        assert_eq!(told, 1, "its answer is recorded: {settled:?}");
    }
}
