//! hipchat-notifier (tour to be written once the modules stand).

pub mod adapters;
pub mod app;
pub mod cli;
pub mod domain;
pub mod formats;
pub mod http;
pub mod metrics;
pub mod ports;
pub mod sandbox;
pub mod settings;
pub mod telemetry;
pub mod worker;
