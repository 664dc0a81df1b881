//! The rooms and tokens there are, and what each room received.
//!
//! A call locks its own token and its own room, each once and briefly; rooms share nothing but two counters. It
//! must not know of HTTP: statuses are numbers here, and times come from this module's one clock.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::sync::broadcast;

use super::limits::{Moment, Peak, Standing, Window};
use super::validate::Notification;
use super::{Limit, RoomSpec, SandboxOptions};

/// The longest name of a room, in characters.
pub(super) const ROOM_NAME_LENGTH: usize = 100;
/// Where every room or token is welcome, this many are, so that a runaway client does not fill the memory.
const OPEN_ENTRIES: usize = 200_000;
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
    Accepted { standing: Option<Standing> },
    OverLimit { standing: Option<Standing> },
}

/// A room.
pub(super) struct Room {
    pub(super) id: String,
    pub(super) name: Option<String>,
    token: Option<String>,
    record: Mutex<Record>,
}

struct Record {
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
    status: Option<u16>,
    sequence: Option<u64>,
    fault: Option<&'static str>,
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

/// A token that was let in.
pub(super) struct Token {
    pub(super) fingerprint: Arc<str>,
    window: Mutex<Window>,
}

/// An accepted message on its way to the pages that are open.
pub(super) type Fed = (Arc<Room>, Arc<Message>, u64);

/// All rooms and tokens.
pub(super) struct Rooms {
    started: Instant,
    keep: usize,
    room_limit: Option<Limit>,
    token_limit: Option<Limit>,
    any_room: bool,
    any_token: bool,
    by_name: RwLock<HashMap<String, Arc<Room>>>,
    tokens: RwLock<HashMap<String, Arc<Token>>>,
    global_tokens: Vec<String>,
    sequence: AtomicU64,
    calls: AtomicU64,
    feed: broadcast::Sender<Fed>,
}

/// Whether a token has the form of one.
pub(super) fn is_sane(token: &str) -> bool {
    (1..=128).contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic())
}

/// A time as the listings show it.
pub(super) fn rfc3339(milliseconds: i64) -> String {
    jiff::Timestamp::from_millisecond(milliseconds)
        .map_or_else(|_| milliseconds.to_string(), |time| format!("{time:.3}"))
}

impl Rooms {
    pub(super) fn new(options: &SandboxOptions) -> Self {
        let rooms = Self {
            started: Instant::now(),
            keep: options.keep,
            room_limit: options.room_limit,
            token_limit: options.token_limit,
            any_room: options.rooms.is_empty(),
            any_token: options.tokens.is_empty() && options.rooms.iter().all(|room| room.token.is_none()),
            by_name: RwLock::default(),
            tokens: RwLock::default(),
            global_tokens: options.tokens.clone(),
            sequence: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            feed: broadcast::Sender::new(FEED),
        };
        {
            let mut by_name = write(&rooms.by_name);
            let mut tokens = write(&rooms.tokens);
            for spec in &options.rooms {
                let room = Arc::new(rooms.open(spec.clone()));
                for name in std::iter::once(&spec.id).chain(&spec.name) {
                    by_name.insert(name.clone(), Arc::clone(&room));
                }
            }
            for token in
                options.tokens.iter().chain(options.rooms.iter().filter_map(|room| room.token.as_ref()))
            {
                tokens.insert(token.clone(), Arc::new(rooms.token(token)));
            }
        }
        rooms
    }

    fn open(&self, spec: RoomSpec) -> Room {
        let record = Record {
            window: Window::new(self.room_limit),
            peak: Peak::new(self.room_limit.map_or(Duration::from_secs(60), |(_, per)| per)),
            received: 0,
            accepted: 0,
            auth_tests: 0,
            over_limit: 0,
            refused: BTreeMap::new(),
            unanswered: 0,
            messages: VecDeque::new(),
            attempts: VecDeque::new(),
        };
        Room { id: spec.id, name: spec.name, token: spec.token, record: Mutex::new(record) }
    }

    fn token(&self, token: &str) -> Token {
        let digest = hex::encode(Sha256::digest(token.as_bytes()));
        Token { fingerprint: digest[..8].into(), window: Mutex::new(Window::new(self.token_limit)) }
    }

    fn now(&self) -> Moment {
        Moment::try_from(self.started.elapsed().as_nanos()).unwrap_or(Moment::MAX)
    }

    /// The room of this id or name, if it exists; where every room does, it exists from now on.
    pub(super) fn enter(&self, name: &str) -> Option<Arc<Room>> {
        if let Some(room) = self.find(name) {
            return Some(room);
        }
        if !self.any_room || name.is_empty() || name.chars().count() > ROOM_NAME_LENGTH {
            return None;
        }
        let mut by_name = write(&self.by_name);
        if by_name.len() >= OPEN_ENTRIES {
            return None;
        }
        let room =
            by_name.entry(name.to_owned()).or_insert_with(|| Arc::new(self.open(RoomSpec::new(name, None))));
        Some(Arc::clone(room))
    }

    /// The room of this id or name, if there is one by now.
    pub(super) fn find(&self, name: &str) -> Option<Arc<Room>> {
        read(&self.by_name).get(name).cloned()
    }

    /// Whether a room of this name would be let be.
    pub(super) fn could_exist(&self, name: &str) -> bool {
        self.any_room || self.find(name).is_some()
    }

