//! How rooms are reached: the options, and the HTTP clients that are built from them once.
//!
//! Makes no connection. Errors name the option that is wrong and hold no secret of a proxy's URL.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::HeaderValue;
use reqwest::{Certificate, Client, ClientBuilder, NoProxy, Proxy, redirect};
use url::Url;

use super::egress::{CheckedResolver, Egress, Scheme, by_system};
use crate::adapters::tls::ensure_crypto_provider;
use crate::files;

/// Idle connections kept per server. Thousands of rooms live on few servers, and with HTTP/1.1 each call in
/// flight has a connection of its own.
const IDLE_PER_HOST: usize = 128;
/// Shorter than the usual 60 to 75 s after which servers close idle connections, so that a call seldom
/// meets one that is just being closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(45);
/// How soon a connection whose other side has vanished is noticed while it is not used.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Where the token travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TokenIn {
    /// `Authorization: Bearer …`: stays out of servers' access logs.
    #[default]
    Header,
    /// `?auth_token=…`, for stand-ins that know no other way.
    Query,
}

/// How to reach rooms. The defaults are HipChat's own circumstances.
#[derive(Clone)]
pub struct HipchatOptions {
    /// For name resolution, TCP and TLS together.
    pub connect_timeout: Duration,
    /// For a whole call, from its start to the end of the answer's body.
    pub timeout: Duration,
    pub token_in: TokenIn,
    /// A PEM file with certificates of CAs that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
    /// An `http` or `https` proxy for all calls, possibly with user and password. The `*_PROXY` variables
    /// of the environment are not used.
    pub proxy: Option<Url>,
    /// Hosts, domains (`.example.com`) and networks that are reached without the proxy.
    pub no_proxy: Vec<String>,
    pub user_agent: String,
    /// What is read of an answer's body, in bytes; the rest is dropped unread.
    pub max_body: usize,
}

impl Default for HipchatOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(10),
            token_in: TokenIn::Header,
            ca_file: None,
            proxy: None,
            no_proxy: Vec::new(),
            user_agent: concat!("hipchat-notifier/", env!("CARGO_PKG_VERSION")).to_owned(),
            max_body: 16 * 1024,
        }
    }
}

impl std::fmt::Debug for HipchatOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HipchatOptions")
            .field("connect_timeout", &self.connect_timeout)
            .field("timeout", &self.timeout)
            .field("token_in", &self.token_in)
            .field("ca_file", &self.ca_file)
            .field("proxy", &self.proxy.as_ref().map(|url| url.origin().ascii_serialization()))
            .field("no_proxy", &self.no_proxy)
            .field("user_agent", &self.user_agent)
            .field("max_body", &self.max_body)
            .finish()
    }
}

