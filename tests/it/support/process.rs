//! The program itself as processes: workers that are started, stopped and killed, and the other verbs beside
//! them, all in a private folder. When a test fails, what the workers wrote last is shown.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use hipchat_notifier::adapters::store::cipher::Cipher;
use hipchat_notifier::adapters::store::postgres::{Address, Options, PostgresStore, Schema};
use hipchat_notifier::adapters::store::sqlite::{Role, SqliteStore};
use hipchat_notifier::ports::Storage;
use jiff::Timestamp;
use serde_json::Value;
use tempfile::TempDir;

use super::broker::{Broker, eventually};
use super::postgres::Postgres;
use super::rooms::client;
use crate::pipeline::now;

/// The worker under test: the one that was built with the tests, or the one at `PROVE_WORKER`, so that a release
/// build can be judged without building the judge anew.
fn program() -> String {
    std::env::var("PROVE_WORKER").unwrap_or_else(|_| env!("CARGO_BIN_EXE_hipchat-notifier").to_owned())
}
/// The key of shared stores.
const SHARED_KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
/// Lines of each worker's log that a failing test shows.
const SHOWN_LINES: usize = 12;

/// A folder, a configuration, and the processes that share both.
pub struct Site {
    folder: TempDir,
    /// Elsewhere, so that a worker whose disk is full can still say so.
    logs: TempDir,
    environment: BTreeMap<String, String>,
    started: AtomicUsize,
}

/// What a verb left behind.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// Fails unless the verb was done.
    pub fn done(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }

    /// What it wrote with `--output json`.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|fault| panic!("{fault}: {self:?}"))
    }
}

impl Site {
    /// On this broker's topology, with nothing else on the worker's list of rooms that may be reached than
    /// those on loopback.
    pub fn on(broker: &Broker) -> Self {
        let site = Self {
            folder: TempDir::new().expect("a folder"),
            logs: TempDir::new().expect("a folder"),
            environment: BTreeMap::new(),
            started: AtomicUsize::new(0),
        };
        let site = match broker.urls.as_slice() {
            [url] => site.with("AMQP__URL", url),
            urls => site.with("AMQP__URLS", &urls.join(",")),
        };
        site.with("AMQP__EXCHANGE", &broker.topology.exchange)
            .with("AMQP__QUEUE", &broker.topology.queue)
            .with("AMQP__DEAD_LETTERS", &broker.topology.dead_letters)
            .with("STORE__URL", "sqlite:worker.db")
            .with("EGRESS__ALLOW", "127.0.0.1")
            .with("HTTP__LISTEN", "127.0.0.1:0")
            .with("LOG__FORMAT", "json")
    }

    /// With a setting, named as in the environment but without `NOTIFIER__`.
    #[must_use]
    pub fn with(mut self, key: &str, value: &str) -> Self {
        self.environment.insert(format!("NOTIFIER__{key}"), value.to_owned());
        self
    }

    /// A file in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(program());
        command.current_dir(self.folder.path()).env_clear().envs(&self.environment).stdin(Stdio::null());
        command
    }

    /// Runs a verb to its end.
    pub async fn run(&self, arguments: &[&str]) -> Ran {
        let mut command = self.command();
        command.args(arguments);
        let ended = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic");
        let ended = ended.expect("the program starts");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        Ran { code: ended.status.code(), stdout: text(ended.stdout), stderr: text(ended.stderr) }
    }

    /// Applies integrations written as TOML.
    pub async fn apply(&self, integrations: &str) {
        std::fs::write(self.path("integrations.toml"), integrations).expect("written");
        self.run(&["integrations", "apply", "integrations.toml"]).await.done();
    }

    /// Starts a worker and waits until it says that it is ready.
    pub async fn start(&self) -> Worker {
        let worker = self.spawn();
        worker.becomes_ready().await;
        worker
    }

    /// Starts a worker.
    pub fn spawn(&self) -> Worker {
        self.spawn_with(&[])
    }

    /// Starts a worker that has these settings of its own, named as in [`Site::with`].
    pub fn spawn_with(&self, own: &[(&str, String)]) -> Worker {
        let log = self.log(self.started.fetch_add(1, Ordering::Relaxed) + 1);
        let mut command = self.command();
        command.envs(own.iter().map(|(key, value)| (format!("NOTIFIER__{key}"), value)));
        command.arg("run").stdout(Stdio::piped()).stderr(File::create(&log).expect("a log"));
        let started = now();
        let mut child = command.spawn().expect("the program starts");
        let stdout = child.stdout.take().expect("piped");
        Worker { child, log, started, gone: watch(stdout) }
    }

    /// Where the worker that was started as the n-th writes.
    fn log(&self, n: usize) -> PathBuf {
        self.logs.path().join(format!("worker-{n}.log"))
    }

    /// On a shared store, with a key that all its workers have.
    #[must_use]
    pub fn sharing(self, postgres: &Postgres) -> Self {
        self.with("STORE__URL", &postgres.url).with("SECRETS__KEY", SHARED_KEY)
    }

    /// The store, opened beside the worker as the verbs do.
    pub async fn store(&self) -> Arc<dyn Storage> {
        let url = &self.environment["NOTIFIER__STORE__URL"];
        if url.starts_with("sqlite:") {
            let cipher = Cipher::load_or_create(&self.path("worker.db.key")).expect("the key");
            return SqliteStore::open(&self.path("worker.db"), Role::Tool, cipher).expect("the store");
        }
        let address = Address::parse(url).expect("an address");
        let (name, stands_still) = ("the shared store".to_owned(), Duration::from_secs(1));
        let options = Options { address, name, connections: 2, stands_still, schema: Schema::Look };
        let cipher = Cipher::from_hex(SHARED_KEY.as_bytes(), "the key".to_owned()).expect("the key");
        PostgresStore::open(options, cipher).await.expect("the store")
    }

    /// The last lines of every worker's log.
    fn logs(&self) -> String {
        let started = self.started.load(Ordering::Relaxed);
        let first = started.saturating_sub(3) + 1;
        (first..=started)
            .map(|n| {
                let text = read(&self.log(n));
                let lines: Vec<&str> = text.lines().collect();
                let last = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
                format!("--- worker {n}, the last of {} lines\n{}\n", lines.len(), last.join("\n"))
            })
            .collect()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
    }
}

