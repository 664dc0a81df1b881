//! From PostgreSQL's codes to sentences: classified here, while the code is still in hand.

use deadpool_postgres::PoolError;
use tokio_postgres::error::SqlState;

use crate::ports::StoreError;

/// Why an operation failed: by PostgreSQL, on the way to it, or by a rule of ours. `?` makes one of each.
#[derive(Debug)]
pub enum Fail {
    Sql(tokio_postgres::Error),
    /// No connection was to be had, or the server said nothing for too long. Half a sentence.
    Away(String),
    Store(StoreError),
}

impl From<tokio_postgres::Error> for Fail {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<StoreError> for Fail {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<PoolError> for Fail {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Backend(error) => Self::Sql(error),
            PoolError::Timeout(_) => Self::Away("no connection was free or could be made in time".to_owned()),
            other => Self::Away(other.to_string()),
        }
    }
}

/// An operation's result.
pub type Done<T> = Result<T, Fail>;

impl Fail {
    /// A row that this program can't have written.
    pub fn corrupt(sentence: String) -> Self {
        Self::Store(StoreError::Corrupt(sentence))
    }

    /// Whether the server took the transaction back for another's sake, so that trying at once may help.
    pub fn is_collision(&self) -> bool {
        let Self::Sql(error) = self else { return false };
        matches!(error.code(), Some(code) if *code == SqlState::T_R_DEADLOCK_DETECTED
            || *code == SqlState::T_R_SERIALIZATION_FAILURE
            || *code == SqlState::LOCK_NOT_AVAILABLE)
    }

    /// The error for the caller; `store` is named in it, without its password.
    pub fn told(self, store: &str) -> StoreError {
        match self {
            Self::Sql(error) => sentence(&error, store),
            Self::Away(why) => away(store, &why),
            Self::Store(error) => error,
        }
    }

    /// The error of a store that is just being opened: what is wrong with the login or the database does not pass
    /// by itself then.
    pub fn at_opening(self, store: &str) -> StoreError {
        match self {
            Self::Sql(error) => match error.code() {
                Some(code) if is_login(code) => StoreError::Refused(format!(
                    "store {store}: PostgreSQL refuses the login ({}): check user, password and database in \
                     store.url",
                    said(&error)
                )),
                Some(code) if *code == SqlState::INSUFFICIENT_PRIVILEGE => StoreError::Refused(format!(
                    "store {store}: this user may not do that ({}): grant it CREATE and USAGE on its schema",
                    said(&error)
                )),
                None if !error.is_closed() && tls_refused(&error) => StoreError::Refused(format!(
                    "store {store}: no TLS session ({}): check sslmode and sslrootcert in store.url",
                    causes(&error)
                )),
                _ => sentence(&error, store),
            },
            other => other.told(store),
        }
    }
}

fn away(store: &str, why: &str) -> StoreError {
    StoreError::Unavailable(format!("store {store} is out of reach ({why}); it will be tried again"))
}

fn is_login(code: &SqlState) -> bool {
    code.code().starts_with("28") || *code == SqlState::INVALID_CATALOG_NAME
}

/// Whether TLS is what failed: the typed cause is rustls's, or the server offers none.
fn tls_refused(error: &tokio_postgres::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(found) = cause {
        let io = found.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if found.is::<rustls::Error>() || io.is_some_and(|inner| inner.is::<rustls::Error>()) {
            return true;
        }
        cause = found.source();
    }
    // tokio-postgres has no type for it: the server answered that it speaks no TLS.
    error.to_string().starts_with("error performing TLS handshake")
}

/// The error with all its causes, in one line.
fn causes(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(found) = cause {
        let text = found.to_string();
        if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        cause = found.source();
    }
    line.replace('\n', " ")
}

/// What the server said, without the statement and its values.
fn said(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => db.message().replace('\n', " "),
        None => causes(error),
    }
}

/// The class and the sentence of an error in an open store. Whoever is told that trying again does not help gives
/// an answer up, so that is said of damage and of faults of this program alone.
fn sentence(error: &tokio_postgres::Error, store: &str) -> StoreError {
    use StoreError::{Corrupt, Unavailable};
    let said = said(error);
    let Some(code) = error.code() else {
        // Without a code it did not come from the server: the connection, or a value that does not fit its column.
        return match error.is_closed() || broken_connection(error) {
            true => away(store, &said),
            false => Corrupt(format!("store {store} holds something unexpected: {said}")),
        };
    };
    match code.code() {
        "53100" => Unavailable(format!(
            "store {store} can't grow: its disk is full; free some space, nothing is lost meanwhile"
        )),
        "53300" => Unavailable(format!(
            "store {store} has no connection left ({said}): raise max_connections there, or lower \
             store.connections or the number of workers; it will be tried again"
        )),
        "25006" => Unavailable(format!(
            "store {store} is read-only ({said}): point store.url at the primary; it will be tried again"
        )),
        // Connection lost, resources, the operator's hand (shutdown, cancelled, crashed, starting), collisions,
        // the system's own errors, and the login: it was good when the store was opened.
        c if ["08", "28", "40", "53", "55", "57", "58"].iter().any(|class| c.starts_with(class)) => {
            away(store, &said)
        }
        "25P02" | "25P03" | "3D000" => away(store, &said),
        "XX001" | "XX002" => Corrupt(format!(
            "store {store} is damaged ({said}): stop the workers and restore it from a backup"
        )),
        code => Corrupt(format!("store {store}: PostgreSQL says: {said} ({code})")),
    }
}

fn broken_connection(error: &tokio_postgres::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(found) = cause {
        if found.is::<std::io::Error>() {
            return true;
        }
        cause = found.source();
    }
    let text = error.to_string();
    // No TLS is one of them: it was spoken when the store was opened.
    [
        "error connecting to server",
        "timeout waiting for server",
        "error communicating with the server",
        "error performing TLS handshake",
    ]
    .iter()
    .any(|known| text.starts_with(known))
}

/// The same error once more: one failed transaction is told to all whose work was in it.
pub fn repeat(error: &StoreError) -> StoreError {
    match error {
        StoreError::Unavailable(text) => StoreError::Unavailable(text.clone()),
        StoreError::Refused(text) => StoreError::Refused(text.clone()),
        StoreError::Corrupt(text) => StoreError::Corrupt(text.clone()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::adapters::store::postgres::address::Address;

    /// A server that is starting, or has no process left, may answer the question for TLS by no.
    #[tokio::test]
    async fn a_server_that_speaks_no_tls_for_a_moment_is_away_and_not_damaged() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!(
            "postgres://me:secret@127.0.0.1:{}/d?sslmode=require",
            server.local_addr().unwrap().port()
        );
        let (config, tls) = Address::parse(&url).unwrap().open().unwrap();
        let answers_no = async {
            let (mut socket, _) = server.accept().await.unwrap();
            socket.read_exact(&mut [0; 8]).await.unwrap();
            socket.write_all(b"N").await.unwrap();
            socket
        };
        let (connected, _socket) = tokio::join!(config.connect(tls), answers_no);
        let told = Fail::Sql(connected.err().unwrap()).told("s");
        assert!(matches!(told, StoreError::Unavailable(_)), "{told:?}");
    }
}
