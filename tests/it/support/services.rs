//! A cluster of RabbitMQ and a PostgreSQL of a test's own, whose nodes can be killed without harm to other tests.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// Run by `scripts/services`, until dropped.
pub struct Services {
    folder: TempDir,
    exports: BTreeMap<String, String>,
}

impl Services {
    /// So many nodes of one cluster, and PostgreSQL.
    pub async fn with_nodes(nodes: usize) -> Self {
        let folder = TempDir::new().expect("a folder");
        let mut up = command(folder.path(), &["up"]);
        up.env("NOTIFIER_RABBITMQ_NODES", nodes.to_string());
        let exports = run(up).await;
        let exports = exports.lines().filter_map(|line| line.strip_prefix("export ")?.split_once('='));
        // The shell's own way to write what it must not take for more than text.
        let exports = exports.map(|(name, value)| (name.to_owned(), value.replace('\\', ""))).collect();
        Self { folder, exports }
    }

    /// The addresses of all nodes, in the order of their numbers.
    pub fn nodes(&self) -> Vec<String> {
        self.exports["NOTIFIER_TEST_CLUSTER"].split(',').map(str::to_owned).collect()
    }

    /// The address of PostgreSQL.
    pub fn postgres(&self) -> String {
        self.exports["NOTIFIER_TEST_POSTGRES"].clone()
    }

    /// `kill9`, `start` or `restart` of a node by its number, or of `postgres`.
    pub async fn does(&self, verb: &str, what: &str) {
        run(command(self.folder.path(), &[verb, what])).await;
    }

    /// The number of the node that leads a queue, asked at another.
    pub async fn leader(&self, queue: &str) -> usize {
        let list = ["ctl", "--quiet", "list_queues", "name", "leader"];
        let listed = run(command(self.folder.path(), &list)).await;
        let line = listed.lines().find(|line| line.starts_with(queue)).expect("the queue is there");
        let node = line.split_once("notifier").expect("a node").1.split_once('@').expect("a node").0;
        node.parse().expect("a number")
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
