//! The command line: what can be asked for, and one module a verb that does it.

pub mod args;
