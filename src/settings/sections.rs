//! The validated settings, one struct a section. `config/default.toml` says what each key means and why its
//! default is what it is.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use crate::domain::pacing::Budget;
use crate::domain::retry::RetryRule;

/// All settings, validated, each value in range and all of them consistent with one another.
#[derive(Debug, Clone)]
pub struct Settings {
    pub amqp: AmqpSettings,
    pub store: StoreSettings,
    pub integrations: IntegrationsSettings,
    pub http: HttpSettings,
    pub egress: EgressSettings,
    pub secrets: SecretsSettings,
    pub pacing: PacingSettings,
    pub retry: RetryRule,
    pub notifications: NotificationSettings,
    pub journal: JournalSettings,
    pub links: LinkSettings,
    pub hipchat: HipchatSettings,
    pub dispatch: DispatchSettings,
    pub shutdown: ShutdownSettings,
    pub log: LogSettings,
}

/// `[amqp]`.
#[derive(Debug, Clone)]
pub struct AmqpSettings {
    /// The addresses of one broker or cluster, to be tried in turn; at least one. From `amqp.url` or `amqp.urls`.
    pub urls: Vec<SecretUrl>,
    pub exchange: String,
    pub queue: String,
    /// The name of both the dead-letter exchange and its queue.
    pub dead_letters: String,
    pub prefetch: u16,
    pub batch: usize,
    /// Whole seconds.
    pub heartbeat: Duration,
    /// Holds where several workers share a store.
    pub yield_after: Duration,
    pub ca_file: Option<PathBuf>,
}

/// `[store]`.
#[derive(Debug, Clone)]
pub struct StoreSettings {
    pub url: StoreUrl,
    /// To PostgreSQL, at most.
    pub connections: usize,
    /// Whether whoever opens the store brings its schema up to date.
    pub migrate: bool,
}

/// Where the store is.
#[derive(Debug, Clone)]
pub enum StoreUrl {
    Sqlite(PathBuf),
    Postgres(SecretUrl),
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => path.display().fmt(f),
            Self::Postgres(url) => url.fmt(f),
        }
    }
}

/// `[integrations]`.
#[derive(Debug, Clone)]
pub struct IntegrationsSettings {
    pub file: Option<PathBuf>,
}

/// `[http]`.
#[derive(Debug, Clone)]
pub struct HttpSettings {
    pub listen: SocketAddr,
    /// From `http.bearer_token` or `http.bearer_token_file`. Always set where `listen` is beyond loopback.
    pub bearer_token: Option<SecretString>,
}

/// `[egress]`.
#[derive(Debug, Clone)]
pub struct EgressSettings {
    /// Hosts, addresses, networks; hosts and addresses also with a port. Well-formed.
    pub allow: Vec<String>,
}

/// `[secrets]`.
#[derive(Debug, Clone)]
pub struct SecretsSettings {
    /// Given itself, or the file that holds it. `None`: beside the SQLite store.
    pub key: Option<KeySource>,
}

/// Where the key comes from.
#[derive(Debug, Clone)]
pub enum KeySource {
    File(PathBuf),
    /// 64 hex digits.
    Given(SecretString),
}

/// `[pacing.room]` and `[pacing.token]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PacingSettings {
    pub room: Budget,
    pub token: Budget,
}

/// `[notifications]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotificationSettings {
    pub max_age: Duration,
}

/// `[journal]`: not shorter than `notifications.max_age`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalSettings {
    pub keep: Duration,
}

/// `[links]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkSettings {
    /// URI templates (RFC 6570) by `monitor`, `run`, `collection` or the name of a model, in lower case. Empty:
    /// switched off.
    pub templates: BTreeMap<String, String>,
}

/// `[hipchat]`: `connect_timeout <= timeout`.
#[derive(Debug, Clone)]
pub struct HipchatSettings {
    pub connect_timeout: Duration,
    pub timeout: Duration,
    pub token_in: TokenIn,
    pub ca_file: Option<PathBuf>,
    pub proxy: Option<SecretUrl>,
    pub no_proxy: Vec<String>,
}

/// Where a room's token goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenIn {
    /// `Authorization: Bearer`.
    Header,
    /// `?auth_token=`.
    Query,
}

/// `[dispatch]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DispatchSettings {
    pub concurrency: usize,
    /// Longer than `hipchat.timeout`.
    pub lease: Duration,
}

/// `[shutdown]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShutdownSettings {
    pub grace: Duration,
}

/// `[log]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// `None`: human on a terminal, else JSON.
    pub format: Option<LogFormat>,
    /// Directives as `tracing_subscriber::EnvFilter` reads them.
    pub level: String,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Human,
    Json,
}

/// A URL that may hold a password. `Debug` and `Display` show it without.
#[derive(Clone)]
pub struct SecretUrl {
    full: SecretString,
    redacted: String,
}

impl SecretUrl {
    /// Keeps `text` as it was written, so that whoever connects reads it by its own rules. `url` is what it
    /// was parsed to.
    pub(super) fn new(text: &str, url: &Url) -> Self {
        let mut redacted = url.clone();
        if redacted.password().is_some() {
            // Refused only for URLs without a host; they have no password either.
            let _ = redacted.set_password(Some("***"));
        }
        if redacted.query().is_some() {
            redacted.set_query(Some("***"));
        }
        redacted.set_fragment(None);
        Self { full: SecretString::from(text), redacted: redacted.into() }
    }

    /// The whole URL. For the one place that connects.
    pub fn expose(&self) -> &str {
        self.full.expose_secret()
    }

    /// The URL without password and query, for people.
    pub fn redacted(&self) -> &str {
        &self.redacted
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.redacted)
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.redacted)
    }
}
