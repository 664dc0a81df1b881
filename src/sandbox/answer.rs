//! HipChat's answers: status, error body and the headers of both limits.
//!
//! It decides nothing: what to answer is the business of `calls`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::http::header::{self, HeaderName, HeaderValue};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde_json::{Value, json};

use super::faults::{Manners, ResetStyle, RetryAfter};
use super::limits::Allowance;
use super::validate::Rejection;

/// An answer before it is put on the wire.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Option<Value>,
    pub(super) limits: Limits,
}

/// What both limits have left, as far as the call got to them.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Limits {
    pub(super) token: Option<Allowance>,
    pub(super) room: Option<Allowance>,
}

impl Answer {
    /// The message was taken: 204, no body.
    pub(super) fn accepted() -> Self {
        Self { status: StatusCode::NO_CONTENT, body: None, limits: Limits::default() }
    }

    /// The answer to `auth_test=true`: the token may be used here.
    pub(super) fn auth_test() -> Self {
        let body = json!({"success": {
            "code": 202, "type": "Accepted",
            "message": "This auth_token has access to use this method.",
        }});
        Self { status: StatusCode::ACCEPTED, body: Some(body), limits: Limits::default() }
    }

    /// An error in HipChat's form.
    pub(super) fn error(status: StatusCode, message: &str) -> Self {
        let rejection = Rejection { message: message.to_owned(), ..Rejection::default() };
        Self::rejection(status, rejection)
    }

    /// A refused body, with what HipChat tells about the field.
    pub(super) fn rejection(status: StatusCode, rejection: Rejection) -> Self {
        let mut error = json!({
            "code": status.as_u16(),
            "type": status.canonical_reason().unwrap_or("Unknown"),
            "message": rejection.message,
        });
        let optional = [
            ("field", rejection.field.map(Value::from)),
            ("validation", rejection.validation.map(Value::from)),
            ("expected_type", rejection.expected_type),
            ("value", rejection.value),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                error[name] = value;
            }
        }
        Self { status, body: Some(json!({"error": error})), limits: Limits::default() }
    }

    pub(super) fn with(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The answer as HTTP, with the limits told in the asked manner.
    pub(super) fn into_response(self, manners: &Manners) -> Response {
        let Self { status, body, limits } = self;
        let mut response = match body {
            None => Response::new(Body::empty()),
            Some(body) => Response::new(Body::from(body.to_string())),
        };
        *response.status_mut() = status;
        let headers = response.headers_mut();
        if status != StatusCode::NO_CONTENT {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(header::ALLOW, HeaderValue::from_static("POST"));
        }
        tell(headers, limits, manners);
        if let Some(seconds) = retry_after(status, limits, manners) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

const RATE: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit"),
    HeaderName::from_static("x-ratelimit-remaining"),
    HeaderName::from_static("x-ratelimit-reset"),
];
const FLOOD: [HeaderName; 3] = [
    HeaderName::from_static("x-floodcontrol-limit"),
    HeaderName::from_static("x-floodcontrol-remaining"),
    HeaderName::from_static("x-floodcontrol-reset"),
];

fn tell(headers: &mut HeaderMap, limits: Limits, manners: &Manners) {
    for (names, allowance) in [(RATE, limits.token), (FLOOD, limits.room)] {
        let Some(allowance) = allowance else { continue };
        let [limit, remaining, reset] = names;
        headers.insert(limit, HeaderValue::from(allowance.limit));
        headers.insert(remaining, HeaderValue::from(allowance.remaining));
        let at = match manners.reset_style {
            ResetStyle::Epoch => epoch_seconds(allowance.resets_in),
            ResetStyle::Seconds => whole_seconds(allowance.resets_in),
        };
        headers.insert(reset, HeaderValue::from(at));
    }
}

fn retry_after(status: StatusCode, limits: Limits, manners: &Manners) -> Option<u64> {
    match manners.retry_after? {
        RetryAfter::Seconds(seconds) => Some(seconds),
        RetryAfter::WhenLimited(wanted) => {
            let exhausted =
                limits.token.into_iter().chain(limits.room).filter(|allowance| allowance.remaining == 0);
            let wait = exhausted.map(|allowance| allowance.resets_in).max()?;
            (wanted && status == StatusCode::TOO_MANY_REQUESTS).then(|| whole_seconds(wait))
        }
    }
}

/// Rounded up, so that a client that waits as told is never early.
fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

#[expect(clippy::disallowed_methods, reason = "the sandbox judges alone and by its own clock")]
fn epoch_seconds(wait: Duration) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    whole_seconds(now.saturating_add(wait))
}
