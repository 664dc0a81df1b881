//! What is particular to the PostgreSQL store: who may open it, what is said where it can't be had, and what several
//! workers do at the same time.

use std::sync::Arc;

use async_trait::async_trait;
use hipchat_notifier::adapters::store::cipher::Cipher;
use hipchat_notifier::adapters::store::postgres::{Address, Options, PostgresStore, Schema};
use hipchat_notifier::ports::StoreError;
use tempfile::TempDir;

use super::lab::*;
use crate::support::postgres::Postgres;

/// A schema of its own on the PostgreSQL of `NOTIFIER_TEST_POSTGRES`, and a key.
pub struct PostgresLab {
    postgres: Postgres,
    folder: TempDir,
}

impl PostgresLab {
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Cipher::load_or_create(&folder.path().join("key")).unwrap();
        Self { postgres: Postgres::fresh().await, folder }
    }

    fn cipher(&self) -> Cipher {
        Cipher::from_key_file(&self.folder.path().join("key")).unwrap()
    }

    async fn open(&self, schema: Schema) -> Result<Arc<PostgresStore>, StoreError> {
        open_at(&self.postgres.url, schema, self.cipher()).await
    }
}

async fn open_at(url: &str, schema: Schema, cipher: Cipher) -> Result<Arc<PostgresStore>, StoreError> {
    let address = Address::parse(url).unwrap();
    let options = Options { address, name: "postgres://…".to_owned(), connections: 4, schema };
    PostgresStore::open(options, cipher).await
}

#[async_trait]
impl Lab for PostgresLab {
    async fn worker(&self) -> Result<Arc<dyn AnyStore>, StoreError> {
        Ok(self.open(Schema::Migrate).await?)
    }

    async fn tool(&self) -> Result<Arc<dyn AnyStore>, StoreError> {
        Ok(self.open(Schema::Migrate).await?)
    }
}
