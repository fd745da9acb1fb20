//! Incoming frames, rewritten for the client library (AMQP 1.0, 2.3 and 2.7).

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Buf, BufMut, BytesMut};

use super::held::HeldBytes;
use super::values::{Flaw, Walk, descriptor, number};

/// The largest frame that a broker may send, as announced to it.
pub(super) const MAX_FRAME: usize = 0x0004_0000;
/// The bytes that are added to a frame: the start of a data section.
pub(crate) const ADDED: usize = 8;
/// The length of the protocol header.
pub(super) const PROTOCOL_HEADER: usize = 8;
/// The largest message that is accepted.
pub(crate) const MAX_MESSAGE: usize = 128 << 20;
/// The largest number of incomplete deliveries.
const MAX_PARTIAL: usize = 256;

const HEADER: usize = 8;
/// The start of a data section, without its length.
const DATA: &[u8] = b"\x00\x53\x75\xb0";
/// Replaces a message that does not fit into memory, or that its sender aborted. It ends before its descriptor, so it cannot
/// be decoded and equals no message of a sender.
const NO_MESSAGE: &[u8] = b"\x00";
const TRANSFER: u64 = 0x14;
const TRANSFER_FIELDS: usize = 11;
const FALSE: u8 = 0x42;

/// The reason why a connection cannot continue.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("the broker sent a frame of {0} bytes, and may send no more than {MAX_FRAME}")]
    Size(usize),
    #[error("the broker sent a frame that is not AMQP")]
    Kind,
    #[error("the broker sent a performative that cannot be read: {0}")]
    Performative(Flaw),
    #[error("the broker began more than {MAX_PARTIAL} deliveries at once")]
    Partial,
}

impl From<Flaw> for FrameError {
    fn from(flaw: Flaw) -> Self {
        Self::Performative(flaw)
    }
}

/// Checks the performative of each frame, and wraps the payload of a transfer into a data section.
///
/// So the client library never decodes a message: it gets the bytes of the message as data sections, one for each frame, and
/// [`sections::check`](super::sections::check) checks them before they are decoded. Bytes of a message beyond
/// [`MAX_MESSAGE`] are dropped. A message that does not fit into memory is dropped whole, and so is an aborted one.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    begun: bool,
    walk: Walk,
    /// The incomplete deliveries, by channel and handle.
    partial: HashMap<(u16, u32), Partial>,
    held: Arc<HeldBytes>,
}

/// An incomplete delivery.
#[derive(Clone, Copy, Debug)]
struct Partial {
    size: usize,
    /// Whether it fits into memory.
    taken: bool,
}

impl Frames {
    pub(crate) fn new(held: Arc<HeldBytes>) -> Self {
        Self { held, ..Self::default() }
    }

    /// Removes every complete frame from `input`, and appends to `output` the bytes for the client library.
    ///
    /// # Errors
    /// [`FrameError`]: the connection cannot continue.
    pub(crate) fn pass(&mut self, input: &mut BytesMut, output: &mut BytesMut) -> Result<(), FrameError> {
        if !self.begun {
            if input.len() < PROTOCOL_HEADER {
                return Ok(());
            }
            output.put(input.split_to(PROTOCOL_HEADER));
            self.begun = true;
        }
        while let Some(size) = input.get(..4).map(number) {
            let size = usize::try_from(size).unwrap_or(usize::MAX);
            if !(HEADER..=MAX_FRAME).contains(&size) {
                return Err(FrameError::Size(size));
            }
            if input.len() < size {
                return Ok(());
            }
            self.frame(&input[..size], output)?;
            input.advance(size);
        }
        Ok(())
    }

    fn frame(&mut self, frame: &[u8], output: &mut BytesMut) -> Result<(), FrameError> {
        let (data_offset, kind, channel) = (usize::from(frame[4]) * 4, frame[5], [frame[6], frame[7]]);
        if kind != 0 || data_offset < HEADER {
            return Err(FrameError::Kind);
        }
        // An extended header has no meaning, and the client library cannot read it.
        let body = frame.get(data_offset..).ok_or(FrameError::Kind)?;
        if body.is_empty() {
            put_header(output, channel, 0);
            return Ok(());
        }
        self.walk.restart();
        let end = self.walk.end_of(body, 0)?;
        let (performative, payload) = body.split_at(end);
        let (number, list) = descriptor(performative, 1)?;
        if performative[0] != 0 || !(0x10..=0x18).contains(&number) {
            return Err(Flaw::Performative.into());
        }
        if number != TRANSFER {
            put_header(output, channel, performative.len());
            output.put(performative);
            return Ok(());
        }
        let Transfer { handle, more, aborted } = self.transfer(performative, list)?;
        let key = (u16::from_be_bytes(channel), handle);
        let known = self.partial.remove(&key);
        if let Some(aborted) = aborted {
            self.held.subtract(known.map_or(0, |known| known.size));
            put_header(output, channel, performative.len() + NO_MESSAGE.len());
            let begin = output.len();
            output.put(performative);
            // The client library would not return the credit of an aborted delivery.
            for truth in [Some(aborted), more].into_iter().flatten() {
                output[begin + truth.end - 1] = if truth.len() == 1 { FALSE } else { 0 };
            }
            output.put(NO_MESSAGE);
            return Ok(());
        }
        let more = more.is_some();
        let mut delivery = known.unwrap_or_else(|| Partial { size: 0, taken: self.held.has_room() });
        let passed = if delivery.taken && delivery.size <= MAX_MESSAGE { payload } else { &[] };
        delivery.size += passed.len();
        self.held.add(passed.len());
        if more {
            if self.partial.len() == MAX_PARTIAL {
                return Err(FrameError::Partial);
            }
            self.partial.insert(key, delivery);
        }
        if delivery.taken {
            put_header(output, channel, performative.len() + ADDED + passed.len());
            output.put(performative);
            output.put(DATA);
            output.put_u32(passed.len() as u32);
            output.put(passed);
        } else {
            let instead = if more { b"" } else { NO_MESSAGE };
            put_header(output, channel, performative.len() + instead.len());
            output.put(performative);
            output.put(instead);
        }
        Ok(())
    }

