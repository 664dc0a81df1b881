//! Opens an SQLite file: makes it, checks that it is ours, brings its schema up to date, takes the worker's
//! lock. Says what is wrong in a sentence; never deletes or repairs anything.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::Role;
use super::errors::{Done, Fail, at_opening};
use crate::adapters::store::cipher::private;
use crate::ports::StoreError;

mod embedded {
    refinery::embed_migrations!("migrations/sqlite");
}

/// Stands in the header of a file of ours ("HCNf"), so that another program's database is never written to.
const APPLICATION_ID: i32 = 0x4843_4e66;
/// How long a statement waits for another process's transaction. Those are short; longer means trouble.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// A lock that is still held after this is a worker's.
const LOOKS_END: Duration = Duration::from_millis(200);

/// What an open file consists of.
pub struct Opened {
    pub writer: Connection,
    pub reader: Connection,
    /// Held for as long as the worker lives; the system gives it back even after a kill.
    pub lock: Option<File>,
}

/// Whether there is a store at `path`. An empty file is as good as none: that is how one begins.
pub fn is_there(path: &Path) -> bool {
    let there = |found: std::fs::Metadata| !found.is_file() || found.len() > 0;
    // What can't be looked at is not called missing; opening it says what is wrong.
    std::fs::metadata(path).map_or_else(|error| error.kind() != ErrorKind::NotFound, there)
}

/// The refusal of whoever would only have looked.
pub fn not_there(path: &Path) -> StoreError {
    StoreError::Refused(format!(
        "there is no store at {}; `integrations apply` or the worker makes it, or check store.url",
        path.display()
    ))
}

/// Opens `path`, making it if it is not there and `role` may.
pub fn open(path: &Path, role: Role) -> Result<Opened, StoreError> {
    if role == Role::Look && !is_there(path) {
        return Err(not_there(path));
    }
    let path = &place(path)?;
    let lock = match role {
        Role::Worker => Some(take_lock(path)?),
        Role::Tool | Role::Look => None,
    };
    let writer = prepared(path)?;
    if role == Role::Worker {
        void_claims(&writer).map_err(|error| at_opening(error.into(), path))?;
    }
    let reader =
        connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(|error| at_opening(error.into(), path))?;
    Ok(Opened { writer, reader, lock })
}

/// Makes sure that there is a file at `path`, readable by its owner alone if it is new.
pub fn place(path: &Path) -> Result<PathBuf, StoreError> {
    let shown = path.display();
    let refused = |sentence: String| Err(StoreError::Refused(sentence));
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        return refused(format!("store {shown}: there is no folder {}; make it first", folder.display()));
    }
    if path.is_dir() {
        return refused(format!("store {shown} is a folder: name a file in it"));
    }
    match private(OpenOptions::new().read(true).write(true).create(true).truncate(false)).open(path) {
        Ok(_) => Ok(path.to_owned()),
        Err(error) => Err(io_sentence(&error, path)),
    }
}

/// Makes sure that a file could be at `path`, and leaves none behind that was not there.
pub fn try_place(path: &Path) -> Result<(), StoreError> {
    let was_there = path.exists();
    place(path)?;
    if !was_there {
        // One that stays is empty, and as good as none.
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}

fn io_sentence(error: &std::io::Error, path: &Path) -> StoreError {
    let shown = path.display();
    match error.kind() {
        ErrorKind::StorageFull => {
            StoreError::Unavailable(format!("store {shown} can't be made: disk full; free some space"))
        }
        ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => StoreError::Refused(format!(
            "store {shown} is read-only or not yours ({error}): make the file and its folder writable for \
             this user"
        )),
        _ => StoreError::Refused(format!("store {shown} can't be opened: {error}")),
    }
}

/// Where the lock of the worker that uses the file at `path` is.
fn lock_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    PathBuf::from(name)
}

/// Takes the lock that says "a worker uses this file". A second worker is told who the first is.
#[expect(
    clippy::disallowed_methods,
    reason = "opening blocks, and is done before there is anything to hold up"
)]
fn take_lock(path: &Path) -> Result<File, StoreError> {
    let name = lock_name(path);
    let mut file = private(OpenOptions::new().read(true).write(true).create(true).truncate(false))
        .open(&name)
        .map_err(|error| io_sentence(&error, &name))?;
    let started = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => {
                // Only a help for people; the lock itself is the system's.
                let _ = file
                    .set_len(0)
                    .and_then(|()| file.rewind())
                    .and_then(|()| writeln!(file, "{}", std::process::id()));
                return Ok(file);
            }
            // A look (see `worker`) has it for microseconds; a worker keeps it.
            Err(TryLockError::WouldBlock) if started.elapsed() < LOOKS_END => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::Refused(format!(
                    "another worker is using {} (process {}); one SQLite file serves one worker: stop that one, \
                     or give each a store and integrations of its own",
                    path.display(),
                    process_in(&mut file)
                )));
            }
            Err(TryLockError::Error(error)) => return Err(io_sentence(&error, &name)),
        }
    }
}

