//! Room URLs: what is read can be written and read again as the same room with the same token, leads nowhere
//! inside, and neither names nor errors hold the token.

use std::net::IpAddr;
use std::sync::LazyLock;

use hipchat_notifier::adapters::hipchat::{Egress, parse_room_url, token_key};
use secrecy::ExposeSecret;
use url::{Host, Url};

/// Shorter values of `auth_token` are found in any text.
const SHORTEST_TOKEN: usize = 8;

static LOOPBACK: LazyLock<Egress> =
    LazyLock::new(|| Egress::from_entries(&["127.0.0.0/8", "rooms.example:8080"]).expect("entries"));

pub fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    check_with(text, &Egress::default());
    check_with(text, &LOOPBACK);
    entries(text);
}

fn check_with(text: &str, egress: &Egress) {
    let target = match parse_room_url(text, egress) {
        Ok(target) => target,
        Err(error) => return hides_the_token(text, &error.to_string()),
    };
    let token = target.token.expose_secret();
    let (endpoint, room) = (target.endpoint.as_str(), target.room.as_str());
    assert!(!token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic()), "a token of odd characters");
    assert!(target.endpoint.query().is_none() && target.endpoint.fragment().is_none(), "{endpoint}");
    assert!(target.endpoint.username().is_empty() && target.endpoint.password().is_none(), "{endpoint}");
    assert!(endpoint.contains("/v2/room/") && endpoint.ends_with("/notification"), "{endpoint}");
    assert!(room.is_ascii() && !room.contains(['?', '#', ' ', '"', '<']), "{room}");
    if token.len() >= SHORTEST_TOKEN && text.matches(token).count() == 1 {
        let shown = format!("{target:?} {} {endpoint} {room}", token_key(&target));
        assert!(!shown.contains(token), "the token is shown: {shown}");
    }
    if egress == &Egress::default() {
        assert_eq!(target.endpoint.scheme(), "https", "{endpoint}");
        assert!(!is_inside(&target.endpoint), "{endpoint} is inside");
    }

    let mut again = target.endpoint.clone();
    again.query_pairs_mut().append_pair("auth_token", token);
    if again.as_str().len() <= 2_048 {
        let read =
            parse_room_url(again.as_str(), egress).unwrap_or_else(|error| panic!("{error}: {endpoint}"));
        assert_eq!((read.endpoint.as_str(), read.room.as_str()), (endpoint, room), "read again");
        assert_eq!(read.token.expose_secret(), token, "read again");
        assert_eq!(token_key(&read), token_key(&target));
    }
    // The key is a URL of its own: a room that is named by it is the same room.
    let of_the_key = format!("{room}/notification?auth_token=x");
    if of_the_key.len() <= 2_048 {
        let read = parse_room_url(&of_the_key, egress).unwrap_or_else(|error| panic!("{error}: {room}"));
        assert_eq!(read.room.as_str(), room, "one room, one key");
    }
}

/// By the standard library's few words for it, which are part of what is checked.
fn is_inside(url: &Url) -> bool {
    let v4 = |ip: std::net::Ipv4Addr| {
        ip.is_private()
            || ip.is_loopback()
            || ip.is_link_local()
            || ip.is_unspecified()
            || ip.is_broadcast()
            || ip.is_multicast()
            || ip.is_documentation()
    };
    match url.host() {
        Some(Host::Ipv4(ip)) => v4(ip),
        Some(Host::Ipv6(ip)) => match IpAddr::V6(ip).to_canonical() {
            IpAddr::V4(ip) => v4(ip),
            IpAddr::V6(ip) => {
                ip.is_loopback()
                    || ip.is_unspecified()
                    || ip.is_multicast()
                    || ip.is_unique_local()
                    || ip.is_unicast_link_local()
            }
        },
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        None => true,
    }
}

fn hides_the_token(text: &str, error: &str) {
    assert!(!error.chars().any(char::is_control), "{error:?}");
    assert!(error.chars().count() < 5_000);
    let query = text.split_once('?').map_or("", |(_, query)| query);
    for value in query.split("auth_token=").skip(1) {
        let token = value.split(['&', '#', '/', '?', ':', '@', '.']).next().unwrap_or_default();
        // What stands elsewhere too, in the host perhaps, is no secret.
        if token.len() >= 16 && text.to_ascii_lowercase().matches(&token.to_ascii_lowercase()).count() == 1 {
            assert!(!error.contains(token), "the token is shown: {error}");
        }
    }
}

/// The other way to say what may be reached: any entry is taken or refused, and what is taken allows no more than
/// one host or network.
fn entries(text: &str) {
    if let Ok(egress) = Egress::from_entries(&[text]) {
        let metadata = Url::parse("http://169.254.169.254/").expect("a URL");
        let other = Url::parse("http://10.200.30.4/").expect("a URL");
        let both = egress.check(&metadata).is_ok() && egress.check(&other).is_ok();
        assert!(!both || text.contains('/'), "{text:?} allows two addresses");
    }
}
