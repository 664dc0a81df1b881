//! The concrete parts, built from settings: shared by `run` and by the verbs that look into the same store.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::Misconfigured;
use crate::adapters::clock::SystemClock;
use crate::adapters::hipchat::{self, Egress, HipchatGateway, HipchatOptions};
use crate::adapters::rabbitmq::{Address, BrokerOptions, Topology};
use crate::adapters::store::Role;
use crate::adapters::store::cipher::Cipher;
use crate::adapters::store::postgres::{self, PostgresStore, Schema};
use crate::adapters::store::sqlite::SqliteStore;
use crate::domain::integration::Integration;
use crate::domain::line::LineRules;
use crate::domain::message::Links;
use crate::files::{
    LONGEST_AUTHORITIES, LONGEST_INTEGRATIONS, LONGEST_ROOM_URL, read_bounded, read_regular, read_text,
};
use crate::formats::integrations::{self, RoomRef, SecretSources};
use crate::ports::{BrokerError, Clock, Definition, Readiness, RoomTarget, Storage, StoreError, Stored};
use crate::settings::{KeySource, SecretUrl, Settings, StoreUrl, TokenIn};
use crate::worker::catalogue::{Open, Opened};
use crate::worker::dispatch::DispatchTerms;

/// Notifications loaded of one room's line at a time: the most that one digest tells.
const LINE: usize = 500;

/// How long the store may take to say that it is there.
const READY: Duration = Duration::from_secs(2);

/// What needs building once: the store, the way to the rooms, the clock.
#[derive(Clone)]
pub struct Parts {
    pub store: Arc<dyn Storage>,
    pub gateway: Arc<HipchatGateway>,
    pub egress: Egress,
    /// With a shared store, the store's own.
    pub clock: Arc<dyn Clock>,
}

impl Parts {
    /// Opens the store and prepares the client. Tries once.
    ///
    /// # Errors
    /// [`Misconfigured`] with a sentence, or [`StoreAway`].
    pub async fn open(settings: &Settings, role: Role) -> anyhow::Result<Self> {
        let egress = egress(settings)?;
        let options = hipchat_options(settings)?;
        let OpenStore { store, clock } = open_store(settings, role).await?;
        let gateway = HipchatGateway::new(options, egress.clone(), clock.clone())
            .map_err(|error| Misconfigured(error.to_string()))?;
        Ok(Self { store, gateway: Arc::new(gateway), egress, clock })
    }

    /// What turns a stored integration into one that can be used.
    pub fn opener(&self) -> Box<Open> {
        let egress = self.egress.clone();
        Box::new(move |stored| open_stored(stored, &egress))
    }

    /// The integration and its room, from what the store holds.
    ///
    /// # Errors
    /// A sentence without secrets.
    pub fn open_stored(&self, stored: &Stored) -> Result<(Integration, RoomTarget), String> {
        let opened = open_stored(stored, &self.egress)?;
        Ok((opened.integration, opened.target?))
    }

    /// Reads an integrations file.
    pub fn read_integrations(&self, path: &Path) -> IntegrationsText {
        read_integrations(path, &self.egress, AbsentUrl::Refused)
    }
}

#[async_trait]
impl Readiness for Parts {
    async fn ready(&self) -> Result<(), String> {
        // Whoever asks waits a second or so himself, and a store that is stuck answers only when that is over.
        match tokio::time::timeout(READY, self.store.next_due()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("the store gives no answer within {} s", READY.as_secs())),
        }
    }
}

/// What an integrations file says, and the other files it takes room URLs from.
pub struct IntegrationsText {
    /// Refused with a line for each fault.
    pub definitions: Result<Vec<Definition>, Misconfigured>,
    /// Also those that are not there: one of them may be the fault.
    pub url_files: Vec<PathBuf>,
}

/// What a room URL from the environment or a file becomes that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AbsentUrl {
    /// A fault.
    Refused,
    /// A URL that leads nowhere: for who decides about events and posts nothing.
    StoodInFor,
}

impl AbsentUrl {
    fn stand_in(self) -> Option<String> {
        const NOWHERE: &str = "https://hipchat.invalid/v2/room/any/notification?auth_token=none";
        (self == Self::StoodInFor).then(|| NOWHERE.to_owned())
    }
}

/// Reads an integrations file; `-` is stdin.
pub fn read_integrations(path: &Path, egress: &Egress, absent: AbsentUrl) -> IntegrationsText {
    let text = if path == Path::new("-") {
        read_bounded(std::io::stdin(), LONGEST_INTEGRATIONS)
    } else {
        read_regular(path, LONGEST_INTEGRATIONS)
    };
    let url_files = RefCell::new(Vec::new());
    let sources = SecretSources {
        env: &|name| std::env::var(name).ok().or_else(|| absent.stand_in()),
        read_file: &|path| {
            url_files.borrow_mut().push(path.to_owned());
            read_regular(path, LONGEST_ROOM_URL).or_else(|error| absent.stand_in().ok_or(error))
        },
        check_url: &|url| {
            let target = hipchat::parse_room_url(url, egress).map_err(|error| error.to_string())?;
            Ok(RoomRef { token: hipchat::token_key(&target), room: target.room })
        },
    };
    let definitions = match &text {
        Err(error) => Err(Misconfigured(format!("can't read {}: {error}", path.display()))),
        Ok(text) => integrations::read_file_text(text, &sources)
            .map_err(|faults| Misconfigured(format!("{}:\n{faults}", path.display()))),
    };
    IntegrationsText { definitions, url_files: url_files.into_inner() }
}