/// The process of the worker that uses the file at `path`; `None` if none does.
///
/// # Errors
/// If that can't be known.
pub fn worker(path: &Path) -> std::io::Result<Option<String>> {
    let mut file = match File::open(lock_name(path)) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    // Shared, so that two looks never take each other for a worker.
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => Ok(Some(process_in(&mut file))),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// What the holder of a lock has written into it.
fn process_in(lock: &mut File) -> String {
    let mut process = String::new();
    let _ = lock.take(20).read_to_string(&mut process);
    Some(process.trim()).filter(|process| !process.is_empty()).unwrap_or("unknown").to_owned()
}

/// A connection for writing, on a file whose schema is ours and of today.
#[expect(
    clippy::disallowed_methods,
    reason = "opening blocks, and is done before there is anything to hold up"
)]
fn prepared(path: &Path) -> Result<Connection, StoreError> {
    let started = Instant::now();
    loop {
        match try_prepare(path) {
            // Two processes that meet at a new file trip over each other's first steps; the second look
            // finds them done.
            Err(Fail::Sql(error)) if started.elapsed() < BUSY_TIMEOUT && is_contention(&error) => {
                std::thread::sleep(Duration::from_millis(5));
            }
            other => return other.map_err(|fail| at_opening(fail, path)),
        }
    }
}

/// Whether an error may come from another process that takes its own first steps on the file.
fn is_contention(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseBusy, DatabaseLocked, SchemaChanged, Unknown};
    // `Unknown` is SQLite's plain "error": here, a table that somebody else has just made.
    matches!(error.sqlite_error_code(), Some(DatabaseBusy | DatabaseLocked | SchemaChanged | Unknown))
}

fn try_prepare(path: &Path) -> Done<Connection> {
    let mut connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let (id, tables) = whose(&mut connection)?;
    if id != APPLICATION_ID && (id != 0 || tables > 0) {
        return Err(Fail::Store(StoreError::Refused(format!(
            "store {} is another program's database: set store.url to another file",
            path.display()
        ))));
    }
    if tables == 0 {
        // Only a file without any page takes this. With it, what is forgotten can be given back to the disk.
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    }
    connection.pragma_update(None, "journal_mode", "WAL")?;
    if id == 0 {
        connection.pragma_update(None, "application_id", APPLICATION_ID)?;
    }
    migrate(&mut connection, path)?;
    Ok(connection)
}

/// The file's application id, and how many tables it has: at one moment, since another process may be making it.
fn whose(connection: &mut Connection) -> rusqlite::Result<(i32, i64)> {
    let moment = connection.transaction()?;
    let tables = moment.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let id = moment.pragma_query_value(None, "application_id", |row| row.get(0))?;
    Ok((id, tables))
}

fn connect(path: &Path, mode: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, mode | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // An acknowledged event must survive a power cut, so every commit reaches the disk.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "journal_size_limit", 64 * 1024 * 1024)?;
    // A statement is planned once, and not anew for each value that is bound to it.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(connection)
}

/// Brings the schema up to date. One that is newer than this program is refused, untouched.
fn migrate(connection: &mut Connection, path: &Path) -> Done<()> {
    let runner = embedded::migrations::runner().set_grouped(true);
    let known = runner.get_migrations().iter().map(|m| i64::from(m.version())).max().unwrap_or(0);
    let has_history: i64 = connection.query_row(
        "SELECT count(*) FROM sqlite_schema WHERE name = 'refinery_schema_history'",
        [],
        |row| row.get(0),
    )?;
    let found: i64 = match has_history {
        0 => 0,
        _ => connection.query_row(
            "SELECT ifnull(max(version), 0) FROM refinery_schema_history",
            [],
            |row| row.get(0),
        )?,
    };
    if found > known {
        return Err(Fail::Store(StoreError::Refused(format!(
            "store {} has schema {found}, made by a newer version of this program, which knows schemas up to \
             {known}: run that version, or use another file",
            path.display()
        ))));
    }
    if found == known {
        return Ok(());
    }
    match runner.run(connection) {
        Ok(_) => Ok(()),
        Err(error) => Err(migration_failure(error, path)),
    }
}

/// Digs the SQLite error out of refinery's, so that "disk full" is told as such.
fn migration_failure(error: refinery::Error, path: &Path) -> Fail {
    let text = format!("store {}: its schema can't be brought up to date: {error}", path.display());
    match error.kind() {
        refinery::error::Kind::Connection(_, source) => match source.downcast_ref::<rusqlite::Error>() {
            Some(rusqlite::Error::SqliteFailure(code, detail)) => {
                Fail::Sql(rusqlite::Error::SqliteFailure(*code, detail.clone()))
            }
            _ => Fail::corrupt(text),
        },
        _ => Fail::corrupt(text),
    }
}

/// The claims of an earlier process are void: whoever held them has lost the lock, so it is gone. Its rooms
/// are due at once; what it had reserved counts as spent when they are claimed again.
fn void_claims(connection: &Connection) -> rusqlite::Result<()> {
    connection
        .execute(
            "UPDATE rooms SET claim = claim + 1, lease_until = 0, due_at = 0 WHERE lease_until IS NOT NULL",
            [],
        )
        .map(|_| ())
}