    /// All rooms, by name: numbers by their value, before words.
    pub(super) fn all(&self) -> Vec<Arc<Room>> {
        let mut rooms: Vec<_> = read(&self.by_name)
            .iter()
            .filter(|(name, room)| **name == room.id)
            .map(|(_, room)| Arc::clone(room))
            .collect();
        rooms.sort_by_cached_key(|room| (room.id.parse::<u64>().unwrap_or(u64::MAX), room.id.clone()));
        rooms
    }

    /// The token's entry, if it is good anywhere at all.
    pub(super) fn admit(&self, token: &str) -> Option<Arc<Token>> {
        if let Some(known) = read(&self.tokens).get(token) {
            return Some(Arc::clone(known));
        }
        if !self.any_token || !is_sane(token) {
            return None;
        }
        let mut tokens = write(&self.tokens);
        if tokens.len() >= OPEN_ENTRIES {
            return None;
        }
        Some(Arc::clone(tokens.entry(token.to_owned()).or_insert_with(|| Arc::new(self.token(token)))))
    }

    /// Whether an admitted token is good for this room.
    pub(super) fn opens(&self, token: &str, room: &Room) -> bool {
        self.any_token
            || room.token.as_deref() == Some(token)
            || self.global_tokens.iter().any(|global| global == token)
    }

    /// Counts a call against the token's limit; false when it is over.
    pub(super) fn take_call(&self, token: &Token) -> (bool, Option<Standing>) {
        let mut window = lock(&token.window);
        let now = self.now();
        let fits = window.take(now);
        (fits, window.standing(now))
    }

    /// Puts a valid message into the room, if the room's limit lets it.
    pub(super) fn post(
        &self,
        room: &Arc<Room>,
        token: &Token,
        content: Notification,
        fault: Option<&'static str>,
        status: Option<u16>,
    ) -> Posted {
        let received_at = wall_clock();
        let mut record = lock(&room.record);
        let now = self.now();
        record.received += 1;
        record.peak.note(now);
        let call = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        let fits = record.window.take(now);
        let standing = record.window.standing(now);
        let mut attempt =
            RawAttempt { call, at: received_at, kind: CallKind::Message, status, sequence: None, fault };
        if !fits {
            record.over_limit += 1;
            *record.refused.entry(429).or_default() += 1;
            attempt.status = Some(429);
            record.remember(attempt, self.keep);
            return Posted::OverLimit { standing };
        }
        record.accepted += 1;
        record.unanswered += u64::from(status.is_none());
        if let Some(failure) = status.filter(|status| !(200..300).contains(status)) {
            *record.refused.entry(failure).or_default() += 1;
        }
        // Numbered and told while the room is locked, so that within a room all orders agree.
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed) + 1;
        attempt.sequence = Some(sequence);
        record.remember(attempt, self.keep);
        let message =
            Arc::new(Message { sequence, received_at, content, token: Arc::clone(&token.fingerprint) });
        if self.feed.receiver_count() > 0 {
            // Fails only when the last page has closed since.
            let _ = self.feed.send((Arc::clone(room), Arc::clone(&message), record.accepted));
        }
        push_bounded(&mut record.messages, message, self.keep);
        Posted::Accepted { standing }
    }

    /// Notes a call that put no message into the room; gives what the room's limit has left.
    pub(super) fn note(
        &self,
        room: &Room,
        kind: CallKind,
        status: Option<u16>,
        fault: Option<&'static str>,
    ) -> Option<Standing> {
        let at = wall_clock();
        let mut record = lock(&room.record);
        let call = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        match kind {
            CallKind::AuthTest => record.auth_tests += 1,
            CallKind::Message => {
                record.received += 1;
                match status {
                    None => record.unanswered += 1,
                    Some(status) if (200..300).contains(&status) => {}
                    Some(status) => *record.refused.entry(status).or_default() += 1,
                }
            }
        }
        record.remember(RawAttempt { call, at, kind, status, sequence: None, fault }, self.keep);
        record.window.standing(self.now())
    }

    /// Forgets messages, calls and figures. Limits, and the sequence, go on.
    pub(super) fn clear(&self) {
        for room in self.all() {
            let mut record = lock(&room.record);
            record.messages.clear();
            record.attempts.clear();
            record.refused.clear();
            record.peak.reset();
            (record.received, record.accepted, record.auth_tests) = (0, 0, 0);
            (record.over_limit, record.unanswered) = (0, 0);
        }
    }

    /// The messages of all rooms from now on.
    pub(super) fn follow(&self) -> broadcast::Receiver<Fed> {
        self.feed.subscribe()
    }

    /// The last sequence number given.
    pub(super) fn last_sequence(&self) -> u64 {
        self.sequence.load(Ordering::Relaxed)
    }
}

impl Room {
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
            status: raw.status,
            sequence: raw.sequence,
            fault: raw.fault,
        };
        lock(&self.record).attempts.iter().map(show).collect()
    }
}

impl Record {
    fn remember(&mut self, attempt: RawAttempt, keep: usize) {
        push_bounded(&mut self.attempts, attempt, keep);
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

fn wall_clock() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Each of these holds plain values that are right between any two statements, so a panic elsewhere does not
/// spoil them.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read<T>(shared: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    shared.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(shared: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    shared.write().unwrap_or_else(PoisonError::into_inner)
}
