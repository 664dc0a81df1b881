//! The threads that own the connections. SQLite blocks, so nothing of it runs on the async runtime.
//!
//! The writer commits in groups: all that is queued when it looks goes into one transaction, and all are answered
//! after the commit. So 64 rooms that settle at once cost one sync of the disk. When it looks, `queue` says.
//!
//! A job that fails takes nobody else's changes along if it has changed nothing, or runs in a savepoint of its own
//! (`run_apart`). A savepoint costs a copy of every page that is touched, so what is done for every message has none;
//! if it fails half done, which takes a full disk or damage, the whole group is taken back and asked to try again.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::db::Db;
use super::errors::{Done, Fail, repeat, sentence};
use super::memory::Memory;
use super::queue::{Queue, Waiting};
use crate::ports::StoreError;

/// Jobs at most in one transaction: enough for every room that may be in flight, and a bound on how long
/// the first of them waits.
const GROUP: usize = 256;

/// Answers the caller: with the job's own result, or with what went wrong with the commit.
type Reply = Box<dyn FnOnce(Option<&StoreError>) + Send>;
/// Runs inside the transaction, or learns why there is none.
type Work = Box<dyn FnOnce(Result<&Db<'_>, &StoreError>) -> Ran + Send>;

/// What became of a job.
enum Ran {
    Well(Reply),
    /// It has changed nothing.
    InVain(Reply),
    /// Some of its changes are still there, and must not stay.
    HalfDone(Reply),
}

/// One connection on its own thread.
pub struct Lane {
    jobs: Arc<Queue<Work>>,
    thread: Option<JoinHandle<()>>,
    file: PathBuf,
}

impl Lane {
    /// Starts a thread that runs jobs on `connection` by `serve`, until the lane is dropped.
    fn start(
        name: &str,
        connection: Connection,
        file: &Path,
        serve: impl FnOnce(&Connection, &Path, &Queue<Work>) + Send + 'static,
    ) -> Result<Self, StoreError> {
        let jobs = Arc::<Queue<Work>>::default();
        let (queue, own_file) = (Served(Arc::clone(&jobs)), file.to_owned());
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || serve(&connection, &own_file, &queue.0))
            .map_err(|error| StoreError::Unavailable(format!("no thread for the store: {error}")))?;
        Ok(Self { jobs, thread: Some(thread), file: file.to_owned() })
    }

    /// A thread that writes, in groups, and keeps `memory` in step with what is committed.
    pub fn writer(
        connection: Connection,
        file: &Path,
        memory: &Arc<Mutex<Memory>>,
    ) -> Result<Self, StoreError> {
        let memory = Arc::clone(memory);
        let serve = move |connection: &Connection, file: &Path, queue: &Queue<Work>| {
            Writer { db: Db::on(connection), file: file.to_owned(), memory }.serve(queue);
        };
        Self::start("store-writer", connection, file, serve)
    }

    /// A thread that reads, each job in a snapshot.
    pub fn reader(connection: Connection, file: &Path) -> Result<Self, StoreError> {
        Self::start("store-reader", connection, file, read_all)
    }

    /// Queues `work` and waits until it is committed. Once queued it runs, even if the caller goes away. What
    /// `can_wait` does so a little for company.
    pub async fn run<T: Send + 'static>(
        &self,
        can_wait: bool,
        work: impl FnOnce(&Db<'_>) -> Done<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.queue(can_wait, move |db| {
            let before = db.connection().total_changes();
            let result = guarded(|| work(db));
            (result, db.connection().total_changes() == before)
        })
        .await
    }

    /// The same; if `work` fails, its changes are taken back and nobody else's.
    pub async fn run_apart<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Db<'_>) -> Done<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.queue(false, move |db| {
            let in_savepoint = || {
                command(db, "SAVEPOINT job")?;
                let result = work(db)?;
                command(db, "RELEASE job")?;
                Ok(result)
            };
            match guarded(in_savepoint) {
                Ok(result) => (Ok(result), true),
                Err(fail) => {
                    // If there is none, the whole transaction is gone, or was never marked.
                    let back = command(db, "ROLLBACK TO job").and_then(|()| command(db, "RELEASE job"));
                    (Err(fail), back.is_ok())
                }
            }
        })
        .await
    }

    /// Queues what says its result, and whether it has left nothing behind if that is none.
    async fn queue<T: Send + 'static>(
        &self,
        can_wait: bool,
        work: impl FnOnce(&Db<'_>) -> (Done<T>, bool) + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        let file = self.file.clone();
        let work: Work = Box::new(move |db| {
            let (result, clean) = match db {
                Ok(db) => {
                    let (result, clean) = work(db);
                    (result.map_err(|fail| fail.told(&file)), clean)
                }
                Err(error) => (Err(repeat(error)), true),
            };
            let well = result.is_ok();
            let reply: Reply = Box::new(move |commit| {
                let result = match (result, commit) {
                    (Ok(_), Some(error)) => Err(repeat(error)),
                    (result, _) => result,
                };
                // Whoever asked may have gone; the work stands all the same.
                let _ = answer.send(result);
            });
            match (well, clean) {
                (true, _) => Ran::Well(reply),
                (false, true) => Ran::InVain(reply),
                (false, false) => Ran::HalfDone(reply),
            }
        });
        let closed = || StoreError::Unavailable(format!("store {} is closed", self.file.display()));
        self.jobs.push(work, can_wait);
        answered.await.map_err(|_| closed())?
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.jobs.close();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has nothing more to close.
            let _ = thread.join();
        }
    }
}

