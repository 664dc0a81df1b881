//! The locks that are not rows, and the one order in which all locks are taken:
//!
//! 1. the decision lock of the store,
//! 2. rooms, by key,
//! 3. notifications, by number,
//! 4. tokens, by key,
//! 5. events, by number, then letters,
//! 6. the count of what is open, whose rows connections share.
//!
//! What belongs to one held room or one integration comes behind the lock that makes it one's alone: that of the room, or
//! of decisions.
//!
//! Whoever takes several of one kind takes them in that order, in one statement where it can. Claims take rooms
//! without waiting (`SKIP LOCKED`). So nobody waits in a circle; where a rare way round makes one all the same,
//! PostgreSQL takes one transaction back and it runs again.

use super::rounds::{Round, values};

/// What is told apart by the schema that a store lives in: one database may hold several stores.
#[derive(Debug, Clone)]
pub struct Keys {
    /// The advisory lock of all decisions: intakes, changes of integrations, and settlements that lose news. They
    /// read beliefs and standings and write what follows from them, and two at once could decide by the same past.
    /// Intake runs on one worker at a time anyway; messages that were posted are settled without it.
    pub decisions: i64,
    /// The channel on which workers tell each other what there is to do.
    pub channel: String,
}

impl Keys {
    /// The keys of the store in `schema`, whose own hash is `hash`.
    pub fn new(schema: &str, hash: i64) -> Self {
        // Names of channels end at 63 bytes.
        let channel = format!("hipchat_notifier_{:016x}", hash.cast_unsigned());
        tracing::trace!(schema, channel, "keys of the store");
        Self { decisions: hash, channel }
    }
}

/// Waits until nobody else decides, and keeps others from it until the transaction ends. What follows in the round
/// sees what they have decided.
pub fn decide_alone(round: &mut Round, keys: &Keys) {
    round.add("SELECT pg_advisory_xact_lock($1)", values![keys.decisions]);
}
