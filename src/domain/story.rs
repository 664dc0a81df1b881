//! What a notification has to tell beyond its event: why it is told, and the streak it belongs to.

use jiff::Timestamp;

use super::event::Event;
use super::reason::SendReason;

/// Decided at intake, stored with the notification, used when its message is rendered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Story {
    pub reason: SendReason,
    /// Failed runs in a row: with this one where it failed, or those that this success ends.
    pub failures: u32,
    /// When the first of them was.
    pub first_failed_at: Option<Timestamp>,
}

impl Story {
    /// A story with no streak behind it.
    pub fn plain(reason: SendReason) -> Self {
        Self { reason, failures: 0, first_failed_at: None }
    }
}

/// One notification, ready to be told.
#[derive(Debug, Clone, Copy)]
pub struct Told<'a> {
    pub event: &'a Event,
    pub story: &'a Story,
    /// When the worker got the event: the time shown where the event carries none.
    pub received_at: Timestamp,
}
