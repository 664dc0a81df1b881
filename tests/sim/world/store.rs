//! The store as a worker sees it: slow, away, silent, or gone in the middle. What it did, the ledger knows.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use hipchat_notifier::adapters::store::terms::WRITE_DOWN_AFTER;
use hipchat_notifier::domain::ids::{IntegrationId, RoomKey};
use hipchat_notifier::domain::pacing::Meter;
use hipchat_notifier::ports::{
    Applied, AtWork, ClaimTerms, Decide, Definition, Gauges, InHand, IntakeQuery, IntakeReceipt, Letter,
    ManagedBy, Registry, RoomLine, Settled, Settlement, Store, StoreError, Stored, Straight,
};
use jiff::Timestamp;
use tokio::time::Instant;

use super::backend::at_once;
use super::ledger::Handed;
use super::life::Life;
use super::{Inner, Mutation, World};

/// One worker's way to the store.
pub struct SimStore {
    world: Arc<World>,
    life: Arc<Life>,
    /// Room meters as this worker alone knows them, for a promise that is broken.
    own_meters: Mutex<BTreeMap<RoomKey, Meter>>,
}

/// What happens to one call, drawn before it is made.
struct Luck {
    refused: bool,
    corrupt: bool,
    before: Duration,
    after: Duration,
    answer_lost: bool,
    /// Whoever asks may be gone before it is done: then it is done all the same, so much later.
    lingers: Option<Duration>,
}

impl Luck {
    /// Whether it takes longer than a call of a store that is well.
    fn disturbs(&self) -> bool {
        self.refused || self.answer_lost || self.before.max(self.after) > Duration::from_millis(4)
    }
}

/// A call on its way. If whoever made it dies meanwhile, it may arrive all the same.
struct UnderWay<T, F: FnOnce(&World, &mut Inner) -> T + Send + 'static> {
    world: Arc<World>,
    call: Option<F>,
    lingers: Option<Duration>,
}

impl<T, F: FnOnce(&World, &mut Inner) -> T + Send + 'static> UnderWay<T, F> {
    fn arrive(mut self) -> Option<T> {
        let call = self.call.take()?;
        let world = self.world.clone();
        let mut inner = world.lock();
        Some(call(&world, &mut inner))
    }
}

impl<T, F: FnOnce(&World, &mut Inner) -> T + Send + 'static> Drop for UnderWay<T, F> {
    fn drop(&mut self) {
        let (Some(call), Some(later)) = (self.call.take(), self.lingers) else { return };
        let (world, Ok(runtime)) = (self.world.clone(), tokio::runtime::Handle::try_current()) else {
            return;
        };
        runtime.spawn(async move {
            tokio::time::sleep(later).await;
            let mut inner = world.lock();
            if !inner.over {
                world.note(&mut inner, || "a dead worker's call arrives".to_owned());
                call(&world, &mut inner);
            }
        });
    }
}

fn away(what: &str) -> StoreError {
    StoreError::Unavailable(format!("the store is away ({what})"))
}

impl SimStore {
    pub fn new(world: Arc<World>, life: Arc<Life>) -> Self {
        Self { world, life, own_meters: Mutex::default() }
    }

    fn has(&self, mutation: Mutation) -> bool {
        self.world.options.mutation == Some(mutation)
    }

    fn luck(&self, writes: bool) -> Luck {
        let mut inner = self.world.lock();
        let rates = &self.world.plan.rates;
        let away = inner.away_until.is_some_and(|until| until > Instant::now());
        let mut luck = Luck {
            refused: away || inner.chance(rates.store_fails),
            corrupt: false,
            before: Duration::ZERO,
            after: Duration::ZERO,
            answer_lost: false,
            lingers: None,
        };
        if inner.rng.u8(..8) < if writes { 5 } else { 1 } {
            luck.before = inner.millis(0, 4);
            luck.after = inner.millis(0, 4);
        }
        if inner.chance(rates.store_slow) {
            let slow = inner.millis(10, 4_000);
            if inner.rng.bool() { luck.before = slow } else { luck.after = slow }
        }
        luck.answer_lost = inner.chance(rates.store_forgets_to_answer);
        inner.ledger.disturbed += u64::from(luck.disturbs());
        if writes && inner.rng.bool() {
            // A process takes its own store's work along, but for what is just being done.
            let later = if self.world.plan.shared { inner.millis(0, 2_000) } else { Duration::ZERO };
            luck.lingers = Some(later);
        }
        luck
    }

