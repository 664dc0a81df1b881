//! `sandbox`: a stand-in for HipChat's v2 room notifications, for tests, demonstrations and benchmarks.
//!
//! It judges what it is sent as strictly as the server did: authentication, the request body by
//! `schemas/room-notification.schema.json`, and both rate limits with their headers. It fails when asked to
//! (`/sandbox/faults`), lists what each room received (`/sandbox/rooms`, as text `/sandbox/transcript`), and shows
//! the rooms as people would have seen them (`/`).
//!
//! It is the independent judge of the notifier, so it must not use `domain`, `adapters` or any other module of
//! this crate. It keeps everything in memory, never calls out, and never shows, lists or logs a token.
//!
//! | module | answers |
//! | --- | --- |
//! | [`faults`] | which call fails, and how |
//! | `server` | sockets, routes, shutdown |
//! | `calls` | `/v2/…`: one HipChat call from request to answer |
//! | `answer` | HipChat's answers: bodies and limit headers |
//! | `validate` | whether a request body is a room notification |
//! | `limits` | sliding windows |
//! | `rooms`, `room` | which rooms and tokens there are; what a room received |
//! | `control` | `/sandbox/…`: listings, faults, the event stream |
//! | `page`, `markup` | the page |
//! | `transcript` | the rooms as plain text |

mod answer;
mod calls;
mod connection;
mod control;
pub mod faults;
mod limits;
mod markup;
mod page;
mod room;
mod rooms;
mod server;
mod transcript;
mod validate;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;

/// How many messages a room takes, and how many calls a token may make, in how long.
pub type Limit = (u32, Duration);

/// What a sandbox is started with. [`SandboxOptions::default`] is an open sandbox on a free loopback port with
/// HipChat's own limits.
#[derive(Clone)]
pub struct SandboxOptions {
    /// Where to listen. Port 0 takes a free one; see [`Sandbox::address`].
    pub listen: SocketAddr,
    /// Listen beyond loopback too. Without it, such an address is refused: whoever reaches the sandbox controls it.
    pub allow_remote: bool,
    /// The rooms there are. Empty: every room exists as soon as it is called.
    pub rooms: Vec<RoomSpec>,
    /// Tokens accepted in every room. Where neither these nor a room's own token are given, any token of sane
    /// form (1 to 128 visible ASCII characters) is accepted.
    pub tokens: Vec<String>,
    /// Messages to one room in a time; `None` is unlimited. HipChat: 30 in a minute.
    pub room_limit: Option<Limit>,
    /// Calls with one token in a time; `None` is unlimited. HipChat: 500 in five minutes.
    pub token_limit: Option<Limit>,
    /// How many messages, and how many calls, are kept for the listings, per room.
    pub keep: usize,
}

impl Default for SandboxOptions {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            allow_remote: false,
            rooms: Vec::new(),
            tokens: Vec::new(),
            room_limit: Some((30, Duration::from_secs(60))),
            token_limit: Some((500, Duration::from_secs(300))),
            keep: 1000,
        }
    }
}

impl fmt::Debug for SandboxOptions {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("SandboxOptions")
            .field("listen", &self.listen)
            .field("allow_remote", &self.allow_remote)
            .field("rooms", &self.rooms)
            .field("tokens", &self.tokens.len())
            .field("room_limit", &self.room_limit)
            .field("token_limit", &self.token_limit)
            .field("keep", &self.keep)
            .finish()
    }
}

/// A room that exists.
#[derive(Clone, PartialEq, Eq)]
pub struct RoomSpec {
    /// What the room is called by in the path (decoded), and in the listings.
    pub id: String,
    /// A second name the room answers to.
    pub name: Option<String>,
    /// The room's own token: good for this room, answered 403 in others.
    pub token: Option<String>,
}

impl RoomSpec {
    /// A room that is called by `id` alone.
    pub fn new(id: impl Into<String>, token: Option<String>) -> Self {
        Self { id: id.into(), name: None, token }
    }
}

impl fmt::Debug for RoomSpec {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token = if self.token.is_some() { "[redacted]" } else { "none" };
        out.debug_struct("RoomSpec")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("token", &token)
            .finish()
    }
}

/// A sandbox that listens, and is not served yet.
#[derive(Debug)]
pub struct Sandbox {
    listener: TcpListener,
    address: SocketAddr,
    options: SandboxOptions,
}

impl Sandbox {
    /// Takes the address.
    ///
    /// # Errors
    /// `InvalidInput` for an address beyond loopback without `allow_remote`, two rooms of one name, an unusable
    /// token, or a limit over no time at all; otherwise what the system says about the address.
    pub async fn bind(options: SandboxOptions) -> io::Result<Self> {
        check(&options).map_err(|fault| io::Error::new(io::ErrorKind::InvalidInput, fault))?;
        let listener = TcpListener::bind(options.listen).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address, options })
    }

    /// Where it listens, with the port that was really taken.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` is done, then ends calls that hang on purpose and the event streams, and returns
    /// within about a second.
    ///
    /// # Errors
    /// When the server cannot go on at all.
    pub async fn serve(self, shutdown: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
        tracing::info!(
            address = %self.address,
            rooms = self.options.rooms.len(),
            "sandbox listens on http://{}", self.address
        );
        server::serve(self.listener, &self.options, shutdown).await
    }
}

fn check(options: &SandboxOptions) -> Result<(), String> {
    if !options.listen.ip().is_loopback() && !options.allow_remote {
        return Err(format!(
            "the sandbox listens on loopback only, and {} is not: use 127.0.0.1, or allow remote access \
             (anyone who reaches it can control it)",
            options.listen
        ));
    }
    let mut names = std::collections::HashSet::new();
    for room in &options.rooms {
        for name in std::iter::once(&room.id).chain(room.name.as_ref().filter(|name| **name != room.id)) {
            if name.is_empty() || name.chars().count() > rooms::ROOM_NAME_LENGTH {
                return Err(format!(
                    "room \"{name}\": a room's name has 1 to {} characters",
                    rooms::ROOM_NAME_LENGTH
                ));
            }
            if !names.insert(name) {
                return Err(format!("room \"{name}\" is given twice: give each room one id and name"));
            }
        }
        if room.token.as_ref().is_some_and(|token| !rooms::is_sane(token)) {
            return Err(format!("room \"{}\": its token is not 1 to 128 visible ASCII characters", room.id));
        }
    }
    if options.tokens.iter().any(|token| !rooms::is_sane(token)) {
        return Err("tokens: one is not 1 to 128 visible ASCII characters".to_owned());
    }
    for (name, limit) in [("room", options.room_limit), ("token", options.token_limit)] {
        if limit.is_some_and(|(_, per)| per.is_zero()) {
            return Err(format!("the {name} limit is over no time: give it at least a millisecond"));
        }
    }
    Ok(())
}
