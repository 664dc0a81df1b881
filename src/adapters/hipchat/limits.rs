//! What an answer's headers say about HipChat's two rate limits.
//!
//! `X-FloodControl-*` is the room's limit (30 messages a minute), `X-Ratelimit-*` the token's (500 calls in
//! 5 minutes). Source: Atlassian, "HipChat REST API rate limits". `Reset` is Unix time by the documentation,
//! but was also seen as the literal `60`; `Retry-After` is in no documentation, but proxies add it. Headers
//! come from outside: whatever can't be read is taken as not there.

use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use reqwest::header::{DATE, HeaderMap, HeaderName, RETRY_AFTER};

use crate::domain::pacing::{LONGEST_SERVER_WAIT, LimitHint, later};

/// The wait where a server says that the limit is reached, but not until when: the room limit's window.
const DEFAULT_WAIT: Duration = Duration::from_secs(60);
/// The least a rate-limited caller waits, also when the reset is over by our clock: knocking at once again
/// keeps a limited caller limited.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);
/// Smaller numbers are seconds from now; as Unix time they would be before September 2001.
const FIRST_EPOCH_SECOND: f64 = 1_000_000_000.0;

/// The headers of one limit.
struct Family {
    limit: &'static str,
    remaining: &'static str,
    reset: &'static str,
}

/// The room's.
const FLOOD_CONTROL: Family = Family {
    limit: "x-floodcontrol-limit",
    remaining: "x-floodcontrol-remaining",
    reset: "x-floodcontrol-reset",
};

/// The token's.
const RATE_LIMIT: Family =
    Family { limit: "x-ratelimit-limit", remaining: "x-ratelimit-remaining", reset: "x-ratelimit-reset" };

/// The headers of one answer, read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// From `X-FloodControl-*`.
    pub room: LimitHint,
    /// From `X-Ratelimit-*`.
    pub token: LimitHint,
    pub retry_after: Option<Timestamp>,
}

impl Limits {
    /// Reads an answer's headers; `now` is the time at which it came. Where the server tells its own time
    /// (`Date`), its times are taken relative to that, so that a clock that is off does not matter.
    pub fn read(headers: &HeaderMap, now: Timestamp) -> Self {
        let clock = ServerClock::new(headers, now);
        Self {
            room: family(headers, &FLOOD_CONTROL, &clock),
            token: family(headers, &RATE_LIMIT, &clock),
            retry_after: whole(headers, RETRY_AFTER).and_then(|value| clock.retry_after(value)),
        }
    }

    /// For an answer that says "too many": until when to wait, between a second and
    /// [`LONGEST_SERVER_WAIT`]. It is the latest reset of the limits that are used up, else `Retry-After`,
    /// else a minute. Leaves `remaining: 0` and a reset in the hint of each limit that is to blame; where
    /// the headers don't tell, that is the room's, the one that is reached first.
    pub fn blame(&mut self, now: Timestamp) -> Timestamp {
        let fallback = self.retry_after.unwrap_or_else(|| later(now, DEFAULT_WAIT));
        let (room, token) = self.used_up();
        let mut until = None;
        for (hint, to_blame) in [(&mut self.room, room), (&mut self.token, token)] {
            if to_blame {
                let reset = clamp(hint.reset_at.unwrap_or(fallback), now);
                (hint.remaining, hint.reset_at) = (Some(0), Some(reset));
                until = until.max(Some(reset));
            }
        }
        until.unwrap_or_else(|| {
            let reset = clamp(fallback, now);
            (self.room.remaining, self.room.reset_at) = (Some(0), Some(reset));
            reset
        })
    }

    /// Which limits (room, token) are used up: those with nothing remaining, else those that give a reset
    /// and keep silent about what remains.
    fn used_up(&self) -> (bool, bool) {
        let empty = |hint: &LimitHint| hint.remaining == Some(0);
        if empty(&self.room) || empty(&self.token) {
            return (empty(&self.room), empty(&self.token));
        }
        let silent = |hint: &LimitHint| hint.remaining.is_none() && hint.reset_at.is_some();
        (silent(&self.room), silent(&self.token))
    }
}

fn clamp(until: Timestamp, now: Timestamp) -> Timestamp {
    until.clamp(later(now, SHORTEST_WAIT), later(now, LONGEST_SERVER_WAIT))
}

fn family(headers: &HeaderMap, names: &Family, clock: &ServerClock) -> LimitHint {
    LimitHint {
        limit: text(headers, names.limit).and_then(count),
        remaining: text(headers, names.remaining).and_then(count),
        reset_at: text(headers, names.reset).and_then(number).and_then(|number| clock.moment(number)),
    }
}

/// A header's first value. Names are compared without case, as in all of HTTP.
fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(first)
}

/// A proxy may have joined two headers of one name: the first one's value.
fn first(value: &str) -> &str {
    value.split(',').next().unwrap_or(value).trim()
}

/// A header's value with its commas, as dates have them.
fn whole(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`, the form that servers have to send.
fn http_date(text: &str) -> Option<Timestamp> {
    DateTimeParser::new().parse_timestamp(text.trim()).ok()
}

/// A finite number that is not negative.
fn number(text: &str) -> Option<f64> {
    // `f64` would also read `inf`, `nan` and `1e9`.
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    text.parse::<f64>().ok().filter(|number| plain && number.is_finite())
}

fn count(text: &str) -> Option<u32> {
    let number = number(text)?.floor();
    (number <= f64::from(u32::MAX)).then_some(number as u32)
}

/// Turns the server's times into ours.
struct ServerClock {
    now: Timestamp,
    /// The server's own time, where it told it.
    server_now: Option<Timestamp>,
}

impl ServerClock {
    fn new(headers: &HeaderMap, now: Timestamp) -> Self {
        Self { now, server_now: whole(headers, DATE).and_then(http_date) }
    }

    /// Seconds from now, or Unix seconds.
    fn moment(&self, seconds: f64) -> Option<Timestamp> {
        if seconds < FIRST_EPOCH_SECOND {
            return Some(later(self.now, Duration::from_secs_f64(seconds)));
        }
        let since_epoch = Duration::try_from_secs_f64(seconds).ok()?;
        self.ours(Timestamp::UNIX_EPOCH.checked_add(since_epoch).ok()?)
    }

    /// Seconds, or a date.
    fn retry_after(&self, value: &str) -> Option<Timestamp> {
        match http_date(value) {
            Some(date) => self.ours(date),
            None => number(first(value)).and_then(|seconds| self.moment(seconds)),
        }
    }

    /// A time on the server's clock, on ours.
    fn ours(&self, theirs: Timestamp) -> Option<Timestamp> {
        match self.server_now {
            Some(server_now) => self.now.checked_add(theirs.duration_since(server_now)).ok(),
            None => Some(theirs),
        }
    }
}

#[cfg(test)]
#[path = "limits_tests.rs"]
mod tests;