    /// Makes one call.
    async fn call<T: Send + 'static>(
        &self,
        what: &str,
        luck: Luck,
        call: impl FnOnce(&World, &mut Inner) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let writes = luck.lingers.is_some();
        self.life.gate().await;
        if writes {
            self.world.strike(&self.life);
            self.life.living().await;
        }
        if luck.refused {
            tokio::time::sleep(luck.before.max(Duration::from_millis(1))).await;
            self.life.gate().await;
            return Err(away(what));
        }
        let under_way = UnderWay { world: self.world.clone(), call: Some(call), lingers: luck.lingers };
        if !luck.before.is_zero() {
            tokio::time::sleep(luck.before).await;
        }
        let Some(answer) = under_way.arrive() else { return Err(away(what)) };
        if writes {
            self.world.strike(&self.life);
        }
        if !luck.after.is_zero() {
            tokio::time::sleep(luck.after).await;
        }
        self.life.gate().await;
        if luck.answer_lost {
            self.world.note(&mut self.world.lock(), || format!("{} does not hear of its {what}", self.life));
            return Err(away(what));
        }
        Ok(answer)
    }
}

#[async_trait]
impl Store for SimStore {
    async fn take_in(&self, query: IntakeQuery, decide: Decide) -> Result<IntakeReceipt, StoreError> {
        self.take(query, decide, None).await
    }

    async fn take_in_telling(
        &self,
        query: IntakeQuery,
        decide: Decide,
        straight: Straight,
    ) -> Result<IntakeReceipt, StoreError> {
        self.take(query, decide, Some(straight)).await
    }

