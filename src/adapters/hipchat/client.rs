//! The call itself: one POST to a room's notification URL, with bounds on time and on what is read.
//!
//! Never retries, waits or follows a redirect, and never returns an error: whatever happens is an `Answer`.
//! The token travels in a header that is marked as sensitive (or in the query, where a stand-in wants that)
//! and is never in an error, a detail, a log line or a `Debug` text; `tests/it/hipchat.rs` proves it over
//! all kinds of failure.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Certificate, Client, ClientBuilder, NoProxy, Proxy, Response, redirect};
use secrecy::ExposeSecret;
use url::{Host, Url};

use super::classify::{Reply, Silence, classify_failure, classify_reply, denied_answer};
use super::egress::{CheckedResolver, Egress, Scheme};
use super::redact::Redactor;
use super::wire;
use crate::adapters::tls::ensure_crypto_provider;
use crate::domain::message::{Color, RoomMessage};
use crate::ports::{Answer, Clock, RoomGateway, RoomTarget};

/// How long the body of a good answer is waited for. Nothing in it matters; reading it to its end only
/// lets the connection be used again.
const DRAIN_GRACE: Duration = Duration::from_millis(250);
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

/// Posts to HipChat rooms. Cheap to share; holds the connection pools.
pub struct HipchatGateway {
    /// One client a scheme, since what a name may resolve to differs (see `egress`).
    https: Client,
    http: Client,
    egress: Arc<Egress>,
    clock: Arc<dyn Clock>,
    options: HipchatOptions,
}

impl HipchatGateway {
    /// Reads the CA file and sets up the clients; makes no connection.
    pub fn new(options: HipchatOptions, egress: Egress, clock: Arc<dyn Clock>) -> Result<Self, HipchatError> {
        ensure_crypto_provider();
        let egress = Arc::new(egress);
        let roots = read_roots(&options)?;
        let https = build_https(&options, &egress, &roots)?;
        // No TLS but perhaps to the proxy, so it need not load the system's certificates a second time.
        let http = match &options.proxy {
            Some(_) => https_builder(&options, &egress, Scheme::Http)?.tls_certs_merge(roots),
            None => https_builder(&options, &egress, Scheme::Http)?.tls_certs_only([]),
        };
        let http = http.build().map_err(client_error)?;
        Ok(Self { https, http, egress, clock, options })
    }

    /// Asks the room's server whether the token may post, with `auth_test=true`: nothing is posted. An
    /// accepted answer other than 202 says so in its detail, since that server may have posted the test.
    pub async fn auth_test(&self, target: &RoomTarget) -> Answer {
        let message = RoomMessage {
            html: String::from("Token test by hipchat-notifier (auth_test=true); not meant to be shown."),
            color: Color::Gray,
            notify: false,
            from: None,
            card: None,
        };
        let mut url = target.endpoint.clone();
        url.query_pairs_mut().append_pair("auth_test", "true");
        let mut answer = self.call(target, url, wire::to_bytes(&message)).await;
        if matches!(answer.status, Some(status) if (200..300).contains(&status) && status != 202) {
            answer
                .detail
                .push_str(" instead of 202: the server may not know auth_test and have posted the test");
        }
        answer
    }

    async fn call(&self, target: &RoomTarget, mut url: Url, body: Vec<u8>) -> Answer {
        if let Err(denied) = self.egress.check(&url) {
            return denied_answer(&denied);
        }
        let redactor = Redactor::new(&target.token);
        let silence = Silence {
            host: &host_and_port(&target.endpoint),
            connect_timeout: self.options.connect_timeout,
            timeout: self.options.timeout,
        };
        if self.options.token_in == TokenIn::Query {
            url.query_pairs_mut().append_pair("auth_token", target.token.expose_secret());
        }
        let client = if url.scheme() == "https" { &self.https } else { &self.http };
        let mut request = client.post(url).header(CONTENT_TYPE, "application/json").body(body);
        if self.options.token_in == TokenIn::Header
            && let Some(bearer) = bearer(target)
        {
            request = request.header(AUTHORIZATION, bearer);
        }
        match request.send().await {
            Ok(response) => self.read(response, &redactor).await,
            Err(error) => classify_failure(&error.without_url(), silence, &redactor),
        }
    }

    async fn read(&self, mut response: Response, redactor: &Redactor<'_>) -> Answer {
        let at = self.clock.now();
        let status = response.status().as_u16();
        let body = if response.status().is_success() {
            let drained = read_body(&mut response, self.options.max_body);
            tokio::time::timeout(DRAIN_GRACE, drained).await.unwrap_or_default()
        } else {
            read_body(&mut response, self.options.max_body).await
        };
        classify_reply(Reply { status, headers: response.headers(), body: &body, at }, redactor)
    }
}

#[async_trait]
impl RoomGateway for HipchatGateway {
    async fn post(&self, target: &RoomTarget, message: &RoomMessage) -> Answer {
        self.call(target, target.endpoint.clone(), wire::to_bytes(message)).await
    }
}

impl std::fmt::Debug for HipchatGateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HipchatGateway")
            .field("options", &self.options)
            .field("egress", &self.egress)
            .finish_non_exhaustive()
    }
}

/// Reads at most `limit` bytes. A body that breaks off or takes too long ends where it is: the status has
/// come, and it alone decides.
async fn read_body(response: &mut Response, limit: usize) -> Vec<u8> {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        let room = limit - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if body.len() >= limit {
            break;
        }
    }
    body
}

/// `None` for a token that no header can hold; `parse_room_url` lets none through. The server then says
/// that there was no token.
fn bearer(target: &RoomTarget) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(format!("Bearer {}", target.token.expose_secret())).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn host_and_port(endpoint: &Url) -> String {
    let host = endpoint.host_str().unwrap_or_default();
    endpoint.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn read_roots(options: &HipchatOptions) -> Result<Vec<Certificate>, HipchatError> {
    let Some(path) = &options.ca_file else { return Ok(Vec::new()) };
    let fault = |reason: String| HipchatError::CaFile { path: path.clone(), reason };
    let pem = std::fs::read(path).map_err(|error| fault(error.to_string()))?;
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
    let builder = || Ok(https_builder(options, egress, Scheme::Https)?.https_only(true));
    match builder()?.tls_certs_merge(roots.to_vec()).build() {
        Ok(client) => Ok(client),
        // A system without any CA certificates. Rooms on plain http can still be served; for others the
        // answer's detail says that the certificate is not trusted.
        Err(error) if roots.is_empty() => {
            tracing::warn!(
                error = causes(&error),
                "no CA certificates found on this system: no https room can be reached; install ca-certificates or name a CA file"
            );
            builder()?.tls_certs_only([]).build().map_err(client_error)
        }
        Err(error) => Err(client_error(error)),
    }
}

/// All that both clients have in common.
fn https_builder(
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
        .referer(false)
        .pool_max_idle_per_host(IDLE_PER_HOST)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .tcp_keepalive(KEEPALIVE)
        .http2_keep_alive_interval(KEEPALIVE)
        .http2_keep_alive_timeout(options.timeout)
        .dns_resolver(Arc::new(CheckedResolver { egress: Arc::clone(egress), scheme, proxy_host }))
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
    if !matches!(url.host(), Some(Host::Domain(name)) if !name.is_empty())
        && !matches!(url.host(), Some(Host::Ipv4(_) | Host::Ipv6(_)))
    {
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
