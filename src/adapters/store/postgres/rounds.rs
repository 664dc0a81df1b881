//! Transactions in few round trips: statements that do not rest on each other's answers are sent together. A
//! transaction's beginning goes with its first statements, and its commit may go with its last.

use std::pin::pin;
use std::sync::atomic::{AtomicU8, Ordering};

use deadpool_postgres::{ClientWrapper, Object};
use futures_util::TryStreamExt;
use futures_util::future::{try_join, try_join_all};
use sha2::{Digest, Sha256};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error, Row, Statement};

use super::errors::Done;

/// A transaction on a connection of its own.
pub struct Tx {
    /// `None` only while it is being dropped.
    connection: Option<Object>,
    state: AtomicU8,
}

/// Nothing was sent yet.
const NEW: u8 = 0;
/// It has begun, as far as we know.
const BEGUN: u8 = 1;
/// The commit was sent and is not answered.
const COMMITTING: u8 = 2;
/// The connection is free for the next.
const ENDED: u8 = 3;

impl Tx {
    /// One that begins with its first statement.
    pub fn new(connection: Object) -> Self {
        Self { connection: Some(connection), state: AtomicU8::new(NEW) }
    }

    fn client(&self) -> &ClientWrapper {
        self.connection.as_deref().expect("it is there until the drop")
    }

    /// To be sent before the first statement.
    async fn begin(&self) -> Result<(), Error> {
        match self.state.compare_exchange(NEW, BEGUN, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => self.client().batch_execute("BEGIN").await,
            Err(_) => Ok(()),
        }
    }

    /// To be sent behind the last statement. If that fails, the server takes all back instead.
    async fn commit(&self) -> Result<(), Error> {
        self.state.store(COMMITTING, Ordering::Release);
        self.client().batch_execute("COMMIT").await?;
        self.state.store(ENDED, Ordering::Release);
        Ok(())
    }

    /// Commits what is `done`, or takes it back.
    pub async fn end<T>(self, done: Done<T>) -> Done<T> {
        match (&done, self.state.load(Ordering::Acquire)) {
            (Ok(_), BEGUN) => self.commit().await?,
            (Err(_), BEGUN) if self.client().batch_execute("ROLLBACK").await.is_ok() => {
                self.state.store(ENDED, Ordering::Release);
            }
            // The commit behind what failed has taken all back.
            (Err(_), COMMITTING) => self.state.store(ENDED, Ordering::Release),
            _ => {}
        }
        done
    }

    /// The rows of one statement, and how many it has touched.
    async fn send(&self, statement: &Statement, values: Values) -> Result<(Vec<Row>, u64), Error> {
        let mut stream = pin!(self.client().query_raw(statement, values).await?);
        let mut rows = Vec::new();
        while let Some(row) = stream.try_next().await? {
            rows.push(row);
        }
        Ok((rows, stream.rows_affected().unwrap_or_default()))
    }
}

impl Drop for Tx {
    /// Whatever is not known to have ended must not be the next one's: its connection is closed.
    fn drop(&mut self) {
        if matches!(*self.state.get_mut(), BEGUN | COMMITTING)
            && let Some(connection) = self.connection.take()
        {
            drop(Object::take(connection));
        }
    }
}

/// Values of a statement.
pub type Values = Vec<Box<dyn ToSql + Sync + Send>>;

/// The values of a statement, in order.
macro_rules! values {
    ($($value:expr),* $(,)?) => {
        vec![$(Box::new($value) as Box<dyn tokio_postgres::types::ToSql + Sync + Send>),*]
    };
}
pub(super) use values;

/// Statements that are sent together, without waiting for each other's answers: one round trip for all. The server
/// runs them in order, each seeing what those before it did; the first that fails fails all.
#[derive(Default)]
pub struct Round(Vec<(&'static str, Values)>);

/// Which statement of a round.
#[derive(Debug, Clone, Copy)]
pub struct Place(usize);

/// What a round's statements have returned.
pub struct Answers(Vec<Vec<Row>>);

impl Answers {
    /// The rows of one statement.
    pub fn take(&mut self, place: Place) -> Vec<Row> {
        std::mem::take(&mut self.0[place.0])
    }
}

impl Round {
    /// Puts a statement at the end.
    pub fn add(&mut self, sql: &'static str, values: Values) -> Place {
        self.0.push((sql, values));
        Place(self.0.len() - 1)
    }

    /// Sends all.
    pub async fn run(self, tx: &Tx) -> Done<Answers> {
        if self.0.is_empty() {
            return Ok(Answers(Vec::new()));
        }
        let prepared = self.prepare(tx).await?;
        let (_, answers) = try_join(tx.begin(), send_all(tx, prepared)).await?;
        Ok(answers)
    }

    /// Sends all, and the commit behind them: nothing may follow.
    pub async fn run_last(self, tx: &Tx) -> Done<Answers> {
        let prepared = self.prepare(tx).await?;
        let ((_, answers), ()) = try_join(try_join(tx.begin(), send_all(tx, prepared)), tx.commit()).await?;
        Ok(answers)
    }

    async fn prepare(self, tx: &Tx) -> Done<Vec<(Statement, Values)>> {
        let mut prepared = Vec::with_capacity(self.0.len());
        for (sql, values) in self.0 {
            prepared.push((tx.client().prepare_cached(sql).await?, values));
        }
        Ok(prepared)
    }
}

/// Each is sent when it is first polled, and that is in order.
async fn send_all(tx: &Tx, prepared: Vec<(Statement, Values)>) -> Result<Answers, Error> {
    let send = |(statement, values)| async move { Ok(tx.send(&statement, values).await?.0) };
    Ok(Answers(try_join_all(prepared.into_iter().map(send)).await?))
}

/// The rows of one statement, in a round trip of its own.
pub async fn rows(tx: &Tx, sql: &'static str, values: Values) -> Done<Vec<Row>> {
    Ok(one(tx, sql, values).await?.0)
}

/// How many rows one statement has touched, in a round trip of its own.
pub async fn execute(tx: &Tx, sql: &'static str, values: Values) -> Done<u64> {
    Ok(one(tx, sql, values).await?.1)
}

async fn one(tx: &Tx, sql: &'static str, values: Values) -> Done<(Vec<Row>, u64)> {
    let statement = tx.client().prepare_cached(sql).await?;
    let (_, answer) = try_join(tx.begin(), tx.send(&statement, values)).await?;
    Ok(answer)
}

/// Text as PostgreSQL can hold it: without NUL, which no room can show either.
pub fn text(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// The longest key that is kept as it is. An index takes 2,704 bytes.
const LONGEST_KEY: usize = 1_024;

/// A key as PostgreSQL can index it: of one that is too long for that, a hash.
pub fn key_text(key: &str) -> String {
    if key.len() <= LONGEST_KEY { text(key) } else { hex::encode(Sha256::digest(key)) }
}

/// [`text`] for a column of them.
pub fn texts<'a>(all: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    all.into_iter().map(text).collect()
}
