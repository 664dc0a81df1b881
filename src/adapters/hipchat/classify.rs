//! What came back from a room's server, as an answer that the worker can act on.
//!
//! The contract's table of answers lives here, and nowhere else. It is applied while status, headers and the
//! typed transport error are still in hand. The detail is for people: what happened, what the server said of
//! it, and what to do. It holds no token, neither ours nor another (see `redact`).
//!
//! | HipChat answers | class |
//! | --- | --- |
//! | 2xx | accepted |
//! | 429, 403 that speaks of the rate limit | rate limited |
//! | 408, 5xx; 407, 421, 425 (between here and the room); no connection, timeout | unavailable |
//! | 400, 413, 422, and 4xx not named elsewhere: about the message | refused |
//! | 401, 403, 404, 405, 410, 3xx: about the integration | broken |

use std::error::Error;
use std::io;
use std::time::Duration;

use jiff::Timestamp;
use reqwest::header::{HeaderMap, LOCATION};
use url::Url;

use super::egress::EgressDenied;
use super::limits::Limits;
use super::redact::Redactor;
use crate::domain::pacing::LimitHint;
use crate::domain::patience::Patience;
use crate::ports::{Answer, AnswerClass};

/// The longest part of a server's own words that is kept, in characters.
const LONGEST_QUOTE: usize = 200;

/// An HTTP answer as far as it was read.
#[derive(Debug, Clone, Copy)]
pub struct Reply<'a> {
    pub status: u16,
    pub headers: &'a HeaderMap,
    /// May be cut off anywhere, empty, or anything but JSON.
    pub body: &'a [u8],
    /// When it came.
    pub at: Timestamp,
}

/// Classifies an HTTP answer. Never panics, whatever the server sent.
pub fn classify_reply(reply: Reply<'_>, redactor: &Redactor<'_>) -> Answer {
    let words = server_words(reply.body);
    let said = redactor.clean(&words, LONGEST_QUOTE);
    let mut limits = Limits::read(reply.headers, reply.at);
    let (class, advice) = match verdict(reply.status, &words) {
        Verdict::RateLimited => {
            let until = limits.blame(reply.at);
            (
                AnswerClass::RateLimited { until },
                format!("the rate limit is reached, waiting until {until:.0}"),
            )
        }
        Verdict::Is(class, "") => (class, String::new()),
        Verdict::Is(class, advice) => (class, advice.to_owned()),
        Verdict::Moved => (AnswerClass::Broken, moved(reply.headers, redactor)),
    };
    let mut detail = format!("HipChat answered {}", reply.status);
    for (joint, part) in [(": ", said), ("; ", advice)] {
        if !part.is_empty() {
            detail.push_str(joint);
            detail.push_str(&part);
        }
    }
    Answer { status: Some(reply.status), class, detail, room_limit: limits.room, token_limit: limits.token }
}

