//! The real binary as an operator has it: a folder with a configuration, a topology of its own on a real
//! RabbitMQ, and rooms in a sandbox.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hipchat_notifier::sandbox::{RoomSpec, Sandbox, SandboxOptions};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::AbortHandle;

use super::broker::{Broker, eventually};

/// The program under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_hipchat-notifier");

/// Far more than any verb needs.
const PATIENCE: Duration = Duration::from_secs(60);

/// The token of every room of the sandbox, as far as a test names no other.
pub const TOKEN: &str = "roomTokenForTheSandbox0123456789abcdefgh";

/// What a verb did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// The output of a verb that is done.
    #[track_caller]
    pub fn done(self) -> String {
        assert_eq!((self.code, self.err.as_str()), (Some(0), ""), "{}", self.out);
        self.out
    }

    /// The one JSON document of a verb that is done.
    #[track_caller]
    pub fn json(self) -> Value {
        let text = self.done();
        serde_json::from_str(&text).unwrap_or_else(|fault| panic!("{fault}: {text}"))
    }

    /// What a verb that ended with `code` complained, without the program's name.
    #[track_caller]
    pub fn complaint(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{self:?}");
        let told = self.err.strip_prefix("hipchat-notifier: ").and_then(|text| text.strip_suffix('\n'));
        told.unwrap_or_else(|| panic!("{self:?}")).to_owned()
    }
}

/// Runs the program outside of any lab, with `input` on stdin.
pub async fn run(mut command: Command, input: &[u8]) -> Ran {
    let input = input.to_vec();
    let running = tokio::task::spawn_blocking(move || {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut stdin = child.stdin.take().expect("piped");
        let writing = std::thread::spawn(move || {
            // A program that does not read to the end is in its right.
            let _ = stdin.write_all(&input);
        });
        let output = child.wait_with_output().expect("it ends");
        let _ = writing.join();
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    });
    tokio::time::timeout(PATIENCE, running).await.expect("the verb ends in time").expect("no panic")
}

/// The program with none of this process's configuration.
pub fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(arguments);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("NOTIFIER__") {
            command.env_remove(name);
        }
    }
    command
}

/// A folder, a broker's topology, rooms.
pub struct Lab {
    pub folder: TempDir,
    pub broker: Broker,
    pub rooms: Rooms,
}

impl Lab {
    /// With nothing declared on the broker, no store, and a sandbox in which every room takes [`TOKEN`].
    pub async fn new() -> Self {
        let lab = Self {
            folder: tempfile::tempdir().expect("a folder"),
            broker: Broker::bare().await,
            rooms: Rooms::open(vec![TOKEN.into()]).await,
        };
        let names = &lab.broker.topology;
        let config = format!(
            "[amqp]\nurl = {:?}\nexchange = {:?}\nqueue = {:?}\ndead_letters = {:?}\n\
             [store]\nurl = \"sqlite:{}\"\n[http]\nlisten = \"127.0.0.1:0\"\n\
             [egress]\nallow = [\"127.0.0.1\"]\n[retry]\nfirst = \"50ms\"\nlongest = \"200ms\"\n",
            lab.broker.url,
            names.exchange,
            names.queue,
            names.dead_letters,
            lab.path("store.db").display(),
        );
        lab.write("notifier.toml", config);
        lab
    }

