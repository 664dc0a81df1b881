//! The integration tests: one binary, one module a subject.

mod architecture;
mod broker;
mod cli;
mod formats;
mod hipchat;
mod pipeline;
mod sandbox;
mod settings;
mod store;
mod support;
