//! The rooms: a sandbox in the test's own process.

use hipchat_notifier::sandbox::{RoomSpec, Sandbox, SandboxOptions};
use serde_json::{Value, json};
use tokio::task::AbortHandle;

use super::client;
use crate::support::broker::eventually;

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

    /// Waits until a room was called so often, whatever came of it.
    pub async fn is_asked(&self, room: &str, times: usize) {
        let url = format!("http://{}/sandbox/attempts?room={room}", self.address);
        eventually(&format!("{times} calls to {room}"), async || {
            let text = self.client.get(&url).send().await.expect("an answer").text().await.expect("text");
            let attempts: Value = serde_json::from_str(&text).expect("JSON");
            (attempts.as_array()?.len() >= times).then_some(())
        })
        .await;
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
