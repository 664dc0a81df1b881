//! The pure core: what an event is, who hears of it, when, and in which words.
//!
//! Nothing in here does I/O, reads a clock, draws a random number, logs, or knows SQL, JSON or tokio.
//! Time and jitter are arguments. `tests/it/architecture.rs` holds it to that.

pub mod envelope;
pub mod event;
pub mod frequency;
pub mod ids;
pub mod integration;
pub mod message;
pub mod pacing;
pub mod reason;
pub mod story;
