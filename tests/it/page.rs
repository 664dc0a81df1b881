//! A Newman run, made now by real Newman, on its way through everything: `publish --newman`, RabbitMQ, the worker,
//! the sandbox's room, and the page as a browser shows it.
//!
//! Newman comes from npm by `scripts/newman`, the browser is Chromium. Where one is missing, the test says so in
//! its output and does the rest: without Newman with the report of an earlier run, without Chromium with the
//! page's html as it is sent.

mod browser;
mod newman;

use std::path::Path;
use std::process::{Child, Command, Stdio};

use hipchat_notifier::sandbox::{Sandbox, SandboxOptions};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::broker::{Broker, eventually};
use browser::{Browser, Picture};
use newman::Report;

/// Where the worker posts, as the page and the listing call it.
const ROOM: &str = "Newman runs";

/// A sandbox in this process and a worker beside it, on a topology of the test's own.
struct Demo {
    folder: TempDir,
    broker: Broker,
    address: String,
    worker: Option<Child>,
}

impl Demo {
    async fn start() -> Self {
        let options = SandboxOptions { room_limit: None, token_limit: None, ..SandboxOptions::default() };
        let sandbox = Sandbox::bind(options).await.unwrap();
        let address = sandbox.address().to_string();
        tokio::spawn(sandbox.serve(std::future::pending()));
        let folder = TempDir::new().unwrap();
        let integrations = format!(
            "[[integrations]]\nid = \"newman\"\nname = \"Newman\"\nkind = \"monitor-results\"\nteam = \"acme\"\n\
             room_url = \"http://{address}/v2/room/{}/notification?auth_token=t\"\n\
             [integrations.notify]\non = \"all\"\n",
            ROOM.replace(' ', "%20")
        );
        std::fs::write(folder.path().join("integrations.toml"), integrations).unwrap();
        let mut demo = Self { folder, broker: Broker::bare().await, address, worker: None };
        let log = std::fs::File::create(demo.path("worker.log")).unwrap();
        demo.worker = Some(demo.notifier().arg("run").stderr(log).spawn().unwrap());
        demo
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// The built program with settings of this test alone.
    fn notifier(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hipchat-notifier"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("NOTIFIER__") {
                command.env_remove(name);
            }
        }
        command
            .current_dir(self.folder.path())
            .env("NOTIFIER__AMQP__URL", &self.broker.url)
            .env("NOTIFIER__AMQP__EXCHANGE", &self.broker.topology.exchange)
            .env("NOTIFIER__AMQP__QUEUE", &self.broker.topology.queue)
            .env("NOTIFIER__AMQP__DEAD_LETTERS", &self.broker.topology.dead_letters)
            .env("NOTIFIER__INTEGRATIONS__FILE", "integrations.toml")
            .env("NOTIFIER__HTTP__LISTEN", "127.0.0.1:0")
            .env("NOTIFIER__EGRESS__ALLOW", &self.address)
            .stdin(Stdio::null());
        command
    }

    /// Publishes a report as `newman-N`.
    fn publish(&self, report: &Path, id: &str) {
        let mut command = self.notifier();
        command.args(["publish", "--newman"]).arg(report).args(["--team", "acme", "--id", id]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    async fn get(&self, path: &str) -> String {
        reqwest::get(format!("http://{}{path}", self.address)).await.unwrap().text().await.unwrap()
    }

    /// The first so many messages of the room, once they are there.
    async fn messages(&self, count: usize) -> Vec<Value> {
        let what =
            format!("{count} messages in the room; the worker's log is in {:?}", self.path("worker.log"));
        eventually(&what, async || {
            let listing = self.get(&format!("/sandbox/rooms/{}/messages", ROOM.replace(' ', "%20"))).await;
            let listing: Value = serde_json::from_str(&listing).unwrap();
            let messages = listing["messages"].as_array().unwrap();
            (messages.len() >= count).then(|| messages.clone())
        })
        .await
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        if let Some(mut worker) = self.worker.take() {
            // Both fail only if it has ended already.
            let _ = worker.kill();
            let _ = worker.wait();
        }
    }
}

/// Publishes in the queue's absence would be unroutable.
async fn ready(demo: &Demo) {
    eventually("the worker takes in events", async || {
        let log = std::fs::read_to_string(demo.path("worker.log")).unwrap_or_default();
        log.contains("taking in events").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newman_run_is_seen_in_the_room_with_its_numbers_and_colour() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let demo = Demo::start().await;
    ready(&demo).await;

    let failed = newman::failed_run(demo.folder.path()).await;
    demo.publish(&failed.file, "newman-1");
    let message = &demo.messages(1).await[0];
    assert_eq!((&message["color"], &message["notify"]), (&"red".into(), &true.into()), "{message}");
    let html = message["message"].as_str().unwrap();
    for part in failed.figures() {
        assert!(html.contains(&part), "{part} is not in {html}");
    }

    let page = format!("http://{}/?room={}", demo.address, ROOM.replace(' ', "%20"));
    let mut rows = vec![("red", failed)];
    if let Some(passed) = newman::passed_run(demo.folder.path()).await {
        demo.publish(&passed.file, "newman-2");
        let message = &demo.messages(2).await[1];
        assert_eq!((&message["color"], &message["notify"]), (&"green".into(), &false.into()), "{message}");
        let html = message["message"].as_str().unwrap();
        assert!(html.contains("recovered after 1 failed run"), "{html}");
        rows.push(("green", passed));
    }
    match Browser::find(demo.folder.path()) {
        Some(browser) => {
            assert_shown(&browser.dom(&page), &rows);
            let picture = browser.picture(&page);
            assert_drawn(&picture);
            let blank = browser.picture("about:blank");
            assert!(picture.bytes > 2 * blank.bytes, "as plain as a blank page: {picture:?}, {blank:?}");
        }
        None => {
            println!(
                "Chromium is missing: no picture of the page was taken, its html was checked as it is sent"
            );
            assert_shown(&demo.get(&page[page.find("/?").unwrap()..]).await, &rows);
        }
    }
}

/// Each message is in the page with its colour, its figures and its link, in order.
fn assert_shown(dom: &str, rows: &[(&str, Report)]) {
    let items: Vec<&str> = dom.split("<li class=\"message ").skip(1).collect();
    assert_eq!(items.len(), rows.len(), "messages in {dom}");
    for (item, (color, report)) in items.iter().zip(rows) {
        assert!(item.starts_with(&format!("{color}\" data-sequence=")), "not {color}: {item}");
        let link = format!("href=\"https://go.postman.co/monitors/{}\"", report.monitor_uid());
        for part in report.shown().into_iter().chain([link]) {
            assert!(item.contains(&part), "{part} is not in {item}");
        }
    }
}

fn assert_drawn(picture: &Picture) {
    assert_eq!((picture.width, picture.height), (browser::WIDTH, browser::HEIGHT), "{picture:?}");
}
