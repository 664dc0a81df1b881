//! Parses the command line, runs the verb, and turns its result into the exit code.

use std::process::ExitCode;

use clap::Parser;
use hipchat_notifier::cli::{self, args::Cli};

/// Gives back what a start with many integrations has needed, and takes less time than the system's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::main(Cli::parse())
}
