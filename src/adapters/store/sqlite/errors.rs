//! From SQLite's codes to sentences: classified here, while the code is still in hand.

use std::path::Path;

use rusqlite::{ErrorCode, Row};

use crate::ports::StoreError;

/// Why a job failed: by SQLite, or by a rule of ours. `?` makes one of both.
#[derive(Debug)]
pub enum Fail {
    Sql(rusqlite::Error),
    Store(StoreError),
}

impl From<rusqlite::Error> for Fail {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<StoreError> for Fail {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// A job's result.
pub type Done<T> = Result<T, Fail>;

impl Fail {
    /// A row that this program can't have written.
    pub fn corrupt(sentence: String) -> Self {
        Self::Store(StoreError::Corrupt(sentence))
    }

    /// The error for the caller; `file` is named in it.
    pub fn told(self, file: &Path) -> StoreError {
        match self {
            Self::Sql(error) => sentence(&error, file),
            Self::Store(error) => error,
        }
    }
}

/// The error of a file that is just being opened: what stands in the way then does not pass by itself.
pub fn at_opening(fail: Fail, file: &Path) -> StoreError {
    match fail {
        Fail::Sql(error) if error.sqlite_error_code() == Some(ErrorCode::ReadOnly) => {
            StoreError::Refused(sentence(&error, file).to_string())
        }
        other => other.told(file),
    }
}

/// The class and the sentence of an SQLite error in an open store. Whoever is told that trying again does not
/// help gives an answer up, so that is said of damage and of faults of this program alone.
pub fn sentence(error: &rusqlite::Error, file: &Path) -> StoreError {
    use StoreError::{Corrupt, Unavailable};
    let file = file.display();
    let Some(code) = error.sqlite_error_code() else {
        return Corrupt(format!("store {file} holds something unexpected: {error}"));
    };
    match code {
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => Unavailable(format!(
            "store {file} is locked by another process; it will be tried again (if this goes on, find and end \
             the process that holds it)"
        )),
        ErrorCode::DiskFull => Unavailable(format!(
            "store {file} can't grow: disk full; free some space, nothing is lost meanwhile"
        )),
        ErrorCode::SystemIoFailure => Unavailable(format!(
            "store {file} can't be read or written ({error}); check the disk it is on, and whether it is full"
        )),
        ErrorCode::ReadOnly => Unavailable(format!(
            "store {file} is read-only: make the file and its folder writable for this user"
        )),
        ErrorCode::OutOfMemory => {
            Unavailable(format!("store {file}: there is no memory left for it; it will be tried again"))
        }
        ErrorCode::FileLockingProtocolFailed
        | ErrorCode::SchemaChanged
        | ErrorCode::OperationAborted
        | ErrorCode::OperationInterrupted => {
            Unavailable(format!("store {file} was disturbed ({error}); it will be tried again"))
        }
        ErrorCode::CannotOpen | ErrorCode::PermissionDenied => {
            // Also when the process has too many files open, which passes.
            Unavailable(format!(
                "store {file} can't be opened: check that this user may write the file and its folder"
            ))
        }
        ErrorCode::NotADatabase => Corrupt(format!(
            "store {file} is not an SQLite database: set store.url to another file, or move this one away"
        )),
        ErrorCode::DatabaseCorrupt => Corrupt(format!(
            "store {file} is damaged ({error}): stop the worker and restore it from a backup, or recover it \
             with sqlite3's .recover"
        )),
        _ => Corrupt(format!("store {file}: SQLite says: {error}")),
    }
}

/// What a value that does not fit its column's meaning is called; any other error is the store's.
pub fn misread(error: rusqlite::Error) -> Result<String, rusqlite::Error> {
    match error.sqlite_error_code() {
        None => Ok(error.to_string()),
        Some(_) => Err(error),
    }
}

/// A text, whatever bytes it has by now: one that is damaged is told by whoever takes it apart.
pub fn text(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<String>> {
    let bytes = row.get_ref(column)?.as_bytes_or_null()?;
    Ok(bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned()))
}

/// The same error once more: one failed commit is told to all whose work was in it.
pub fn repeat(error: &StoreError) -> StoreError {
    match error {
        StoreError::Unavailable(text) => StoreError::Unavailable(text.clone()),
        StoreError::Refused(text) => StoreError::Refused(text.clone()),
        StoreError::Corrupt(text) => StoreError::Corrupt(text.clone()),
    }
}
