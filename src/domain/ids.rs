//! Newtypes for the identities that travel through the worker, so that one is never passed for another.

use std::fmt;

/// Declares a cheap-to-clone string newtype.
macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            /// Wraps `value` as it is; whoever reads untrusted input checks it first.
            pub fn new(value: impl AsRef<str>) -> Self {
                Self(value.as_ref().into())
            }

            /// The identity as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    };
}

id! {
    /// An event's identity: the AMQP `message_id`, the CloudEvents `id`, or one the worker made.
    /// The same id twice is one event.
    EventId
}
id! {
    /// An integration's identity: 1 to 64 of `a-z 0-9 -`.
    IntegrationId
}
id! {
    /// A Postman team.
    TeamId
}
id! {
    /// A room's identity and its public name: `https://acme.hipchat.com/v2/room/42`, without token or
    /// query. Integrations whose room URLs differ only by token share one room, and so one line.
    RoomKey
}
id! {
    /// A fingerprint of a token on its server: what the token's budget is counted under. Not secret.
    TokenKey
}
id! {
    /// Names the notifications that are told together in one message (a collation or a digest).
    GatherKey
}

impl IntegrationId {
    /// The longest id the contract allows.
    pub const MAX_LEN: usize = 64;

    /// Whether `text` may be an integration's id: 1 to 64 of `a-z 0-9 -`.
    pub fn is_valid(text: &str) -> bool {
        (1..=Self::MAX_LEN).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    }
}
