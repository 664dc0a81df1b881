//! HipChat's stand-in, served in the test's own process and asked over HTTP as anybody would.

use hipchat_notifier::sandbox::{Limit, Sandbox, SandboxOptions};
use jiff::Timestamp;
use reqwest::{Client, Method};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::broker::DEADLINE;

/// A client for plain http on loopback.
pub fn client() -> Client {
    // Fails when another test was first, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder().no_proxy().timeout(DEADLINE).build().expect("a client")
}

/// Rooms, until it is dropped.
pub struct Hipchat {
    pub address: std::net::SocketAddr,
    client: Client,
    /// Dropping it ends the server.
    _stop: oneshot::Sender<()>,
}

/// A room's figures, as the sandbox counts them.
#[derive(Debug, Clone, Deserialize)]
pub struct Figures {
    pub id: String,
    pub accepted: u64,
    pub over_limit: u64,
    pub max_in_window: u64,
}

/// A message as a room received it.
#[derive(Debug, Clone, Deserialize)]
pub struct Posted {
    pub sequence: u64,
    pub received_at: Timestamp,
    pub message: String,
    pub card: Option<Value>,
}

impl Posted {
    /// The card's id, which names the notifications that the message tells.
    pub fn card_id(&self) -> Option<&str> {
        self.card.as_ref()?["id"].as_str()
    }
}

/// One call to a room.
#[derive(Debug, Clone, Deserialize)]
pub struct Attempt {
    pub at: Timestamp,
    pub status: Option<u16>,
    /// The number of the message, if the room took it.
    pub sequence: Option<u64>,
    /// The fault that was done to the call.
    pub fault: Option<String>,
}

impl Hipchat {
    /// Every room exists and takes every token, within these limits.
    pub async fn with_limits(room: Option<Limit>, token: Option<Limit>) -> Self {
        let options = SandboxOptions {
            room_limit: room,
            token_limit: token,
            keep: 1_000_000,
            ..SandboxOptions::default()
        };
        let sandbox = Sandbox::bind(options).await.expect("a free port");
        let address = sandbox.address();
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(sandbox.serve(async {
            let _ = stopped.await;
        }));
        Self { address, client: client(), _stop: stop }
    }

    /// A room's URL with a token, as an integration names it.
    pub fn room_url(&self, room: &str, token: &str) -> String {
        format!("http://{}/v2/room/{room}/notification?auth_token={token}", self.address)
    }

    /// What fails, and how, from now on.
    pub async fn set_faults(&self, faults: Value) {
        let answer = self
            .client
            .request(Method::PUT, format!("http://{}/sandbox/faults", self.address))
            .header("content-type", "application/json")
            .body(json!({ "faults": faults }).to_string())
            .send()
            .await
            .expect("the sandbox answers");
        assert_eq!(answer.status(), 200, "{:?}", answer.text().await);
    }

    /// Posts a message to a room past the worker.
    pub async fn post_stray(&self, room: &str) {
        let answer = self
            .client
            .post(self.room_url(room, "another"))
            .header("content-type", "application/json")
            .body(json!({"message": "once more"}).to_string())
            .send()
            .await
            .expect("the sandbox answers");
        assert!(answer.status().is_success(), "{:?}", answer.text().await);
    }

    /// Forgets what the rooms received.
    pub async fn forget(&self) {
        let url = format!("http://{}/sandbox/messages", self.address);
        let answer = self.client.delete(url).send().await.expect("the sandbox answers");
        assert!(answer.status().is_success());
    }

    /// All rooms that were called so far.
    pub async fn figures(&self) -> Vec<Figures> {
        serde_json::from_value(self.get("/sandbox/rooms").await).expect("figures")
    }

    /// What a room received, oldest first.
    pub async fn messages(&self, room: &str) -> Vec<Posted> {
        let mut listing = self.get(&format!("/sandbox/rooms/{room}/messages")).await;
        serde_json::from_value(listing["messages"].take()).expect("messages")
    }

    /// The calls to a room, whatever came of them.
    pub async fn attempts(&self, room: &str) -> Vec<Attempt> {
        serde_json::from_value(self.get(&format!("/sandbox/attempts?room={room}")).await).expect("attempts")
    }

    async fn get(&self, path: &str) -> Value {
        let answer = self.client.get(format!("http://{}{path}", self.address)).send().await;
        let answer = answer.expect("the sandbox answers");
        assert_eq!(answer.status(), 200, "{path}");
        let text = answer.text().await.expect("a body");
        serde_json::from_str(&text).unwrap_or_else(|fault| panic!("{path}: {fault}: {text}"))
    }
}
