//! The embedded store: one SQLite file, one worker, and any number of short-lived verbs beside it.
//!
//! Every port's method becomes one job on a thread that owns a connection (`threads`). Changes are durable
//! when a method returns: WAL with `synchronous=FULL`, commits shared by what is queued at the same time.
//! Nothing here looks at a clock; times are arguments.

mod claim;
mod clock;
mod db;
mod errors;
mod in_flight;
mod intake;
mod journal;
mod letters;
mod memory;
mod notifications;
mod open;
mod queue;
mod registry;
mod settle;
mod standing;
mod straight;
#[cfg(test)]
mod tests;
mod threads;
mod tokens;
mod waits;

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use jiff::Timestamp;

use self::db::Db;
use self::errors::Done;
use self::memory::Memory;
use self::straight::HandedOut;
use self::threads::Lane;
pub use super::Role;
use super::cipher::Cipher;
use super::terms::WRITE_DOWN_AFTER;
use crate::domain::ids::{EventId, IntegrationId};
use crate::ports::{
    Applied, AtWork, ClaimTerms, Decide, Definition, Each, Gauges, InHand, IntakeQuery, IntakeReceipt,
    Journal, JournalEntry, Letter, ManagedBy, Registry, RoomLine, Settled, Settlement, Storage, Store,
    StoreError, Stored, Straight, Then,
};

/// An open SQLite file. Closing it (dropping the last handle) waits until what was queued is written.
pub struct SqliteStore {
    // The order of the fields is the order of closing: the writer last, so that it can tidy up, then the lock.
    reader: Lane,
    writer: Lane,
    memory: Arc<Mutex<Memory>>,
    /// Batches of which something is handed out and not durable.
    in_hand: Mutex<HashMap<InHand, Arc<tokio::sync::Mutex<HandedOut>>>>,
    batches: AtomicU64,
    cipher: Arc<Cipher>,
    path: PathBuf,
    _lock: Option<File>,
}

impl std::fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqliteStore").field("cipher", &self.cipher).finish_non_exhaustive()
    }
}

impl SqliteStore {
    /// Whether there is a store at `path`.
    pub fn is_there(path: &Path) -> bool {
        open::is_there(path)
    }

    /// Whether a store could be made at `path`; leaves nothing there.
    ///
    /// # Errors
    /// What stands in the way, in a sentence.
    pub fn try_place(path: &Path) -> Result<(), StoreError> {
        open::try_place(path)
    }

    /// Opens the file at `path` with the key in `key_file`. The key is made together with the store only: one
    /// that is missing beside a store would leave its room URLs unreadable, and a new one would hide that.
    ///
    /// # Errors
    /// As [`Self::open`]; also for a key file that is missing, unreadable, or not a key.
    pub fn open_with_key_file(path: &Path, role: Role, key_file: &Path) -> Result<Arc<Self>, StoreError> {
        if !Self::is_there(path) {
            if role == Role::Look {
                return Err(open::not_there(path));
            }
            // A place that can't be used is told as the store's, and leaves no key behind.
            open::place(path)?;
            return Self::open(path, role, Cipher::load_or_create(key_file)?);
        }
        // First the store: whether the file is one at all matters more than its key.
        let opened = open::open(path, role)?;
        if let Ok(false) = key_file.try_exists() {
            return Err(StoreError::Refused(format!(
                "store {} exists but its key {} is missing; put it back, or set secrets.key_file",
                path.display(),
                key_file.display()
            )));
        }
        Self::start(opened, path, Cipher::from_key_file(key_file)?)
    }

    /// Opens the file at `path`, making it and its schema where `role` may. Blocks for some milliseconds.
    ///
    /// # Errors
    /// A second worker on one file, a file that is no database or not ours, a schema newer than this program,
    /// a place that can't be written: each with a sentence that names the file and what to do.
    pub fn open(path: &Path, role: Role, cipher: Cipher) -> Result<Arc<Self>, StoreError> {
        Self::start(open::open(path, role)?, path, cipher)
    }

