//! The threads that own the connections. SQLite blocks, so nothing of it runs on the async runtime.
//!
//! The writer commits in groups: all that is queued when it looks goes into one transaction, and all are answered
//! after the commit. So 64 rooms that settle at once cost one sync of the disk. A job that fails takes nobody
//! else's changes along if it has changed nothing, or runs in a savepoint of its own (`run_apart`). A savepoint
//! costs a copy of every page that is touched, so what is done for every message has none; if it fails half done,
//! which takes a full disk or damage, the whole group is taken back and asked to try again.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::errors::{Done, Fail, repeat, sentence};
use super::memory::Memory;
use crate::ports::StoreError;

/// Jobs at most in one transaction: enough for every room that may be in flight, and a bound on how long
/// the first of them waits.
const GROUP: usize = 256;

/// A job that can wait does so for others until so long after the group before: each page is written once for all of
/// them. Only where much is going on is anything still waiting for company then.
const COMPANY: Duration = Duration::from_millis(2);

/// Answers the caller: with the job's own result, or with what went wrong with the commit.
type Reply = Box<dyn FnOnce(Option<&StoreError>) + Send>;
/// Runs inside the transaction, or learns why there is none.
type Work = Box<dyn FnOnce(Result<&Connection, &StoreError>) -> Ran + Send>;

/// Work that waits for a transaction.
struct Job {
    work: Work,
    /// Whether nobody is kept from anything while this waits a little.
    can_wait: bool,
}

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
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    file: PathBuf,
}

