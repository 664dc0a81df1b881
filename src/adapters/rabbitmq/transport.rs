//! The bytes between lapin and the broker. What the broker sends is mended on its way, frame by frame, so that no
//! message can end the session that it comes by: see [`mend`] for what, and why.

mod frames;
mod mend;

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use async_rs::traits::Reactor;
use async_rs::util::RuntimeParts;
use async_rs::{Runtime, Tokio};
use futures_util::{Stream, TryFutureExt, io as futures_io};
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{AsyncTcpStream, Connection, ConnectionProperties};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;

use self::frames::Frames;

/// Read from the broker at once.
const CHUNK: usize = 64 << 10;

/// A connection whose incoming frames are mended: by TLS if the address says so, and then with `tls`. Fails as
/// lapin's own `connect` does. If this is dropped before it is done, nothing is left of the attempt: lapin itself
/// would keep a thread and the socket for as long as a mute peer does.
pub(super) async fn connect(
    uri: AMQPUri,
    properties: ConnectionProperties,
    tls: Option<Arc<ClientConfig>>,
) -> lapin::Result<Connection> {
    let tokio = Tokio::current();
    let runtime = Runtime::new(RuntimeParts::new(tokio.clone(), Mending(tokio)));
    let (done, waits) = watch::channel(false);
    let open = async move |uri: AMQPUri, _| {
        let frames = Frames::up_to(uri.query.frame_max.unwrap_or_default() as usize);
        let stream = Mended::new(dial(&uri, tls.clone()).await?, frames);
        // To lapin it is plain AMQP, whatever is below.
        Ok(AsyncTcpStream::Plain(stream.waited_for_by(waits.clone())))
    };
    let connection = Connection::connector(uri, runtime, open, properties).await?;
    done.send_replace(true);
    Ok(connection)
}

async fn dial(uri: &AMQPUri, tls: Option<Arc<ClientConfig>>) -> io::Result<Box<dyn Duplex>> {
    let host = uri.authority.host.as_str();
    let plain = TcpStream::connect((host, uri.authority.port)).await?;
    plain.set_nodelay(true)?;
    match (&uri.scheme, tls) {
        (AMQPScheme::AMQP, _) => Ok(Box::new(plain)),
        (AMQPScheme::AMQPS, None) => Err(io::Error::other("no TLS was set up for it")),
        (AMQPScheme::AMQPS, Some(config)) => {
            let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
            Ok(Box::new(TlsConnector::from(config).connect(name, plain).await?))
        }
    }
}

/// What both ways can go by: TCP, or TLS on it.
trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

/// tokio's reactor, but for the type of its streams: that is how lapin is told what it reads from.
#[derive(Debug, Clone)]
struct Mending(Tokio);

impl Reactor for Mending {
    type TcpStream = Mended;
    type Sleep = <Tokio as Reactor>::Sleep;

    /// For sockets that were opened elsewhere, which lapin never has.
    fn register<H: io::Read + io::Write + Send + 'static>(
        &self,
        _: H,
    ) -> io::Result<impl futures_io::AsyncRead + futures_io::AsyncWrite + Send + Unpin + 'static> {
        Err::<Self::TcpStream, _>(io::ErrorKind::Unsupported.into())
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(duration)
    }

    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        TcpStream::connect(address).map_ok(|stream| Mended::new(Box::new(stream), Frames::default()))
    }
}

/// What would be given on of a stream that comes in `pieces`, by a connection with frames of at most `agreed` bytes; 0:
/// any size.
#[cfg(feature = "fuzzing")]
pub(super) fn mended<'a>(agreed: usize, pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let (mut frames, mut given, mut into) = (Frames::up_to(agreed), Vec::new(), [0; 4096]);
    for piece in pieces {
        frames.feed(piece);
        loop {
            match frames.take(&mut into) {
                0 => break,
                count => given.extend_from_slice(&into[..count]),
            }
        }
    }
    given
}

/// Gives on what it reads from `inner` with each frame mended; writes are passed through.
struct Mended {
    inner: Box<dyn Duplex>,
    frames: Frames,
    chunk: Box<[u8]>,
    /// Says whether the attempt to connect was given up; `None` once it was not.
    given_up: Option<Pin<Box<dyn Future<Output = bool> + Send>>>,
}

impl Mended {
    fn new(inner: Box<dyn Duplex>, frames: Frames) -> Self {
        let chunk = vec![0; CHUNK].into_boxed_slice();
        Self { inner, frames, chunk, given_up: None }
    }

    /// Ends by itself if whoever connects goes before saying that it is done.
    fn waited_for_by(self, mut waits: watch::Receiver<bool>) -> Self {
        let given_up = async move { waits.wait_for(|done| *done).await.is_err() };
        Self { given_up: Some(Box::pin(given_up)), ..self }
    }
}

impl futures_io::AsyncRead for Mended {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let Self { inner, frames, chunk, given_up } = self.get_mut();
        if let Some(Poll::Ready(gone)) = given_up.as_mut().map(|given_up| given_up.as_mut().poll(cx)) {
            *given_up = None;
            if gone {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        loop {
            let given = frames.take(into);
            if given > 0 || into.is_empty() {
                return Poll::Ready(Ok(given));
            }
            let mut read = ReadBuf::new(chunk);
            ready!(Pin::new(&mut *inner).poll_read(cx, &mut read))?;
            match read.filled() {
                // The end. What is left of a frame is of no use to anybody.
                [] => return Poll::Ready(Ok(0)),
                bytes => frames.feed(bytes),
            }
        }
    }
}

impl futures_io::AsyncWrite for Mended {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
