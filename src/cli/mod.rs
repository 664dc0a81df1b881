//! The verbs, one file each. They read settings, ask `app` for the parts they need, and write for people or,
//! with `--output json`, for programs.

pub mod args;
mod check;
mod dead_letters;
mod events;
mod explain;
mod integrations;
mod migrate;
mod output;
mod publish;
mod sandbox;
mod schema;
mod simulate;

use std::process::ExitCode;

use self::args::{Cli, Verb};
use crate::app::Misconfigured;
use crate::settings::{Settings, SettingsFaults};
use crate::telemetry;

/// The exit code for what an operator has to change. As in sysexits.h, EX_CONFIG.
const CONFIG_IS_WRONG: u8 = 78;

/// Runs one verb. Exit codes: 0 done, 1 failed, 78 configuration is wrong; 2 (usage) is clap's.
pub fn main(cli: Cli) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("hipchat-notifier: can't start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(verb(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(&format!("hipchat-notifier: {error:#}"));
            let config = error.is::<Misconfigured>() || error.is::<SettingsFaults>();
            if config { ExitCode::from(CONFIG_IS_WRONG) } else { ExitCode::FAILURE }
        }
    }
}

async fn verb(cli: Cli) -> anyhow::Result<()> {
    match cli.verb {
        // These two need no configuration, so a broken one does not stand in their way.
        Verb::Schema(args) => return schema::run(&args),
        Verb::Sandbox(args) => return sandbox::run(args).await,
        _ => {}
    }
    let settings = Settings::load(cli.global.config.as_deref(), environment())?;
    match cli.verb {
        Verb::Run => {
            telemetry::init(&settings.log)?;
            crate::app::run(settings).await
        }
        Verb::Migrate => migrate::run(&settings).await,
        Verb::Check(args) => check::run(&args, &settings).await,
        Verb::Publish(args) => publish::run(&args, &settings).await,
        Verb::Integrations(verb) => integrations::run(verb, &settings).await,
        Verb::Explain(args) => explain::run(&args, &settings).await,
        Verb::Simulate(args) => simulate::run(&args, &settings),
        Verb::DeadLetters(verb) => dead_letters::run(verb, &settings).await,
        Verb::Schema(_) | Verb::Sandbox(_) => Ok(()),
    }
}

/// The environment's text variables; others can't be ours.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}
