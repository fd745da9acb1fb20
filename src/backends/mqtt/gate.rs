//! The stream below the client library, which lets received messages in as there is room for them, and completes packets that the
//! library does not read.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::util::sync::lock;

/// How much is read at once.
const READ: usize = 16 << 10;
/// The type of a PUBLISH packet, in the upper half of its first byte (MQTT 5, 2.1.2).
const PUBLISH: u8 = 3;
/// The size of a packet whose length is not valid.
const ENDLESS: usize = usize::MAX;
/// The first byte of a DISCONNECT packet (MQTT 5, 3.14).
const DISCONNECT: u8 = 0xE0;
/// A whole PINGRESP packet (MQTT 5, 3.13).
const PING_RESPONSE: [u8; 2] = [0xD0, 0];

/// The room for received messages: a number of messages, and of bytes. A waiting retry takes bytes alone.
#[derive(Debug)]
pub(super) struct Intake {
    messages: AtomicUsize,
    bytes: AtomicUsize,
    most_messages: usize,
    most_bytes: usize,
    paused: AtomicBool,
    discards: AtomicBool,
    reader: AtomicWaker,
    /// The sizes of the messages that were let in and have not arrived, in order.
    sizes: Mutex<VecDeque<usize>>,
}

impl Intake {
    pub(super) fn new(most_messages: usize, most_bytes: usize) -> Self {
        Self {
            messages: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            most_messages,
            most_bytes,
            paused: AtomicBool::new(false),
            discards: AtomicBool::new(false),
            reader: AtomicWaker::new(),
            sizes: Mutex::default(),
        }
    }

    /// Lets no further message in until it is called with false.
    pub(super) fn pause(&self, paused: bool) {
        self.paused.store(paused, Ordering::Release);
        self.reader.wake();
    }

    /// Lets every message in from now on, as none is kept.
    pub(super) fn discard(&self) {
        self.discards.store(true, Ordering::Release);
        self.reader.wake();
    }

    /// Whether messages are not kept.
    pub(super) fn discards(&self) -> bool {
        self.discards.load(Ordering::Acquire)
    }

    /// Takes room for a message of this size, if there is some. A message larger than all room gets in alone.
    fn try_take(&self, bytes: usize) -> bool {
        let (messages, held) = (self.messages.load(Ordering::Acquire), self.bytes.load(Ordering::Acquire));
        let fits = messages < self.most_messages
            && (held == 0 || held.saturating_add(bytes) <= self.most_bytes)
            && !self.paused.load(Ordering::Acquire);
        let fits = fits || self.discards();
        if fits {
            // Only the reader takes.
            self.messages.fetch_add(1, Ordering::AcqRel);
            self.bytes.fetch_add(bytes, Ordering::AcqRel);
            lock(&self.sizes).push_back(bytes);
        }
        fits
    }

    /// Returns the size of the next message that arrives, whose room it has taken.
    pub(super) fn arrived(&self) -> usize {
        lock(&self.sizes).pop_front().unwrap_or_default()
    }

    /// Takes room for a message that was waiting for its retry.
    pub(super) fn take_back(&self) {
        self.messages.fetch_add(1, Ordering::AcqRel);
    }

    /// Frees the place of a message that waits for its retry.
    pub(super) fn set_aside(&self) {
        self.messages.fetch_sub(1, Ordering::AcqRel);
        self.reader.wake();
    }

    /// Frees the bytes of a message that was set aside.
    pub(super) fn free_bytes(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::AcqRel);
        self.reader.wake();
    }

    /// Frees all room of a message.
    pub(super) fn free(&self, bytes: usize) {
        self.set_aside();
        self.free_bytes(bytes);
    }
}

/// A stream that reads packet by packet, and begins a PUBLISH packet only when there is room for it. Meanwhile the broker's
/// answers to pings are behind that packet, so the gate answers in its place: the connection of a busy consumer lives.
#[derive(Debug)]
pub(super) struct Gate<S> {
    stream: S,
    intake: Arc<Intake>,
    /// The stream is read into it.
    room: Box<[u8]>,
    received: BytesMut,
    /// The bytes of the current packet that were not read yet.
    left: usize,
    /// Whether something was written since the last answer to a ping.
    wrote: bool,
}

