//! Faults on request: which call fails, and how. Set over `/sandbox/faults`, as JSON:
//!
//! ```json
//! {"faults": [
//!   {"kind": "status", "status": 503, "room": "42", "times": 3},
//!   {"kind": "drop", "accept": true, "probability": 0.1, "seed": 7},
//!   {"kind": "answer", "latency_ms": 100, "reset_style": "seconds", "retry_after": true}
//! ]}
//! ```
//!
//! For each call the list is walked from the top, and the first fault that is due for its room is done; so faults
//! with `times` are a queue. [`Kind`] says what a fault does; the fields of [`FaultSpec`] when and to whom. It must
//! not touch a socket: `calls` carries faults out.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::http::StatusCode;
use axum::http::header::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

/// What a fault does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The usual answer, but late (`latency_ms`), or with the limits told differently (`reset_style`,
    /// `retry_after`, `headers`).
    Answer,
    /// `status`, with `body` (HipChat's error body if left out) and `headers`.
    Status,
    /// `status` (302 if left out), to `location`.
    Redirect,
    /// The connection is closed with no answer: before anything is read, or with `accept` once the room has it.
    Drop,
    /// No answer ever, the connection stays open: with `accept`, once the room has the message.
    Hang,
    /// `status` (200 if left out) with a body that comes a byte every `interval_ms` (1000 if left out), without end
    /// unless `body` gives one.
    Trickle,
    /// `status` (200 if left out) with a body of `mib` MiB.
    Huge,
}

impl Kind {
    /// The word in the listings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Answer => "answer",
            Self::Status => "status",
            Self::Redirect => "redirect",
            Self::Drop => "drop",
            Self::Hang => "hang",
            Self::Trickle => "trickle",
            Self::Huge => "huge",
        }
    }
}

/// A fault as it is asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultSpec {
    pub kind: Kind,
    /// Id or name of a room; left out: all rooms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room: Option<String>,
    /// Calls it is done to; left out: until it is cleared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u64>,
    /// The first so many calls are spared.
    #[serde(default)]
    pub skip: u64,
    /// Only every so-manieth call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<u64>,
    /// Only this share of calls, from 0 to 1, drawn from `seed`: the same calls for the same seed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probability: Option<f64>,
    #[serde(default)]
    pub seed: u64,
    /// Milliseconds before the answer (the message, if it is accepted, is in the room before them).
    #[serde(default)]
    pub latency_ms: u64,
    /// Whether the message gets into the room before the fault. Left out: only where the answer is a success. A
    /// message that is refused anyhow is answered as usual, without the fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accept: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// Added to the answer; `null` takes one out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, Option<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mib: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval_ms: Option<u64>,
    /// How the limits' `-Reset` headers tell the time.
    #[serde(default)]
    pub reset_style: ResetStyle,
    /// `true`: on 429, until the reset. A number: always, that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<RetryAfter>,
}

/// How a `-Reset` header tells the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResetStyle {
    /// Seconds since 1970, as HipChat documented it.
    #[default]
    Epoch,
    /// Seconds from now, as some servers were seen to do.
    Seconds,
}

/// The `Retry-After` header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RetryAfter {
    WhenLimited(bool),
    Seconds(u64),
}

/// How an answer tells the limits.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Manners {
    pub(super) reset_style: ResetStyle,
    pub(super) retry_after: Option<RetryAfter>,
}

/// A fault that is due for a call.
#[derive(Debug, Clone)]
pub(super) struct Fault {
    pub(super) kind: Kind,
    pub(super) accept: bool,
    pub(super) latency: Duration,
    pub(super) status: StatusCode,
    pub(super) body: Option<String>,
    pub(super) mib: u64,
    pub(super) interval: Duration,
    pub(super) manners: Manners,
    add: HeaderMap,
    remove: Vec<HeaderName>,
}

impl Fault {
    pub(super) fn adjust(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.add {
            headers.insert(name.clone(), value.clone());
        }
    }
}

/// A fault in the list, with what has come of it.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Listed {
    #[serde(flatten)]
    spec: FaultSpec,
    /// Calls it might have been done to so far.
    seen: u64,
    /// Calls it was done to.
    done: u64,
}

struct Entry {
    listed: Listed,
    fault: Fault,
    draw: fastrand::Rng,
}

/// The list of faults.
#[derive(Default)]
pub(super) struct Faults {
    any: AtomicBool,
    entries: Mutex<Vec<Entry>>,
}

