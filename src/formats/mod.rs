//! (to be written)

pub mod duration;
pub mod integrations;
pub mod nearest;
