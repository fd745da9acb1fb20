//! The guarded stream, and the runtime of lapin that has it.

use std::future::Future;
use std::io::{self, IoSlice, Read, Write};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use async_rs::traits::Reactor;
use async_rs::util::RuntimeParts;
use async_rs::{Runtime, Tokio};
use futures_io::{AsyncRead, AsyncWrite};
use futures_util::stream::Stream;
use lapin::tcp::AsyncTcpStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::super::quiet::Quiet;
use super::findings::Findings;
use super::frames::Guard;

/// How much is read at a time.
const READ: usize = 256 << 10;

/// A connection whose incoming bytes go through a [`Guard`].
#[derive(Debug)]
pub(crate) struct Guarded<S> {
    stream: S,
    guard: Guard,
    /// The bytes to pass on next, and how many of them have gone.
    moved: Vec<u8>,
    gone: usize,
    /// Cancelled when the caller no longer waits for the connection.
    abandoned: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl<S> Guarded<S> {
    pub(crate) fn new(stream: S, findings: Arc<Findings>, abandoned: CancellationToken) -> Self {
        let abandoned = Box::pin(abandoned.cancelled_owned());
        Self { stream, guard: Guard::new(findings), moved: Vec::new(), gone: 0, abandoned }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let Self { stream, guard, moved, gone, abandoned } = &mut *self;
        if moved.is_empty() {
            let most = buffer.len().min(READ);
            let read = match Pin::new(stream).poll_read(cx, &mut buffer[..most]) {
                Poll::Pending => {
                    ready!(abandoned.as_mut().poll(cx));
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
                Poll::Ready(read) => read?,
            };
            if read == 0 {
                return Poll::Ready(Ok(0));
            }
            let kept = guard.take(&mut buffer[..read], moved)?;
            if kept > 0 {
                return Poll::Ready(Ok(kept));
            }
        }
        let next = &moved[*gone..];
        if next.is_empty() {
            // No byte passes; zero bytes would mean the end of the stream.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let length = next.len().min(buffer.len());
        buffer[..length].copy_from_slice(&next[..length]);
        *gone += length;
        if *gone == moved.len() {
            moved.clear();
            *gone = 0;
        }
        Poll::Ready(Ok(length))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buffer)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, buffers)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

/// The runtime of Tokio, with guarded streams.
pub(crate) type GuardedRuntime = Runtime<RuntimeParts<Quiet, GuardedReactor>>;

/// The current runtime.
pub(crate) fn runtime() -> GuardedRuntime {
    let tokio = Tokio::current();
    Runtime::new(RuntimeParts::new(Quiet(tokio.clone()), GuardedReactor(tokio)))
}

/// The reactor of Tokio, for timers only: the connections are made by this crate, as lapin would not guard them.
#[derive(Clone, Debug)]
pub(crate) struct GuardedReactor(Tokio);

impl Reactor for GuardedReactor {
    type TcpStream = Guarded<AsyncTcpStream<<Tokio as Reactor>::TcpStream>>;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: Read + Write + Send + 'static>(
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
        _: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        std::future::ready(Err(io::ErrorKind::Unsupported.into()))
    }
}