impl<S> Gate<S> {
    pub(super) fn new(stream: S, intake: Arc<Intake>) -> Self {
        let room = vec![0; READ].into_boxed_slice();
        Self { stream, intake, room, received: BytesMut::new(), left: 0, wrote: false }
    }

    /// Adds the properties to a DISCONNECT packet without them, as mosquitto sends it (MQTT 5, 3.14.2.2.1): the client library
    /// 0.34 drops it with its reason. Returns whether the packet has not arrived yet.
    fn complete_disconnect(&mut self) -> bool {
        match self.received[..] {
            [DISCONNECT, 1] => true,
            [DISCONNECT, 1, code, ..] => {
                self.received.advance(3);
                let behind = std::mem::take(&mut self.received);
                self.received.extend_from_slice(&[DISCONNECT, 2, code, 0]);
                self.received.extend_from_slice(&behind);
                false
            }
            _ => false,
        }
    }

    /// Whether the next packet may be read; it reads from `left` then.
    fn admit(&mut self, first: u8, size: usize, cx: &Context<'_>) -> bool {
        if first >> 4 == PUBLISH && size < ENDLESS && !self.intake.try_take(size) {
            self.intake.reader.register(cx.waker());
            // Some may have become free before the waker was registered.
            if !self.intake.try_take(size) {
                return false;
            }
        }
        self.left = size;
        true
    }
}

