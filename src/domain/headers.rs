//! The names of the message headers that the contract speaks of: written on dead letters, and read again where
//! one is put back or looked at.

/// Which integration a dead letter was for; makes one that is put back a replay for that integration alone.
pub const INTEGRATION_ID: &str = "x-integration-id";
/// The identity under which a replayed event is known.
pub const EVENT_ID: &str = "x-event-id";
/// The team, where the body names none.
pub const TEAM: &str = "team";

/// What the headers begin with that say why and when an event became a dead letter.
pub const DEAD_LETTER: &str = "x-dead-letter";
pub const DEAD_LETTER_REASON: &str = "x-dead-letter-reason";
pub const DEAD_LETTER_DETAIL: &str = "x-dead-letter-detail";
pub const DEAD_LETTERED_AT: &str = "x-dead-lettered-at";

pub const ATTEMPTS: &str = "x-attempts";
pub const LAST_STATUS: &str = "x-last-status";
pub const FIRST_ATTEMPT_AT: &str = "x-first-attempt-at";

/// Where a dead letter's event was published to.
pub const ORIGINAL_EXCHANGE: &str = "x-original-exchange";
pub const ORIGINAL_ROUTING_KEY: &str = "x-original-routing-key";

/// What a letter is found by; the same for the copies of one that was buried twice.
pub const LETTER_ID: &str = "x-letter-id";
/// Tells that headers of the event did not fit beside ours, and which.
pub const HEADERS_DROPPED: &str = "x-headers-dropped";
