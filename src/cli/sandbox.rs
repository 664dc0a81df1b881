//! `sandbox`: runs the HipChat stand-in until it is stopped.

use anyhow::Context;

use super::args::SandboxArgs;
use super::output::say;
use crate::app::StopSignals;
use crate::sandbox::{RoomSpec, Sandbox, SandboxOptions};

/// Serves until SIGINT or SIGTERM.
pub async fn run(args: SandboxArgs) -> anyhow::Result<()> {
    let options = SandboxOptions {
        listen: args.listen,
        allow_remote: args.allow_remote,
        rooms: args.rooms.into_iter().map(|grant| RoomSpec::new(grant.room, Some(grant.token))).collect(),
        tokens: args.tokens,
        room_limit: args.room_limit.into(),
        token_limit: args.token_limit.into(),
        ..SandboxOptions::default()
    };
    let sandbox = Sandbox::bind(options).await.with_context(|| format!("can't listen on {}", args.listen))?;
    let address = sandbox.address();
    say(&format!(
        "sandbox: rooms at http://{address}/  (API at http://{address}/v2/, listings at /sandbox/rooms)"
    ));
    let mut signals = StopSignals::new()?;
    sandbox
        .serve(async move {
            signals.next().await;
        })
        .await
        .context("the sandbox has ended")
}
