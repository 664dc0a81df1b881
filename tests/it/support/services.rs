//! A cluster of RabbitMQ and a PostgreSQL of a test's own, whose nodes can be killed without harm to other tests.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::broker::eventually;

/// Run by `scripts/services`, until dropped.
pub struct Services {
    folder: TempDir,
    exports: BTreeMap<String, String>,
}

/// Which services.
#[derive(Default)]
pub struct Wanted {
    /// Of RabbitMQ.
    pub nodes: usize,
    /// RabbitMQ 4, and not the one that is installed.
    pub four: bool,
    pub no_postgres: bool,
    /// Where PostgreSQL has its data if this is root.
    pub data_of_postgres: Option<PathBuf>,
}

impl Services {
    /// So many nodes of one cluster, and PostgreSQL.
    pub async fn with_nodes(nodes: usize) -> Self {
        Self::up(&Wanted { nodes, ..Wanted::default() }).await
    }

    /// What is wanted.
    pub async fn up(wanted: &Wanted) -> Self {
        let folder = TempDir::new().expect("a folder");
        let mut up = command(folder.path(), &["up"]);
        up.env("NOTIFIER_RABBITMQ_NODES", wanted.nodes.to_string());
        if wanted.four {
            up.env("NOTIFIER_RABBITMQ_VERSION", "4");
        }
        if wanted.no_postgres {
            up.env("NOTIFIER_SERVICES", "rabbitmq");
        }
        if let Some(place) = &wanted.data_of_postgres {
            up.env("TMPDIR", place);
        }
        let exports = run(up).await;
        let exports = exports.lines().filter_map(|line| line.strip_prefix("export ")?.split_once('='));
        // The shell's own way to write what it must not take for more than text.
        let exports = exports.map(|(name, value)| (name.to_owned(), value.replace('\\', ""))).collect();
        Self { folder, exports }
    }

    /// The addresses of all nodes, in the order of their numbers.
    pub fn nodes(&self) -> Vec<String> {
        let cluster = self.exports.get("NOTIFIER_TEST_CLUSTER");
        cluster.unwrap_or(&self.exports["NOTIFIER__AMQP__URL"]).split(',').map(str::to_owned).collect()
    }

    /// The address of PostgreSQL.
    pub fn postgres(&self) -> String {
        self.exports["NOTIFIER_TEST_POSTGRES"].clone()
    }

    /// `kill9`, `start` or `restart` of a node by its number, or of `postgres`.
    pub async fn does(&self, verb: &str, what: &str) {
        run(command(self.folder.path(), &[verb, what])).await;
    }

    /// `rabbitmqctl` at one node.
    pub async fn ctl(&self, node: usize, arguments: &[&str]) {
        let node = node.to_string();
        run(command(self.folder.path(), &[&["ctl", node.as_str()][..], arguments].concat())).await;
    }

    /// The number of the node that leads a queue, asked at the first, as soon as that knows it.
    pub async fn leader(&self, queue: &str) -> usize {
        let list = ["ctl", "--quiet", "list_queues", "name", "leader"];
        eventually("the queue has a leader", async || {
            let listed = run(command(self.folder.path(), &list)).await;
            let line = listed.lines().find(|line| line.starts_with(queue))?;
            line.split_once("notifier")?.1.split_once('@')?.0.parse().ok()
        })
        .await
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        let mut down = command(self.folder.path(), &["down"]);
        let ended = down.output().expect("it runs");
        if !ended.status.success() && !std::thread::panicking() {
            panic!("{}", String::from_utf8_lossy(&ended.stderr));
        }
    }
}

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scripts/services");
    let mut command = Command::new(script);
    command
        .args(arguments)
        .env("NOTIFIER_SERVICES_DIR", folder)
        .env_remove("NOTIFIER__AMQP__URL")
        .env_remove("NOTIFIER_TEST_POSTGRES")
        .env_remove("NOTIFIER_SERVICES");
    command
}

async fn run(mut command: Command) -> String {
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic");
    let output = output.expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}