impl Faults {
    /// Replaces the list, or adds to it; all or nothing.
    ///
    /// # Errors
    /// What is wrong with which fault.
    pub(super) fn set(&self, specs: Vec<FaultSpec>, add: bool) -> Result<(), String> {
        let made = specs
            .into_iter()
            .enumerate()
            .map(|(index, spec)| Entry::new(spec).map_err(|fault| format!("faults[{index}]: {fault}")))
            .collect::<Result<Vec<_>, _>>()?;
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if !add {
            entries.clear();
        }
        entries.extend(made);
        self.any.store(!entries.is_empty(), Ordering::Release);
        Ok(())
    }

    pub(super) fn list(&self) -> Vec<Listed> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.iter().map(|entry| entry.listed.clone()).collect()
    }

    /// The fault that is due for a call to a room for which `is_room` is true of its names.
    pub(super) fn due(&self, is_room: impl Fn(&str) -> bool) -> Option<Fault> {
        // Without faults, which is how benchmarks run, calls do not meet at this lock.
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries
            .iter_mut()
            .filter(|entry| entry.listed.spec.room.as_deref().is_none_or(&is_room))
            .find_map(|entry| entry.is_due().then(|| entry.fault.clone()))
    }
}

impl Entry {
    fn new(spec: FaultSpec) -> Result<Self, String> {
        let fault = compile(&spec)?;
        let draw = fastrand::Rng::with_seed(spec.seed);
        Ok(Self { listed: Listed { spec, seen: 0, done: 0 }, fault, draw })
    }

    fn is_due(&mut self) -> bool {
        let Listed { spec, seen, done } = &mut self.listed;
        if spec.times.is_some_and(|times| *done >= times) {
            return false;
        }
        *seen += 1;
        let due = *seen > spec.skip
            && spec.every.is_none_or(|every| (*seen - spec.skip).is_multiple_of(every))
            && spec.probability.is_none_or(|share| self.draw.f64() < share);
        *done += u64::from(due);
        due
    }
}

fn compile(spec: &FaultSpec) -> Result<Fault, String> {
    if spec.times == Some(0) || spec.every == Some(0) {
        return Err("times and every are at least 1".to_owned());
    }
    if spec.probability.is_some_and(|share| !(0.0..=1.0).contains(&share)) {
        return Err("probability is from 0 to 1".to_owned());
    }
    let default_status = match spec.kind {
        Kind::Status => None,
        Kind::Redirect => Some(302),
        Kind::Answer | Kind::Drop | Kind::Hang | Kind::Trickle | Kind::Huge => Some(200),
    };
    let status = spec.status.or(default_status).ok_or("a fault of kind status needs a status")?;
    // 1xx is not an answer, and would end in a broken one.
    let status = StatusCode::from_u16(status)
        .ok()
        .filter(|status| !status.is_informational() && status.as_u16() <= 999)
        .ok_or("status is from 200 to 999")?;
    if spec.kind == Kind::Redirect && (!status.is_redirection() || spec.location.is_none()) {
        return Err("a redirect needs a location, and a 3xx status if one is given".to_owned());
    }
    if spec.kind == Kind::Huge && !(1..=4096).contains(&spec.mib.unwrap_or(0)) {
        return Err("a fault of kind huge needs mib, from 1 to 4096".to_owned());
    }
    let (add, remove) = headers(spec)?;
    let succeeds = matches!(spec.kind, Kind::Status | Kind::Trickle | Kind::Huge) && status.is_success();
    Ok(Fault {
        kind: spec.kind,
        accept: spec.accept.unwrap_or(succeeds || spec.kind == Kind::Answer),
        latency: Duration::from_millis(spec.latency_ms),
        status,
        body: spec.body.clone(),
        mib: spec.mib.unwrap_or(0),
        interval: Duration::from_millis(spec.interval_ms.unwrap_or(1000)),
        manners: Manners { reset_style: spec.reset_style, retry_after: spec.retry_after },
        add,
        remove,
    })
}

fn headers(spec: &FaultSpec) -> Result<(HeaderMap, Vec<HeaderName>), String> {
    let (mut add, mut remove) = (HeaderMap::new(), Vec::new());
    let location = spec.location.as_ref().map(|location| ("location", Some(location)));
    let given = spec.headers.iter().map(|(name, value)| (name.as_str(), value.as_ref()));
    for (name, value) in given.chain(location) {
        let header = name
            .parse::<HeaderName>()
            .ok()
            // These frame the answer; a false one breaks the connection rather than the client.
            .filter(|header| !matches!(header.as_str(), "content-length" | "transfer-encoding"))
            .ok_or_else(|| format!("\"{name}\" is not a header that can be set"))?;
        match value {
            None => remove.push(header),
            Some(value) => {
                let value = HeaderValue::from_str(value)
                    .map_err(|_| format!("the value of \"{name}\" cannot stand in a header"))?;
                add.insert(header, value);
            }
        }
    }
    Ok((add, remove))
}

#[cfg(test)]
mod tests;
