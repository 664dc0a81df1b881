//! A TCP proxy before RabbitMQ that can cut connections, and say things to the broker in a client's name, so
//! that the broker itself closes what the client has open.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

const BASIC_CONSUME: [u8; 4] = [0, 60, 0, 20];
const FRAME_END: u8 = 0xCE;

struct Link {
    to_broker: Arc<tokio::sync::Mutex<OwnedWriteHalf>>,
    /// The channel of the last `basic.consume` that went by.
    consuming: Option<u16>,
    pumps: Vec<AbortHandle>,
}

/// Stands between a client and the broker.
pub struct Proxy {
    pub address: String,
    links: Arc<Mutex<Vec<Link>>>,
    /// How many more bytes clients may say.
    lets: Arc<AtomicUsize>,
    accepting: AbortHandle,
}

impl Proxy {
    /// Listens on loopback for clients of the broker at `upstream`.
    pub async fn before(upstream: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let links = Arc::new(Mutex::new(Vec::new()));
        let lets = Arc::new(AtomicUsize::new(usize::MAX));
        let accepting =
            tokio::spawn(accept(listener, upstream, Arc::clone(&links), Arc::clone(&lets))).abort_handle();
        Self { address, links, lets, accepting }
    }

    /// Cuts all connections, as a dying machine would.
    pub fn cut(&self) {
        for link in self.links.lock().expect("not poisoned").drain(..) {
            link.pumps.iter().for_each(AbortHandle::abort);
        }
    }

    /// Lets clients say so many bytes more, whole frames of them; then it breaks whatever says something.
    pub fn break_after(&self, bytes: usize) {
        self.lets.store(bytes, Ordering::SeqCst);
    }

    /// Lets all pass again.
    pub fn mend(&self) {
        self.lets.store(usize::MAX, Ordering::SeqCst);
    }

    /// Acknowledges a delivery that never was on the consuming channel: the broker closes the channel.
    pub async fn make_broker_close_the_channel(&self) {
        let (to_broker, channel) = self.consuming();
        let mut ack = vec![0, 60, 0, 80];
        ack.extend(9_999_999u64.to_be_bytes());
        ack.push(0);
        let mut frame = vec![1];
        frame.extend(channel.to_be_bytes());
        frame.extend((ack.len() as u32).to_be_bytes());
        frame.extend(ack);
        frame.push(FRAME_END);
        to_broker.lock().await.write_all(&frame).await.expect("the broker listens");
    }

    /// Sends content that belongs to nothing: the broker closes the whole connection.
    pub async fn make_broker_close_the_connection(&self) {
        let (to_broker, channel) = self.consuming();
        let mut frame = vec![3];
        frame.extend(channel.to_be_bytes());
        frame.extend([0, 0, 0, 1, b'?', FRAME_END]);
        to_broker.lock().await.write_all(&frame).await.expect("the broker listens");
    }

    fn consuming(&self) -> (Arc<tokio::sync::Mutex<OwnedWriteHalf>>, u16) {
        let links = self.links.lock().expect("not poisoned");
        let link = links.iter().rev().find_map(|link| Some((Arc::clone(&link.to_broker), link.consuming?)));
        link.expect("a client consumes through the proxy")
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn accept(
    listener: TcpListener,
    upstream: String,
    links: Arc<Mutex<Vec<Link>>>,
    lets: Arc<AtomicUsize>,
) {
    while let Ok((client, _)) = listener.accept().await {
        let broker = TcpStream::connect(&upstream).await.expect("the broker listens");
        let (mut from_broker, to_broker) = broker.into_split();
        let (from_client, mut to_client) = client.into_split();
        let to_broker = Arc::new(tokio::sync::Mutex::new(to_broker));
        let mut all = links.lock().expect("not poisoned");
        let place = all.len();
        let down = tokio::spawn(async move {
            let _ = copy(&mut from_broker, &mut to_client).await;
        })
        .abort_handle();
        let upward = pump(from_client, Arc::clone(&to_broker), Arc::clone(&links), place, Arc::clone(&lets));
        let other_way = down.clone();
        let up = tokio::spawn(async move {
            let _ = upward.await;
            other_way.abort();
        })
        .abort_handle();
        all.push(Link { to_broker, consuming: None, pumps: vec![up, down] });
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

/// Passes on frame by frame, so that nothing is said in the middle of another frame.
async fn pump(
    mut from: OwnedReadHalf,
    to: Arc<tokio::sync::Mutex<OwnedWriteHalf>>,
    links: Arc<Mutex<Vec<Link>>>,
    place: usize,
    lets: Arc<AtomicUsize>,
) -> std::io::Result<()> {
    let mut protocol = [0; 8];
    from.read_exact(&mut protocol).await?;
    to.lock().await.write_all(&protocol).await?;
    loop {
        let mut frame = vec![0; 7];
        from.read_exact(&mut frame).await?;
        let size = u32::from_be_bytes([frame[3], frame[4], frame[5], frame[6]]) as usize;
        frame.resize(7 + size + 1, 0);
        from.read_exact(&mut frame[7..]).await?;
        distort(&mut frame);
        lets.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(frame.len()))
            .map_err(|_| std::io::Error::other("nothing more may be said"))?;
        to.lock().await.write_all(&frame).await?;
        if frame[0] == 1 && frame[7..].starts_with(&BASIC_CONSUME) {
            let channel = u16::from_be_bytes([frame[1], frame[2]]);
            if let Some(link) = links.lock().expect("not poisoned").get_mut(place) {
                link.consuming = Some(channel);
            }
        }
    }
}