    /// A place in the lab's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file and gives its name as an argument.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        std::fs::write(&path, text).expect("written");
        path.to_str().expect("UTF-8").to_owned()
    }

    /// The program with this lab's configuration, and `keys` (`store.url`) over it.
    pub fn command(&self, arguments: &[&str], keys: &[(&str, &str)]) -> Command {
        let mut command = program(arguments);
        command.arg("--config").arg(self.path("notifier.toml")).current_dir(self.folder.path());
        for (key, value) in keys {
            command.env(format!("NOTIFIER__{}", key.to_uppercase().replace('.', "__")), value);
        }
        command
    }

    /// Runs a verb.
    pub async fn run(&self, arguments: &[&str]) -> Ran {
        self.run_with(arguments, &[], b"").await
    }

    /// Runs a verb with keys of the configuration changed, and with something on stdin.
    pub async fn run_with(&self, arguments: &[&str], keys: &[(&str, &str)], input: &[u8]) -> Ran {
        run(self.command(arguments, keys), input).await
    }

    /// A room's URL in this lab's sandbox.
    pub fn room_url(&self, room: &str, token: &str) -> String {
        format!("http://{}/v2/room/{room}/notification?auth_token={token}", self.rooms.address)
    }

    /// An integration of the room that has its id, told of everything at once.
    pub fn integration(&self, id: &str, kind: &str) -> String {
        let notify = match kind {
            "team-activity" => "on = \"each\"\ncollate = \"0s\"",
            _ => "on = \"all\"",
        };
        let url = self.room_url(id, TOKEN);
        format!(
            "[[integrations]]\nid = \"{id}\"\nkind = \"{kind}\"\nroom_url = \"{url}\"\n\
             [integrations.notify]\n{notify}\n"
        )
    }

    /// Applies integrations.
    pub async fn apply(&self, text: &str) {
        let file = self.write("integrations.toml", text);
        self.run(&["integrations", "apply", &file]).await.done();
    }

    /// Starts a worker and waits until it is ready.
    pub async fn worker(&self) -> Worker {
        let worker = self.start(&[]);
        worker.is_ready().await;
        worker
    }

    /// Starts a worker with keys of the configuration changed.
    pub fn start(&self, keys: &[(&str, &str)]) -> Worker {
        Worker::start(self.command(&["run"], keys))
    }

    /// What became of an event, once nothing of it is pending any more: outcome and reason by integration.
    pub async fn outcomes(&self, event: &str) -> Vec<(String, String, String)> {
        eventually(&format!("the end of {event}"), async || {
            let ran = self.run(&["explain", event, "--output", "json"]).await;
            let explained: Value = serde_json::from_str(&ran.out).ok()?;
            let outcomes = explained["outcomes"].as_array().expect("a list").clone();
            let text = |outcome: &Value, key: &str| outcome[key].as_str().expect(key).to_owned();
            let ended: Vec<_> = outcomes
                .iter()
                .map(|o| (text(o, "integration_id"), text(o, "outcome"), text(o, "reason")))
                .collect();
            ended.iter().all(|(_, outcome, _)| outcome != "pending").then_some(ended)
        })
        .await
    }

    /// The dead letters, once there are so many.
    pub async fn letters(&self, count: usize) -> Vec<Value> {
        eventually(&format!("{count} dead letters"), async || {
            let listed = self.run(&["dead-letters", "list", "--each", "--output", "json"]).await.json();
            let letters = listed.as_array().expect("a list").clone();
            assert!(letters.len() <= count, "{letters:#?}");
            (letters.len() == count).then_some(letters)
        })
        .await
    }
}

/// A running worker. Killed when it is dropped.
pub struct Worker {
    child: Child,
    log: Arc<Mutex<String>>,
    client: reqwest::Client,
}

impl Worker {
    /// Starts `command` and reads its log.
    pub fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let log = Arc::new(Mutex::new(String::new()));
        follow(child.stderr.take().expect("piped"), &log);
        follow(child.stdout.take().expect("piped"), &log);
        Self { child, log, client: client() }
    }

    /// Everything that it has written so far.
    pub fn log(&self) -> String {
        self.log.lock().expect("not poisoned").clone()
    }

    /// The first line of the log in which all of these stand.
    pub async fn says(&self, parts: &[&str]) -> String {
        eventually(&format!("{parts:?} in the log: {}", self.log()), async || {
            let log = self.log();
            log.lines().find(|line| parts.iter().all(|part| line.contains(part))).map(str::to_owned)
        })
        .await
    }

    /// Where the worker's own endpoints are, as its log says.
    pub async fn address(&self) -> String {
        let line = self.says(&["worker started"]).await;
        let form =
            ["\"http\":\"", "http="].into_iter().find(|form| line.contains(form)).expect("in either format");
        let (_, rest) = line.split_once(form).expect("found");
        let address: String = rest.chars().take_while(|c| c.is_ascii_digit() || ".:".contains(*c)).collect();
        // What is bound everywhere is asked by loopback.
        address.replace("0.0.0.0", "127.0.0.1")
    }

    /// Status and body of one of the worker's own endpoints.
    pub async fn get(&self, path: &str) -> (u16, String) {
        let url = format!("http://{}{path}", self.address().await);
        let answer = self.client.get(url).send().await.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("text"))
    }

    /// Waits until `/readyz` says so.
    pub async fn is_ready(&self) {
        eventually("the worker is ready", async || (self.get("/readyz").await.0 == 200).then_some(())).await;
    }

    /// Waits until `/readyz` says no, and why.
    pub async fn is_not_ready(&self) -> String {
        eventually("the worker is not ready", async || {
            let (status, why) = self.get("/readyz").await;
            (status == 503).then_some(why)
        })
        .await
    }

    /// One figure of `/metrics`, by the start of its line.
    pub async fn figure(&self, series: &str) -> Option<f64> {
        let (_, text) = self.get("/metrics").await;
        let line = text.lines().find(|line| line.starts_with(series))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, name: &str) {
        signal(self.child.id(), name);
    }

    /// Waits until it has ended, by itself or by what was done to it.
    pub async fn ended(&mut self) -> ExitStatus {
        eventually("the worker ends", async || self.child.try_wait().expect("a child")).await
    }

    /// Stops it as an orchestrator does, and gives its whole log.
    pub async fn stop(mut self) -> String {
        self.signal("TERM");
        let status = self.ended().await;
        assert_eq!(status.code(), Some(0), "{}", self.log());
        self.log()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal to a process of ours.
pub fn signal(process: u32, name: &str) {
    let sent = Command::new("kill").arg(format!("-{name}")).arg(process.to_string()).status();
    assert!(sent.expect("kill is there").success());
}

fn follow(from: impl Read + Send + 'static, log: &Arc<Mutex<String>>) {
    let log = Arc::clone(log);
    std::thread::spawn(move || {
        let mut reader = BufReader::new(from);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            log.lock().expect("not poisoned").push_str(&String::from_utf8_lossy(&line));
            line.clear();
        }
    });
}

