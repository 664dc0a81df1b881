//! A TCP gate before a server: open, it passes everything on; closed, the server is as good as gone; stalled, it is
//! there and says nothing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

/// Stands between a client and a server.
pub struct Gate {
    pub address: String,
    closed: Arc<AtomicBool>,
    stalled: Arc<AtomicBool>,
    links: Arc<Mutex<Vec<AbortHandle>>>,
    accepting: AbortHandle,
}

impl Gate {
    /// Listens on loopback for clients of the server at `upstream`; open.
    pub async fn before(upstream: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let (closed, stalled) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let links = Arc::new(Mutex::new(Vec::new()));
        let (is_closed, is_stalled, all) = (Arc::clone(&closed), Arc::clone(&stalled), Arc::clone(&links));
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if is_closed.load(Ordering::SeqCst) {
                    continue;
                }
                // Who comes while the server is down is hung up on, as its own machine would do.
                let Ok(server) = TcpStream::connect(&upstream).await else { continue };
                let stalled = Arc::clone(&is_stalled);
                let link = tokio::spawn(async move {
                    let (mut from_client, mut to_client) = client.into_split();
                    let (mut from_server, mut to_server) = server.into_split();
                    // Either side may end it.
                    tokio::select! {
                        () = pass(&mut from_client, &mut to_server, &stalled) => {}
                        () = pass(&mut from_server, &mut to_client, &stalled) => {}
                    }
                });
                all.lock().expect("not poisoned").push(link.abort_handle());
            }
        });
        Self { address, closed, stalled, links, accepting: accepting.abort_handle() }
    }

    /// Cuts all connections, and every new one at once.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.cut();
    }

    /// Cuts all connections; new ones come through.
    pub fn cut(&self) {
        self.links.lock().expect("not poisoned").drain(..).for_each(|link| link.abort());
    }

    /// Lets connections through again.
    pub fn open(&self) {
        self.closed.store(false, Ordering::SeqCst);
    }

    /// From now on nothing goes by and nothing ends, or all goes on.
    pub fn stall(&self, stalled: bool) {
        self.stalled.store(stalled, Ordering::SeqCst);
    }
}

async fn pass(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin), stalled: &AtomicBool) {
    let mut bytes = vec![0; 64 << 10];
    loop {
        let read = from.read(&mut bytes).await.unwrap_or_default();
        while stalled.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if read == 0 || to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.accepting.abort();
        self.close();
    }
}

/// Speaks TLS as PostgreSQL does, before a PostgreSQL that speaks none. Returns its port on loopback.
pub async fn tls_before(upstream: String, acceptor: TlsAcceptor) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let (acceptor, upstream) = (acceptor.clone(), upstream.clone());
            tokio::spawn(async move {
                // A client asks for TLS in a message of its own, and is told in one letter that it can have it.
                let mut asks = [0u8; 8];
                client.read_exact(&mut asks).await.expect("it asks");
                assert_eq!(asks, [0, 0, 0, 8, 4, 210, 22, 47], "a request for TLS");
                client.write_all(b"S").await.expect("told");
                let mut server = TcpStream::connect(&upstream).await.expect("the server listens");
                // A client that does not trust the certificate goes.
                if let Ok(mut client) = acceptor.accept(client).await {
                    let _ = copy_bidirectional(&mut client, &mut server).await;
                }
            });
        }
    });
    port
}
