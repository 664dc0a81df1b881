//! A worker as an operator runs it: a process, its log, its own endpoints.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use super::client;
use crate::support::broker::eventually;

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

    /// How it has ended, if it has.
    pub fn exit(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child")
    }

    /// Waits until it has ended, by itself or by what was done to it.
    pub async fn ended(&mut self) -> ExitStatus {
        eventually("the worker ends", async || self.exit()).await
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
