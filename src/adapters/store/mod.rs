//! Stores behind `ports::{Store, Journal, Registry}`. [`sqlite`] is the embedded one, for one worker; [`postgres`]
//! is for any number of workers that act as one.
//!
//! A store keeps what it is told and answers what it is asked; it decides nothing about frequency, pacing or
//! retries. What every store owes is in `ports` and proven by `tests/it/store`, which runs against each.

pub mod cipher;
pub mod fate;
pub mod handing;
mod kept;
pub mod meters;
mod outbox;
pub mod postgres;
pub mod purse;
pub mod release;
mod rows;
pub mod sqlite;
pub mod state;
pub mod terms;

/// Who opens a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Takes in and dispatches; alone on an SQLite file.
    Worker,
    /// A verb of the command line that may be the first to use a store: works beside a running worker, and
    /// makes the store where there is none.
    Tool,
    /// A verb that works on what is there, beside a running worker: a store that is not there is a mistake in
    /// its name, or in the order of things, and is never made.
    Look,
}
