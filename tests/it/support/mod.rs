//! What several subjects' tests share.

pub mod broker;
pub mod log;
pub mod proxy;
