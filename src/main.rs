//! Parses the command line, runs the verb, and turns its result into the exit code.

use std::process::ExitCode;

use clap::Parser;
use hipchat_notifier::cli::{self, args::Cli};

fn main() -> ExitCode {
    cli::main(Cli::parse())
}
