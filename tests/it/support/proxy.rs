//! A TCP proxy before RabbitMQ that can cut and stall connections, keep deliveries to itself, and say things in
//! either side's name: so the broker itself closes what the client has open, or has blocked it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

const BASIC_CONSUME: [u8; 4] = [0, 60, 0, 20];
const CONNECTION_BLOCKED: [u8; 4] = [0, 10, 0, 60];
const CONNECTION_UNBLOCKED: [u8; 4] = [0, 10, 0, 61];
const FRAME_END: u8 = 0xCE;

type Way = Arc<tokio::sync::Mutex<OwnedWriteHalf>>;

struct Link {
    to_broker: Way,
    to_client: Way,
    /// The channel of the last `basic.consume` that went by.
    consuming: Option<u16>,
    pumps: Vec<AbortHandle>,
}

/// Stands between a client and the broker.
pub struct Proxy {
    pub address: String,
    state: Arc<State>,
    accepting: AbortHandle,
}

/// What becomes of what goes by.
struct State {
    links: Mutex<Vec<Link>>,
    /// How many more bytes clients may say.
    lets: AtomicUsize,
    /// Nothing goes by, and nothing ends.
    stalled: AtomicBool,
    /// Nothing that is on the consuming channel reaches the client.
    keeps_deliveries: AtomicBool,
}

impl State {
    async fn lets_pass(&self) {
        while self.stalled.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// One side's end is the other's, as soon as it can hear of it.
    async fn end(self: Arc<Self>, to_broker: Way, to_client: Way) {
        self.lets_pass().await;
        let _ = to_broker.lock().await.shutdown().await;
        let _ = to_client.lock().await.shutdown().await;
    }

    fn consuming(&self, place: usize) -> Option<u16> {
        self.links.lock().expect("not poisoned").get(place)?.consuming
    }
}

impl Proxy {
    /// Listens on loopback for clients of the broker at `upstream`.
    pub async fn before(upstream: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let state = Arc::new(State {
            links: Mutex::default(),
            lets: AtomicUsize::new(usize::MAX),
            stalled: AtomicBool::new(false),
            keeps_deliveries: AtomicBool::new(false),
        });
        let accepting = tokio::spawn(accept(listener, upstream, Arc::clone(&state))).abort_handle();
        Self { address, state, accepting }
    }

    /// From now on nothing goes by in either way, and new connections find a peer that says nothing: a cable that
    /// was pulled out, or a machine that hangs. Or all goes on.
    pub fn stall(&self, stalled: bool) {
        self.state.stalled.store(stalled, Ordering::SeqCst);
    }

    /// Keeps from the client what the broker sends on its consuming channel, or does so no more.
    pub fn keep_deliveries(&self, keep: bool) {
        self.state.keeps_deliveries.store(keep, Ordering::SeqCst);
    }

    /// Tells the consuming client that the broker has blocked its connection. Nothing must be on its way.
    pub async fn block(&self, reason: &str) {
        let mut method = CONNECTION_BLOCKED.to_vec();
        method.push(u8::try_from(reason.len()).expect("short"));
        method.extend(reason.as_bytes());
        self.say_to_client(&method).await;
    }

    /// Takes that back.
    pub async fn unblock(&self) {
        self.say_to_client(&CONNECTION_UNBLOCKED).await;
    }

    async fn say_to_client(&self, method: &[u8]) {
        let to_client = self.consuming(|link| Arc::clone(&link.to_client)).0;
        to_client.lock().await.write_all(&method_frame(0, method)).await.expect("the client listens");
    }

    /// Cuts all connections, as a dying machine would.
    pub fn cut(&self) {
        for link in self.state.links.lock().expect("not poisoned").drain(..) {
            link.pumps.iter().for_each(AbortHandle::abort);
        }
    }

    /// Lets clients say so many bytes more, whole frames of them; then it breaks whatever says something.
    pub fn break_after(&self, bytes: usize) {
        self.state.lets.store(bytes, Ordering::SeqCst);
    }

    /// Lets all pass again.
    pub fn mend(&self) {
        self.state.lets.store(usize::MAX, Ordering::SeqCst);
    }

    /// Acknowledges a delivery that never was on the consuming channel: the broker closes the channel.
    pub async fn make_broker_close_the_channel(&self) {
        let (to_broker, channel) = self.consuming(|link| Arc::clone(&link.to_broker));
        let mut ack = vec![0, 60, 0, 80];
        ack.extend(9_999_999u64.to_be_bytes());
        ack.push(0);
        to_broker.lock().await.write_all(&method_frame(channel, &ack)).await.expect("the broker listens");
    }

    /// Sends content that belongs to nothing: the broker closes the whole connection.
    pub async fn make_broker_close_the_connection(&self) {
        let (to_broker, channel) = self.consuming(|link| Arc::clone(&link.to_broker));
        let mut frame = vec![3];
        frame.extend(channel.to_be_bytes());
        frame.extend([0, 0, 0, 1, b'?', FRAME_END]);
        to_broker.lock().await.write_all(&frame).await.expect("the broker listens");
    }

