//! The room URL that people paste: `https://TEAM.hipchat.com/v2/room/42/notification?auth_token=…`.
//!
//! Takes it apart into the endpoint and the token, and gives the room and the token names that hold no
//! secret. No error in here repeats the token or the URL: each names the part that is wrong and what to do.
//! Source: Atlassian, "Integration Guidelines to Support HipChat Server" (the full URL with its token).

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use url::{Host, Url};

use super::egress::{Egress, EgressDenied};
use crate::domain::ids::{RoomKey, TokenKey};
use crate::ports::RoomTarget;

/// Longer texts are no room URLs. HipChat's own are about 110 characters; a name may be encoded at length.
const LONGEST_URL: usize = 2_048;
/// What a room is written with in a [`RoomKey`], so that two spellings of one room give one key.
const ROOM_SET: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// Bytes of a token's fingerprint: enough to tell tokens apart, too few to check a guess by.
const FINGERPRINT_BYTES: usize = 8;

/// Why a text is not a room URL that can be used. Never holds the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RoomUrlError {
    #[error("the room URL is empty: paste the whole URL that HipChat shows for the integration")]
    Empty,
    #[error("the room URL is longer than {LONGEST_URL} characters: paste only the URL")]
    TooLong,
    #[error("the room URL has a line break or another control character in it: paste it in one line")]
    ControlCharacter,
    #[error("the room URL has no scheme: begin it with https://")]
    MissingScheme,
    #[error("the room URL's scheme must be https (or http, where egress.allow names the host)")]
    WrongScheme,
    #[error("the room URL can't be read ({0}): paste the whole URL that HipChat shows for the integration")]
    NotAUrl(url::ParseError),
    #[error("the room URL's host has a dot too many: write it as HipChat shows it")]
    EmptyHostLabel,
    #[error("the room URL's host has a character that no host's name has: write it as HipChat shows it")]
    BadHost,
    #[error("the room URL's port is 0, which no server has: write the server's own, or leave it out")]
    PortZero,
    #[error(
        "the room URL has a user name or password before the host: remove it; the token goes into auth_token"
    )]
    Credentials,
    #[error("the room URL has a raw # in it, which cuts it off: write # in a room's name as %23")]
    Fragment,
    #[error("the room URL's path must end in /v2/room/ROOM/notification{hint}")]
    WrongPath { hint: &'static str },
    #[error("the room URL names no room: put the room's number or name between /room/ and /notification")]
    EmptyRoom,
    #[error("the room in the room URL is not encoded well: write % as %25, and the name as UTF-8")]
    BadRoomEncoding,
    #[error("the room URL has no token: add ?auth_token=… as HipChat shows it")]
    MissingToken,
    #[error("the room URL has more than one auth_token: keep one")]
    RepeatedToken,
    #[error(
        "the token in the room URL holds a character that no token has (a space, perhaps): copy it again"
    )]
    BadToken,
    #[error("the room URL's query may hold only auth_token; remove {0}")]
    UnknownQuery(String),
    #[error("{0}")]
    Egress(#[from] EgressDenied),
}

/// Takes a pasted room URL apart. White space around it is ignored, a slash after `notification` is
/// dropped, and a base path before `/v2` is kept. The room is kept as it was encoded; a raw space becomes
/// `%20`, and `+` is a plus. Checks the address against `egress` as far as it can be seen without DNS.
pub fn parse_room_url(text: &str, egress: &Egress) -> Result<RoomTarget, RoomUrlError> {
    let mut endpoint = parse_url(text.trim())?;
    let token = take_token(&endpoint)?;
    endpoint.set_query(None);
    let path = split_path(endpoint.path())?;
    let decoded = decode_room(path.room)?;
    let encoded = utf8_percent_encode(&decoded, ROOM_SET);
    let key = format!("{}{}/v2/room/{encoded}", origin(&endpoint), path.base);
    let clean_path = format!("{}/v2/room/{}/notification", path.base, path.room);
    endpoint.set_path(&clean_path);
    egress.check(&endpoint)?;
    // A copy has no room to spare for what was cut off. There may be a hundred thousand.
    Ok(RoomTarget { room: RoomKey::new(key), endpoint: endpoint.clone(), token })
}

/// Names the token's budget: a short SHA-256 fingerprint of the server and the token, in hex. One token on
/// one server has one name, whichever room it is used for.
pub fn token_key(target: &RoomTarget) -> TokenKey {
    let mut hash = Sha256::new();
    hash.update(origin(&target.endpoint));
    hash.update(b"\n");
    hash.update(target.token.expose_secret());
    let digest = hash.finalize();
    TokenKey::new(hex::encode(&digest[..FINGERPRINT_BYTES]))
}

