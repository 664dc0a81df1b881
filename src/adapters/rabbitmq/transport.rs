//! The bytes between lapin and the broker. What the broker sends is mended on its way, frame by frame, so that no
//! message can end the session that it comes by: see [`mend`] for what, and why.
//!
//! TCP and TLS stay lapin's own; this stands between them and its parser.

mod frames;
mod mend;

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use async_rs::traits::Reactor;
use async_rs::util::RuntimeParts;
use async_rs::{Runtime, Tokio};
use futures_util::Stream;
use futures_util::io::{AsyncRead, AsyncWrite, IoSlice};
use lapin::tcp::{AMQPUriTcpExt, AsyncTcpStream, OwnedTLSConfig};
use lapin::uri::AMQPUri;
use lapin::{Connection, ConnectionProperties};

use self::frames::Frames;

/// Read from the broker at once.
const CHUNK: usize = 64 << 10;

/// A connection whose incoming frames are mended. Fails as lapin's own `connect` does.
pub(super) async fn connect(
    uri: AMQPUri,
    properties: ConnectionProperties,
    tls: OwnedTLSConfig,
) -> lapin::Result<Connection> {
    let tokio = Tokio::current();
    let runtime = Runtime::new(RuntimeParts::new(tokio.clone(), Mending(tokio.clone())));
    let plain = Runtime::new(tokio);
    let open = async move |uri: AMQPUri, _| {
        let stream = uri.connect_with_config_async(tls.as_ref(), &plain).await?;
        // Whatever is below, plain or TLS: to lapin it is a stream of plain AMQP.
        Ok(AsyncTcpStream::Plain(Mended::new(stream)))
    };
    Connection::connector(uri, runtime, open, properties).await
}

type Tcp = AsyncTcpStream<<Tokio as Reactor>::TcpStream>;

/// tokio's reactor, but for the type of its streams: that is how lapin is told what it reads from.
#[derive(Debug, Clone)]
struct Mending(Tokio);

impl Reactor for Mending {
    type TcpStream = Mended<Tcp>;
    type Sleep = <Tokio as Reactor>::Sleep;

    /// For sockets that were opened elsewhere, which lapin never has.
    fn register<H: io::Read + io::Write + Send + 'static>(
        &self,
        _: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
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
        let connecting = self.0.tcp_connect_addr(address);
        async move { Ok(Mended::new(AsyncTcpStream::Plain(connecting.await?))) }
    }
}

/// Gives on what it reads from `inner` with each frame mended; writes are passed through.
struct Mended<S> {
    inner: S,
    frames: Frames,
    chunk: Box<[u8]>,
}

impl<S> Mended<S> {
    fn new(inner: S) -> Self {
        Self { inner, frames: Frames::default(), chunk: vec![0; CHUNK].into_boxed_slice() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Mended<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let Self { inner, frames, chunk } = self.get_mut();
        loop {
            let given = frames.take(into);
            if given > 0 || into.is_empty() {
                return Poll::Ready(Ok(given));
            }
            match ready!(Pin::new(&mut *inner).poll_read(cx, chunk))? {
                // The end. What is left of a frame is of no use to anybody.
                0 => return Poll::Ready(Ok(0)),
                count => frames.feed(&chunk[..count]),
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Mended<S> {
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
        Pin::new(&mut self.inner).poll_close(cx)
    }
}
