//! What a room's server said, and what it means for the worker.

use jiff::Timestamp;

use super::pacing::LimitHint;

/// What a room's server said, or that it said nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub status: Option<u16>,
    pub class: AnswerClass,
    /// For people: what happened, with what the server said of it, shortened. No secret in it.
    pub detail: String,
    /// From `X-FloodControl-*`: the room's budget.
    pub room_limit: LimitHint,
    /// From `X-Ratelimit-*`: the token's budget.
    pub token_limit: LimitHint,
}

/// What the worker does about an answer. `adapters::hipchat::classify` says which status is which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerClass {
    /// 2xx.
    Accepted,
    /// 429, or a 403 that speaks of the rate limit: wait until then, at no cost.
    RateLimited { until: Timestamp },
    /// 408, 5xx, no connection, timeout, or a name that leads to a forbidden address for now (see `patience`).
    Unavailable,
    /// 400, 413, 422: this message, in this form.
    Refused,
    /// 401, 403, 404, 405, 410, 3xx, or an address that `egress` does not allow: this integration.
    Broken,
}

impl AnswerClass {
    /// Every string that [`AnswerClass::as_str`] gives.
    pub const RESULTS: [&'static str; 5] = ["accepted", "rate-limited", "unavailable", "refused", "broken"];

    /// The stable string, for metrics.
    pub fn as_str(self) -> &'static str {
        let [accepted, rate_limited, unavailable, refused, broken] = Self::RESULTS;
        match self {
            Self::Accepted => accepted,
            Self::RateLimited { .. } => rate_limited,
            Self::Unavailable => unavailable,
            Self::Refused => refused,
            Self::Broken => broken,
        }
    }
}