/// Why the client can't be built: something in its options.
#[derive(Debug, thiserror::Error)]
pub enum HipchatError {
    #[error("the CA file {path:?} can't be used: {reason}")]
    CaFile { path: PathBuf, reason: String },
    #[error("the proxy's URL can't be used: {0}")]
    Proxy(&'static str),
    #[error("the user agent can't be sent: use printable ASCII characters")]
    UserAgent,
    #[error("the HTTP client can't be set up: {0}")]
    Client(String),
}

/// One client a scheme, since what a name may resolve to differs (see `egress`).
pub(super) struct Clients {
    pub(super) https: Client,
    pub(super) http: Client,
}

impl Clients {
    /// Reads the CA file and loads the system's certificates.
    pub(super) fn build(options: &HipchatOptions, egress: &Arc<Egress>) -> Result<Self, HipchatError> {
        ensure_crypto_provider();
        let roots = read_roots(options)?;
        let https = build_https(options, egress, &roots)?;
        let http = builder(options, egress, Scheme::Http)?;
        // No TLS but perhaps to the proxy, so it need not load the system's certificates a second time.
        let http = match &options.proxy {
            Some(_) => http.tls_certs_merge(roots),
            None => http.tls_certs_only([]),
        };
        Ok(Self { https, http: http.build().map_err(client_error)? })
    }
}

fn read_roots(options: &HipchatOptions) -> Result<Vec<Certificate>, HipchatError> {
    let Some(path) = &options.ca_file else { return Ok(Vec::new()) };
    let fault = |reason: String| HipchatError::CaFile { path: path.clone(), reason };
    let mut pem = Vec::new();
    files::read_bytes(path, files::LONGEST_AUTHORITIES, &mut pem)
        .map_err(|error| fault(error.to_string()))?;
    let roots = Certificate::from_pem_bundle(&pem)
        .map_err(|_| fault(String::from("it is not a PEM file with certificates")))?;
    if roots.is_empty() {
        return Err(fault(String::from("it holds no certificate (-----BEGIN CERTIFICATE-----)")));
    }
    // A certificate that is none shows only when it is used; this names the file while it is known.
    ClientBuilder::new()
        .tls_certs_only(roots.clone())
        .build()
        .map_err(|_| fault(String::from("a certificate in it can't be read")))?;
    Ok(roots)
}

fn build_https(
    options: &HipchatOptions,
    egress: &Arc<Egress>,
    roots: &[Certificate],
) -> Result<Client, HipchatError> {
    let https = || Ok(builder(options, egress, Scheme::Https)?.https_only(true));
    match https()?.tls_certs_merge(roots.to_vec()).build() {
        Ok(client) => Ok(client),
        // A system without any CA certificates. Rooms on plain http can still be served; for others the
        // answer's detail says that the certificate is not trusted.
        Err(error) if roots.is_empty() => {
            tracing::warn!(
                error = causes(&error),
                "no CA certificates found on this system: no https room can be reached; install ca-certificates or name a CA file"
            );
            https()?.tls_certs_only([]).build().map_err(client_error)
        }
        Err(error) => Err(client_error(error)),
    }
}

/// All that both clients have in common.
fn builder(
    options: &HipchatOptions,
    egress: &Arc<Egress>,
    scheme: Scheme,
) -> Result<ClientBuilder, HipchatError> {
    let user_agent = HeaderValue::from_str(&options.user_agent).map_err(|_| HipchatError::UserAgent)?;
    let proxy_host = options.proxy.as_ref().and_then(Url::host_str).map(str::to_owned);
    let builder = ClientBuilder::new()
        .user_agent(user_agent)
        .connect_timeout(options.connect_timeout)
        .timeout(options.timeout)
        .redirect(redirect::Policy::none())
        // When it is tried again is not the client's to say; and it would keep a copy of each request for it.
        .retry(reqwest::retry::never())
        .referer(false)
        .pool_max_idle_per_host(IDLE_PER_HOST)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .tcp_keepalive(KEEPALIVE)
        .dns_resolver(Arc::new(CheckedResolver {
            lookup: by_system,
            egress: Arc::clone(egress),
            scheme,
            proxy_host,
        }))
        // Or the environment's proxy would be used, past the check of addresses.
        .no_proxy();
    match &options.proxy {
        Some(url) => Ok(builder.proxy(proxy(url, &options.no_proxy)?)),
        None => Ok(builder),
    }
}

fn proxy(url: &Url, exceptions: &[String]) -> Result<Proxy, HipchatError> {
    if !matches!(url.scheme(), "http" | "https") {
        return Err(HipchatError::Proxy("its scheme must be http or https"));
    }
    if url.host().is_none() {
        return Err(HipchatError::Proxy("it has no host"));
    }
    // The error's text holds the URL, password included.
    let proxy = Proxy::all(url.as_str()).map_err(|_| HipchatError::Proxy("it is not a proxy's URL"))?;
    Ok(proxy.no_proxy(NoProxy::from_string(&exceptions.join(","))))
}

fn client_error(error: reqwest::Error) -> HipchatError {
    HipchatError::Client(causes(&error.without_url()))
}

/// An error's causes in one line; reqwest's own text alone says only "builder error".
fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let chain = std::iter::successors(Some(error), |cause| cause.source());
    chain.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
