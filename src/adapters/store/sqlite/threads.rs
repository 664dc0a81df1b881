//! The threads that own the connections. SQLite blocks, so nothing of it runs on the async runtime.
//!
//! The writer commits in groups: all that is queued when it looks goes into one transaction, each job in a
//! savepoint of its own, and all are answered after the commit. So 64 rooms that settle at once cost one
//! sync of the disk, and a job that fails takes back its own changes and nobody else's.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::errors::{Done, Fail, repeat, sentence};
use crate::ports::StoreError;

/// Jobs at most in one transaction: enough for every room that may be in flight, and a bound on how long
/// the first of them waits.
const GROUP: usize = 256;

/// Answers the caller: with the job's own result, or with what went wrong with the commit.
type Reply = Box<dyn FnOnce(Option<&StoreError>) + Send>;
/// Runs inside the transaction, or learns why there is none. `Err`: its changes must be taken back.
type Job = Box<dyn FnOnce(Result<&Connection, &StoreError>) -> Result<Reply, Reply> + Send>;

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
        serve: fn(Connection, &Path, &Receiver<Job>),
    ) -> Result<Self, StoreError> {
        let (jobs, queue) = channel();
        let own_file = file.to_owned();
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || serve(connection, &own_file, &queue))
            .map_err(|error| StoreError::Unavailable(format!("no thread for the store: {error}")))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread), file: file.to_owned() })
    }

    /// A thread that writes, in groups.
    pub fn writer(connection: Connection, file: &Path) -> Result<Self, StoreError> {
        Self::start("store-writer", connection, file, write_all)
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
        let (answer, answered) = oneshot::channel();
        let file = self.file.clone();
        let job: Job = Box::new(move |connection| {
            let result = match connection {
                Ok(connection) => guarded(|| work(connection)).map_err(|fail| fail.told(&file)),
                Err(error) => Err(repeat(error)),
            };
            let keep = result.is_ok();
            let reply: Reply = Box::new(move |commit| {
                let result = match (result, commit) {
                    (Ok(_), Some(error)) => Err(repeat(error)),
                    (result, _) => result,
                };
                // Whoever asked may have gone; the work stands all the same.
                let _ = answer.send(result);
            });
            if keep { Ok(reply) } else { Err(reply) }
        });
        let closed = || StoreError::Unavailable(format!("store {} is closed", self.file.display()));
        self.jobs.as_ref().ok_or_else(closed)?.send(job).map_err(|_| closed())?;
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

/// A panic in a caller's decision must not end the thread that all others depend on.
fn guarded<T>(work: impl FnOnce() -> Done<T>) -> Done<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Err(Fail::corrupt("a fault in this program: a decision panicked inside the store; report it".into()))
    })
}

fn write_all(mut connection: Connection, file: &Path, queue: &Receiver<Job>) {
    let own = identity(file);
    let mut group = Vec::new();
    while let Ok(first) = queue.recv() {
        group.push(first);
        group.extend(queue.try_iter().take(GROUP - 1));
        let mut waiting = group.drain(..);
        // A group starts anew in the middle when SQLite has given up the whole transaction (disk full).
        while waiting.len() > 0 {
            // What is written to a file that has no name any more is gone with this process.
            if identity(file) != own {
                let error = moved(file);
                waiting.by_ref().for_each(|job| refuse(job, &error));
                break;
            }
            write_group(&mut connection, file, &mut waiting);
        }
    }
    // Keeps the planner's figures fresh. Closing folds the log into the file if nobody else has it open; what
    // fails here is done at the next start.
    let _ = connection.execute_batch("PRAGMA optimize");
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

/// Runs jobs in one transaction and answers them. Stops early if the transaction is lost.
fn write_group(connection: &mut Connection, file: &Path, jobs: &mut std::vec::Drain<'_, Job>) {
    let mut done: Vec<Reply> = Vec::new();
    if let Err(error) = command(connection, "BEGIN IMMEDIATE") {
        let error = sentence(&error, file);
        for job in jobs.by_ref() {
            refuse(job, &error);
        }
        return;
    }
    let mut lost = None;
    for job in jobs.by_ref() {
        match write_one(connection, job) {
            Ok(reply) => done.push(reply),
            Err((reply, rolled_back)) => {
                reply(None);
                if !rolled_back || connection.is_autocommit() {
                    lost = Some(StoreError::Unavailable(format!(
                        "store {}: the transaction was lost with another's failed work; try again",
                        file.display()
                    )));
                    break;
                }
            }
        }
    }
    let failed = lost.or_else(|| command(connection, "COMMIT").err().map(|error| sentence(&error, file)));
    if failed.is_some() && !connection.is_autocommit() {
        let _ = connection.execute_batch("ROLLBACK");
    }
    for reply in done {
        reply(failed.as_ref());
    }
}

/// Runs one job in a savepoint. On failure: its reply, and whether its changes could be taken back alone.
fn write_one(connection: &Connection, job: Job) -> Result<Reply, (Reply, bool)> {
    let marked = command(connection, "SAVEPOINT job").is_ok();
    match job(Ok(connection)) {
        Ok(reply) if marked && command(connection, "RELEASE job").is_ok() => Ok(reply),
        Ok(reply) => {
            let told: Reply = Box::new(move |_| {
                reply(Some(&StoreError::Unavailable("the store could not mark its transaction".into())));
            });
            Err((told, false))
        }
        Err(reply) => {
            let back = marked && command(connection, "ROLLBACK TO job").is_ok();
            Err((reply, back && command(connection, "RELEASE job").is_ok()))
        }
    }
}

/// Answers a job that could not be tried.
fn refuse(job: Job, error: &StoreError) {
    let (Ok(reply) | Err(reply)) = job(Err(error));
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
        let (Ok(reply) | Err(reply)) = job(Ok(&connection));
        let failed = command(&connection, "COMMIT").err().map(|error| sentence(&error, file));
        if failed.is_some() && !connection.is_autocommit() {
            let _ = connection.execute_batch("ROLLBACK");
        }
        reply(failed.as_ref());
    }
}
