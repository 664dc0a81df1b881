//! The real binary as an operator has it: a folder with a configuration, a topology of its own on a real
//! RabbitMQ, and rooms in a sandbox.

mod rooms;
mod worker;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use hipchat_notifier::adapters::rabbitmq::topology;
use serde_json::{Value, json};
use tempfile::TempDir;

pub use self::rooms::Rooms;
pub use self::worker::{Worker, signal};
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
    /// Declares the topology, as a worker does.
    pub async fn declare(&self) {
        let declared = topology::declare(self.broker.connection(), &self.broker.topology).await;
        declared.expect("the topology can be declared");
    }

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