/// Who may be reached.
///
/// # Errors
/// [`Misconfigured`] naming each bad entry of `egress.allow`.
pub fn egress(settings: &Settings) -> Result<Egress, Misconfigured> {
    Egress::from_entries(&settings.egress.allow).map_err(|faults| {
        let lines: Vec<String> = faults.iter().map(ToString::to_string).collect();
        Misconfigured(lines.join("\n"))
    })
}

/// The integration and its room, from what a store holds.
///
/// # Errors
/// A sentence without secrets.
pub fn open_stored(stored: &Stored, egress: &Egress) -> Result<Opened, String> {
    let integration = integrations::integration_from(stored)?;
    let url = stored.definition.room_url.expose_secret();
    let target = match &stored.unreadable {
        None => hipchat::parse_room_url(url, egress).map_err(|error| error.to_string()),
        Some(reason) => Err(reason.clone()),
    };
    Ok(Opened { integration, target })
}

/// A store, and the clock that its times are told by.
pub struct OpenStore {
    pub store: Arc<dyn Storage>,
    pub clock: Arc<dyn Clock>,
}

/// Opens the store alone. Tries once.
///
/// # Errors
/// [`Misconfigured`] with a sentence, or [`StoreAway`].
pub async fn open_store(settings: &Settings, role: Role) -> anyhow::Result<OpenStore> {
    match &settings.store.url {
        StoreUrl::Sqlite(path) => {
            let store = open_file(path, role, settings.secrets.key.as_ref()).map_err(from_store)?;
            Ok(OpenStore { store, clock: Arc::new(SystemClock) })
        }
        StoreUrl::Postgres(url) => {
            let options = postgres_options(settings, url, role)?;
            let cipher = shared_cipher(settings).map_err(from_store)?;
            let store = PostgresStore::open(options, cipher).await.map_err(from_store)?;
            let clock = store.clock().await.map_err(from_store)?;
            Ok(OpenStore { store, clock })
        }
    }
}

/// Whether there is a store yet.
///
/// # Errors
/// As [`open_store`].
pub async fn store_is_there(settings: &Settings) -> anyhow::Result<bool> {
    match &settings.store.url {
        StoreUrl::Sqlite(path) => Ok(SqliteStore::is_there(path)),
        StoreUrl::Postgres(url) => {
            let options = postgres_options(settings, url, Role::Look)?;
            PostgresStore::is_there(options).await.map_err(from_store)
        }
    }
}

/// Whether a store that is not there yet could be made, as far as that can be known without making it.
///
/// # Errors
/// What stands in the way of a file at its place.
pub fn store_can_be_made(settings: &Settings) -> Result<(), StoreError> {
    match &settings.store.url {
        StoreUrl::Sqlite(path) => SqliteStore::try_place(path),
        // A server that can be asked whether there is one has let this user in.
        StoreUrl::Postgres(_) => Ok(()),
    }
}

fn open_file(path: &Path, role: Role, key: Option<&KeySource>) -> Result<Arc<dyn Storage>, StoreError> {
    Ok(match key {
        Some(KeySource::Given(key)) => SqliteStore::open(path, role, given(key)?)?,
        Some(KeySource::File(file)) => SqliteStore::open_with_key_file(path, role, file)?,
        None => SqliteStore::open_with_key_file(path, role, &beside(path))?,
    })
}

fn given(key: &SecretString) -> Result<Cipher, StoreError> {
    Cipher::from_hex(key.expose_secret().as_bytes(), "secrets.key".to_owned())
}

/// The key that all workers share. It is never made here: the others would not have it.
fn shared_cipher(settings: &Settings) -> Result<Cipher, StoreError> {
    match &settings.secrets.key {
        Some(KeySource::Given(key)) => given(key),
        Some(KeySource::File(file)) => Cipher::from_key_file(file),
        None => Err(StoreError::Refused("a shared store needs secrets.key_file or secrets.key".to_owned())),
    }
}

fn postgres_options(
    settings: &Settings,
    url: &SecretUrl,
    role: Role,
) -> Result<postgres::Options, Misconfigured> {
    let address = postgres::Address::parse(url.expose())
        .map_err(|fault| Misconfigured(format!("store.url ({url}): {fault}")))?;
    let schema = match role {
        Role::Worker | Role::Tool if settings.store.migrate => Schema::Migrate,
        Role::Worker | Role::Tool => Schema::Expect,
        Role::Look => Schema::Look,
    };
    let (connections, stands_still) = (settings.store.connections, stands_still(settings));
    Ok(postgres::Options { address, name: url.to_string(), connections, stands_still, schema })
}

