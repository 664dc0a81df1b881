//! What several subjects' tests share.

pub mod authority;
pub mod broker;
pub mod cli;
pub mod gate;
pub mod log;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod rooms;
pub mod services;
