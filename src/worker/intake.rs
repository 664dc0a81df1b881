//! From a batch of deliveries to durable outcomes and pending notifications.
//!
//! Gather: parse, match, and say what must be known. Decide: inside the store's transaction, event by event
//! in the order of their arrival ([`batch`] has both). Apply: one commit. Only then may the batch be acknowledged,
//! and if some of it is told straight, when that is written too; the next batch need not wait for it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::task::JoinSet;

use crate::domain::envelope::Received;
use crate::metrics::Metrics;
use crate::ports::{
    Decided, Durable, InHand, IntakeChanges, IntakeQuery, Store, StoreError, TakeIn, Undurable,
};
use crate::worker::batch::{self, Read};
use crate::worker::catalogue::Catalogue;
use crate::worker::handover::Handover;
use crate::worker::trouble::Trouble;
use crate::worker::wake::Bell;

/// How long a batch waits before it asks the store again. The broker keeps the batch meanwhile.
const STORE_RETRY: Duration = Duration::from_secs(1);

/// Takes events in.
pub struct Intake {
    pub store: Arc<dyn Store>,
    pub catalogue: Arc<Catalogue>,
    pub metrics: Arc<Metrics>,
    /// With the store.
    pub trouble: Arc<Trouble>,
    /// Rung when there is something to tell.
    pub dispatch: Arc<Bell>,
    /// Rung when there is something to bury.
    pub burial: Arc<Bell>,
    /// Where quick rooms are told straight from here; `None`: each waits in the store until it is claimed.
    pub handover: Option<Arc<Handover>>,
    pub turn: Turn,
}

/// The turn to decide. It is given in the order in which batches ask for it, which they do when they have been read; so
/// they are decided in their order, and one is read while the one before it is decided.
#[derive(Default)]
pub struct Turn(tokio::sync::Mutex<()>);

#[async_trait]
impl TakeIn for Intake {
    /// Waits for the store, however long it takes to be there again.
    async fn take_in(&self, batch: Vec<Received>) -> Decided {
        let by = self.catalogue.now();
        let mut read: Vec<Read> = batch.into_iter().map(|received| batch::read(received, &by)).collect();
        let _turn = self.turn.0.lock().await;
        // Who changes an integration, or resumes one, often publishes or replays right after: decide by what holds
        // now. If it can't be read, by what is known.
        if let Ok(true) = self.catalogue.refresh().await {
            self.dispatch.ring();
        }
        let now = self.catalogue.now();
        if !Arc::ptr_eq(&by, &now) {
            read = read.into_iter().map(|read| batch::read(read.into_received(), &now)).collect();
        }
        let mut in_hand = Vec::new();
        for part in batch::parts(read) {
            in_hand.extend(self.take_part(&part).await);
        }
        let notifications = in_hand.iter().map(|part| part.notifications).sum();
        Decided { in_hand: notifications, durable: self.written(in_hand) }
    }

    /// Takes nothing in, until that works: a transaction like any other, with the lock that each of them needs.
    async fn able(&self) {
        loop {
            let nothing = Box::new(|_| IntakeChanges::default());
            match self.store.take_in(IntakeQuery::default(), nothing).await {
                Ok(_) => return self.trouble.worked(),
                Err(error) => failed(&self.metrics, &self.trouble, &error),
            }
            tokio::time::sleep(STORE_RETRY).await;
        }
    }
}

impl Intake {
    /// Returns when this part of a batch is durable, but for what is in hand of it.
    async fn take_part(&self, batch: &Arc<[Read]>) -> Option<InHand> {
        let fault = match self.commit(batch, self.handover.as_ref()).await {
            Ok(in_hand) => return in_hand,
            Err(fault) => fault,
        };
        // One event of the batch trips the store or a decision over: find it, so that the others go on.
        tracing::error!(
            events = batch.len(),
            "a batch can't be taken in whole ({fault}); taking it in one by one"
        );
        for read in batch.iter() {
            if let Err(fault) = self.commit(&Arc::from([read.clone()]), None).await {
                let letter = Arc::from([read.given_up(&fault)]);
                while self.commit(&letter, None).await.is_err() {
                    tokio::time::sleep(STORE_RETRY).await;
                }
            }
        }
        None
    }

    /// Commits a batch, waiting for as long as the store is out of reach.
    ///
    /// # Errors
    /// What is wrong with the batch itself, or with the store for good.
    async fn commit(
        &self,
        batch: &Arc<[Read]>,
        handover: Option<&Arc<Handover>>,
    ) -> Result<Option<InHand>, StoreError> {
        loop {
            match self.step(batch, handover).await {
                Ok(in_hand) => {
                    self.trouble.worked();
                    return Ok(in_hand);
                }
                Err(error) => {
                    failed(&self.metrics, &self.trouble, &error);
                    if !matches!(error, StoreError::Unavailable(_)) {
                        return Err(error);
                    }
                    tokio::time::sleep(STORE_RETRY).await;
                }
            }
        }
    }

    /// Waits until what is in hand is durable, however long it takes.
    fn written(&self, in_hand: Vec<InHand>) -> Durable {
        if in_hand.is_empty() {
            return Box::pin(std::future::ready(Ok(())));
        }
        let (store, metrics, trouble) = (self.store.clone(), self.metrics.clone(), self.trouble.clone());
        // A task, so that what takes long is written down in time, whatever the caller is about.
        let mut writing = JoinSet::new();
        writing.spawn(async move {
            for in_hand in in_hand {
                while let Err(error) = store.written(in_hand).await {
                    failed(&metrics, &trouble, &error);
                    tokio::time::sleep(STORE_RETRY).await;
                }
            }
        });
        Box::pin(async move {
            while let Some(ended) = writing.join_next().await {
                ended.map_err(|error| {
                    tracing::error!(
                        "a batch is not acknowledged: waiting for what is told straight of it failed ({error}), so \
                         nobody knows what of it is written; the broker gives it again; report it"
                    );
                    Undurable
                })?;
            }
            Ok(())
        })
    }

    /// One try to commit a batch.
    async fn step(
        &self,
        batch: &Arc<[Read]>,
        handover: Option<&Arc<Handover>>,
    ) -> Result<Option<InHand>, StoreError> {
        let query = batch::query(batch);
        let batch = batch.clone();
        let fates = Arc::new(Mutex::new(Vec::new()));
        let told = fates.clone();
        let decide = move |state| {
            let (changes, fates) = batch::decide(&batch, state);
            *told.lock().unwrap_or_else(PoisonError::into_inner) = fates;
            changes
        };
        let receipt = match handover {
            Some(handover) => {
                self.store.take_in_telling(query, Box::new(decide), handover.straight()).await?
            }
            None => self.store.take_in(query, Box::new(decide)).await?,
        };
        for fate in fates.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            self.metrics.event(*fate);
        }
        for (reason, count) in &receipt.suppressed {
            self.metrics.suppressed(*reason, *count as u64);
        }
        if receipt.pending > 0 {
            self.dispatch.ring();
        }
        if receipt.letters > 0 {
            self.burial.ring();
        }
        Ok(receipt.in_hand)
    }
}

fn failed(metrics: &Metrics, trouble: &Trouble, error: &StoreError) {
    metrics.store_errors.inc();
    trouble.failed("take events in", error);
}
