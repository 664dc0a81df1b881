//! One room: its limit, its figures, and what it received.
//!
//! All of it is behind the room's one lock, which each call takes once. It must not know of HTTP (statuses are
//! numbers here) nor of other rooms, but for the counters of a [`Journal`].

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::Value;
use tokio::sync::broadcast;

use super::limits::{Allowance, Moment, Peak, Window};
use super::rooms::lock;
use super::validate::Notification;
use super::{Limit, RoomSpec};

/// Events a slow page may lag behind before it has to load anew.
const FEED: usize = 1024;

/// A message as a room received it.
#[derive(Debug)]
pub(super) struct Message {
    /// Counts the accepted messages of all rooms: within a room it is the order of arrival.
    pub(super) sequence: u64,
    /// Milliseconds since 1970.
    pub(super) received_at: i64,
    pub(super) content: Notification,
    /// The start of the token's SHA-256; never the token.
    pub(super) token: Arc<str>,
}

/// One call to a room: what was answered, if anything was.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Attempt {
    /// Counts the calls to all rooms.
    pub(super) call: u64,
    pub(super) at: String,
    pub(super) kind: CallKind,
    /// `None` where the fault let no answer out.
    pub(super) status: Option<u16>,
    /// The accepted message's sequence number.
    pub(super) sequence: Option<u64>,
    pub(super) fault: Option<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum CallKind {
    Message,
    AuthTest,
}

/// What became of a posted message.
#[derive(Debug)]
pub(super) enum Posted {
    Accepted { allowance: Option<Allowance> },
    OverLimit { allowance: Option<Allowance> },
}

/// A room.
pub(super) struct Room {
    pub(super) id: String,
    pub(super) name: Option<String>,
    token: Option<String>,
    record: Mutex<Record>,
}

struct Record {
    keep: usize,
    window: Window,
    peak: Peak,
    received: u64,
    accepted: u64,
    auth_tests: u64,
    over_limit: u64,
    refused: BTreeMap<u16, u64>,
    unanswered: u64,
    messages: VecDeque<Arc<Message>>,
    attempts: VecDeque<RawAttempt>,
}

struct RawAttempt {
    call: u64,
    at: i64,
    kind: CallKind,
    answered: Answered,
    sequence: Option<u64>,
}

/// How a call ends for its sender.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answered {
    /// `None`: not at all.
    pub(super) status: Option<u16>,
    /// The fault that was done to it.
    pub(super) fault: Option<&'static str>,
}

/// A room's figures, as `/sandbox/rooms` lists them.
#[derive(Debug, Serialize)]
pub(super) struct RoomFigures {
    pub(super) id: String,
    pub(super) name: Option<String>,
    /// Message calls, whatever came of them; token tests are not counted here.
    pub(super) received: u64,
    pub(super) accepted: u64,
    /// Message calls answered with anything but a success, by status; over the limit included.
    pub(super) rejected: BTreeMap<u16, u64>,
    /// Message calls that a fault left without an answer.
    pub(super) unanswered: u64,
    /// Message calls refused by the room's own limit.
    pub(super) over_limit: u64,
    /// The most messages in any window of the room limit's length (a minute when unlimited), refused ones included.
    pub(super) max_in_window: usize,
    pub(super) auth_tests: u64,
    pub(super) last_sequence: Option<u64>,
}

/// An accepted message on its way to the pages that are open.
pub(super) type Fed = (Arc<Room>, Arc<Message>, u64);

/// What all rooms share: the clock, the numbers, and the feed of the pages.
pub(super) struct Journal {
    started: Instant,
    sequence: AtomicU64,
    calls: AtomicU64,
    feed: broadcast::Sender<Fed>,
}

impl Journal {
    pub(super) fn new() -> Self {
        Self {
            started: Instant::now(),
            sequence: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            feed: broadcast::Sender::new(FEED),
        }
    }

    pub(super) fn now(&self) -> Moment {
        Moment::try_from(self.started.elapsed().as_nanos()).unwrap_or(Moment::MAX)
    }

    fn next_call(&self) -> u64 {
        self.calls.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The last sequence number given.
    pub(super) fn last_sequence(&self) -> u64 {
        self.sequence.load(Ordering::Relaxed)
    }

    /// The messages of all rooms from now on.
    pub(super) fn follow(&self) -> broadcast::Receiver<Fed> {
        self.feed.subscribe()
    }
}

/// A time as the listings show it.
pub(super) fn rfc3339(milliseconds: i64) -> String {
    jiff::Timestamp::from_millisecond(milliseconds)
        .map_or_else(|_| milliseconds.to_string(), |time| format!("{time:.3}"))
}

impl Room {
    pub(super) fn new(spec: RoomSpec, limit: Option<Limit>, keep: usize) -> Self {
        let record = Record {
            keep,
            window: Window::new(limit),
            peak: Peak::new(limit.map_or(Duration::from_secs(60), |(_, per)| per)),
            received: 0,
            accepted: 0,
            auth_tests: 0,
            over_limit: 0,
            refused: BTreeMap::new(),
            unanswered: 0,
            messages: VecDeque::new(),
            attempts: VecDeque::new(),
        };
        Self { id: spec.id, name: spec.name, token: spec.token, record: Mutex::new(record) }
    }

