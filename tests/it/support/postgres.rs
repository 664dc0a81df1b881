//! A real PostgreSQL with a schema of a test's own on it, dropped when the test is over.

use std::sync::atomic::{AtomicU32, Ordering};

use tokio_postgres::{Client, NoTls};

/// A schema on the PostgreSQL of `NOTIFIER_TEST_POSTGRES`.
pub struct Postgres {
    /// Of the schema: what connects by it sees nothing else.
    pub url: String,
    pub schema: String,
    server: String,
}

impl Postgres {
    /// With nothing in it.
    pub async fn fresh() -> Self {
        Self::at(std::env::var("NOTIFIER_TEST_POSTGRES").unwrap_or_else(|_| {
            panic!("this test needs PostgreSQL: run scripts/test, or eval \"$(scripts/services up)\"")
        }))
        .await
    }

    /// With nothing in it, on this server.
    pub async fn at(server: String) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let schema = format!("test_{}_{number}", std::process::id());
        run(&server, &format!("DROP SCHEMA IF EXISTS {schema} CASCADE; CREATE SCHEMA {schema}")).await;
        let joint = if server.contains('?') { '&' } else { '?' };
        let url = format!("{server}{joint}options=-csearch_path%3D{schema}");
        Self { url, schema, server }
    }

    /// The server's host and port.
    pub fn host_and_port(&self) -> String {
        let (_, rest) = self.server.split_once('@').expect("a URL with a user");
        rest.split_once('/').expect("a URL with a database").0.to_owned()
    }

    /// The URL of the schema by way of another address.
    pub fn url_by(&self, address: &str) -> String {
        self.url.replacen(&self.host_and_port(), address, 1)
    }

    /// A connection that sees the schema.
    pub async fn client(&self) -> Client {
        connect(&self.url).await
    }

    /// Runs statements in the schema.
    pub async fn run(&self, sql: &str) {
        run(&self.url, sql).await;
    }
}

async fn connect(url: &str) -> Client {
    let (client, connection) =
        tokio_postgres::connect(url, NoTls).await.expect("PostgreSQL answers at NOTIFIER_TEST_POSTGRES");
    tokio::spawn(async move {
        // It ends with the client; what was wrong with it the client says.
        let _ = connection.await;
    });
    client
}

async fn run(url: &str, sql: &str) {
    connect(url).await.batch_execute(sql).await.expect("the statements run");
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let (server, schema) = (self.server.clone(), self.schema.clone());
        // On a thread of its own: a test may be over in the middle of anything.
        let dropping = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(run(&server, &format!("DROP SCHEMA IF EXISTS {schema} CASCADE")));
        });
        if dropping.join().is_err() && !std::thread::panicking() {
            panic!("the schema {} could not be dropped", self.schema);
        }
    }
}
