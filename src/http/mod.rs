//! `/healthz`, `/readyz` and `/metrics`: what orchestrators and Prometheus ask.
//!
//! Reads state, changes none. `/metrics` wants the bearer token where one is configured; the two probes never
//! do, since an orchestrator has none and they tell nothing secret.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use crate::metrics::Metrics;
use crate::ports::Readiness;

/// What the endpoints show.
pub struct Status {
    pub metrics: Arc<Metrics>,
    /// Every part that must be well for the worker to be ready.
    pub readiness: Vec<Arc<dyn Readiness>>,
    /// Brings up to date what is read when it is asked for instead of being counted.
    pub refresh: Box<dyn Fn(&Metrics) + Send + Sync>,
    pub bearer_token: Option<SecretString>,
}

/// A listener that is bound but serves nothing yet, so that a taken port is a start-up error.
pub struct StatusServer {
    listener: tokio::net::TcpListener,
    router: Router,
}

impl StatusServer {
    /// Binds `listen`.
    ///
    /// # Errors
    /// Whatever the system says of the address.
    pub async fn bind(listen: SocketAddr, status: Status) -> std::io::Result<Self> {
        let listener = tokio::net::TcpListener::bind(listen).await?;
        Ok(Self { listener, router: router(status) })
    }

    /// Where it listens; the port is the real one even if 0 was asked for.
    ///
    /// # Errors
    /// If the system can't say.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `shutdown` is ready.
    ///
    /// # Errors
    /// If the listener fails for good.
    pub async fn serve(self, shutdown: impl Future<Output = ()> + Send + 'static) -> std::io::Result<()> {
        axum::serve(self.listener, self.router).with_graceful_shutdown(shutdown).await
    }
}

fn router(status: Status) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(Arc::new(status))
}

/// 200 only while every part is well; else 503 with a line for each that is not.
async fn readyz(State(status): State<Arc<Status>>) -> Response {
    let mut faults = Vec::new();
    for part in &status.readiness {
        if let Err(why) = part.ready().await {
            faults.push(why);
        }
    }
    if faults.is_empty() {
        (StatusCode::OK, "ready\n").into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, faults.join("\n") + "\n").into_response()
    }
}

async fn metrics(State(status): State<Arc<Status>>, headers: HeaderMap) -> Response {
    if !authorised(&status, &headers) {
        return (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")], "bearer token wanted\n")
            .into_response();
    }
    (status.refresh)(&status.metrics);
    let text_form = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, text_form)], status.metrics.render()).into_response()
}

fn authorised(status: &Status, headers: &HeaderMap) -> bool {
    let Some(wanted) = &status.bearer_token else { return true };
    let given = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    // Digests are compared, so that the time it takes tells nothing of the token.
    given.is_some_and(|given| Sha256::digest(given) == Sha256::digest(wanted.expose_secret()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(token: Option<&str>) -> Status {
        Status {
            metrics: Arc::new(Metrics::default()),
            readiness: Vec::new(),
            refresh: Box::new(|_| {}),
            bearer_token: token.map(SecretString::from),
        }
    }

    fn asked_with(value: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, header::HeaderValue::from_static(value));
        headers
    }

    #[test]
    fn metrics_want_the_configured_token_and_no_other() {
        assert!(authorised(&status(None), &HeaderMap::new()));
        assert!(authorised(&status(Some("s3cret")), &asked_with("Bearer s3cret")));
        for wrong in ["Bearer s3cre", "Bearer s3cret2", "s3cret", "Basic s3cret", "Bearer "] {
            assert!(!authorised(&status(Some("s3cret")), &asked_with(wrong)), "{wrong}");
        }
        assert!(!authorised(&status(Some("s3cret")), &HeaderMap::new()));
    }
}