    async fn written(&self, batch: InHand) -> Result<(), StoreError> {
        let luck = self.luck(false);
        self.life.gate().await;
        self.world.strike(&self.life);
        self.life.living().await;
        if self.has(Mutation::StraightUnwritten) {
            return Ok(());
        }
        if luck.refused {
            return Err(away("wait"));
        }
        let store = self.world.store();
        let mut written = pin!(store.written(batch));
        // Its wakers say nothing: those of another thread would come at any moment.
        if let Poll::Ready(done) = written.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return done;
        }
        let landed = self.world.landed(batch);
        if self.has(Mutation::StraightWaits) {
            landed.await;
        } else {
            let _ = tokio::time::timeout(WRITE_DOWN_AFTER, landed).await;
        }
        self.life.gate().await;
        let done = at_once(written);
        self.world.observe(&mut self.world.lock());
        self.world.strike(&self.life);
        self.life.gate().await;
        if luck.answer_lost { Err(away("wait")) } else { done }
    }

    async fn claim_others(
        &self,
        terms: ClaimTerms,
        at_work: AtWork,
        now: Timestamp,
    ) -> Result<Vec<RoomLine>, StoreError> {
        let (life, luck) = (self.life.clone(), self.luck(true));
        let lines = self
            .call("claim", luck, move |world, inner| {
                let lines = at_once(world.store().claim_others(terms, at_work, now))?;
                world.observe(inner);
                for line in &lines {
                    world.note(inner, || {
                        let waiting: Vec<String> =
                            line.waiting.iter().map(|w| format!("{}>{}", w.event, w.integration)).collect();
                        let counts = &line.state.meter.counts;
                        format!(
                            "{life} claims {} ({}): {} {counts:?}",
                            line.room,
                            line.claim,
                            waiting.join(" ")
                        )
                    });
                    let faults = inner.ledger.claimed(life.number, line, (now, world.now()));
                    faults.into_iter().for_each(|says| world.fault(inner, says));
                }
                Ok(lines)
            })
            .await?;
        lines.map(|lines| lines.into_iter().map(|line| self.bend(line)).collect())
    }

    async fn next_due(&self) -> Result<Option<Timestamp>, StoreError> {
        self.call("look", self.luck(false), |world, _| at_once(world.store().next_due())).await?
    }

    async fn settle(&self, settlement: Settlement) -> Result<Settled, StoreError> {
        let (life, luck) = (self.life.clone(), self.luck(true));
        if self.has(Mutation::PacingPerWorker) {
            let mut own = self.own_meters.lock().unwrap_or_else(PoisonError::into_inner);
            own.insert(settlement.room.clone(), settlement.state.meter.clone());
        }
        let dropped = self.has(Mutation::AnswerDropped);
        let settled = self
            .call("settlement", luck, move |world, inner| {
                let settled = at_once(world.store().settle(settlement.clone()))?;
                world.observe_settlement(inner, &settlement);
                world.note(inner, || {
                    let Settlement { room, claim, transitions, then, .. } = &settlement;
                    let words: Vec<String> = transitions.iter().map(words_of).collect();
                    format!("{life} settles {room} ({claim}): {} {then:?} -> {settled:?}", words.join(" "))
                });
                let now = world.now();
                let faults = inner.ledger.settled(life.number, &settlement, settled, now);
                let told = inner.ledger.told_by(&settlement, settled);
                inner.server.settled(life.number, &settlement, settled, told);
                faults.into_iter().for_each(|says| world.fault(inner, says));
                Ok(settled)
            })
            .await;
        match settled {
            Err(_) if dropped => Ok(Settled::LostClaim),
            other => other?,
        }
    }

    async fn letters(&self, limit: usize) -> Result<Vec<Letter>, StoreError> {
        let life = self.life.clone();
        let looked = self.call("look at letters", self.luck(false), move |world, inner| {
            let letters = at_once(world.store().letters(limit))?;
            // Letters are one worker's for half a minute, so that each is published once.
            let now = world.elapsed();
            let mine: Vec<Letter> = letters
                .into_iter()
                .filter(|letter| !world.plan.shared || inner.dead_letters.lent(letter.id, life.number, now))
                .collect();
            inner.ledger.letters_seen(&mine);
            Ok(mine)
        });
        looked.await?
    }

    async fn buried(&self, letters: &[i64], at: Timestamp) -> Result<(), StoreError> {
        let (life, letters) = (self.life.clone(), letters.to_vec());
        let buried = self.call("burial", self.luck(true), move |world, inner| {
            at_once(world.store().buried(&letters, at))?;
            world.note(inner, || format!("{life} notes letters {letters:?} as buried"));
            inner.ledger.buried(&letters);
            Ok(())
        });
        buried.await?
    }

    async fn forget(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        self.call("tidying", self.luck(false), move |world, _| at_once(world.store().forget(before, limit)))
            .await?
    }

    async fn forget_streaks(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        let call = move |world: &World, _: &mut Inner| at_once(world.store().forget_streaks(before, limit));
        self.call("tidying", self.luck(false), call).await?
    }

    async fn gauges(&self, now: Timestamp) -> Result<Gauges, StoreError> {
        self.call("gauges", self.luck(false), move |world, _| at_once(world.store().gauges(now))).await?
    }
}

