//! The integration tests: one binary, one module a subject.

#![expect(clippy::unwrap_used, reason = "a test that can not go on has failed")]

mod architecture;
mod broker;
mod chaos;
mod cli;
mod formats;
mod hipchat;
mod hostile;
#[path = "../sim/model/mod.rs"]
mod model;
mod page;
mod pipeline;
mod sandbox;
mod settings;
mod store;
mod support;
mod worker;
