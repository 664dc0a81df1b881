//! What others would write or pick for the job: the workers of `benches/peers`, which `scripts/peer` installs and runs.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use tempfile::TempDir;

use crate::broker;
use crate::worker::{Process, tail};

/// Installs and runs them.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/peer");
/// What the script ends with where a peer can't be had.
const NOT_TO_BE_HAD: i32 = 69;
/// What Celery gets of many events: it would take as long for a tenth of them as the others for all.
const FEWEST_TASKS: u32 = 10_000;

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    Node,
    AioPika,
    Celery,
}

impl Peer {
    pub const ALL: [Self; 3] = [Self::Node, Self::AioPika, Self::Celery];

    /// Its name in the table.
    pub fn row(self) -> &'static str {
        match self {
            Self::Node => "peer: Node, amqplib and undici",
            Self::AioPika => "peer: Python, aio-pika and aiohttp",
            Self::Celery => "peer: Celery, requests",
        }
    }

    /// Its name for the script.
    fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::AioPika => "aio-pika",
            Self::Celery => "celery",
        }
    }

    /// How many of so many events it is given.
    pub fn share(self, events: u32) -> u32 {
        match self {
            Self::Node | Self::AioPika => events,
            Self::Celery => (events / 10).max(FEWEST_TASKS).min(events),
        }
    }

    /// Installs what it needs, if that is missing; false if it can't be had here.
    pub fn install(self) -> anyhow::Result<bool> {
        let status = Command::new(SCRIPT).args([self.name(), "install"]).stdout(Stdio::null()).status()?;
        ensure!(status.success() || status.code() == Some(NOT_TO_BE_HAD), "{SCRIPT} ended with {status}");
        Ok(status.success())
    }

    /// Has its own producer put the events into the queue, in the form that it takes from there.
    pub async fn produce(self, queue: &str, events: Vec<Vec<u8>>) -> anyhow::Result<()> {
        let mut command = self.command("produce", queue)?;
        // The broker's connection lives on this thread, and wants its heartbeats.
        tokio::task::spawn_blocking(move || {
            let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
            let mut lines = BufWriter::new(child.stdin.take().context("the producer has no stdin")?);
            for event in events {
                lines.write_all(&event)?;
                lines.write_all(b"\n")?;
            }
            lines.into_inner()?;
            let status = child.wait()?;
            ensure!(status.success(), "the producer ended with {status}");
            Ok(())
        })
        .await?
    }

    /// Starts its worker, which takes from `queue` and posts to `room`.
    pub fn start(self, queue: &str, room: &str) -> anyhow::Result<Running> {
        let home = TempDir::with_prefix("hipchat-notifier-bench")?;
        let log = home.path().join("log");
        let file = File::create(&log)?;
        let mut command = self.command("work", queue)?;
        command.env("ROOM_URL", room).env("TOKEN", "token").stdin(Stdio::null());
        // A group of its own, so that none of its processes is left behind.
        let child = command.stdout(file.try_clone()?).stderr(file).process_group(0).spawn()?;
        Ok(Running { process: Process(child), log, _home: home })
    }

    fn command(self, verb: &str, queue: &str) -> anyhow::Result<Command> {
        let mut command = Command::new(SCRIPT);
        command.args([self.name(), verb]).env("AMQP_URL", broker::url()?).env("QUEUE", queue);
        Ok(command)
    }
}

/// A peer's worker.
pub struct Running {
    pub process: Process,
    log: PathBuf,
    _home: TempDir,
}

impl Running {
    /// Asks it to stop, and waits until it has.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        self.process.stop().await
    }

    /// What it said last.
    pub fn last_words(&self) -> String {
        tail(&self.log).unwrap_or_default()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // They may all have ended already, which is as good.
        let group = format!("-{}", self.process.pid());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status();
    }
}
