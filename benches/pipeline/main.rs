//! What the whole worker can carry, beside loops that do the bare minimum, in one run on a real RabbitMQ and a
//! real PostgreSQL.
//!
//! This process is the loader, the sink and the stopwatch. What is measured are child processes: the worker (a
//! release binary, configured by its environment alone), the bare loops (this program again, see `bare`) and the peers
//! (`benches/peers`).
//! CPU and memory are the kernel's figures of those processes. `scripts/bench` builds and runs all of it;
//! `docs/performance.md` says how to read what comes out.

mod args;
mod bare;
mod broker;
mod database;
mod events;
mod lab;
mod peer;
mod process;
mod report;
mod sink;
mod worker;

use clap::Parser;

use args::{Args, Role};
use lab::Lab;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if let Some(Role::Bare(bare)) = args.role {
        return bare::run(bare).await;
    }
    let json = args.json;
    let mut lab = Lab::open(args).await?;
    let measured = tokio::select! {
        measured = lab.measure() => measured,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    lab.close().await?;
    let report = measured?;
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    Ok(())
}
