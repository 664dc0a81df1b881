//! HipChat's API v2, as far as a notifier needs it: one POST per message to a room's notification URL.
//!
//! - [`room_url`] reads the URL that people paste, and names rooms and tokens without their secrets;
//! - [`egress`] says which addresses may be reached;
//! - [`wire`] is the request body;
//! - [`client`] makes the call, with clients that `setup` builds from [`HipchatOptions`];
//! - [`classify`] turns whatever came back into a `ports::Answer`, with [`limits`] reading the rate limits.
//!
//! Nothing here waits, retries, paces or decides what to say: that is `worker`'s and `domain`'s. No token
//! and no whole room URL leaves this module in an error, a detail or a `Debug` text.

mod address;
pub mod classify;
pub mod client;
pub mod egress;
pub mod limits;
pub mod redact;
pub mod room_url;
mod setup;
pub mod wire;

pub use client::HipchatGateway;
pub use egress::{Egress, EgressDenied, EgressError};
pub use room_url::{RoomUrlError, parse_room_url, token_key};
pub use setup::{HipchatError, HipchatOptions, TokenIn};