    /// Reads the needed fields of a transfer, and checks all of them.
    fn transfer(&mut self, performative: &[u8], list: usize) -> Result<Transfer, Flaw> {
        let (mut at, fields) = match performative.get(list) {
            Some(0xc0) => (list + 3, usize::from(performative[list + 2])),
            Some(0xd0) => (list + 9, number(&performative[list + 5..list + 9]) as usize),
            _ => return Err(Flaw::Performative),
        };
        if fields > TRANSFER_FIELDS {
            return Err(Flaw::Performative);
        }
        let mut transfer = Transfer { handle: 0, more: None, aborted: None };
        self.walk.restart();
        for field in 0..fields {
            let end = self.walk.end_of(performative, at)?;
            let value = &performative[at..end];
            match (field, value) {
                (0, [0x43]) => {}
                (0, [0x52 | 0x70, handle @ ..]) => transfer.handle = number(handle) as u32,
                (0, _) => return Err(Flaw::Performative),
                (5, value) if is_true(value) => transfer.more = Some(at..end),
                (9, value) if is_true(value) => transfer.aborted = Some(at..end),
                _ => {}
            }
            at = end;
        }
        Ok(transfer)
    }
}

struct Transfer {
    handle: u32,
    /// The position of the field, if it is true.
    more: Option<Range<usize>>,
    aborted: Option<Range<usize>>,
}

fn is_true(value: &[u8]) -> bool {
    matches!(value, [0x41] | [0x56, 1])
}

