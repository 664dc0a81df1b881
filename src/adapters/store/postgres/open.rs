//! Opens a store: reaches the server, brings its schema up to date where that is wanted, and makes sure that the key
//! is the one that the store was begun with. Says what is wrong in a sentence.

use deadpool_postgres::Object;
use secrecy::{ExposeSecret, SecretString};
use tokio_postgres::error::SqlState;

use super::errors::{Done, Fail};
use super::link::Link;
use super::locks::Keys;
use crate::adapters::store::cipher::Cipher;
use crate::domain::ids::IntegrationId;
use crate::ports::StoreError;

mod embedded {
    refinery::embed_migrations!("migrations/postgres");
}

/// What to do about a schema that is older than this program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schema {
    /// Bring it up to date.
    Migrate,
    /// Refuse it: somebody else does that.
    Expect,
    /// As `Expect`, and one that is not there at all is a mistake in the store's name, or in the order of things.
    Look,
}

/// Reaches the server and checks the schema.
pub async fn open(link: &Link, schema: Schema) -> Result<Keys, StoreError> {
    prepare(link, schema).await.map_err(|fail| fail.at_opening(link.name()))
}

/// Whether there is a schema of ours, of any version.
pub async fn is_there(link: &Link) -> Result<bool, StoreError> {
    let looked = async { Ok(found(&link.client().await?).await?.is_some()) };
    link.once(looked).await.map_err(|fail: Fail| fail.at_opening(link.name()))
}

/// The keys of the store's locks, and which schema is there, if any.
async fn look(link: &Link) -> Done<(Object, Keys, Option<i64>)> {
    let client = link.client().await?;
    let row = client
        .query_one("SELECT current_schema(), hashtextextended(coalesce(current_schema(), ''), 0)", &[])
        .await?;
    let Some(name) = row.try_get::<_, Option<String>>(0)? else {
        return Err(refused(format!(
            "store {} has no schema to live in: make the first one of its search_path, or set another by \
             options=-csearch_path%3DNAME in store.url",
            link.name()
        )));
    };
    let keys = Keys::new(&name, row.try_get(1)?);
    let found = found(&client).await?;
    Ok((client, keys, found))
}

async fn prepare(link: &Link, schema: Schema) -> Done<Keys> {
    let (client, keys, found) = link.once(look(link)).await?;
    let known = known();
    match found {
        Some(found) if found > known => Err(refused(format!(
            "store {} has schema {found}, made by a newer version of this program, which knows schemas up to \
             {known}: run that version, or use another database",
            link.name()
        ))),
        Some(found) if found == known => Ok(keys),
        None if schema == Schema::Look => Err(refused(format!(
            "there is no store at {}; `integrations apply` or the worker makes it, or check store.url",
            link.name()
        ))),
        _ if schema != Schema::Migrate => Err(refused(format!(
            "store {} has {}, this version needs schema {known}: run 'hipchat-notifier migrate', or set \
             store.migrate = true",
            link.name(),
            found.map_or("no schema yet".to_owned(), |found| format!("schema {found}")),
        ))),
        _ => {
            migrate(link, client, &keys).await?;
            Ok(keys)
        }
    }
}

fn refused(sentence: String) -> Fail {
    Fail::Store(StoreError::Refused(sentence))
}

/// The newest schema that this program knows.
pub fn known() -> i64 {
    let runner = embedded::migrations::runner();
    runner.get_migrations().iter().map(|m| i64::from(m.version())).max().unwrap_or(0)
}

/// The schema that is there, if any.
async fn found(client: &deadpool_postgres::Client) -> Done<Option<i64>> {
    let there = client.query_one("SELECT to_regclass('refinery_schema_history') IS NOT NULL", &[]).await?;
    if !there.try_get::<_, bool>(0)? {
        return Ok(None);
    }
    let newest = "SELECT max(version)::bigint FROM refinery_schema_history";
    Ok(client.query_one(newest, &[]).await?.try_get(0)?)
}

/// Brings the schema up to date; of workers that start at the same time, one does. The connection serves nothing else
/// afterwards, since its statements may take as long as they need: indexes are built of all that is kept.
async fn migrate(link: &Link, client: Object, keys: &Keys) -> Done<()> {
    let mut client = Object::take(client);
    link.once(async { Ok(client.batch_execute("SET statement_timeout = 0").await?) }).await?;
    // The decision lock, held by the session: migrations are transactions of their own.
    client.query_one("SELECT pg_advisory_lock($1)", &[&keys.decisions]).await?;
    let done = embedded::migrations::runner().set_grouped(true).run_async(&mut *client).await;
    client.query_one("SELECT pg_advisory_unlock($1)", &[&keys.decisions]).await?;
    match done {
        Ok(report) if report.applied_migrations().is_empty() => Ok(()),
        Ok(_) => {
            tracing::info!(store = link.name(), schema = known(), "the store's schema is up to date");
            Ok(())
        }
        Err(error) => Err(migration_failure(error, link.name())),
    }
}

/// Digs PostgreSQL's error out of refinery's, so that it is classified as any other.
fn migration_failure(error: refinery::Error, name: &str) -> Fail {
    let of_server = match error.kind() {
        refinery::error::Kind::Connection(_, source) => {
            match source.downcast_ref::<tokio_postgres::Error>().and_then(tokio_postgres::Error::as_db_error)
            {
                Some(said) if said.code().code().starts_with("42") => Some(said),
                _ => return Fail::Away(format!("its schema could not be brought up to date: {error}")),
            }
        }
        _ => None,
    };
    let why = of_server.map_or_else(|| error.to_string(), |said| said.message().to_owned());
    let advice = match of_server {
        Some(said) if *said.code() == SqlState::INSUFFICIENT_PRIVILEGE => {
            "let the user of store.url create tables there (GRANT CREATE ON SCHEMA …, or make it the database's owner)"
        }
        _ => {
            "if the database is another program's too, give this one a schema of its own by \
             options=-csearch_path%3DNAME in store.url"
        }
    };
    refused(format!("store {name}: its schema can't be brought up to date: {why}; {advice}"))
}

/// Bound to the known text, as an integration's id is to its room URL; no integration can have it.
const CHECK_ID: &str = "key check";
const CHECK_TEXT: &str = "this is the key";

/// Makes sure that `cipher` has the key that the store was begun with; the first to come begins it.
pub async fn check_key(link: &Link, cipher: &Cipher) -> Result<(), StoreError> {
    let id = IntegrationId::new(CHECK_ID);
    let sealed = cipher.seal(&id, &SecretString::from(CHECK_TEXT))?;
    let stored =
        link.once(begin_or_read(link, &sealed)).await.map_err(|fail| fail.at_opening(link.name()))?;
    match cipher.unseal(&id, &stored) {
        Ok(text) if text.expose_secret() == CHECK_TEXT => Ok(()),
        _ => Err(StoreError::Refused(format!(
            "store {} was begun with another key than the one in {}: give every worker the same key",
            link.name(),
            cipher.source()
        ))),
    }
}

async fn begin_or_read(link: &Link, sealed: &[u8]) -> Done<Vec<u8>> {
    let client = link.client().await?;
    client.execute("INSERT INTO key_check (sealed) VALUES ($1) ON CONFLICT DO NOTHING", &[&sealed]).await?;
    Ok(client.query_one("SELECT sealed FROM key_check", &[]).await?.try_get(0)?)
}
