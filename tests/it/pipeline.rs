//! The whole way through the real program: events published to a real RabbitMQ, a worker as a process, rooms
//! that judge and count, and afterwards everything compared with everything.
//!
//! The load tests run small here. `PROVE=full` makes them as large as the promises are stated for, and
//! `PROVE_SEED` replays one; `scripts/prove` does both.

mod blindness;
mod bodies;
mod budgets;
mod expected;
mod letters;
mod load;
mod operators;
mod oracle;
mod outages;
mod play;
mod rolling;
mod shared_store;
mod stage;
mod strikes;
mod testimony;
mod throttles;
mod told;
mod twice;
mod wishes;
mod workers;
mod workload;

pub use oracle::{Fault, Findings};
pub use play::{Play, now};
pub use twice::Cut;
pub use workload::Scale;
