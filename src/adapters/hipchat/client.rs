//! The call itself: one POST to a room's notification URL, with bounds on time and on what is read.
//!
//! Never retries, waits or follows a redirect, and never returns an error: whatever happens is an `Answer`.
//! The token travels in a header that is marked as sensitive (or in the query, where a stand-in wants that)
//! and is never in an error, a detail, a log line or a `Debug` text; `tests/it/hipchat.rs` proves it over
//! all kinds of failure.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Client, Response};
use secrecy::ExposeSecret;
use url::Url;

use super::classify::{Reply, Silence, classify_failure, classify_reply, denial, denied_answer};
use super::egress::Egress;
use super::redact::Redactor;
use super::setup::{Clients, HipchatError, HipchatOptions, TokenIn};
use super::wire;
use crate::domain::message::{Color, RoomMessage};
use crate::domain::patience::Patience;
use crate::ports::{Answer, Clock, RoomGateway, RoomTarget};

/// How long the body of a good answer is waited for. Nothing in it matters; reading it to its end only
/// lets the connection be used again.
const DRAIN_GRACE: Duration = Duration::from_millis(250);

/// Posts to HipChat rooms. Cheap to share; holds the connection pools.
pub struct HipchatGateway {
    /// One client a scheme, since what a name may resolve to differs (see `egress`).
    https: Client,
    http: Client,
    egress: Arc<Egress>,
    clock: Arc<dyn Clock>,
    options: HipchatOptions,
    /// With names that lead to forbidden addresses.
    patience: Mutex<Patience>,
}

impl HipchatGateway {
    /// Reads the CA file and sets up the clients; makes no connection.
    pub fn new(options: HipchatOptions, egress: Egress, clock: Arc<dyn Clock>) -> Result<Self, HipchatError> {
        let egress = Arc::new(egress);
        let Clients { https, http } = Clients::build(&options, &egress)?;
        Ok(Self { https, http, egress, clock, options, patience: Mutex::default() })
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
            return denied_answer(&denied, &mut self.patience(), self.clock.now());
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
            Ok(response) => {
                self.patience().reached(target.endpoint.host_str().unwrap_or_default());
                self.read(response, &redactor).await
            }
            Err(error) => match denial(&error) {
                Some(denied) => denied_answer(denied, &mut self.patience(), self.clock.now()),
                None => classify_failure(&error.without_url(), silence, &redactor),
            },
        }
    }

    fn patience(&self) -> MutexGuard<'_, Patience> {
        // No step of it leaves it half changed.
        self.patience.lock().unwrap_or_else(PoisonError::into_inner)
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