    /// Puts a valid message into the room, if the room's limit lets it. `answered` is what its sender is told, if
    /// anything is.
    pub(super) fn post(
        self: &Arc<Self>,
        journal: &Journal,
        token: Arc<str>,
        content: Notification,
        answered: Answered,
    ) -> Posted {
        let received_at = wall_clock();
        let mut record = lock(&self.record);
        let now = journal.now();
        record.peak.note(now);
        let call = journal.next_call();
        let fits = record.window.take(now);
        let allowance = record.window.allowance(now);
        if !fits {
            record.over_limit += 1;
            let answered = Answered { status: Some(429), fault: None };
            let attempt =
                RawAttempt { call, at: received_at, kind: CallKind::Message, answered, sequence: None };
            record.remember(attempt);
            return Posted::OverLimit { allowance };
        }
        record.accepted += 1;
        // Numbered and told while the room is locked, so that within a room all orders agree.
        let sequence = journal.sequence.fetch_add(1, Ordering::Relaxed) + 1;
        let attempt =
            RawAttempt { call, at: received_at, kind: CallKind::Message, answered, sequence: Some(sequence) };
        record.remember(attempt);
        let message = Arc::new(Message { sequence, received_at, content, token });
        if journal.feed.receiver_count() > 0 {
            // Fails only when the last page has closed since.
            let _ = journal.feed.send((Arc::clone(self), Arc::clone(&message), record.accepted));
        }
        let keep = record.keep;
        push_bounded(&mut record.messages, message, keep);
        Posted::Accepted { allowance }
    }

    /// Notes a call that put no message into the room; gives what the room's limit has left.
    pub(super) fn note(&self, journal: &Journal, kind: CallKind, answered: Answered) -> Option<Allowance> {
        let at = wall_clock();
        let mut record = lock(&self.record);
        record.remember(RawAttempt { call: journal.next_call(), at, kind, answered, sequence: None });
        record.window.allowance(journal.now())
    }

    /// Forgets messages, calls and figures. The limit goes on.
    pub(super) fn clear(&self) {
        let mut record = lock(&self.record);
        record.messages.clear();
        record.attempts.clear();
        record.refused.clear();
        record.peak.reset();
        (record.received, record.accepted, record.auth_tests) = (0, 0, 0);
        (record.over_limit, record.unanswered) = (0, 0);
    }

    /// Whether this is the room's own token.
    pub(super) fn owns(&self, token: &str) -> bool {
        self.token.as_deref() == Some(token)
    }

    /// Whether the room answers to this id or name.
    pub(super) fn is_called(&self, name: &str) -> bool {
        self.id == name || self.name.as_deref() == Some(name)
    }

    pub(super) fn figures(&self) -> RoomFigures {
        let record = lock(&self.record);
        RoomFigures {
            id: self.id.clone(),
            name: self.name.clone(),
            received: record.received,
            accepted: record.accepted,
            rejected: record.refused.clone(),
            unanswered: record.unanswered,
            over_limit: record.over_limit,
            max_in_window: record.peak.most(),
            auth_tests: record.auth_tests,
            last_sequence: record.messages.back().map(|message| message.sequence),
        }
    }

    /// The kept messages with a sequence number after this one, the newest `most` of them, oldest first.
    pub(super) fn messages(&self, after: u64, most: usize) -> Vec<Arc<Message>> {
        let record = lock(&self.record);
        let first = record.messages.partition_point(|message| message.sequence <= after);
        let first = first.max(record.messages.len().saturating_sub(most));
        record.messages.range(first..).cloned().collect()
    }

    /// How many messages it accepted, whether they are still kept or not.
    pub(super) fn accepted(&self) -> u64 {
        lock(&self.record).accepted
    }

    /// The kept calls, oldest first.
    pub(super) fn attempts(&self) -> Vec<Attempt> {
        let show = |raw: &RawAttempt| Attempt {
            call: raw.call,
            at: rfc3339(raw.at),
            kind: raw.kind,
            status: raw.answered.status,
            sequence: raw.sequence,
            fault: raw.answered.fault,
        };
        lock(&self.record).attempts.iter().map(show).collect()
    }
}

impl Record {
    fn remember(&mut self, attempt: RawAttempt) {
        match attempt.kind {
            CallKind::AuthTest => self.auth_tests += 1,
            CallKind::Message => {
                self.received += 1;
                match attempt.answered.status {
                    None => self.unanswered += 1,
                    Some(status) if (200..300).contains(&status) => {}
                    Some(status) => *self.refused.entry(status).or_default() += 1,
                }
            }
        }
        push_bounded(&mut self.attempts, attempt, self.keep);
    }
}

impl Message {
    /// The message as `/sandbox/rooms/{room}/messages` lists it.
    pub(super) fn listed(&self) -> Value {
        serde_json::json!({
            "sequence": self.sequence,
            "received_at": rfc3339(self.received_at),
            "color": self.content.color.as_str(),
            "message": self.content.message,
            "message_format": self.content.format.as_str(),
            "notify": self.content.notify,
            "from": self.content.from,
            "attach_to": self.content.attach_to,
            "card": self.content.card,
            "token": &*self.token,
        })
    }
}

fn push_bounded<T>(queue: &mut VecDeque<T>, item: T, keep: usize) {
    if keep == 0 {
        return;
    }
    while queue.len() >= keep {
        queue.pop_front();
    }
    queue.push_back(item);
}

#[expect(clippy::disallowed_methods, reason = "the sandbox judges alone and by its own clock")]
fn wall_clock() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
