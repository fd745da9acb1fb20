//! The stream below the client library that speaks MQTT 3.1.1 to the broker, if the settings say so.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::settings::MqttVersion;
use super::translate::{Newer, to_newer, to_older};

/// How much is read at once.
const READ: usize = 16 << 10;
/// How many translated bytes may wait to be written before no more are taken.
const WAITING: usize = 64 << 10;

/// A stream to a broker. The client library speaks MQTT 5 on it.
#[derive(Debug)]
pub(super) enum Translated<S> {
    Mqtt5(S),
    Mqtt3(Box<Older<S>>),
}

impl<S> Translated<S> {
    pub(super) fn new(stream: S, version: MqttVersion) -> Self {
        match version {
            MqttVersion::V5 => Self::Mqtt5(stream),
            MqttVersion::V3 => Self::Mqtt3(Box::new(Older::new(stream))),
        }
    }
}

/// A stream that translates.
#[derive(Debug)]
pub(super) struct Older<S> {
    stream: S,
    /// The stream is read into it.
    room: Box<[u8]>,
    received: BytesMut,
    /// The start of a packet that was translated.
    head: BytesMut,
    /// The bytes of the current packet that stay as they are.
    rest: usize,
    /// Bytes of the client library that are no whole packet yet.
    given: BytesMut,
    /// Translated packets that are not written yet.
    waiting: BytesMut,
}

impl<S> Older<S> {
    fn new(stream: S) -> Self {
        Self {
            stream,
            room: vec![0; READ].into_boxed_slice(),
            received: BytesMut::new(),
            head: BytesMut::new(),
            rest: 0,
            given: BytesMut::new(),
            waiting: BytesMut::new(),
        }
    }
}

impl<S: AsyncRead + Unpin> Older<S> {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            if !self.head.is_empty() {
                let count = self.head.len().min(buf.remaining());
                buf.put_slice(&self.head.split_to(count));
                return Poll::Ready(Ok(()));
            }
            if self.rest > 0 && !self.received.is_empty() {
                let count = self.rest.min(self.received.len()).min(buf.remaining());
                buf.put_slice(&self.received.split_to(count));
                self.rest -= count;
                return Poll::Ready(Ok(()));
            }
            if self.rest == 0 && !self.received.is_empty() {
                match to_newer(&mut self.received, &mut self.head) {
                    Newer::Head(rest) => {
                        self.rest = rest;
                        continue;
                    }
                    // The client library ends the connection over it.
                    Newer::Invalid => {
                        self.rest = usize::MAX;
                        continue;
                    }
                    Newer::Incomplete => {}
                }
            }
            let mut read = ReadBuf::new(&mut self.room);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.received.extend_from_slice(read.filled());
        }
    }
}

impl<S: AsyncWrite + Unpin> Older<S> {
    fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.waiting.len() > WAITING {
            ready!(self.poll_drain(cx))?;
        }
        self.given.extend_from_slice(buf);
        while to_older(&mut self.given, &mut self.waiting) {}
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            let count = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.waiting))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.waiting.advance(count);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Translated<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Mqtt5(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Mqtt3(older) => older.poll_read(cx, buf),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Translated<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Mqtt5(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Mqtt3(older) => older.poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Mqtt5(stream) => Pin::new(stream).poll_flush(cx),
            Self::Mqtt3(older) => {
                ready!(older.poll_drain(cx))?;
                Pin::new(&mut older.stream).poll_flush(cx)
            }
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Mqtt5(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Mqtt3(older) => {
                ready!(older.poll_drain(cx))?;
                Pin::new(&mut older.stream).poll_shutdown(cx)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn packets_are_translated_however_they_are_split() {
        let (mut broker, client) = duplex(7);
        let mut stream = Translated::new(client, MqttVersion::V3);
        let mut publish = vec![0x32, 0xE8, 7, 0, 1, b't', 0, 7, 0];
        publish.resize(3 + 1_000, b'x');
        let sent = [&publish[..], &[0x40, 2, 0, 7], &publish, &[0xC0, 0]].concat();
        let received = [&[0x20, 2, 0, 0][..], &[0x30, 3, 0, 1, b't'], &[0xD0, 0]].concat();
        let write = async {
            for chunk in sent.chunks(11) {
                stream.write_all(chunk).await.unwrap();
            }
            stream.flush().await.unwrap();
            let mut read = vec![0; received.len() + 2];
            for byte in &mut read {
                *byte = stream.read_u8().await.unwrap();
            }
            drop(stream);
            read
        };
        let peer = async {
            let mut got = vec![0; sent.len() - 2];
            broker.read_exact(&mut got).await.unwrap();
            for byte in received.chunks(1) {
                broker.write_all(byte).await.unwrap();
            }
            got
        };
        let (read, got) = tokio::join!(write, peer);
        assert_eq!(read, [0x20, 3, 0, 0, 0, 0x30, 4, 0, 1, b't', 0, 0xD0, 0]);
        let mut older = vec![0x32, 0xE7, 7, 0, 1, b't', 0, 7];
        older.resize(3 + 999, b'x');
        assert_eq!(got, [&older[..], &[0x40, 2, 0, 7], &older, &[0xC0, 0]].concat());
    }
}