/// Notes when a process ends, whenever it is asked for: its stdout, on which a worker writes nothing, is closed then.
fn watch(mut stdout: ChildStdout) -> Arc<OnceLock<Timestamp>> {
    let gone = Arc::new(OnceLock::new());
    let noted = gone.clone();
    std::thread::spawn(move || {
        // An error is an end too.
        let _ = std::io::copy(&mut stdout, &mut std::io::sink());
        noted.set(now()).expect("noted once")
    });
    gone
}

/// How a worker has ended, and what it was.
#[derive(Debug)]
pub struct End {
    pub started: Timestamp,
    pub ended: Timestamp,
    pub status: ExitStatus,
    pub log: String,
}

/// A running worker; killed when dropped.
pub struct Worker {
    child: Child,
    log: PathBuf,
    started: Timestamp,
    gone: Arc<OnceLock<Timestamp>>,
}

impl Worker {
    /// All it has logged.
    pub fn log(&self) -> String {
        read(&self.log)
    }

    /// What it logged with this message, newest last.
    pub fn logged(&self, message: &str) -> Vec<Value> {
        let lines = self.log();
        let lines = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line["message"].as_str().is_some_and(|text| text.contains(message))).collect()
    }

    /// Where its own endpoints are, once it has started.
    pub async fn http(&self) -> String {
        eventually("the worker starts", async || {
            self.logged("worker started").first().and_then(|line| Some(line["http"].as_str()?.to_owned()))
        })
        .await
    }

    /// Waits until it says that it is ready.
    pub async fn becomes_ready(&self) {
        let http = self.http().await;
        let client = client();
        eventually("the worker is ready", async || {
            let answer = client.get(format!("http://{http}/readyz")).send().await.ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
    }

    /// Bytes of memory that it has had at most so far.
    pub fn peak_memory(&self) -> u64 {
        let status = read(Path::new(&format!("/proc/{}/status", self.child.id())));
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a running process");
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kib << 10
    }

    /// How it has ended, if it has.
    pub fn ended(&mut self) -> Option<End> {
        let status = self.child.try_wait().expect("a child")?;
        Some(End { started: self.started, ended: *self.gone.wait(), status, log: self.log() })
    }

    /// Kills it as a crash would, and waits until it is gone. It may have ended otherwise just before.
    pub fn kill(mut self) -> End {
        self.child.kill().expect("it runs, or has not been waited for");
        self.child.wait().expect("it ends");
        self.ended().expect("waited for")
    }

    /// Its threads of this name.
    pub fn threads(&self, name: &str) -> usize {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("Linux");
        let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
        names.filter(|found| found.trim_end() == name).count()
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("sh").arg("-c").arg(format!("kill -{name} {}", self.child.id())).status();
        assert!(sent.expect("sh").success());
    }

    /// Sends SIGTERM. Returns how it ended and how long that took.
    pub async fn terminate(&mut self) -> (ExitStatus, Duration) {
        let asked = Instant::now();
        self.signal("TERM");
        let status = eventually("the worker ends", async || self.child.try_wait().expect("a child")).await;
        (status, asked.elapsed())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Gone already where a test has killed or stopped it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}
