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

/// What the worker does about an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerClass {
    /// 2xx.
    Accepted,
    /// 429, or a 403 that speaks of the rate limit: wait until then, at no cost.
    RateLimited { until: Timestamp },
    /// 408, 5xx, no connection, timeout.
    Unavailable,
    /// 400, 413, 422: this message, in this form.
    Refused,
    /// 401, 403, 404, 405, 410, 3xx, or an address that `egress` does not allow: this integration.
    Broken,
}
