//! Child processes: the worker, the sandbox, and the bare loops.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use hipchat_notifier::adapters::rabbitmq::Topology;

use crate::broker;

/// How long a child may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// A child that does not outlive its handle.
pub struct Process(pub Child);

impl Process {
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Asks it to stop, and waits until it has.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        let asked = Command::new("kill").args(["-TERM", &self.pid().to_string()]).status()?;
        ensure!(asked.success(), "can't signal process {}", self.pid());
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.0.try_wait()? {
                ensure!(status.success(), "it ended with {status}");
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        bail!("process {} does not stop", self.pid());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already, which is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How the worker is started.
pub struct Setup<'a> {
    pub binary: &'a Path,
    /// Holds store, log and integrations file.
    pub home: &'a Path,
    pub names: &'a Topology,
    pub log_level: &'a str,
    /// Settings of this row, after and over those of all: `STORE__URL` and the like.
    pub settings: &'a [(&'static str, String)],
}

/// A worker that is ready.
pub struct Worker {
    pub process: Process,
    /// From its start to the first 200 of `/readyz`.
    pub ready_after: Duration,
    http: String,
    client: reqwest::Client,
}

impl Worker {
    /// Starts a worker as an operator would, and waits until it is ready.
    pub async fn start(setup: &Setup<'_>) -> anyhow::Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let log = setup.home.join(format!("worker-{}.log", NUMBER.fetch_add(1, Ordering::Relaxed)));
        let started = Instant::now();
        let mut process = Process(
            command(setup)?
                .arg("run")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(File::create(&log)?)
                .spawn()
                .with_context(|| format!("can't start {}", setup.binary.display()))?,
        );
        hipchat_notifier::adapters::tls::ensure_crypto_provider();
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build()?;
        let mut http = None;
        while started.elapsed() < PATIENCE {
            if let Some(status) = process.0.try_wait()? {
                bail!("the worker ended with {status}:\n{}", std::fs::read_to_string(&log)?);
            }
            if http.is_none() {
                http = address_in(&log)?;
            }
            if let Some(http) = &http
                && let Ok(answer) = client.get(format!("{http}/readyz")).send().await
                && answer.status().is_success()
            {
                let ready_after = started.elapsed();
                return Ok(Self { process, ready_after, http: http.clone(), client });
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        bail!("the worker is not ready after {PATIENCE:?}; its log ends:\n{}", tail(&log)?);
    }

    /// Notifications that ended as `outcome`, by its own count.
    pub async fn ended_as(&self, outcome: &str) -> anyhow::Result<u64> {
        let text = self.client.get(format!("{}/metrics", self.http)).send().await?.text().await?;
        let label = format!("outcome=\"{outcome}\"");
        Ok(text
            .lines()
            .filter(|l| l.starts_with("hipchat_notifier_notifications_total{") && l.contains(&label))
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok())
            .sum())
    }

    /// Stops it by SIGTERM.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.process.stop().await
    }
}

/// Runs a verb beside the workers, to its end.
pub fn tell(setup: &Setup<'_>, verb: &[&str]) -> anyhow::Result<()> {
    let status = command(setup)?.args(verb).stdin(Stdio::null()).stdout(Stdio::null()).status()?;
    ensure!(status.success(), "{verb:?} ended with {status}");
    Ok(())
}

/// Budgets so large that nothing ever waits or is merged.
fn command(setup: &Setup<'_>) -> anyhow::Result<Command> {
    let Setup { binary, home, names, log_level, settings } = setup;
    let mut command = Command::new(binary);
    command.current_dir(home);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("NOTIFIER__")) {
        command.env_remove(name);
    }
    command
        .env("NOTIFIER__AMQP__URL", broker::url()?)
        .env("NOTIFIER__AMQP__EXCHANGE", &names.exchange)
        .env("NOTIFIER__AMQP__QUEUE", &names.queue)
        .env("NOTIFIER__AMQP__DEAD_LETTERS", &names.dead_letters)
        .env("NOTIFIER__STORE__URL", "sqlite:worker.db")
        .env("NOTIFIER__HTTP__LISTEN", "127.0.0.1:0")
        .env("NOTIFIER__EGRESS__ALLOW", "127.0.0.1")
        .env("NOTIFIER__PACING__ROOM__MESSAGES", "1000000000")
        .env("NOTIFIER__PACING__TOKEN__CALLS", "1000000000")
        .env("NOTIFIER__LOG__FORMAT", "json")
        // Where it listens is told at info.
        .env("NOTIFIER__LOG__LEVEL", format!("{log_level},hipchat_notifier::app=info"))
        .envs(settings.iter().map(|(key, value)| (format!("NOTIFIER__{key}"), value)));
    Ok(command)
}

/// Where the worker says that it listens, once it does.
fn address_in(log: &Path) -> anyhow::Result<Option<String>> {
    for line in BufReader::new(File::open(log)?).lines() {
        let line: serde_json::Value = serde_json::from_str(&line?).unwrap_or_default();
        if let Some(address) = line["http"].as_str() {
            return Ok(Some(format!("http://{address}")));
        }
    }
    Ok(None)
}

/// The last lines of a log.
pub fn tail(log: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(log)?;
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(5)..].join("\n"))
}

/// The sandbox without limits.
pub struct Sandbox {
    _process: Process,
    /// `http://host:port`.
    pub url: String,
}

impl Sandbox {
    /// Starts one and waits until it listens.
    pub fn start(binary: &Path) -> anyhow::Result<Self> {
        let mut child = Command::new(binary)
            .args(["sandbox", "--listen", "127.0.0.1:0", "--room-limit", "none", "--token-limit", "none"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().context("the sandbox has no stdout")?;
        let process = Process(child);
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let url = line.split_whitespace().find(|word| word.starts_with("http://"));
        let url = url.with_context(|| format!("the sandbox does not say where it listens: {line:?}"))?;
        Ok(Self { _process: process, url: url.trim_end_matches('/').to_owned() })
    }

    /// How many messages its rooms have taken.
    pub async fn messages(&self) -> anyhow::Result<u64> {
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build()?;
        let text = client.get(format!("{}/sandbox/rooms", self.url)).send().await?.text().await?;
        let rooms: Vec<serde_json::Value> = serde_json::from_str(&text)?;
        Ok(rooms.iter().filter_map(|room| room["accepted"].as_u64()).sum())
    }
}

/// A bare loop in a process of its own.
pub struct Bare {
    pub process: Process,
    acknowledged: Arc<AtomicU64>,
}

impl Bare {
    /// Starts one and waits until it consumes. With `post_to` it posts, without it parses.
    pub fn start(names: &Topology, events: u32, post_to: Option<&str>) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["bare", "--queue", &names.queue, "--events", &events.to_string()]);
        if let Some(url) = post_to {
            command.args(["--post-to", url]);
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().context("the bare loop has no stdout")?;
        let process = Process(child);
        let mut lines = BufReader::new(stdout);
        ensure!(lines.read_line(&mut String::new())? > 0, "the bare loop ended before it consumed");
        let acknowledged = Arc::new(AtomicU64::new(0));
        let count = acknowledged.clone();
        std::thread::spawn(move || follow(lines, &count));
        Ok(Self { process, acknowledged })
    }

    /// How many events it has acknowledged.
    pub fn count(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }
}

fn follow(lines: BufReader<impl Read>, count: &AtomicU64) {
    for line in lines.lines().map_while(Result::ok) {
        if let Ok(acknowledged) = line.parse() {
            count.store(acknowledged, Ordering::Relaxed);
        }
    }
}
