//! Servers on loopback that answer each request with bytes given by the test, well-formed or not.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// How a server answers a request.
#[derive(Debug, Clone)]
pub enum Reply {
    /// These bytes; then it waits for the next request.
    Bytes(Vec<u8>),
    /// These bytes, and after them a byte now and then, for ever.
    Trickle(Vec<u8>),
    /// These bytes, and after them as much as is taken, for ever.
    Endless(Vec<u8>),
    /// Nothing, with the connection open.
    Silence,
    /// The connection is closed at once.
    Drop,
}

/// A complete answer with a length.
pub fn answer(status: &str, headers: &str, body: &str) -> Reply {
    let length = body.len();
    Reply::Bytes(format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\n\r\n{body}").into_bytes())
}

#[derive(Debug, Clone)]
pub struct Request {
    pub head: String,
    pub body: Vec<u8>,
}

impl Request {
    pub fn line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let mut pairs = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        pairs.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

pub struct RawServer {
    pub addr: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    connections: Arc<watch::Sender<Connections>>,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Connections {
    pub opened: usize,
    pub closed: usize,
}

impl RawServer {
    pub async fn start(reply: Reply) -> Self {
        Self::start_with(reply, |stream| async { Some(stream) }).await
    }

    /// With something around each accepted connection, such as TLS; `None` ends it.
    pub async fn start_with<S, F, W>(reply: Reply, wrap: W) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        F: Future<Output = Option<S>> + Send,
        W: Fn(tokio::net::TcpStream) -> F + Send + Sync + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(watch::Sender::new(Connections::default()));
        let (seen, counted, wrap) = (Arc::clone(&requests), Arc::clone(&connections), Arc::new(wrap));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.send_modify(|c| c.opened += 1);
                let (seen, counted, reply) = (Arc::clone(&seen), Arc::clone(&counted), reply.clone());
                let wrap = Arc::clone(&wrap);
                tokio::spawn(async move {
                    if let Some(stream) = wrap(stream).await {
                        serve(stream, &reply, &seen).await;
                    }
                    counted.send_modify(|c| c.closed += 1);
                });
            }
        });
        Self { addr, requests, connections }
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    pub fn opened(&self) -> usize {
        self.connections.borrow().opened
    }

    /// Returns when all connections that were opened are closed again.
    pub async fn all_closed(&self) {
        let mut connections = self.connections.subscribe();
        let closed = connections.wait_for(|c| c.opened > 0 && c.opened == c.closed);
        tokio::time::timeout(Duration::from_secs(10), closed).await.expect("connections closed").unwrap();
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, reply: &Reply, seen: &Mutex<Vec<Request>>) {
    while let Some(request) = read_request(&mut stream).await {
        seen.lock().unwrap().push(request);
        match reply {
            Reply::Bytes(bytes) => {
                if stream.write_all(bytes).await.is_err() {
                    return;
                }
            }
            Reply::Trickle(head) => {
                let _ = stream.write_all(head).await;
                let mut tick = tokio::time::interval(Duration::from_millis(20));
                while stream.write_all(b"x").await.is_ok() {
                    tick.tick().await;
                }
                return;
            }
            Reply::Endless(head) => {
                let _ = stream.write_all(head).await;
                let chunk = vec![b'x'; 64 * 1024];
                while stream.write_all(&chunk).await.is_ok() {}
                return;
            }
            Reply::Silence => {
                let _ = stream.read(&mut [0]).await;
                return;
            }
            Reply::Drop => return,
        }
    }
}

async fn read_request<S: AsyncRead + Unpin>(stream: &mut S) -> Option<Request> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let mut request = Request { head, body: bytes.split_off(end + 4) };
    let length: usize = request.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    while request.body.len() < length {
        if stream.read_buf(&mut request.body).await.ok()? == 0 {
            return None;
        }
    }
    Some(request)
}
