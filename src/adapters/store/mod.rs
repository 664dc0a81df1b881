//! Stores behind `ports::{Store, Journal, Registry}`. [`sqlite`] is the embedded one, for one worker; [`postgres`]
//! is for any number of workers that act as one.
//!
//! A store keeps what it is told and answers what it is asked; it decides nothing about frequency, pacing or
//! retries. What every store owes is in `ports` and proven by `tests/it/store`, which runs against each.

pub mod cipher;
mod fate;
mod kept;
mod meters;
pub mod postgres;
mod purse;
mod release;
mod rows;
pub mod sqlite;
mod state;
mod terms;