    /// The process of the worker that uses the file at `path`, as it called itself; `None` if none does.
    ///
    /// # Errors
    /// If that can't be known.
    pub fn worker_on(path: &Path) -> std::io::Result<Option<String>> {
        open::worker(path)
    }

    fn start(opened: open::Opened, path: &Path, cipher: Cipher) -> Result<Arc<Self>, StoreError> {
        let memory = Arc::<Mutex<Memory>>::default();
        Ok(Arc::new(Self {
            reader: Lane::reader(opened.reader, path)?,
            writer: Lane::writer(opened.writer, path, &memory)?,
            memory,
            in_hand: Mutex::default(),
            batches: AtomicU64::default(),
            cipher: Arc::new(cipher),
            path: path.to_owned(),
            _lock: opened.lock,
        }))
    }

    /// Runs `work` with the writer's memory, and takes back what it did if it fails.
    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Db<'_>, &mut Memory) -> Done<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let memory = Arc::clone(&self.memory);
        self.writer.run_apart(move |db| work(db, &mut recall(&memory))).await
    }

    /// Changes integrations.
    async fn manage<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Db<'_>) -> Done<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.write(move |db, memory| {
            let changed = work(db);
            memory.forget();
            changed
        })
        .await
    }

    /// Keeps what a batch has handed out, for [`Store::written`].
    fn keep_in_hand(&self, handed: HandedOut) -> Option<InHand> {
        if handed.seqs.is_empty() {
            return None;
        }
        let batch = self.batches.fetch_add(1, Ordering::Relaxed);
        let batch = InHand { batch, notifications: handed.seqs.len() };
        let mut in_hand = self.in_hand();
        // Those that have become durable while nobody waited: their sessions have ended.
        in_hand.retain(|_, handed| handed.try_lock().map_or(true, |handed| !handed.ended.is_closed()));
        in_hand.insert(batch, Arc::new(tokio::sync::Mutex::new(handed)));
        Some(batch)
    }

    fn in_hand(&self) -> MutexGuard<'_, HashMap<InHand, Arc<tokio::sync::Mutex<HandedOut>>>> {
        // Each change of it is one step.
        self.in_hand.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The writer's memory. Its changes are whole, or taken back with the transaction, also after a panic.
fn recall(memory: &Mutex<Memory>) -> MutexGuard<'_, Memory> {
    memory.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Store for SqliteStore {
    async fn take_in(&self, query: IntakeQuery, decide: Decide) -> Result<IntakeReceipt, StoreError> {
        let taken = self.write(move |db, memory| intake::take_in(db, memory, &query, decide, None));
        taken.await.map(|(receipt, _)| receipt)
    }

    async fn take_in_telling(
        &self,
        query: IntakeQuery,
        decide: Decide,
        straight: Straight,
    ) -> Result<IntakeReceipt, StoreError> {
        let take_in = move |db: &Db<'_>, memory: &mut Memory| {
            intake::take_in(db, memory, &query, decide, Some(&straight))
        };
        let (receipt, handed) = self.write(take_in).await?;
        let in_hand = handed.and_then(|handed| self.keep_in_hand(handed));
        Ok(IntakeReceipt { in_hand, ..receipt })
    }

    async fn written(&self, batch: InHand) -> Result<(), StoreError> {
        let Some(handed) = self.in_hand().get(&batch).cloned() else { return Ok(()) };
        let mut handed = handed.lock().await;
        if tokio::time::timeout(WRITE_DOWN_AFTER, handed.ended.recv()).await.is_err() {
            let seqs = handed.seqs.clone();
            self.write(move |db, memory| straight::write_down_slow(db, memory, &seqs)).await?;
        }
        // Not before: who stops waiting, or is told of an error, may ask again, and is not told that it is written.
        self.in_hand().remove(&batch);
        Ok(())
    }

    async fn claim_others(
        &self,
        terms: ClaimTerms,
        at_work: AtWork,
        now: Timestamp,
    ) -> Result<Vec<RoomLine>, StoreError> {
        self.write(move |db, memory| claim::claim_rooms(db, memory, &terms, &*at_work, now)).await
    }

    async fn next_due(&self) -> Result<Option<Timestamp>, StoreError> {
        self.reader.run(false, claim::next_due).await
    }

    async fn settle(&self, settlement: Settlement) -> Result<Settled, StoreError> {
        let memory = Arc::clone(&self.memory);
        // Who gives its room back can wait; with it waits its place, and perhaps an acknowledgement.
        let can_wait = settlement.then != Then::Hold;
        self.writer.run(can_wait, move |db| settle::settle(db, &mut recall(&memory), &settlement)).await
    }

    async fn letters(&self, limit: usize) -> Result<Vec<Letter>, StoreError> {
        self.reader.run(false, move |db| letters::letters(db, limit)).await
    }

    async fn buried(&self, letters: &[i64], at: Timestamp) -> Result<(), StoreError> {
        let letters = letters.to_vec();
        self.writer.run_apart(move |db| letters::buried(db, &letters, at)).await
    }

    async fn forget(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        self.writer.run_apart(move |db| journal::forget(db, before, limit)).await
    }

    async fn forget_streaks(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        self.writer.run_apart(move |db| journal::forget_streaks(db, before, limit)).await
    }

    async fn gauges(&self, now: Timestamp) -> Result<Gauges, StoreError> {
        self.reader.run(false, move |db| journal::gauges(db, now)).await
    }
}

