//! Where messages go: answers 204 to everything, at once or after a while, and notes when each event's message came.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::ensure;
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::events::{DIGITS, MARK};

/// A server on a thread of its own.
pub struct Sink {
    address: SocketAddr,
    seen: Arc<Seen>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What came.
struct Seen {
    since: Instant,
    /// By event: nanoseconds after `since`; 0 is not yet.
    at: Vec<AtomicU64>,
    distinct: AtomicU32,
    repeats: AtomicU32,
    unknown: AtomicU32,
}

impl Sink {
    /// Listens for the messages of events 0 to `events`, and answers each at once.
    pub fn start(events: u32) -> anyhow::Result<Self> {
        Self::slow(events, Duration::ZERO)
    }

    /// The same, answering each after `delay`.
    pub fn slow(events: u32, delay: Duration) -> anyhow::Result<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let seen = Arc::new(Seen {
            since: Instant::now(),
            at: (0..events).map(|_| AtomicU64::new(0)).collect(),
            distinct: AtomicU32::new(0),
            repeats: AtomicU32::new(0),
            unknown: AtomicU32::new(0),
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let own_seen = seen.clone();
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = serve(listener, own_seen, delay) => {}
                    _ = stopped => {}
                }
            });
        });
        Ok(Self { address, seen, stop: Some(stop), thread: Some(thread) })
    }

    /// `http://host:port`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many events' messages have come.
    pub fn count(&self) -> u64 {
        u64::from(self.seen.distinct.load(Ordering::Relaxed))
    }

    /// When an event's message came.
    pub fn arrival(&self, event: u32) -> Option<Instant> {
        match self.seen.at.get(event as usize)?.load(Ordering::Relaxed) {
            0 => None,
            nanos => Some(self.seen.since + Duration::from_nanos(nanos)),
        }
    }

    /// Every event's message came once, and nothing else.
    pub fn check(&self) -> anyhow::Result<()> {
        self.check_all_came()?;
        let repeats = self.seen.repeats.load(Ordering::Relaxed);
        ensure!(repeats == 0, "{repeats} messages came twice");
        Ok(())
    }

    /// Every event's message came once or more, and nothing else.
    pub fn check_all_came(&self) -> anyhow::Result<()> {
        let unknown = self.seen.unknown.load(Ordering::Relaxed);
        ensure!(self.count() == self.seen.at.len() as u64, "only {} messages came", self.count());
        ensure!(unknown == 0, "{unknown} messages are of no event");
        Ok(())
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has been seen on stderr.
            let _ = thread.join();
        }
    }
}

impl Seen {
    fn note(&self, body: &[u8]) {
        let nanos = self.since.elapsed().as_nanos() as u64;
        match number(body).and_then(|event| self.at.get(event)) {
            None => self.unknown.fetch_add(1, Ordering::Relaxed),
            Some(at) if at.swap(nanos, Ordering::Relaxed) != 0 => {
                self.repeats.fetch_add(1, Ordering::Relaxed)
            }
            Some(_) => self.distinct.fetch_add(1, Ordering::Relaxed),
        };
    }
}

/// The number behind the first mark.
fn number(body: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(body).ok()?;
    let (_, rest) = text.split_once(MARK)?;
    rest.get(..DIGITS)?.parse().ok()
}

async fn serve(listener: std::net::TcpListener, seen: Arc<Seen>, delay: Duration) -> std::io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let seen = seen.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let seen = seen.clone();
            async move {
                if let Ok(body) = request.into_body().collect().await {
                    seen.note(&body.to_bytes());
                }
                if !delay.is_zero() {
                    tokio::time::sleep(delay).await;
                }
                let mut response = Response::new(Empty::<Bytes>::new());
                *response.status_mut() = StatusCode::NO_CONTENT;
                Ok::<_, Infallible>(response)
            }
        });
        tokio::spawn(async move {
            // The client may close at any time; what it had posted is counted.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}
