//! The way to the server: a bounded pool, and transactions that are tried again when they collide.
//!
//! Every wait ends: by the server's own limits while it answers, by ours when it does not.

use std::time::Duration;

use deadpool_postgres::{Hook, HookError, Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime};
use futures_util::FutureExt;
use tokio_postgres::Config;

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

/// What every connection is told, beside how long a transaction may stand still. A commit that was reported is on the
/// disk. The statements are short: compiling one costs more than it can gain. Each has an index for what it looks for,
/// and of a table that has just begun to grow the server knows nothing yet and would read all of it for every batch.
const SESSION: &str = "SET statement_timeout = '25s'; SET enable_seqscan = off; \
    SET lock_timeout = '10s'; SET default_transaction_isolation = 'read committed'; \
    SELECT set_config('jit', 'off', false) WHERE current_setting('jit', true) = 'on'; \
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'";

/// A pool of connections to one store.
pub struct Link {
    pool: Pool,
    /// The store's URL without its password.
    name: String,
}

impl Link {
    /// A pool of at most `connections`; none is made yet. A transaction that stands still for `stands_still` is ended.
    pub fn new(
        (config, tls): (Config, Tls),
        connections: usize,
        stands_still: Duration,
        name: &str,
    ) -> Result<Self, StoreError> {
        let millis = stands_still.as_millis().max(1);
        let session = format!("SET idle_in_transaction_session_timeout = {millis}; {SESSION}");
        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let pool = Pool::builder(Manager::from_config(config, tls, recycling))
            .max_size(connections)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(CONNECTION))
            .create_timeout(Some(CONNECTION))
            .post_create(Hook::async_fn(move |client, _| {
                let session = session.clone();
                async move { client.batch_execute(&session).await.map_err(HookError::Backend) }.boxed()
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
            Err(_) => self.stuck(),
        };
        if again && *tries < TRIES && fail.is_collision() {
            tracing::debug!(tries, "a transaction collided with another's; trying again");
            tokio::time::sleep(Duration::from_millis(fastrand::u64(1..=10 << *tries))).await;
            return None;
        }
        Some(Err(fail.told(&self.name)))
    }

    /// Bounds in time what is tried once.
    pub async fn once<T>(&self, attempt: impl Future<Output = Done<T>>) -> Done<T> {
        bounded(attempt).await.unwrap_or_else(|_| Err(self.stuck()))
    }

    /// A connection is stuck, and others may be: begin anew.
    fn stuck(&self) -> Fail {
        self.pool.retain(|_, _| false);
        Fail::Away(format!("no answer within {} s", OPERATION.as_secs()))
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
                let transaction = $crate::adapters::store::postgres::rounds::Tx::new($link.client().await?);
                let $tx = &transaction;
                let done = $work.await;
                transaction.end(done).await
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
