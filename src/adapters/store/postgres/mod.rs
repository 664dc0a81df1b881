//! The shared store: a PostgreSQL schema, any number of workers, and any number of short-lived verbs beside them.
//!
//! Every port's method is one transaction of a few round trips, however many rows it touches. Decisions are made by
//! one worker at a time (`locks`); rooms are claimed by rows that others skip. Changes are durable when a method
//! returns. What this process settles while a settlement is under way goes into the next transaction together.
//! Times are arguments; workers take them from the database's own clock ([`PostgresStore::clock`]).

mod address;
mod batch;
mod claim;
mod clock;
mod errors;
mod intake;
mod journal;
mod letters;
mod line;
mod link;
mod listen;
mod locks;
mod notifications;
mod open;
mod registry;
mod rounds;
mod settle;
mod settler;
mod standing;
mod straight;
mod tokens;

/// What claiming and giving back ask the server: for whoever wants to see the plans (`scripts/bench`).
pub mod statements {
    pub use super::claim::{DUE, DUE_FOR_RETRY, NEXT_DUE};
    pub use super::line::HEADS;
    pub use super::settle::LEFT;
}

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio_postgres::Config;

pub use self::address::Address;
use self::address::Tls;
pub use self::clock::DatabaseClock;
use self::link::{Link, in_transaction, reading};
use self::locks::Keys;
pub use self::open::Schema;
use self::settler::Settler;
use super::cipher::Cipher;
use crate::domain::ids::{EventId, IntegrationId};
use crate::ports::{
    Applied, AtWork, ClaimTerms, Decide, Definition, Each, Gauges, Hint, IntakeQuery, IntakeReceipt, Journal,
    JournalEntry, Letter, ManagedBy, Registry, RoomLine, Settled, Settlement, Storage, Store, StoreError,
    Stored, Straight,
};

/// How to open a store.
pub struct Options {
    pub address: Address,
    /// The store, for people: its URL without its password.
    pub name: String,
    /// Connections at most.
    pub connections: usize,
    /// How long a transaction may stand still, as one does whose worker is frozen, before the server ends it and
    /// frees what it has locked. Others record what they have posted no sooner.
    pub stands_still: Duration,
    pub schema: Schema,
}

/// An open store.
pub struct PostgresStore {
    link: Arc<Link>,
    /// For connections beside the pool's.
    way: (Config, Tls),
    keys: Keys,
    cipher: Arc<Cipher>,
    settler: Settler,
    clock: OnceLock<Arc<DatabaseClock>>,
    /// Tells this process from others where something is one worker's for a while.
    worker: String,
}

impl std::fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresStore").field("store", &self.link.name()).finish_non_exhaustive()
    }
}

impl PostgresStore {
    /// Opens a store. Tries once.
    ///
    /// # Errors
    /// `Unavailable` if the server can't be reached now. `Refused` with a sentence: the login, the database, a schema
    /// newer than this program, one older where that is not to be changed, another key than the others'.
    pub async fn open(options: Options, cipher: Cipher) -> Result<Arc<Self>, StoreError> {
        let Options { address, name, connections, stands_still, schema } = options;
        let way = address.open()?;
        let link = Arc::new(Link::new(way.clone(), connections, stands_still, &name)?);
        let keys = open::open(&link, schema).await?;
        open::check_key(&link, &cipher).await?;
        let settler = Settler::start(Arc::clone(&link), keys.clone());
        Ok(Arc::new(Self {
            link,
            way,
            keys,
            cipher: Arc::new(cipher),
            settler,
            clock: OnceLock::new(),
            worker: uuid::Uuid::now_v7().to_string(),
        }))
    }

    /// The newest schema that this program knows: what a store has after it was migrated.
    pub fn schema() -> i64 {
        open::known()
    }

    /// Whether somebody has made the store yet.
    ///
    /// # Errors
    /// As [`Self::open`], as far as that looks at the server.
    pub async fn is_there(options: Options) -> Result<bool, StoreError> {
        let Options { address, name, connections, stands_still, .. } = options;
        open::is_there(&Link::new(address.open()?, connections, stands_still, &name)?).await
    }

    /// The database's clock. Whoever asks for it takes all times from it.
    ///
    /// # Errors
    /// The server can't be reached.
    pub async fn clock(&self) -> Result<Arc<DatabaseClock>, StoreError> {
        let clock = DatabaseClock::start(&self.link).await.map_err(|fail| fail.told(self.link.name()))?;
        Ok(Arc::clone(self.clock.get_or_init(|| Arc::new(clock))))
    }

    /// Takes a batch in, and claims what of it `straight` takes.
    async fn take(
        &self,
        query: IntakeQuery,
        decide: Decide,
        straight: Option<&Straight>,
    ) -> Result<(IntakeReceipt, Vec<RoomLine>), StoreError> {
        let mut decide = Some(decide);
        in_transaction!(self.link, decide.is_some(), |tx| intake::take_in(
            tx,
            &self.keys,
            &query,
            &mut decide,
            straight
        ))
    }