fn parse_url(text: &str) -> Result<Url, RoomUrlError> {
    if text.is_empty() {
        return Err(RoomUrlError::Empty);
    }
    if text.len() > LONGEST_URL {
        return Err(RoomUrlError::TooLong);
    }
    // The parser would drop these without a word.
    if text.chars().any(char::is_control) {
        return Err(RoomUrlError::ControlCharacter);
    }
    // Without it, `host:8080/…` would be read as a URL whose scheme is the host.
    if !text.contains("://") {
        return Err(RoomUrlError::MissingScheme);
    }
    let mut url = Url::parse(text).map_err(|error| match error {
        url::ParseError::RelativeUrlWithoutBase => RoomUrlError::MissingScheme,
        other => RoomUrlError::NotAUrl(other),
    })?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(RoomUrlError::WrongScheme);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(RoomUrlError::Credentials);
    }
    if url.fragment().is_some() {
        return Err(RoomUrlError::Fragment);
    }
    if url.port() == Some(0) {
        return Err(RoomUrlError::PortZero);
    }
    tidy_host(&mut url)?;
    Ok(url)
}

/// Drops the dot that may end a host's full name. The parser takes empty labels and most of what keyboards have,
/// quotes for one, which no name has and which would stand in the room's own name.
fn tidy_host(url: &mut Url) -> Result<(), RoomUrlError> {
    let is_of_names = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    if matches!(url.host(), Some(Host::Domain(name)) if !name.bytes().all(is_of_names)) {
        return Err(RoomUrlError::BadHost);
    }
    let host = url.host_str().unwrap_or_default();
    let relative = host.strip_suffix('.').unwrap_or(host);
    if relative.split('.').any(str::is_empty) {
        return Err(RoomUrlError::EmptyHostLabel);
    }
    if relative.len() < host.len() {
        let relative = relative.to_owned();
        url.set_host(Some(&relative)).map_err(RoomUrlError::NotAUrl)?;
    }
    Ok(())
}

fn take_token(url: &Url) -> Result<SecretString, RoomUrlError> {
    let (mut tokens, mut others) = (Vec::new(), Vec::new());
    for (key, value) in url.query_pairs() {
        match &*key {
            "auth_token" => tokens.push(value),
            other => others.push(shown_key(other)),
        }
    }
    if !others.is_empty() {
        others.dedup();
        return Err(RoomUrlError::UnknownQuery(others.join(", ")));
    }
    match tokens.as_slice() {
        [] => Err(RoomUrlError::MissingToken),
        [token] if token.is_empty() => Err(RoomUrlError::MissingToken),
        [token] if token.bytes().all(|b| b.is_ascii_graphic()) => {
            Ok(SecretString::from(token.clone().into_owned()))
        }
        [_] => Err(RoomUrlError::BadToken),
        [_, ..] => Err(RoomUrlError::RepeatedToken),
    }
}

/// A query key as an error may show it. A token pasted without its name is a key, too, so only what looks
/// like a word is shown.
fn shown_key(key: &str) -> String {
    let is_word = key.len() <= 16 && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    if is_word && !key.is_empty() { format!("{key:?}") } else { String::from("what has no known name") }
}

struct RoomPath<'a> {
    /// What stands before `/v2`: empty, or a path that begins with a slash.
    base: &'a str,
    /// One segment, as it was encoded.
    room: &'a str,
}

fn split_path(path: &str) -> Result<RoomPath<'_>, RoomUrlError> {
    let wrong = |hint| RoomUrlError::WrongPath { hint };
    let path = path.strip_suffix('/').unwrap_or(path);
    let Some(path) = path.strip_suffix("/notification") else {
        return Err(wrong(match path.contains("/v2/room/") {
            true => "; add /notification after the room, and write ? in a room's name as %3F",
            false => ", as HipChat shows it",
        }));
    };
    let Some((before, room)) = path.rsplit_once('/') else {
        return Err(wrong(", as HipChat shows it"));
    };
    match before.strip_suffix("/v2/room") {
        Some(_) if room.is_empty() => Err(RoomUrlError::EmptyRoom),
        Some(base) => Ok(RoomPath { base, room }),
        // `/v2/room/notification`: there is no segment for the room at all.
        None if path.ends_with("/v2/room") => Err(RoomUrlError::EmptyRoom),
        None if before.contains("/v2/room/") => Err(wrong("; write / in a room's name as %2F")),
        None => Err(wrong(", as HipChat shows it")),
    }
}

fn decode_room(room: &str) -> Result<String, RoomUrlError> {
    let bytes = room.as_bytes();
    let stray_percent = bytes.iter().enumerate().any(|(at, byte)| {
        *byte == b'%' && !bytes.get(at + 1..at + 3).is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit))
    });
    if stray_percent {
        return Err(RoomUrlError::BadRoomEncoding);
    }
    let decoded = percent_decode_str(room).decode_utf8().map_err(|_| RoomUrlError::BadRoomEncoding)?;
    if decoded.trim().is_empty() {
        return Err(RoomUrlError::EmptyRoom);
    }
    if decoded.chars().any(char::is_control) {
        return Err(RoomUrlError::ControlCharacter);
    }
    Ok(decoded.into_owned())
}

/// `scheme://host[:port]`; the parser has lowered the host and dropped the scheme's own port.
fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

#[cfg(test)]
#[path = "room_url_tests.rs"]
mod tests;