#[async_trait]
impl Storage for SqliteStore {
    async fn look_again(&self, now: Timestamp) -> Result<(), StoreError> {
        self.writer.run_apart(move |db| claim::look_again(db, now)).await
    }

    async fn workers(&self) -> Result<Vec<String>, StoreError> {
        let path = self.path.display();
        match open::worker(&self.path) {
            Ok(process) => Ok(process.map(|process| format!("process {process}")).into_iter().collect()),
            Err(error) => {
                Err(StoreError::Unavailable(format!("can't see whether a worker runs on {path}: {error}")))
            }
        }
    }
}

#[async_trait]
impl Journal for SqliteStore {
    async fn explain(&self, event: &EventId) -> Result<Vec<JournalEntry>, StoreError> {
        let event = event.clone();
        self.reader.run(false, move |db| journal::explain(db, &event)).await
    }

    async fn dead_lettered(&self, integration: &IntegrationId) -> Result<u64, StoreError> {
        let integration = integration.clone();
        self.reader.run(false, move |db| journal::dead_lettered(db, &integration)).await
    }
}

#[async_trait]
impl Registry for SqliteStore {
    async fn revision(&self) -> Result<u64, StoreError> {
        self.reader.run(false, standing::revision).await
    }

    async fn list(&self) -> Result<Vec<Stored>, StoreError> {
        let cipher = Arc::clone(&self.cipher);
        self.reader.run(false, move |db| registry::list(db, &cipher)).await
    }

    async fn integrations(&self, each: Each) -> Result<(), StoreError> {
        let cipher = Arc::clone(&self.cipher);
        self.reader.run(false, move |db| registry::integrations(db, &cipher, each)).await
    }

    async fn apply(
        &self,
        definitions: Vec<Definition>,
        by: ManagedBy,
        now: Timestamp,
    ) -> Result<Applied, StoreError> {
        let cipher = Arc::clone(&self.cipher);
        self.manage(move |db| registry::apply(db, &cipher, &definitions, by, now)).await
    }

    async fn release(&self) -> Result<Vec<IntegrationId>, StoreError> {
        self.manage(registry::release).await
    }

    async fn remove(&self, id: &IntegrationId, now: Timestamp) -> Result<(), StoreError> {
        let id = id.clone();
        self.manage(move |db| registry::remove(db, &id, now)).await
    }

    async fn pause(&self, id: &IntegrationId, now: Timestamp) -> Result<(), StoreError> {
        let id = id.clone();
        self.manage(move |db| registry::pause(db, &id, now)).await
    }

    async fn resume(&self, id: &IntegrationId) -> Result<(), StoreError> {
        let id = id.clone();
        self.manage(move |db| registry::resume(db, &id)).await
    }
}
