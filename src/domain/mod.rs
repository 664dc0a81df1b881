//! The pure core: what an event is, who hears of it, when, and in which words.
//!
//! Nothing in here does I/O, reads a clock, draws a random number, logs, or knows SQL, JSON or tokio.
//! Time and jitter are arguments. `tests/it/architecture.rs` holds it to that.

pub mod activity;
pub mod answer;
pub mod changes;
pub mod delivery;
pub mod endings;
pub mod envelope;
pub mod event;
pub mod frequency;
pub mod headers;
pub mod held;
pub mod ids;
pub mod intake;
pub mod integration;
pub mod line;
pub mod lines;
pub mod message;
pub mod pacing;
pub mod patience;
pub mod reason;
pub mod retry;
#[cfg(test)]
pub(crate) mod samples;
pub mod story;
pub mod unwanted;
pub mod waits;
pub mod web_address;
