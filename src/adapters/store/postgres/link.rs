//! The way to the server: a bounded pool, and transactions that are tried again when they collide.
//!
//! Every wait ends: by the server's own limits while it answers, by ours when it does not.

use std::time::Duration;

use deadpool_postgres::{
    Hook, HookError, Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime, Transaction,
};
use futures_util::FutureExt;
use futures_util::future::try_join_all;
use sha2::{Digest, Sha256};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Config, Row};

use super::address::Tls;
use super::errors::{Done, Fail};
use crate::ports::StoreError;

/// How long an operation may take before its connection is given up. The server's own limits end it earlier, if
/// the server is there at all.
const OPERATION: Duration = Duration::from_secs(30);
/// How long an operation waits for a connection.
const CONNECTION: Duration = Duration::from_secs(10);
/// Tries of a transaction that collides with others. The order of the locks makes collisions rare.
const TRIES: u32 = 4;

/// What every connection is told. A worker that is frozen in the middle of a transaction must not keep its locks,
/// and a commit that was reported is on the disk.
const SESSION: &str = "SET idle_in_transaction_session_timeout = '10s'; SET statement_timeout = '25s'; \
    SET lock_timeout = '10s'; SET default_transaction_isolation = 'read committed'; \
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'";

/// A pool of connections to one store.
pub struct Link {
    pool: Pool,
    /// The store's URL without its password.
    name: String,
}

impl Link {
    /// A pool of at most `connections`; none is made yet.
    pub fn new((config, tls): (Config, Tls), connections: usize, name: &str) -> Result<Self, StoreError> {
        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let pool = Pool::builder(Manager::from_config(config, tls, recycling))
            .max_size(connections)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(CONNECTION))
            .create_timeout(Some(CONNECTION))
            .post_create(Hook::async_fn(|client, _| {
                async move { client.batch_execute(SESSION).await.map_err(HookError::Backend) }.boxed()
            }))
            .build()
            .map_err(|error| StoreError::Refused(format!("store {name}: {error}")))?;
        Ok(Self { pool, name: name.to_owned() })
    }

    /// The store, for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A connection.
    pub async fn client(&self) -> Done<Object> {
        Ok(self.pool.get().await?)
    }

    /// What is to be done about an attempt: its result, or `None` to try again.
    pub async fn judge<T>(
        &self,
        attempt: Result<Done<T>, tokio::time::error::Elapsed>,
        tries: &mut u32,
        again: bool,
    ) -> Option<Result<T, StoreError>> {
        *tries += 1;
        let fail = match attempt {
            Ok(Ok(done)) => return Some(Ok(done)),
            Ok(Err(fail)) => fail,
            Err(_) => {
                // The connection is stuck, and others may be: begin anew.
                self.pool.retain(|_, _| false);
                Fail::Away(format!("no answer within {} s", OPERATION.as_secs()))
            }
        };
        if again && *tries < TRIES && fail.is_collision() {
            tracing::debug!(tries, "a transaction collided with another's; trying again");
            tokio::time::sleep(Duration::from_millis(fastrand::u64(1..=10 << *tries))).await;
            return None;
        }
        Some(Err(fail.told(&self.name)))
    }
}

/// Bounds an attempt in time.
pub async fn bounded<T>(
    attempt: impl Future<Output = Done<T>>,
) -> Result<Done<T>, tokio::time::error::Elapsed> {
    tokio::time::timeout(OPERATION, attempt).await
}

/// Runs `$work` in a transaction `$tx` of `$link` and commits it. After a collision it runs again, unless `$again`
/// says by then that it can't.
macro_rules! in_transaction {
    ($link:expr, $again:expr, |$tx:ident| $work:expr) => {{
        let mut tries = 0;
        loop {
            let attempt = $crate::adapters::store::postgres::link::bounded(async {
                let mut client = $link.client().await?;
                let transaction = client.transaction().await?;
                let $tx = &transaction;
                let done = $work.await?;
                transaction.commit().await?;
                Ok(done)
            });
            let attempt = attempt.await;
            if let Some(result) = $link.judge(attempt, &mut tries, $again).await {
                break result;
            }
        }
    }};
}

/// Runs `$work`, which only reads, on a connection `$c` of `$link`.
macro_rules! reading {
    ($link:expr, |$c:ident| $work:expr) => {{
        let attempt = $crate::adapters::store::postgres::link::bounded(async {
            let client = $link.client().await?;
            let $c = &client;
            $work.await
        });
        let attempt = attempt.await;
        match $link.judge(attempt, &mut 0, false).await {
            Some(result) => result,
            None => unreachable!("what is not to be tried again has a result"),
        }
    }};
}

pub(super) use {in_transaction, reading};

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
/// runs them in order; the first that fails fails all.
#[derive(Default)]
pub struct Script(Vec<(&'static str, Values)>);

impl Script {
    /// Puts a statement at the end.
    pub fn add(&mut self, sql: &'static str, values: Values) {
        self.0.push((sql, values));
    }

    /// Sends all.
    pub async fn run(self, tx: &Transaction<'_>) -> Done<()> {
        let mut prepared = Vec::with_capacity(self.0.len());
        for (sql, values) in self.0 {
            prepared.push((tx.prepare_cached(sql).await?, values));
        }
        // Each is sent when it is first polled, and that is in order.
        let send = |(statement, values)| async move { tx.execute_raw(&statement, values).await };
        try_join_all(prepared.into_iter().map(send)).await?;
        Ok(())
    }
}

/// The rows of one statement.
pub async fn rows(tx: &Transaction<'_>, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Done<Vec<Row>> {
    let statement = tx.prepare_cached(sql).await?;
    Ok(tx.query(&statement, values).await?)
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
