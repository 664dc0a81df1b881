//! Addresses that may be linked in a message.

use url::Url;

/// An absolute http or https address without credentials, in its normal form, in which nothing has to be quoted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebAddress(String);

impl WebAddress {
    /// `None` for all else: other schemes run scripts, and a login before the host disguises where a link leads
    /// (`https://postman.co@evil.example/` goes to evil.example).
    pub fn parse(raw: &str) -> Option<Self> {
        if is_normal(raw) {
            return Some(Self(raw.to_owned()));
        }
        let url = Url::parse(raw).ok()?;
        let plain = matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none();
        plain.then(|| Self(url.into()))
    }

    /// The address as it is.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether `raw` is an address that is surely in its normal form already, seen at a glance. Most are, and to take one
/// apart and put it together again costs more than anything else of reading an event.
fn is_normal(raw: &str) -> bool {
    let Some(rest) = raw.strip_prefix("https://").or_else(|| raw.strip_prefix("http://")) else {
        return false;
    };
    let Some((host, path)) = rest.split_once('/') else { return false };
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    // Dots at a segment's start may mean another segment.
    is_plain_name(host)
        && path.bytes().all(|b| is_unreserved(b) || b == b'/')
        && !path.starts_with('.')
        && !path.contains("/.")
        && query.bytes().all(|b| is_unreserved(b) || matches!(b, b'=' | b'&'))
}

/// Whether a host is a name of the plain old kind: no number in disguise, no other script, no port.
fn is_plain_name(host: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
            && !label.contains("--")
    };
    let last = host.rsplit('.').next().unwrap_or_default();
    host.len() <= 253 && host.split('.').all(is_label) && last.bytes().all(|b| b.is_ascii_lowercase())
}

fn is_unreserved(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_may_be_linked() {
        let cases = [
            (
                "https://go.postman.co/monitors/1e6b8957?job=1e6ba2e3",
                Some("https://go.postman.co/monitors/1e6b8957?job=1e6ba2e3"),
            ),
            ("HTTP://Acme.example:80/a/../b c", Some("http://acme.example/b%20c")),
            ("https://acme.example", Some("https://acme.example/")),
            ("https://0x7f.1/", Some("https://127.0.0.1/")),
            ("https://bücher.example/", Some("https://xn--bcher-kva.example/")),
            ("https://postman.co@evil.example/", None),
            ("https://:secret@acme.example/", None),
            ("javascript:alert(1)", None),
            ("//acme.example/", None),
            ("https://", None),
            ("", None),
        ];
        for (raw, expected) in cases {
            assert_eq!(WebAddress::parse(raw).as_ref().map(WebAddress::as_str), expected, "{raw}");
        }
    }

    #[test]
    fn postmans_own_are_seen_at_a_glance() {
        for raw in [
            "https://go.postman.co/monitors/1e6b8957-35f5-42f0-8c4f-1a2b3c4d5e6f?job=1e6ba2e3-0005-4c9e-9d1c-c7b6a7a0b6ad",
            "https://acme.postman.co/workspace/Shop~0a1b2c3d/monitor/1e6b8957/run/1e6ba2e3",
        ] {
            assert!(is_normal(raw), "{raw}");
        }
    }

    proptest! {
        #[test]
        fn what_is_normal_at_a_glance_is_what_a_parser_makes_of_it(
            raw in prop_oneof![
                "https?://[a-z0-9.-]{1,12}/[a-zA-Z0-9._~/?=&-]{0,16}",
                "https?://([a-z0-9]{1,3}\\.){0,3}(x|0x1f|1|[a-z]{2})/[a-z./?&=%#:@\\\\]{0,12}",
                "[htps:]{0,6}/{0,3}[ -~]{0,16}",
            ]
        ) {
            if is_normal(&raw) {
                let parsed = Url::parse(&raw).unwrap();
                prop_assert_eq!(parsed.as_str(), &raw);
                prop_assert!(parsed.domain().is_some() && parsed.username().is_empty());
            }
        }
    }
}
