//! Room for what a hostile producer can nest.
//!
//! lapin reads a message's headers by recursion, on a thread of its own, and a table nested some hundred levels
//! deep runs through the usual 2 MiB of stack and takes the process with it, again after every restart. AMQP bounds
//! the headers to one frame (128 KiB, some 26,000 levels), so a stack that is large enough for those is a remedy.
//! The size of threads that others start can only be set in the environment, before the first of them starts.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// What the standard library reads the stack size of new threads from.
const VARIABLE: &str = "RUST_MIN_STACK";

/// Measured: 26,000 levels take about 100 MiB in a debug build. Only address space until it is used.
const BYTES: &str = "268435456";

/// Replaces this process by itself with deep stacks, if it has none yet. Returns only if there is nothing to do,
/// or if that fails, which is told: everything else works with ordinary stacks.
pub fn ensure_deep() {
    if std::env::var_os(VARIABLE).is_some() {
        return;
    }
    let mut arguments = std::env::args_os();
    let name = arguments.next();
    let Ok(program) = std::env::current_exe() else { return };
    let error = Command::new(program)
        .arg0(name.as_deref().unwrap_or(OsStr::new("hipchat-notifier")))
        .args(arguments)
        .env(VARIABLE, BYTES)
        .exec();
    super::output::complain(&format!(
        "hipchat-notifier: can't start with deep stacks ({error}); going on without"
    ));
}