impl Lane {
    /// Starts a thread that runs jobs on `connection` by `serve`, until the lane is dropped.
    fn start(
        name: &str,
        connection: Connection,
        file: &Path,
        serve: impl FnOnce(Connection, &Path, &Receiver<Job>) + Send + 'static,
    ) -> Result<Self, StoreError> {
        let (jobs, queue) = channel();
        let own_file = file.to_owned();
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || serve(connection, &own_file, &queue))
            .map_err(|error| StoreError::Unavailable(format!("no thread for the store: {error}")))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread), file: file.to_owned() })
    }

    /// A thread that writes, in groups, and keeps `memory` in step with what is committed.
    pub fn writer(
        connection: Connection,
        file: &Path,
        memory: &Arc<Mutex<Memory>>,
    ) -> Result<Self, StoreError> {
        let memory = Arc::clone(memory);
        let serve = move |connection, file: &Path, queue: &Receiver<Job>| {
            Writer { connection, file: file.to_owned(), memory }.serve(queue);
        };
        Self::start("store-writer", connection, file, serve)
    }

    /// A thread that reads, each job in a snapshot.
    pub fn reader(connection: Connection, file: &Path) -> Result<Self, StoreError> {
        Self::start("store-reader", connection, file, read_all)
    }

    /// Queues `work` and waits until it is committed. Once queued it runs, even if the caller goes away.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Done<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.queue(false, in_one(work)).await
    }

    /// The same, in company where there is much to do.
    pub async fn run_in_company<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Done<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.queue(true, in_one(work)).await
    }

    /// The same; if `work` fails, its changes are taken back and nobody else's.
    pub async fn run_apart<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Done<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.queue(false, move |connection| {
            let in_savepoint = || {
                command(connection, "SAVEPOINT job")?;
                let result = work(connection)?;
                command(connection, "RELEASE job")?;
                Ok(result)
            };
            match guarded(in_savepoint) {
                Ok(result) => (Ok(result), true),
                Err(fail) => {
                    // If there is none, the whole transaction is gone, or was never marked.
                    let back = command(connection, "ROLLBACK TO job")
                        .and_then(|()| command(connection, "RELEASE job"));
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
        work: impl FnOnce(&Connection) -> (Done<T>, bool) + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        let file = self.file.clone();
        let work: Work = Box::new(move |connection| {
            let (result, clean) = match connection {
                Ok(connection) => {
                    let (result, clean) = work(connection);
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
        self.jobs.as_ref().ok_or_else(closed)?.send(Job { work, can_wait }).map_err(|_| closed())?;
        answered.await.map_err(|_| closed())?
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has nothing more to close.
            let _ = thread.join();
        }
    }
}

/// Runs `work` as it is, and says whether it has left anything behind if it fails.
fn in_one<T>(work: impl FnOnce(&Connection) -> Done<T>) -> impl FnOnce(&Connection) -> (Done<T>, bool) {
    move |connection| {
        let before = connection.total_changes();
        let result = guarded(|| work(connection));
        (result, connection.total_changes() == before)
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
struct Writer {
    connection: Connection,
    file: PathBuf,
    memory: Arc<Mutex<Memory>>,
}

impl Writer {
    fn serve(mut self, queue: &Receiver<Job>) {
        let own = identity(&self.file);
        let mut group = Vec::new();
        let mut ended = Instant::now();
        while let Ok(first) = queue.recv() {
            gather(&mut group, first, queue, ended + COMPANY);
            let mut waiting = group.drain(..);
            // A group starts anew in the middle when the whole transaction is lost (disk full).
            while waiting.len() > 0 {
                // What is written to a file that has no name any more is gone with this process.
                if identity(&self.file) != own {
                    let error = moved(&self.file);
                    waiting.by_ref().for_each(|job| refuse(job, &error));
                    break;
                }
                self.write_group(&mut waiting);
            }
            ended = Instant::now();
        }
        // Keeps the planner's figures fresh. Closing folds the log into the file if nobody else has it open; what
        // fails here is done at the next start.
        let _ = self.connection.execute_batch("PRAGMA optimize");
    }

    /// Runs jobs in one transaction and answers them. Stops early if the transaction is lost.
    fn write_group(&mut self, jobs: &mut std::vec::Drain<'_, Job>) {
        if let Err(error) = self.begin() {
            let error = sentence(&error, &self.file);
            jobs.by_ref().for_each(|job| refuse(job, &error));
            return;
        }
        let mut done: Vec<Reply> = Vec::new();
        let mut lost = None;
        for job in jobs.by_ref() {
            let mark = self.remember(|memory| memory.in_flight.mark());
            let (reply, half_done) = match (job.work)(Ok(&self.connection)) {
                Ran::Well(reply) => {
                    done.push(reply);
                    continue;
                }
                Ran::InVain(reply) => (reply, false),
                Ran::HalfDone(reply) => (reply, true),
            };
            self.remember(|memory| memory.taken_back(mark));
            reply(None);
            if half_done || self.connection.is_autocommit() {
                lost = Some(StoreError::Unavailable(format!(
                    "store {}: the transaction was lost with another's failed work; try again",
                    self.file.display()
                )));
                break;
            }
        }
        let failed = lost
            .or_else(|| command(&self.connection, "COMMIT").err().map(|error| sentence(&error, &self.file)));
        if failed.is_some() && !self.connection.is_autocommit() {
            let _ = self.connection.execute_batch("ROLLBACK");
        }
        self.remember(|memory| if failed.is_some() { memory.lost() } else { memory.committed() });
        for reply in done {
            reply(failed.as_ref());
        }
    }

    fn begin(&mut self) -> rusqlite::Result<()> {
        command(&self.connection, "BEGIN IMMEDIATE")?;
        let begun = self.remember(|memory| memory.begun(&self.connection));
        if begun.is_err() {
            let _ = self.connection.execute_batch("ROLLBACK");
        }
        begun
    }

    fn remember<T>(&self, with: impl FnOnce(&mut Memory) -> T) -> T {
        with(&mut self.memory.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What goes into one transaction: all that is queued, and while all of it can wait what comes until then.
fn gather(group: &mut Vec<Job>, first: Job, queue: &Receiver<Job>, until: Instant) {
    let mut can_wait = first.can_wait;
    group.push(first);
    while group.len() < GROUP {
        let next = queue.try_recv().ok().or_else(|| {
            let wait = until.saturating_duration_since(Instant::now());
            (can_wait && !wait.is_zero()).then(|| queue.recv_timeout(wait).ok()).flatten()
        });
        let Some(job) = next else { return };
        can_wait &= job.can_wait;
        group.push(job);
    }
}

/// Answers a job that could not be tried.
fn refuse(job: Job, error: &StoreError) {
    let (Ran::Well(reply) | Ran::InVain(reply) | Ran::HalfDone(reply)) = (job.work)(Err(error));
    reply(None);
}

fn command(connection: &Connection, sql: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(sql)?.execute([]).map(|_| ())
}

fn read_all(connection: Connection, file: &Path, queue: &Receiver<Job>) {
    while let Ok(job) = queue.recv() {
        if let Err(error) = command(&connection, "BEGIN DEFERRED") {
            refuse(job, &sentence(&error, file));
            continue;
        }
        let (Ran::Well(reply) | Ran::InVain(reply) | Ran::HalfDone(reply)) = (job.work)(Ok(&connection));
        let failed = command(&connection, "COMMIT").err().map(|error| sentence(&error, file));
        if failed.is_some() && !connection.is_autocommit() {
            let _ = connection.execute_batch("ROLLBACK");
        }
        reply(failed.as_ref());
    }
}