/// How long a transaction in a shared store may stand still. A call may begin when half of a lease is over and take
/// until its timeout; what is left then is the time to record its answer, and half of that may be lost to the locks of
/// a worker that is frozen.
fn stands_still(settings: &Settings) -> Duration {
    let left = (settings.dispatch.lease / 2).saturating_sub(settings.hipchat.timeout);
    (left / 2).clamp(Duration::from_millis(250), Duration::from_secs(10))
}

/// Brings the store's schema up to date, making the store where there is none.
///
/// # Errors
/// As [`open_store`].
pub async fn migrate(settings: &Settings) -> anyhow::Result<()> {
    let mut settings = settings.clone();
    settings.store.migrate = true;
    open_store(&settings, Role::Tool).await.map(drop)
}

/// The key file's place when none is configured: beside the store.
fn beside(store: &Path) -> PathBuf {
    let mut name = store.as_os_str().to_owned();
    name.push(".key");
    PathBuf::from(name)
}

/// What dispatch goes by.
///
/// # Errors
/// [`Misconfigured`] naming a link template that can't be read.
pub fn dispatch_terms(settings: &Settings) -> anyhow::Result<DispatchTerms> {
    Ok(DispatchTerms {
        rules: LineRules {
            room: settings.pacing.room,
            retry: settings.retry,
            max_age: settings.notifications.max_age,
        },
        token_budget: settings.pacing.token,
        concurrency: settings.dispatch.concurrency,
        line: LINE,
        lease: settings.dispatch.lease,
        shared: matches!(settings.store.url, StoreUrl::Postgres(_)),
        links: Arc::new(links(settings)?),
    })
}

/// The templates for links that events do not carry.
///
/// # Errors
/// [`Misconfigured`] naming the template.
pub fn links(settings: &Settings) -> anyhow::Result<Links> {
    Links::new(settings.links.templates.clone()).map_err(|error| Misconfigured(error.to_string()).into())
}

fn hipchat_options(settings: &Settings) -> Result<HipchatOptions, Misconfigured> {
    let h = &settings.hipchat;
    let proxy = h.proxy.as_ref().map(|proxy| {
        let url: Result<Url, _> = proxy.expose().parse();
        url.map_err(|error| Misconfigured(format!("hipchat.proxy ({proxy}): {error}")))
    });
    Ok(HipchatOptions {
        connect_timeout: h.connect_timeout,
        timeout: h.timeout,
        token_in: match h.token_in {
            TokenIn::Header => hipchat::TokenIn::Header,
            TokenIn::Query => hipchat::TokenIn::Query,
        },
        ca_file: h.ca_file.clone(),
        proxy: proxy.transpose()?,
        no_proxy: h.no_proxy.clone(),
        ..HipchatOptions::default()
    })
}

/// How to reach the broker, and what to declare there.
///
/// # Errors
/// [`Misconfigured`] naming the key at fault.
pub fn broker_options(settings: &Settings) -> Result<BrokerOptions, Misconfigured> {
    let a = &settings.amqp;
    let addresses = a
        .urls
        .iter()
        .map(|url| {
            let address: Result<Address, String> = url.expose().parse();
            address
                .map(|address| address.with_heartbeat(a.heartbeat))
                .map_err(|fault| Misconfigured(format!("amqp.url ({url}): {fault}")))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let read = |path: &PathBuf| {
        read_text(path, LONGEST_AUTHORITIES)
            .map_err(|error| Misconfigured(format!("amqp.ca_file: can't read {}: {error}", path.display())))
    };
    Ok(BrokerOptions {
        topology: Topology {
            exchange: a.exchange.clone(),
            queue: a.queue.clone(),
            dead_letters: a.dead_letters.clone(),
        },
        prefetch: a.prefetch,
        batch: a.batch,
        // Nobody else can have an SQLite store, so nobody would go on.
        yield_after: matches!(settings.store.url, StoreUrl::Postgres(_)).then_some(a.yield_after),
        authorities_pem: a.ca_file.as_ref().map(read).transpose()?,
        ..BrokerOptions::new(addresses)
    })
}

/// A broker error as the verbs report it.
pub fn from_broker(error: BrokerError) -> anyhow::Error {
    match error {
        BrokerError::Misconfigured(line) => Misconfigured(line).into(),
        BrokerError::Unavailable(line) => anyhow::anyhow!(line),
    }
}

/// A store error as the verbs report it: what trying again does not help is a matter of configuration.
pub fn from_store(error: StoreError) -> anyhow::Error {
    match error {
        StoreError::Unavailable(line) => StoreAway(line).into(),
        StoreError::Refused(line) | StoreError::Corrupt(line) => Misconfigured(line).into(),
    }
}

/// The store can't be had now; trying again may help.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StoreAway(pub String);
