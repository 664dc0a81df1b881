//! The concrete parts, built from settings: shared by `run` and by the verbs that look into the same store.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use async_trait::async_trait;
use secrecy::ExposeSecret;
use url::Url;

use super::Misconfigured;
use super::files::{LONGEST_INTEGRATIONS, LONGEST_ROOM_URL, read_bounded, read_regular};
use crate::adapters::clock::SystemClock;
use crate::adapters::hipchat::{self, Egress, HipchatGateway, HipchatOptions};
use crate::adapters::rabbitmq::{Address, BrokerOptions, Topology};
use crate::adapters::store::sqlite::{Role, SqliteStore};
use crate::domain::integration::Integration;
use crate::domain::line::LineRules;
use crate::domain::message::Links;
use crate::formats::integrations::{self, RoomRef, SecretSources};
use crate::ports::{BrokerError, Definition, Readiness, RoomTarget, Store, StoreError, Stored};
use crate::settings::{Settings, StoreUrl, TokenIn};
use crate::worker::catalogue::{Open, Opened};
use crate::worker::dispatch::DispatchTerms;

/// Notifications loaded of one room's line at a time: the most that one digest tells.
const LINE: usize = 500;

/// What needs building once: the store, the way to the rooms, the clock.
#[derive(Clone)]
pub struct Parts {
    pub store: Arc<SqliteStore>,
    pub gateway: Arc<HipchatGateway>,
    pub egress: Egress,
    pub clock: Arc<SystemClock>,
}

impl Parts {
    /// Opens the store and prepares the client.
    ///
    /// # Errors
    /// [`Misconfigured`] with a sentence.
    pub fn open(settings: &Settings, role: Role) -> anyhow::Result<Self> {
        let egress = egress(settings)?;
        let clock = Arc::new(SystemClock);
        let gateway = HipchatGateway::new(hipchat_options(settings)?, egress.clone(), clock.clone())
            .map_err(|error| Misconfigured(error.to_string()))?;
        let store = open_store(settings, role)?;
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
        match self.store.next_due().await {
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
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

/// The store's file.
///
/// # Errors
/// [`Misconfigured`] if `store.url` names no file.
pub fn store_file(settings: &Settings) -> Result<&Path, Misconfigured> {
    match &settings.store.url {
        StoreUrl::Sqlite(path) => Ok(path),
        _ => Err(Misconfigured("store.url: this build keeps its store in SQLite only".to_owned())),
    }
}

/// Whether there is a store yet.
///
/// # Errors
/// As [`store_file`].
pub fn store_is_there(settings: &Settings) -> Result<bool, Misconfigured> {
    store_file(settings).map(SqliteStore::is_there)
}

/// The process of the worker that runs on the store; `None` if none does.
///
/// # Errors
/// A sentence, if that can't be known.
pub fn worker_process(settings: &Settings) -> anyhow::Result<Option<String>> {
    let path = store_file(settings)?;
    SqliteStore::worker_on(path)
        .with_context(|| format!("can't see whether a worker runs on {}", path.display()))
}

/// Opens the store alone.
///
/// # Errors
/// [`Misconfigured`] with a sentence.
pub fn open_store(settings: &Settings, role: Role) -> anyhow::Result<Arc<SqliteStore>> {
    let path = store_file(settings)?;
    let key_file = settings.secrets.key_file.clone().unwrap_or_else(|| beside(path));
    SqliteStore::open_with_key_file(path, role, &key_file).map_err(from_store)
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
        std::fs::read_to_string(path)
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
        StoreError::Unavailable(line) => anyhow::anyhow!(line),
        StoreError::Refused(line) | StoreError::Corrupt(line) => Misconfigured(line).into(),
    }
}
