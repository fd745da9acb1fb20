//! The byte stream that the client library reads.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::frames::{ADDED, FrameError, Frames, MAX_FRAME, PROTOCOL_HEADER};
use super::held::HeldBytes;
use super::values::number;

/// The frame size to configure in the client library. [`announce`] replaces it by a smaller one for the broker, as the guard
/// makes frames longer.
///
/// Its bytes are no UTF-8, so no name in the `open` contains them.
pub(crate) const MAX_FRAME_SIZE: u32 = 0x0004_00ff;
const _: () = assert!(MAX_FRAME + ADDED <= MAX_FRAME_SIZE as usize);

/// The type code of a `uint`, as the client library writes it.
const UINT: u8 = 0x70;
/// How many bytes are read at once.
const READ: usize = 16 << 10;

/// A stream after SASL, whose incoming frames are checked.
#[derive(Debug)]
pub(crate) struct Guarded<S> {
    stream: S,
    frames: Frames,
    input: BytesMut,
    output: BytesMut,
    error: Option<FrameError>,
    opening: Opening,
}

/// The progress of the `open` of this side.
#[derive(Debug)]
enum Opening {
    /// So many bytes of the protocol header are written.
    Header(usize),
    /// The client library is writing it.
    Open(BytesMut),
    /// It is being sent.
    Leaving(BytesMut),
    Done,
}

impl<S> Guarded<S> {
    pub(crate) fn new(stream: S, held: Arc<HeldBytes>) -> Self {
        Self {
            stream,
            frames: Frames::new(held),
            input: BytesMut::new(),
            output: BytesMut::new(),
            error: None,
            opening: Opening::Header(0),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.output.is_empty() {
            if let Some(error) = this.error.take() {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
            }
            this.input.reserve(READ);
            let read = ready!(pin!(this.stream.read_buf(&mut this.input)).poll(cx))?;
            if read == 0 {
                return Poll::Ready(Ok(()));
            }
            // The reader first gets the frames before the fault.
            this.error = this.frames.pass(&mut this.input, &mut this.output).err();
        }
        let given = this.output.len().min(buf.remaining());
        buf.put_slice(&this.output[..given]);
        this.output.advance(given);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> Guarded<S> {
    /// Sends the `open` before anything else.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Opening::Leaving(open) = &mut self.opening {
            if open.is_empty() {
                self.opening = Opening::Done;
                break;
            }
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, open))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            open.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_open(cx))?;
        match &mut this.opening {
            Opening::Header(written) => {
                let header = &buf[..buf.len().min(PROTOCOL_HEADER - *written)];
                let more = ready!(Pin::new(&mut this.stream).poll_write(cx, header))?;
                *written += more;
                if *written == PROTOCOL_HEADER {
                    this.opening = Opening::Open(BytesMut::new());
                }
                Poll::Ready(Ok(more))
            }
            Opening::Open(open) => {
                open.extend_from_slice(buf);
                if open.get(..4).is_some_and(|size| open.len() as u64 >= number(size)) {
                    announce(open)?;
                    this.opening = Opening::Leaving(std::mem::take(open));
                }
                Poll::Ready(Ok(buf.len()))
            }
            Opening::Leaving(_) | Opening::Done => Pin::new(&mut this.stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_open(cx))?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_open(cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

/// Replaces the frame size in an `open` by that of the guard.
fn announce(open: &mut [u8]) -> io::Result<()> {
    let [a, b, c, d] = MAX_FRAME_SIZE.to_be_bytes();
    let at = open.windows(5).position(|bytes| bytes == [UINT, a, b, c, d]);
    let at = at.ok_or_else(|| io::Error::other("the client library announces no frame size"))?;
    open[at + 1..at + 5].copy_from_slice(&(MAX_FRAME as u32).to_be_bytes());
    Ok(())
}