/// What a thread serves. When it ends, whoever still asks is told so by an answer that never comes.
struct Served(Arc<Queue<Work>>);

impl Drop for Served {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

/// A panic in a caller's decision must not end the thread that all others depend on.
fn guarded<T>(work: impl FnOnce() -> Done<T>) -> Done<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Err(Fail::corrupt("a fault in this program: a decision panicked inside the store; report it".into()))
    })
}

/// Which file has the name now: its device and number; `None` if none has.
fn identity(file: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(file).map(|found| (found.dev(), found.ino())).ok()
}

fn moved(file: &Path) -> StoreError {
    StoreError::Unavailable(format!(
        "store {0} was moved away, deleted or replaced under this process: put that file back, or stop the worker and \
         start it on what is at {0} now; nothing is written meanwhile",
        file.display()
    ))
}

/// The thread that writes.
struct Writer<'c> {
    db: Db<'c>,
    file: PathBuf,
    memory: Arc<Mutex<Memory>>,
}

impl Writer<'_> {
    fn serve(mut self, queue: &Queue<Work>) {
        let own = identity(&self.file);
        let mut waiting = Waiting::default();
        while queue.receive(&mut waiting) {
            // A group starts anew in the middle when the whole transaction is lost (disk full).
            while waiting.is_due() {
                // What is written to a file that has no name any more is gone with this process.
                if identity(&self.file) == own {
                    self.write_group(&mut waiting);
                } else {
                    refuse_all(&mut waiting, &moved(&self.file));
                }
            }
        }
        // Keeps the planner's figures fresh. Closing folds the log into the file if nobody else has it open; what
        // fails here is done at the next start.
        let _ = self.db.connection().execute_batch("PRAGMA optimize");
    }

    /// Runs jobs in one transaction and answers them. Stops early if the transaction is lost.
    fn write_group(&mut self, waiting: &mut Waiting<Work>) {
        if let Err(error) = self.begin() {
            refuse_all(waiting, &sentence(&error, &self.file));
            return;
        }
        let mut done: Vec<Reply> = Vec::new();
        let mut lost = None;
        let (before, due) = (self.db.connection().total_changes(), waiting.is_patient_due());
        while done.len() < GROUP
            && let Some(work) = waiting.next(due || self.db.connection().total_changes() != before)
        {
            let mark = self.remember(|memory| memory.in_flight.mark());
            let (reply, half_done) = match work(Ok(&self.db)) {
                Ran::Well(reply) => {
                    done.push(reply);
                    continue;
                }
                Ran::InVain(reply) => (reply, false),
                Ran::HalfDone(reply) => (reply, true),
            };
            self.remember(|memory| memory.taken_back(mark));
            reply(None);
            if half_done || self.db.connection().is_autocommit() {
                lost = Some(StoreError::Unavailable(format!(
                    "store {}: the transaction was lost with another's failed work; try again",
                    self.file.display()
                )));
                break;
            }
        }
        let failed =
            lost.or_else(|| command(&self.db, "COMMIT").err().map(|error| sentence(&error, &self.file)));
        if failed.is_some() && !self.db.connection().is_autocommit() {
            let _ = self.db.connection().execute_batch("ROLLBACK");
        }
        self.remember(|memory| if failed.is_some() { memory.lost() } else { memory.committed() });
        waiting.written();
        for reply in done {
            reply(failed.as_ref());
        }
    }

    fn begin(&mut self) -> rusqlite::Result<()> {
        command(&self.db, "BEGIN IMMEDIATE")?;
        let begun = self.remember(|memory| memory.begun(&self.db));
        if begun.is_err() {
            let _ = self.db.connection().execute_batch("ROLLBACK");
        }
        begun
    }

    fn remember<T>(&self, with: impl FnOnce(&mut Memory) -> T) -> T {
        with(&mut self.memory.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Answers work that could not be tried.
fn refuse(work: Work, error: &StoreError) {
    let (Ran::Well(reply) | Ran::InVain(reply) | Ran::HalfDone(reply)) = work(Err(error));
    reply(None);
}

fn refuse_all(waiting: &mut Waiting<Work>, error: &StoreError) {
    while let Some(work) = waiting.next(true) {
        refuse(work, error);
    }
}

fn command(db: &Db<'_>, sql: &'static str) -> rusqlite::Result<()> {
    db.execute(sql, []).map(|_| ())
}

fn read_all(connection: &Connection, file: &Path, queue: &Queue<Work>) {
    let (db, mut waiting) = (Db::on(connection), Waiting::default());
    while queue.receive(&mut waiting) {
        while let Some(work) = waiting.next(true) {
            read(&db, file, work);
        }
    }
}

fn read(db: &Db<'_>, file: &Path, work: Work) {
    if let Err(error) = command(db, "BEGIN DEFERRED") {
        refuse(work, &sentence(&error, file));
        return;
    }
    let (Ran::Well(reply) | Ran::InVain(reply) | Ran::HalfDone(reply)) = work(Ok(db));
    let failed = command(db, "COMMIT").err().map(|error| sentence(&error, file));
    if failed.is_some() && !db.connection().is_autocommit() {
        let _ = db.connection().execute_batch("ROLLBACK");
    }
    reply(failed.as_ref());
}