impl SimStore {
    async fn take(
        &self,
        query: IntakeQuery,
        decide: Decide,
        straight: Option<Straight>,
    ) -> Result<IntakeReceipt, StoreError> {
        let life = self.life.clone();
        // A store that others use too writes first what it hands over, and does so when its caller hears of that.
        let hand = straight.as_ref().filter(|_| self.world.plan.shared).map(|straight| straight.hand.clone());
        let mut luck = self.luck(true);
        let snapshot = {
            let mut inner = self.world.lock();
            luck.corrupt = inner.chance(self.world.plan.rates.store_corrupt);
            inner.ledger.batch_begun(life.number)
        };
        if luck.corrupt {
            self.life.gate().await;
            self.world
                .note(&mut self.world.lock(), || format!("{life} is told that a batch can't be stored"));
            return Err(StoreError::Corrupt("a row is not what it should be".to_owned()));
        }
        if self.has(Mutation::AckWithoutCommit) && luck.refused {
            return Ok(IntakeReceipt::default());
        }
        let asked = straight.as_ref().map_or(Timestamp::MIN, |straight| straight.now);
        let disturbed = luck.disturbs();
        let taken = self.call("intake", luck, move |world, inner| {
            let seen = Arc::new(Mutex::new(None));
            let told = seen.clone();
            let decide = move |state| {
                let changes = decide(state);
                *lock(&told) = Some(changes.clone());
                changes
            };
            let (handed, receipt) = match straight {
                Some(straight) => {
                    // Handed over from here: the wakers of a store's own thread would come at any moment.
                    let (lines, hand) = (Arc::<Mutex<Vec<RoomLine>>>::default(), straight.hand);
                    let noted = lines.clone();
                    let straight =
                        Straight { hand: Arc::new(move |line| lock(&noted).push(line)), ..straight };
                    let receipt = at_once(world.store().take_in_telling(query, Box::new(decide), straight));
                    let lines = std::mem::take(&mut *lock(&lines));
                    if !world.plan.shared {
                        lines.iter().for_each(|line| hand(line.clone()));
                    }
                    (lines, receipt?)
                }
                None => (Vec::new(), at_once(world.store().take_in(query, Box::new(decide)))?),
            };
            world.observe(inner);
            let changes = lock(&seen).take();
            if let Some(changes) = changes {
                let ids: Vec<&str> = changes.events.iter().map(|event| event.id.as_str()).collect();
                let letters = changes.letters.len();
                world.note(inner, || {
                    format!("{life} takes in {ids:?}, {} pending, {letters} letters", receipt.pending)
                });
                for line in &handed {
                    world.note(inner, || format!("{life} tells {} straight ({})", line.room, line.claim));
                }
                let batch = Handed {
                    life: life.number,
                    lines: &handed,
                    batch: receipt.in_hand,
                    asked,
                    now: world.now(),
                    elapsed: world.elapsed(),
                };
                let faults = inner.ledger.taken_in(&snapshot, &changes, &batch);
                // What was handed out is waited for only from when this call has returned.
                inner.ledger.disturbed += u64::from(disturbed || life.is_stopped());
                inner.figures.straight += handed.len() as u64;
                faults.into_iter().for_each(|says| world.fault(inner, says));
                world.observe(inner);
            }
            Ok((receipt, handed))
        });
        let (receipt, handed) = taken.await??;
        if let Some(hand) = hand {
            handed.into_iter().for_each(|line| hand(line));
        }
        Ok(receipt)
    }

    /// Breaks what a mutation wants broken of a line.
    fn bend(&self, mut line: RoomLine) -> RoomLine {
        if self.has(Mutation::PacingPerWorker) {
            let own = self.own_meters.lock().unwrap_or_else(PoisonError::into_inner);
            line.state.meter = own.get(&line.room).cloned().unwrap_or_default();
        }
        if self.has(Mutation::RetryOvertakes) && line.waiting.first().is_some_and(|w| w.attempts > 0) {
            line.state.retry = None;
            line.waiting.rotate_left(1);
        }
        line
    }
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

fn words_of(transition: &hipchat_notifier::ports::Transition) -> String {
    let (name, rest) = match transition.outcome() {
        Some((outcome, reason)) => (outcome.as_str(), reason),
        None => ("attempted", ""),
    };
    format!("{name}/{rest}{:?}", transition.seqs())
}

#[async_trait]
impl Registry for SimStore {
    async fn revision(&self) -> Result<u64, StoreError> {
        self.call("look", self.luck(false), |world, _| at_once(world.store().revision())).await?
    }

    async fn list(&self) -> Result<Vec<Stored>, StoreError> {
        let listed = self.call("look", self.luck(false), |world, inner| {
            let list = at_once(world.store().list())?;
            Ok::<_, StoreError>((list, inner.ledger.registry()))
        });
        let (list, snapshot) = listed.await??;
        self.world.lock().ledger.snapshot_of(self.life.number, snapshot);
        Ok(list)
    }

    async fn apply(
        &self,
        definitions: Vec<Definition>,
        by: ManagedBy,
        now: Timestamp,
    ) -> Result<Applied, StoreError> {
        at_once(self.world.store().apply(definitions, by, now))
    }

    async fn release(&self) -> Result<Vec<IntegrationId>, StoreError> {
        at_once(self.world.store().release())
    }

    async fn remove(&self, id: &IntegrationId, now: Timestamp) -> Result<(), StoreError> {
        at_once(self.world.store().remove(id, now))
    }

    async fn pause(&self, id: &IntegrationId, now: Timestamp) -> Result<(), StoreError> {
        at_once(self.world.store().pause(id, now))
    }

    async fn resume(&self, id: &IntegrationId) -> Result<(), StoreError> {
        at_once(self.world.store().resume(id))
    }
}