impl<S: AsyncRead + Unpin> Gate<S> {
    /// Reads more into the buffer; the number of bytes, 0 at the end of the stream.
    fn fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut buf = ReadBuf::new(&mut self.room);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf))?;
        self.received.extend_from_slice(buf.filled());
        Poll::Ready(Ok(buf.filled().len()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gate<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let gate = self.get_mut();
        loop {
            if gate.left > 0 && !gate.received.is_empty() {
                let count = gate.left.min(gate.received.len()).min(buf.remaining());
                buf.put_slice(&gate.received[..count]);
                gate.received.advance(count);
                gate.left -= count;
                return Poll::Ready(Ok(()));
            }
            if gate.left == 0
                && !gate.complete_disconnect()
                && let Some((first, size)) = header(&gate.received)
            {
                if gate.admit(first, size, cx) {
                    continue;
                }
                if gate.wrote && buf.remaining() >= PING_RESPONSE.len() {
                    gate.wrote = false;
                    buf.put_slice(&PING_RESPONSE);
                    return Poll::Ready(Ok(()));
                }
                return Poll::Pending;
            }
            if ready!(gate.fill(cx))? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gate<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let gate = self.get_mut();
        gate.wrote = true;
        Pin::new(&mut gate.stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// The first byte and the size of the packet at the start, once its fixed header has arrived (MQTT 5, 2.1). After a length that
/// is not valid everything is one packet, over which the client library ends the connection.
fn header(received: &[u8]) -> Option<(u8, usize)> {
    let (&first, rest) = received.split_first()?;
    let mut length = 0;
    for (index, &byte) in rest.iter().enumerate().take(4) {
        length |= usize::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((first, 2 + index + length));
        }
    }
    (rest.len() >= 4).then_some((first, ENDLESS))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const ACK: [u8; 4] = [0x40, 2, 0, 1];

    fn publish(size: usize) -> Vec<u8> {
        let mut packet = vec![0x32, 0x80 | (size % 128) as u8, (size / 128) as u8];
        packet.resize(3 + size, 7);
        packet
    }

    fn reads(gate: &mut Gate<tokio::io::DuplexStream>) -> Option<usize> {
        let mut room = [0; 1 << 16];
        let mut buf = ReadBuf::new(&mut room);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        match Pin::new(gate).poll_read(&mut cx, &mut buf) {
            Poll::Ready(read) => read.map(|()| buf.filled().len()).ok(),
            Poll::Pending => None,
        }
    }

    #[tokio::test]
    async fn messages_come_in_as_there_is_room() {
        let (mut broker, client) = duplex(1 << 20);
        let intake = Arc::new(Intake::new(2, 1_000));
        let mut gate = Gate::new(client, Arc::clone(&intake));
        for packet in [&publish(200)[..], &ACK, &publish(200), &publish(200), &ACK] {
            broker.write_all(packet).await.unwrap();
        }
        assert_eq!([reads(&mut gate), reads(&mut gate), reads(&mut gate)], [Some(203), Some(4), Some(203)]);
        assert_eq!(reads(&mut gate), None, "both places are taken");
        intake.set_aside();
        assert_eq!(reads(&mut gate), Some(203), "a waiting retry takes none");
        assert_eq!(reads(&mut gate), Some(4));
        assert_eq!(reads(&mut gate), None);
    }

    #[tokio::test]
    async fn a_message_larger_than_all_room_comes_alone() {
        let (mut broker, client) = duplex(1 << 20);
        let intake = Arc::new(Intake::new(9, 1_000));
        let mut gate = Gate::new(client, Arc::clone(&intake));
        for size in [300, 5_000, 300] {
            broker.write_all(&publish(size)).await.unwrap();
        }
        assert_eq!([reads(&mut gate), reads(&mut gate)], [Some(303), None]);
        intake.free(303);
        assert_eq!(reads(&mut gate), Some(5_003));
        assert_eq!(reads(&mut gate), None);
        intake.free(5_003);
        assert_eq!(reads(&mut gate), Some(303));
    }

    #[tokio::test]
    async fn pings_are_answered_while_a_message_waits() {
        let (mut broker, client) = duplex(1 << 20);
        let intake = Arc::new(Intake::new(1, 1_000));
        let mut gate = Gate::new(client, Arc::clone(&intake));
        intake.pause(true);
        broker.write_all(&publish(200)).await.unwrap();
        assert_eq!(reads(&mut gate), None);
        gate.write_all(&[0xC0, 0]).await.unwrap();
        assert_eq!([reads(&mut gate), reads(&mut gate)], [Some(2), None]);
        intake.pause(false);
        let mut packet = [0; 203];
        gate.read_exact(&mut packet).await.unwrap();
        assert_eq!(packet[..], publish(200));
    }

    #[tokio::test]
    async fn a_disconnect_packet_without_properties_gets_some() {
        let (mut broker, client) = duplex(1 << 20);
        let mut gate = Gate::new(client, Arc::new(Intake::new(9, 1_000)));
        let mut read = Vec::new();
        for byte in [&ACK[..], &[DISCONNECT, 1, 0x8E], &[DISCONNECT, 0]].concat() {
            broker.write_all(&[byte]).await.unwrap();
        }
        drop(broker);
        gate.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, [&ACK[..], &[DISCONNECT, 2, 0x8E, 0], &[DISCONNECT, 0]].concat());
    }

    #[tokio::test]
    async fn bytes_come_as_they_are_however_they_are_split() {
        let all =
            [&publish(300)[..], &ACK, &PING_RESPONSE, &publish(0), &[0x30, 0xFF, 0xFF, 0xFF, 0xFF, 1, 2]]
                .concat();
        let (mut broker, client) = duplex(1 << 20);
        let mut gate = Gate::new(client, Arc::new(Intake::new(9, 1_000)));
        let mut read = Vec::new();
        for byte in &all {
            broker.write_all(&[*byte]).await.unwrap();
            while let Some(count @ 1..) = {
                let mut room = [0; 100];
                let mut buf = ReadBuf::new(&mut room);
                let mut cx = Context::from_waker(std::task::Waker::noop());
                let polled = Pin::new(&mut gate).poll_read(&mut cx, &mut buf);
                polled.is_ready().then(|| {
                    read.extend_from_slice(buf.filled());
                    buf.filled().len()
                })
            } {
                let _ = count;
            }
        }
        drop(broker);
        gate.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, all);
    }
}
