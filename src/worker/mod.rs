//! The moving parts between the seams: taking events in, telling rooms, burying what can't be told.
//!
//! Each part gathers, asks `domain` for the decision, and applies it. One step and the loop around it are
//! separate functions. Nothing in here knows AMQP, HTTP or SQL.

pub mod batch;
pub mod burial;
pub mod catalogue;
mod compose;
pub mod dispatch;
pub mod handover;
pub mod intake;
pub mod janitor;
pub mod moment;
pub mod places;
pub mod room;
pub mod trouble;
pub mod wake;