    /// Keeps the clock right for as long as this is polled.
    async fn keep_time(&self) {
        loop {
            tokio::time::sleep(clock::MEASURE_EVERY).await;
            if let Some(clock) = self.clock.get()
                && let Err(fail) = clock.measure(&self.link).await
            {
                // Others say that the store is away; meanwhile the time is reckoned on.
                tracing::debug!("the database was not asked for the time: {}", fail.told(self.link.name()));
            }
        }
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn take_in(&self, query: IntakeQuery, decide: Decide) -> Result<IntakeReceipt, StoreError> {
        let (receipt, _) = self.take(query, decide, None).await?;
        Ok(receipt)
    }

    async fn take_in_telling(
        &self,
        query: IntakeQuery,
        decide: Decide,
        straight: Straight,
    ) -> Result<IntakeReceipt, StoreError> {
        let (receipt, lines) = self.take(query, decide, Some(&straight)).await?;
        // Not before they are durable.
        lines.into_iter().for_each(|line| (straight.hand)(line));
        Ok(receipt)
    }

    async fn claim_others(
        &self,
        terms: ClaimTerms,
        at_work: AtWork,
        now: Timestamp,
    ) -> Result<Vec<RoomLine>, StoreError> {
        let ours = self.clock.get().is_some();
        let claimed = in_transaction!(self.link, true, |tx| claim::claim_rooms(tx, &terms, &at_work, now))?;
        if let Some(lines) = claimed {
            return Ok(lines);
        }
        in_transaction!(self.link, true, |tx| clock::set_back(tx, now, ours))?;
        // Waits were moved. If others have moved the clock on meanwhile, the next look finds it so.
        let claimed = in_transaction!(self.link, true, |tx| claim::claim_rooms(tx, &terms, &at_work, now))?;
        Ok(claimed.unwrap_or_default())
    }

    async fn next_due(&self) -> Result<Option<Timestamp>, StoreError> {
        reading!(self.link, |c| claim::next_due(c))
    }

    async fn settle(&self, settlement: Settlement) -> Result<Settled, StoreError> {
        self.settler.settle(settlement).await
    }

    async fn letters(&self, limit: usize) -> Result<Vec<Letter>, StoreError> {
        in_transaction!(self.link, true, |tx| letters::letters(tx, limit, &self.worker))
    }

    async fn buried(&self, letters: &[i64], at: Timestamp) -> Result<(), StoreError> {
        in_transaction!(self.link, true, |tx| letters::buried(tx, letters, at))
    }

    async fn forget(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        in_transaction!(self.link, true, |tx| journal::forget(tx, before, limit))
    }

    async fn forget_streaks(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        in_transaction!(self.link, true, |tx| journal::forget_streaks(tx, before, limit))
    }

    async fn gauges(&self, now: Timestamp) -> Result<Gauges, StoreError> {
        reading!(self.link, |c| journal::gauges(c, now))
    }
}

#[async_trait]
impl Storage for PostgresStore {
    async fn attend(&self, hear: &(dyn Fn(Hint) + Send + Sync)) {
        tokio::join!(listen::listen(&self.way, &self.keys, hear), self.keep_time());
    }

    async fn look_again(&self, now: Timestamp) -> Result<(), StoreError> {
        in_transaction!(self.link, true, |tx| claim::look_again(tx, now))
    }

    async fn workers(&self) -> Result<Vec<String>, StoreError> {
        reading!(self.link, |c| listen::listeners(c, &self.keys))
    }
}

#[async_trait]
impl Journal for PostgresStore {
    async fn explain(&self, event: &EventId) -> Result<Vec<JournalEntry>, StoreError> {
        reading!(self.link, |c| journal::explain(c, event))
    }

    async fn dead_lettered(&self, integration: &IntegrationId) -> Result<u64, StoreError> {
        reading!(self.link, |c| journal::dead_lettered(c, integration))
    }
}

#[async_trait]
impl Registry for PostgresStore {
    async fn revision(&self) -> Result<u64, StoreError> {
        reading!(self.link, |c| standing::revision(c))
    }

    async fn list(&self) -> Result<Vec<Stored>, StoreError> {
        reading!(self.link, |c| registry::list(c, &self.cipher))
    }

    async fn integrations(&self, each: Each) -> Result<(), StoreError> {
        reading!(self.link, |c| registry::integrations(c, &self.cipher, each))
    }

    async fn apply(
        &self,
        definitions: Vec<Definition>,
        by: ManagedBy,
        now: Timestamp,
    ) -> Result<Applied, StoreError> {
        let cipher = &self.cipher;
        in_transaction!(self.link, true, |tx| registry::apply(
            tx,
            &self.keys,
            cipher,
            &definitions,
            (by, now)
        ))
    }

    async fn release(&self) -> Result<Vec<IntegrationId>, StoreError> {
        in_transaction!(self.link, true, |tx| registry::release(tx, &self.keys))
    }

    async fn remove(&self, id: &IntegrationId, now: Timestamp) -> Result<(), StoreError> {
        in_transaction!(self.link, true, |tx| registry::remove(tx, &self.keys, id, now))
    }

    async fn pause(&self, id: &IntegrationId, now: Timestamp) -> Result<(), StoreError> {
        in_transaction!(self.link, true, |tx| registry::pause(tx, &self.keys, id, now))
    }

    async fn resume(&self, id: &IntegrationId) -> Result<(), StoreError> {
        in_transaction!(self.link, true, |tx| registry::resume(tx, &self.keys, id))
    }
}