fn put_header(output: &mut BytesMut, channel: [u8; 2], body: usize) {
    output.put_u32((HEADER + body) as u32);
    output.put(&[2, 0, channel[0], channel[1]][..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROTOCOL: &[u8] = b"AMQP\0\x01\0\0";

    fn frame(body: &[u8]) -> Vec<u8> {
        [&(body.len() as u32 + 8).to_be_bytes()[..], &[2, 0, 0, 1], body].concat()
    }

    /// A transfer of handle 3.
    fn transfer(more: bool, payload: &[u8]) -> Vec<u8> {
        let more = if more { 0x41 } else { 0x42 };
        frame(&[&b"\x00\x53\x14\xc0\x0a\x06\x52\x03\x43\xa0\x01t\x43\x42"[..], &[more], payload].concat())
    }

    fn data(payload: &[u8]) -> Vec<u8> {
        [&b"\x00\x53\x75\xb0"[..], &(payload.len() as u32).to_be_bytes(), payload].concat()
    }

    fn pass(input: &[u8]) -> Result<Vec<u8>, FrameError> {
        let mut output = BytesMut::new();
        Frames::default().pass(&mut [PROTOCOL, input].concat()[..].into(), &mut output)?;
        Ok(output[PROTOCOL.len()..].to_vec())
    }

    #[test]
    fn what_a_transfer_carries_is_packed_however_the_bytes_are_split() {
        let close = frame(b"\x00\x53\x18\x45");
        let input = [&frame(b"")[..], &close, &transfer(true, b"ab"), &transfer(false, b"")].concat();
        let expected =
            [&frame(b"")[..], &close, &transfer(true, &data(b"ab")), &transfer(false, &data(b""))].concat();
        assert_eq!(pass(&input).unwrap(), expected);
        let (mut frames, mut some, mut output) = (Frames::default(), BytesMut::new(), BytesMut::new());
        for byte in [PROTOCOL, &input].concat() {
            some.put_u8(byte);
            frames.pass(&mut some, &mut output).unwrap();
        }
        assert_eq!((&output[PROTOCOL.len()..], frames.partial.len()), (&expected[..], 0));
    }

    #[test]
    fn an_extended_header_is_left_out() {
        let extended = b"\0\0\0\x10\x03\0\0\x01more\0\x53\x18\x45";
        assert_eq!(pass(extended).unwrap(), frame(b"\x00\x53\x18\x45"));
    }

    #[test]
    fn what_cannot_be_read_ends_the_connection() {
        let nested = [&b"\x00\x53\x01".repeat(5_000)[..], b"\x40"].concat();
        let close =
            [&b"\x00\x53\x18\xd0"[..], &(nested.len() as u32 + 4).to_be_bytes(), b"\0\0\0\x01", &nested]
                .concat();
        for (input, error) in [
            (&b"\0\0\0\x07\x02\0\0\0"[..], FrameError::Size(7)),
            (b"\xff\0\0\0", FrameError::Size(0xff00_0000)),
            (b"\0\0\0\x08\x02\x01\0\0", FrameError::Kind),
            (b"\0\0\0\x08\x01\0\0\0", FrameError::Kind),
            (b"\0\0\0\x08\x03\0\0\0", FrameError::Kind),
            (&frame(&close), FrameError::Performative(Flaw::TooDeep)),
            (&frame(b"\x00\x53\x19\x45"), FrameError::Performative(Flaw::Performative)),
            (&frame(b"\x00\x53\x14\x45"), FrameError::Performative(Flaw::Performative)),
            (&frame(b"\x45"), FrameError::Performative(Flaw::Truncated)),
            (&frame(b"\x00"), FrameError::Performative(Flaw::Truncated)),
        ] {
            assert_eq!(pass(input), Err(error));
        }
    }

    #[test]
    fn a_message_for_which_there_is_no_room_is_dropped_whole() {
        let held = Arc::new(HeldBytes::default());
        held.limit(3);
        let mut frames = Frames::new(Arc::clone(&held));
        let mut output = BytesMut::new();
        let begun = [PROTOCOL, &transfer(true, b"ab"), &transfer(false, b"cd")].concat();
        frames.pass(&mut begun[..].into(), &mut output).unwrap();
        assert_eq!(held.count(), 4);
        output.clear();
        let other = [transfer(true, b"ef"), transfer(false, b"gh"), transfer(false, b"")].concat();
        frames.pass(&mut other[..].into(), &mut output).unwrap();
        let expected =
            [transfer(true, b""), transfer(false, NO_MESSAGE), transfer(false, NO_MESSAGE)].concat();
        assert_eq!((&output[..], held.count()), (&expected[..], 4));
        held.subtract(4);
        output.clear();
        frames.pass(&mut transfer(false, b"ij")[..].into(), &mut output).unwrap();
        assert_eq!(output, transfer(false, &data(b"ij"))[..]);
    }

    #[test]
    fn a_message_that_is_broken_off_ends_as_none() {
        // Handle 3; the first has all fields, the second has nulls up to `more`, and `aborted` in two bytes.
        let short = b"\x00\x53\x14\xc0\x0f\x0a\x52\x03\x43\xa0\x01t\x40\x40\x40\x40\x40\x40\x56";
        for (sent, passed) in [
            (
                [&b"\x00\x53\x14\xc0\x0e\x0a\x52\x03\x43\xa0\x01t\x43\x42\x41\x40\x40\x42\x41"[..], b""]
                    .concat(),
                [&b"\x00\x53\x14\xc0\x0e\x0a\x52\x03\x43\xa0\x01t\x43\x42\x42\x40\x40\x42\x42"[..], b""]
                    .concat(),
            ),
            ([&short[..], b"\x01"].concat(), [&short[..], b"\x00"].concat()),
        ] {
            let held = Arc::new(HeldBytes::default());
            let (mut frames, mut output) = (Frames::new(Arc::clone(&held)), BytesMut::new());
            let input = [PROTOCOL, &transfer(true, b"ab"), &frame(&[&sent[..], b"cd"].concat())].concat();
            frames.pass(&mut input[..].into(), &mut output).unwrap();
            let ended = frame(&[&passed[..], NO_MESSAGE].concat());
            assert_eq!(output[PROTOCOL.len()..], [transfer(true, &data(b"ab")), ended].concat());
            assert_eq!((held.count(), frames.partial.len()), (0, 0));
        }
    }

    #[test]
    fn the_rest_of_a_message_that_is_too_large_is_dropped_as_it_arrives() {
        let (mut frames, mut passed) = (Frames::default(), 0);
        let mut output = BytesMut::new();
        frames.pass(&mut PROTOCOL.into(), &mut output).unwrap();
        let part = transfer(true, &vec![7; 200_000]);
        for _ in 0..1_000 {
            output.clear();
            frames.pass(&mut part[..].into(), &mut output).unwrap();
            passed += output.len();
        }
        assert!((MAX_MESSAGE..MAX_MESSAGE + 300_000).contains(&passed), "{passed}");
        for expected in [data(b"").len(), data(b"abc").len()] {
            output.clear();
            frames.pass(&mut transfer(false, b"abc")[..].into(), &mut output).unwrap();
            assert_eq!(output.len(), transfer(false, b"").len() + expected);
        }
    }
}