/// A client without proxies and redirects.
pub fn client() -> reqwest::Client {
    // Fails when another test was first, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .timeout(PATIENCE)
        .build()
        .expect("a client")
}

/// A sandbox, served until it is dropped.
pub struct Rooms {
    pub address: String,
    client: reqwest::Client,
    served: AbortHandle,
}

impl Rooms {
    /// Every room exists, without limits, and takes these tokens.
    pub async fn open(tokens: Vec<String>) -> Self {
        Self::start(SandboxOptions { tokens, room_limit: None, token_limit: None, ..Default::default() })
            .await
    }

    /// These rooms and no other.
    pub async fn of(rooms: Vec<RoomSpec>) -> Self {
        Self::start(SandboxOptions { rooms, room_limit: None, token_limit: None, ..Default::default() }).await
    }

    async fn start(options: SandboxOptions) -> Self {
        let sandbox = Sandbox::bind(options).await.expect("a free port");
        let address = sandbox.address().to_string();
        let served = tokio::spawn(async move {
            let _ = sandbox.serve(std::future::pending()).await;
        });
        Self { address, client: client(), served: served.abort_handle() }
    }

    /// What a room has received, oldest first.
    pub async fn messages(&self, room: &str) -> Vec<Value> {
        let url = format!("http://{}/sandbox/rooms/{room}/messages", self.address);
        let text = self.client.get(url).send().await.expect("an answer").text().await.expect("text");
        let listing: Value = serde_json::from_str(&text).expect("JSON");
        listing["messages"].as_array().cloned().unwrap_or_default()
    }

    /// A room's messages, once there are so many.
    pub async fn receives(&self, room: &str, count: usize) -> Vec<Value> {
        eventually(&format!("{count} messages in {room}"), async || {
            let messages = self.messages(room).await;
            assert!(messages.len() <= count, "{messages:#?}");
            (messages.len() == count).then_some(messages)
        })
        .await
    }

    /// Makes rooms fail, as `/sandbox/faults` takes it.
    pub async fn fail(&self, faults: Value) {
        let put = self
            .client
            .put(format!("http://{}/sandbox/faults", self.address))
            .header("content-type", "application/json")
            .body(json!({"faults": faults}).to_string());
        let answer = put.send().await.expect("an answer");
        assert_eq!(answer.status(), 200, "{:?}", answer.text().await);
    }
}

impl Drop for Rooms {
    fn drop(&mut self) {
        self.served.abort();
    }
}

/// A monitor's run in Postman's own form.
pub fn run_body(monitor: &str, failed: u64) -> String {
    json!({
        "monitor_uid": monitor,
        "monitor_name": format!("Monitor {monitor}"),
        "metrics": {"passedTests": 7, "failedTests": failed, "errors": 0, "requestCount": 3},
    })
    .to_string()
}

/// The same in a CloudEvent, which has an id of its own.
pub fn cloud_run(id: &str, monitor: &str, failed: u64) -> Value {
    let data: Value = serde_json::from_str(&run_body(monitor, failed)).expect("JSON");
    json!({
        "specversion": "1.0",
        "id": id,
        "source": "/test",
        "type": "com.postman.monitor.run.completed",
        "teamid": "acme",
        "data": data,
    })
}

/// A file of the tests' fixtures.
pub fn fixture(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    path.to_str().expect("UTF-8").to_owned()
}