    /// One way of the link that was the last to consume, and its channel.
    fn consuming(&self, way: impl Fn(&Link) -> Way) -> (Way, u16) {
        let links = self.state.links.lock().expect("not poisoned");
        let link = links.iter().rev().find_map(|link| Some((way(link), link.consuming?)));
        link.expect("a client consumes through the proxy")
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

fn method_frame(channel: u16, method: &[u8]) -> Vec<u8> {
    let mut frame = vec![1];
    frame.extend(channel.to_be_bytes());
    frame.extend((method.len() as u32).to_be_bytes());
    frame.extend(method);
    frame.push(FRAME_END);
    frame
}

async fn accept(listener: TcpListener, upstream: String, state: Arc<State>) {
    while let Ok((client, _)) = listener.accept().await {
        let broker = TcpStream::connect(&upstream).await.expect("the broker listens");
        let (from_broker, to_broker) = broker.into_split();
        let (from_client, to_client) = client.into_split();
        let (to_broker, to_client): (Way, Way) = (Arc::new(to_broker.into()), Arc::new(to_client.into()));
        let mut all = state.links.lock().expect("not poisoned");
        let place = all.len();
        let (downward, upward) = (
            pump_down(from_broker, Arc::clone(&to_client), Arc::clone(&state), place),
            pump_up(from_client, Arc::clone(&to_broker), Arc::clone(&state), place),
        );
        let (down_end, up_end) = (
            Arc::clone(&state).end(Arc::clone(&to_broker), Arc::clone(&to_client)),
            Arc::clone(&state).end(Arc::clone(&to_broker), Arc::clone(&to_client)),
        );
        let down = tokio::spawn(async move {
            let _ = downward.await;
            down_end.await;
        })
        .abort_handle();
        let other_way = down.clone();
        let up = tokio::spawn(async move {
            let _ = upward.await;
            other_way.abort();
            up_end.await;
        })
        .abort_handle();
        all.push(Link { to_broker, to_client, consuming: None, pumps: vec![up, down] });
    }
}

/// What becomes a byte that is not UTF-8, where a client says it in a method or in a message's properties: clients
/// in Rust can't say one.
pub const NOT_UTF8: &str = "\u{7f}\u{7f}";
/// A header with this name and bytes for a value is sent as tables, nested as deep as the bytes allow.
pub const NESTED: &str = "x-nested";

fn distort(frame: &mut [u8]) {
    if !matches!(frame[0], 1 | 2) {
        return;
    }
    let find = |frame: &[u8], what: &[u8]| frame.windows(what.len()).position(|window| window == what);
    while let Some(at) = find(frame, NOT_UTF8.as_bytes()) {
        frame[at..at + 2].fill(0xff);
    }
    if let Some(at) = find(frame, NESTED.as_bytes()) {
        let mut at = at + NESTED.len();
        let mut left = u32::from_be_bytes(frame[at + 1..at + 5].try_into().expect("four bytes"));
        // Each level is a field named `k` that holds the next: two bytes, the type, and a length of four.
        frame[at] = b'F';
        at += 5;
        while left >= 7 {
            left -= 7;
            frame[at..at + 3].copy_from_slice(b"\x01kF");
            frame[at + 3..at + 7].copy_from_slice(&left.to_be_bytes());
            at += 7;
        }
    }
}

/// The next frame, whole, so that nothing is said in the middle of another.
async fn frame(from: &mut OwnedReadHalf) -> std::io::Result<Vec<u8>> {
    let mut frame = vec![0; 7];
    from.read_exact(&mut frame).await?;
    let size = u32::from_be_bytes([frame[3], frame[4], frame[5], frame[6]]) as usize;
    frame.resize(7 + size + 1, 0);
    from.read_exact(&mut frame[7..]).await?;
    Ok(frame)
}

fn channel_of(frame: &[u8]) -> u16 {
    u16::from_be_bytes([frame[1], frame[2]])
}

/// From the client to the broker.
async fn pump_up(mut from: OwnedReadHalf, to: Way, state: Arc<State>, place: usize) -> std::io::Result<()> {
    let mut protocol = [0; 8];
    from.read_exact(&mut protocol).await?;
    state.lets_pass().await;
    to.lock().await.write_all(&protocol).await?;
    loop {
        let mut frame = frame(&mut from).await?;
        distort(&mut frame);
        state
            .lets
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(frame.len()))
            .map_err(|_| std::io::Error::other("nothing more may be said"))?;
        state.lets_pass().await;
        to.lock().await.write_all(&frame).await?;
        if frame[0] == 1
            && frame[7..].starts_with(&BASIC_CONSUME)
            && let Some(link) = state.links.lock().expect("not poisoned").get_mut(place)
        {
            link.consuming = Some(channel_of(&frame));
        }
    }
}

/// From the broker to the client.
async fn pump_down(mut from: OwnedReadHalf, to: Way, state: Arc<State>, place: usize) -> std::io::Result<()> {
    loop {
        let frame = frame(&mut from).await?;
        state.lets_pass().await;
        let is_kept = state.keeps_deliveries.load(Ordering::SeqCst)
            && state.consuming(place).is_some_and(|channel| channel == channel_of(&frame));
        if !is_kept {
            to.lock().await.write_all(&frame).await?;
        }
    }
}