/// What a status means, with what to do about it.
enum Verdict {
    Is(AnswerClass, &'static str),
    RateLimited,
    Moved,
}

fn verdict(status: u16, words: &str) -> Verdict {
    use AnswerClass::{Accepted, Broken, Refused, Unavailable};
    match status {
        200..=299 => Verdict::Is(Accepted, ""),
        300..=399 => Verdict::Moved,
        401 => Verdict::Is(
            Broken,
            "the token is not accepted: make a new one in HipChat and set the new room URL",
        ),
        // API v1, and proxies in front of it, say 403 for the rate limit.
        403 if words.to_ascii_lowercase().contains("rate limit") => Verdict::RateLimited,
        403 => Verdict::Is(
            Broken,
            "the token may not post to this room: make one with the scope send_notification for it and set the new room URL",
        ),
        404 => Verdict::Is(
            Broken,
            "there is no such room, or the token is not for it: check the room in the room URL",
        ),
        405 => Verdict::Is(
            Broken,
            "the room URL does not lead to a room's notifications: check how the room's name is encoded",
        ),
        407 => Verdict::Is(Unavailable, "the proxy asks for a login: check the proxy's URL in the settings"),
        408 | 421 | 425 => Verdict::Is(Unavailable, ""),
        410 => Verdict::Is(Broken, "the room is gone: set another room URL, or remove the integration"),
        429 => Verdict::RateLimited,
        400..=499 => Verdict::Is(Refused, ""),
        _ => Verdict::Is(Unavailable, ""),
    }
}

/// Redirects are not followed: a POST would become a GET, and the token would go to whoever is named.
fn moved(headers: &HeaderMap, redactor: &Redactor<'_>) -> String {
    let leads_to =
        headers.get(LOCATION).and_then(|value| value.to_str().ok()).and_then(|text| Url::parse(text).ok());
    let advice = "redirects are not followed: set the room URL that is valid now";
    match leads_to.as_ref().and_then(Url::host_str) {
        Some(host) => format!("{advice}; it leads to {}", redactor.clean(host, LONGEST_QUOTE)),
        None => advice.to_owned(),
    }
}

/// What the server says about its answer: `error.message` of HipChat's JSON, else the body as text.
fn server_words(body: &[u8]) -> String {
    let json: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let message = json.as_ref().and_then(|json| {
        let error = json.get("error").unwrap_or(json);
        [error.get("message"), Some(error), json.get("message")]
            .into_iter()
            .flatten()
            .find_map(|v| v.as_str())
    });
    match (message, json.as_ref().and_then(|json| json.get("success"))) {
        (Some(message), _) => message.to_owned(),
        // The answer to a token test: nothing in it but the status once more.
        (None, Some(_)) => String::new(),
        (None, None) => String::from_utf8_lossy(body).into_owned(),
    }
}

/// What is known of a call that got no answer.
#[derive(Debug, Clone, Copy)]
pub struct Silence<'a> {
    /// The room's server, as people know it.
    pub host: &'a str,
    pub connect_timeout: Duration,
    pub timeout: Duration,
}

/// Why `error` came before any connection, where `egress` is the reason.
pub fn denial(error: &reqwest::Error) -> Option<&EgressDenied> {
    find(error)
}

/// Classifies a call that ended without an answer, and not by a [`denial`].
pub fn classify_failure(error: &reqwest::Error, silence: Silence<'_>, redactor: &Redactor<'_>) -> Answer {
    let host = silence.host;
    let cause = redactor.clean(&innermost(error), LONGEST_QUOTE);
    let detail = if let Some(tls) = find::<rustls::Error>(error) {
        let reason = redactor.clean(&tls.to_string(), LONGEST_QUOTE);
        format!(
            "TLS with {host} failed: {reason}; if the server has a certificate of your own, name its CA in the settings"
        )
    } else if error.is_timeout() && error.is_connect() {
        format!("no connection to {host} within {:?}", silence.connect_timeout)
    } else if error.is_timeout() {
        format!("no answer from {host} within {:?}", silence.timeout)
    } else if error.is_dns() {
        format!("the name {host} can't be resolved: {cause}")
    } else if error.is_connect() {
        format!("no connection to {host}: {cause}")
    } else {
        format!("the connection to {host} ended before an answer: {cause}")
    };
    unanswered(AnswerClass::Unavailable, detail)
}

/// The answer for an address that may not be reached. A name may lead elsewhere soon; what the URL itself says
/// stays as it is.
pub fn denied_answer(denied: &EgressDenied, patience: &mut Patience, now: Timestamp) -> Answer {
    let class = match denied.name() {
        Some(host) => patience.forbidden(host, now),
        None => AnswerClass::Broken,
    };
    unanswered(class, denied.to_string())
}

/// An answer with no status and no headers.
fn unanswered(class: AnswerClass, detail: String) -> Answer {
    let unknown = LimitHint::default();
    Answer { status: None, class, detail, room_limit: unknown, token_limit: unknown }
}

/// The first error of type `E` in the chain of causes. An `io::Error` hides what it wraps from `source()`,
/// so it is looked into as well.
fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    causes(error).find_map(|cause| cause.downcast_ref::<E>())
}

fn innermost(error: &(dyn Error + 'static)) -> String {
    causes(error).last().map(ToString::to_string).unwrap_or_default()
}

/// The causes below `error`, outermost first. Leaves out `error` itself: reqwest's own text names the URL.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(below(error), |cause| below(*cause))
}

fn below<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    match wrapped {
        Some(wrapped) => Some(wrapped),
        None => error.source(),
    }
}

#[cfg(test)]
#[path = "classify_tests.rs"]
mod tests;
