//! The sandbox over HTTP, by a client that knows nothing of it: what the notifier's other tests trust.

mod answers;
mod faults;
mod limits;
mod rooms;

use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use hipchat_notifier::sandbox::{RoomSpec, Sandbox, SandboxOptions};
use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Long enough for a busy machine, and never waited for when all is well.
const DEADLINE: Duration = Duration::from_secs(20);

/// A sandbox that is served until it is dropped or stopped.
struct Running {
    address: SocketAddr,
    client: Client,
    stop: Mutex<Option<oneshot::Sender<()>>>,
    served: tokio::sync::Mutex<JoinHandle<std::io::Result<()>>>,
}

impl Running {
    async fn start(options: SandboxOptions) -> Self {
        let sandbox = Sandbox::bind(options).await.expect("a free port");
        let (stop, stopped) = oneshot::channel();
        let address = sandbox.address();
        let served = tokio::spawn(sandbox.serve(async {
            let _ = stopped.await;
        }));
        Self { address, client: client(), stop: Mutex::new(Some(stop)), served: served.into() }
    }

    /// Everything allowed, nothing limited.
    async fn open() -> Self {
        Self::start(SandboxOptions { room_limit: None, token_limit: None, ..SandboxOptions::default() }).await
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("http://{}{path}", self.address))
    }

    /// Posts a body to a room with the token `secret-token`.
    async fn post(&self, room: &str, body: &Value) -> Response {
        self.try_post(room, body).await.expect("an answer")
    }

    async fn try_post(&self, room: &str, body: &Value) -> reqwest::Result<Response> {
        self.request(Method::POST, &format!("/v2/room/{room}/notification"))
            .header("authorization", "Bearer secret-token")
            .header("content-type", "application/json")
            .body(body.to_string())
            .send()
            .await
    }

    async fn get(&self, path: &str) -> Value {
        let response = self.request(Method::GET, path).send().await.expect("an answer");
        assert_eq!(response.status(), 200, "{path}");
        json_of(response).await
    }

    async fn text(&self, path: &str) -> String {
        let response = self.request(Method::GET, path).send().await.expect("an answer");
        assert_eq!(response.status(), 200, "{path}");
        response.text().await.expect("text")
    }

    async fn messages(&self, room: &str) -> Vec<Value> {
        let listing = self.get(&format!("/sandbox/rooms/{room}/messages")).await;
        listing["messages"].as_array().expect("a list").clone()
    }

    async fn set_faults(&self, faults: Value) {
        let request = self.request(Method::PUT, "/sandbox/faults").header("content-type", "application/json");
        let response = request.body(json!({"faults": faults}).to_string()).send().await.expect("an answer");
        assert_eq!(response.status(), 200, "{:?}", response.text().await);
    }

    /// Asks it to stop and waits until it has.
    async fn stop(&self) {
        let stop = self.stop.lock().expect("not poisoned").take();
        let _ = stop.expect("still running").send(());
        let mut served = self.served.lock().await;
        let served = tokio::time::timeout(DEADLINE, &mut *served).await.expect("stops in time");
        served.expect("no panic").expect("no fault");
    }
}

fn client() -> Client {
    // Fails when another test was first, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .timeout(DEADLINE)
        .build()
        .expect("a client")
}

async fn json_of(response: Response) -> Value {
    let text = response.text().await.expect("a body");
    serde_json::from_str(&text).unwrap_or_else(|fault| panic!("{fault}: {text}"))
}

fn header(response: &Response, name: &str) -> Option<String> {
    response.headers().get(name).map(|value| value.to_str().expect("ASCII").to_owned())
}

fn number(response: &Response, name: &str) -> u64 {
    header(response, name).unwrap_or_else(|| panic!("no {name}")).parse().expect("a number")
}

#[expect(clippy::disallowed_methods, reason = "the judge reads its own clock")]
fn epoch_now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs()
}

fn room(id: &str, token: &str) -> RoomSpec {
    RoomSpec::new(id, Some(token.to_owned()))
}
