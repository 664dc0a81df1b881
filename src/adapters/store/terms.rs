//! The bounds that every store keeps to.

use std::time::Duration;

/// A line ends early once its events' bodies come to this: a body may have 1 MiB, and many lines are held at
/// once, so a number of notifications alone would not bound a worker's memory.
pub const LINE_BYTES: usize = 4 * 1024 * 1024;

/// A round ends once its letters' bodies come to this: a body may have 1 MiB, so a number of letters alone
/// would not bound a worker's memory.
pub const ROUND_BYTES: usize = 4 * 1024 * 1024;

/// Calls reserved for one claim at most. What a worker dies with is spent, so a crash must not cost a token's
/// other rooms much; a room that needs more claims again.
pub const BLOCK: u32 = 16;

/// How far a clock may go back unnoticed: a wait that is longer by this does no harm.
pub const TOLERATED: i64 = 60 * 1_000_000;
/// How far the noted time may lag, so that not every claim writes it.
pub const NOTE_EVERY: i64 = 10 * 1_000_000;

/// A batch waits so long for what it has handed out; what has no outcome by then is written down.
pub const WRITE_DOWN_AFTER: Duration = Duration::from_millis(250);
