//! Which rooms and tokens there are.
//!
//! A call looks both up under shared locks, and then locks its own token and its own room, each briefly; rooms
//! share nothing but the counters of a [`Journal`]. It must not know of HTTP.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use sha2::{Digest, Sha256};

use super::limits::{Allowance, Window};
use super::room::{Journal, Room};
use super::{Limit, RoomSpec, SandboxOptions};

/// The longest name of a room, in characters.
pub(super) const ROOM_NAME_LENGTH: usize = 100;
/// Where every room or token is welcome, this many are, so that a runaway client does not fill the memory.
const OPEN_ENTRIES: usize = 200_000;

/// A token that was let in.
pub(super) struct Token {
    pub(super) fingerprint: Arc<str>,
    window: Mutex<Window>,
}

/// All rooms and tokens.
pub(super) struct Rooms {
    pub(super) journal: Journal,
    keep: usize,
    room_limit: Option<Limit>,
    token_limit: Option<Limit>,
    any_room: bool,
    any_token: bool,
    by_name: RwLock<HashMap<String, Arc<Room>>>,
    tokens: RwLock<HashMap<String, Arc<Token>>>,
    global_tokens: Vec<String>,
}

/// Whether a token has the form of one.
pub(super) fn is_sane(token: &str) -> bool {
    (1..=128).contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic())
}

impl Rooms {
    pub(super) fn new(options: &SandboxOptions) -> Self {
        let rooms = Self {
            journal: Journal::new(),
            keep: options.keep,
            room_limit: options.room_limit,
            token_limit: options.token_limit,
            any_room: options.rooms.is_empty(),
            any_token: options.tokens.is_empty() && options.rooms.iter().all(|room| room.token.is_none()),
            by_name: RwLock::default(),
            tokens: RwLock::default(),
            global_tokens: options.tokens.clone(),
        };
        {
            let mut by_name = write(&rooms.by_name);
            let mut tokens = write(&rooms.tokens);
            for spec in &options.rooms {
                let room = Arc::new(Room::new(spec.clone(), rooms.room_limit, rooms.keep));
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

    fn token(&self, token: &str) -> Token {
        let digest = hex::encode(Sha256::digest(token.as_bytes()));
        Token { fingerprint: digest[..8].into(), window: Mutex::new(Window::new(self.token_limit)) }
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
        let room = by_name
            .entry(name.to_owned())
            .or_insert_with(|| Arc::new(Room::new(RoomSpec::new(name, None), self.room_limit, self.keep)));
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

    /// All rooms, by name; a number at its end counts by its value, so that 9 comes before 10.
    pub(super) fn all(&self) -> Vec<Arc<Room>> {
        let mut rooms: Vec<_> = read(&self.by_name)
            .iter()
            .filter(|(name, room)| **name == room.id)
            .map(|(_, room)| Arc::clone(room))
            .collect();
        rooms.sort_by_cached_key(|room| {
            let words = room.id.trim_end_matches(|character: char| character.is_ascii_digit());
            let number = room.id[words.len()..].parse::<u64>().unwrap_or(u64::MAX);
            (words.to_owned(), number, room.id.clone())
        });
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
        self.any_token || room.owns(token) || self.global_tokens.iter().any(|global| global == token)
    }

    /// Counts a call against the token's limit; false when it is over.
    pub(super) fn take_call(&self, token: &Token) -> (bool, Option<Allowance>) {
        let mut window = lock(&token.window);
        let now = self.journal.now();
        let fits = window.take(now);
        (fits, window.allowance(now))
    }
}

/// Each of these holds plain values that are right between any two statements, so a panic elsewhere does not
/// spoil them.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read<T>(shared: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    shared.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(shared: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    shared.write().unwrap_or_else(PoisonError::into_inner)
}
