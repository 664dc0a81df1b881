//! Producers' bytes become domain events, and back where a publisher needs it.
//!
//! One module a body form, tied together by [`read_event`]. Every refusal is a [`Malformed`] that names the
//! field. Pure: no I/O, no clock, no randomness; knows no broker beyond the [`Envelope`] it is given.
//!
//! [`Envelope`]: crate::domain::envelope::Envelope

mod activity_webhook;
mod api_run;
mod cloudevent;
pub mod duration;
mod event;
mod fields;
pub mod integrations;
mod json;
mod malformed;
mod monitor_webhook;
pub mod nearest;
mod newman;
mod routing;
pub mod schema;
mod surrogates;

pub use cloudevent::{ACTIVITY_TYPE_PREFIX, RUN_TYPE};
pub use event::{MAX_BODY_BYTES, can_be_id, identity, read_event};
pub use fields::MAX_ID_BYTES;
pub use malformed::Malformed;
pub use newman::{NewmanOptions, event_from_newman};
pub use routing::routing_key;
