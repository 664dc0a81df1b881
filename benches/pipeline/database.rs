//! PostgreSQL's side of a run: a schema of this run's own, and what the server spends.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use hipchat_notifier::adapters::store::cipher::Cipher;
use hipchat_notifier::adapters::store::postgres::{Address, Options, PostgresStore, Schema};
use tokio_postgres::{Client, NoTls};

use crate::process;

/// 32 bytes in hex. The rooms' tokens of a benchmark are no secrets.
const KEY: &str = "5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b";

/// A schema on the PostgreSQL of `NOTIFIER_TEST_POSTGRES`.
pub struct Database {
    /// What connects by it sees the schema alone.
    pub url: String,
    pub client: Client,
    schema: String,
    /// The server's first process, where it runs on this machine.
    server: Option<u32>,
}

impl Database {
    /// With nothing in it.
    pub async fn fresh() -> anyhow::Result<Self> {
        let server = std::env::var("NOTIFIER_TEST_POSTGRES").context(
            "NOTIFIER_TEST_POSTGRES is not set: run scripts/bench, or eval \"$(scripts/services up)\"",
        )?;
        let schema = format!("bench_{}", uuid::Uuid::now_v7().simple());
        connect(&server).await?.batch_execute(&format!("CREATE SCHEMA {schema}")).await?;
        let joint = if server.contains('?') { '&' } else { '?' };
        let url = format!("{server}{joint}options=-csearch_path%3D{schema}");
        let client = connect(&url).await?;
        // As the workers' connections.
        client.batch_execute("SET jit = off").await?;
        let backend: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await?.try_get(0)?;
        let server = process::parent_named(backend.unsigned_abs(), "postgres");
        Ok(Self { url, client, schema, server })
    }

    /// Leaves nothing on the server.
    pub async fn close(self) -> anyhow::Result<()> {
        Ok(self.client.batch_execute(&format!("DROP SCHEMA {} CASCADE", self.schema)).await?)
    }

    /// User and system time of all of the server's processes so far, whatever they work at.
    pub fn cpu(&self) -> anyhow::Result<Option<Duration>> {
        self.server.map(process::cpu_of_family).transpose()
    }

    /// What a worker needs to be told. Writes the key that workers share into `home`.
    pub fn settings(&self, home: &Path) -> anyhow::Result<Vec<(&'static str, String)>> {
        let key = home.join("key");
        std::fs::write(&key, KEY)?;
        let key = key.to_str().context("the folder's name is no text")?.to_owned();
        Ok(vec![("STORE__URL", self.url.clone()), ("SECRETS__KEY_FILE", key)])
    }

    /// The store, through its port.
    pub async fn store(&self) -> anyhow::Result<Arc<PostgresStore>> {
        let options = Options {
            address: Address::parse(&self.url).map_err(anyhow::Error::msg)?,
            name: "the benchmark's".to_owned(),
            connections: 4,
            stands_still: Duration::from_secs(1),
            schema: Schema::Migrate,
        };
        Ok(PostgresStore::open(options, Cipher::from_hex(KEY.as_bytes(), "a constant".to_owned())?).await?)
    }

    /// The server's plan of a statement, with what running it took. Changes nothing.
    pub async fn plan(
        &mut self,
        sql: &str,
        values: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    ) -> anyhow::Result<String> {
        let tx = self.client.transaction().await?;
        let rows = tx.query(&format!("EXPLAIN (ANALYZE, BUFFERS) {sql}"), values).await?;
        tx.rollback().await?;
        ensure!(!rows.is_empty(), "a plan without lines");
        let lines: Vec<String> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
        Ok(lines.join("\n"))
    }
}

async fn connect(url: &str) -> anyhow::Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls)
        .await
        .context("no PostgreSQL answers at NOTIFIER_TEST_POSTGRES")?;
    tokio::spawn(async move {
        // It ends with the client; what was wrong with it the client says.
        let _ = connection.await;
    });
    Ok(client)
}
