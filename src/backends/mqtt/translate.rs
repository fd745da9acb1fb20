//! Packets of MQTT 5 as those of MQTT 3.1.1, and back.
//!
//! Both have the same packets; those of MQTT 5 have properties, reason codes and options more.

use std::borrow::Cow;

use bytes::{Buf, BufMut, BytesMut};

const CONNECT: u8 = 1;
const CONNACK: u8 = 2;
const PUBLISH: u8 = 3;
const PUBACK: u8 = 4;
const PUBCOMP: u8 = 7;
const SUBSCRIBE: u8 = 8;
const SUBACK: u8 = 9;
const DISCONNECT: u8 = 14;

/// The flag of a CONNECT packet for a session that the broker forgets with the connection (MQTT 3.1.1, 3.1.2.4).
const CLEAN: u8 = 0b10;
/// The property with the session expiry interval (MQTT 5, 3.1.2.11.2).
const SESSION_EXPIRY: u8 = 0x11;
/// The longest head of a received packet: a PUBLISH packet with the longest topic.
const LONGEST_HEAD: usize = 5 + 2 + 65_535 + 2;

/// Takes one whole packet of MQTT 5 from the start of `from`, and appends it to `to` as one of MQTT 3.1.1. Returns whether it was whole.
///
/// The packets are those of the client library. One that cannot be read is passed on.
pub(super) fn to_older(from: &mut BytesMut, to: &mut BytesMut) -> bool {
    let Some((head, size)) = fixed_header(from) else { return false };
    if from.len() < size {
        return false;
    }
    let packet = from.split_to(size);
    match older(packet[0], &packet[head..]) {
        Some(body) => {
            put_header(to, packet[0], body.iter().map(|part| part.len()).sum());
            body.iter().for_each(|part| to.extend_from_slice(part));
        }
        None => to.extend_from_slice(&packet),
    }
    true
}

/// The first byte and the body of a packet without what MQTT 3.1.1 lacks; `None` if it has nothing of that.
fn older(first: u8, body: &[u8]) -> Option<[Cow<'_, [u8]>; 2]> {
    const NOTHING: Cow<'_, [u8]> = Cow::Borrowed(&[]);
    let parts = match first >> 4 {
        CONNECT => {
            // The name of the protocol, its version, flags, keep-alive.
            let (start, rest) = body.split_at_checked(10)?;
            let (properties, rest) = properties(rest)?;
            let mut start = start.to_vec();
            start[6] = 4;
            if !keeps_session(properties) {
                start[7] |= CLEAN;
            }
            [start.into(), rest.into()]
        }
        PUBLISH => {
            let (start, rest) = body.split_at_checked(publish_start(first, body)?)?;
            let (_, payload) = properties(rest)?;
            [start.into(), payload.into()]
        }
        SUBSCRIBE => {
            let (id, rest) = body.split_at_checked(2)?;
            let (_, mut rest) = properties(rest)?;
            let mut filters = Vec::with_capacity(rest.len());
            while let Some((length, _)) = rest.split_first_chunk::<2>() {
                let (filter, options) =
                    rest.split_at_checked(2 + usize::from(u16::from_be_bytes(*length)))?;
                let (options, after) = options.split_first()?;
                filters.extend_from_slice(filter);
                // The quality of service.
                filters.push(options & 0b11);
                rest = after;
            }
            [id.into(), filters.into()]
        }
        PUBACK..=PUBCOMP => [body.get(..2)?.into(), NOTHING],
        DISCONNECT => [NOTHING, NOTHING],
        _ => return None,
    };
    Some(parts)
}

/// Whether the broker keeps the session of a client with these properties of its CONNECT packet.
fn keeps_session(properties: &[u8]) -> bool {
    // The client library writes it first.
    matches!(properties, [SESSION_EXPIRY, expiry @ ..] if expiry.first_chunk::<4>().is_some_and(|expiry| *expiry != [0; 4]))
}

/// The start of a received packet of MQTT 3.1.1.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Newer {
    /// More bytes are needed.
    Incomplete,
    /// The start was translated; so many bytes that follow belong to the packet, and stay as they are.
    Head(usize),
    /// No packet can be read any more: all that follows stays as it is.
    Invalid,
}

/// Takes the start of a packet of MQTT 3.1.1 from `from`, and appends it to `to` as one of MQTT 5.
pub(super) fn to_newer(from: &mut BytesMut, to: &mut BytesMut) -> Newer {
    let Some((head, size)) = fixed_header(from) else {
        return if from.len() >= 5 { Newer::Invalid } else { Newer::Incomplete };
    };
    let first = from[0];
    // So many bytes of the body are before the properties.
    let start = match first >> 4 {
        CONNACK | SUBACK => 2,
        PUBLISH => match publish_start(first, &from[head..]) {
            Some(start) => start,
            None if from.len() >= LONGEST_HEAD.min(size) => return Newer::Invalid,
            None => return Newer::Incomplete,
        },
        _ => {
            to.extend_from_slice(&from.split_to(head));
            return Newer::Head(size - head);
        }
    };
    if size < head + start {
        return Newer::Invalid;
    }
    if from.len() < head + start {
        return Newer::Incomplete;
    }
    from.advance(head);
    put_header(to, first, size - head + 1);
    let at = to.len();
    to.extend_from_slice(&from.split_to(start));
    if first >> 4 == CONNACK {
        to[at + 1] = connect_code(to[at + 1]);
    }
    // No properties.
    to.put_u8(0);
    Newer::Head(size - head - start)
}

/// The return code of a CONNACK packet (MQTT 3.1.1, 3.2.2.3) as a reason code (MQTT 5, 3.2.2.2).
fn connect_code(code: u8) -> u8 {
    match code {
        0 => 0,
        1 => 0x84,
        2 => 0x85,
        3 => 0x88,
        4 => 0x86,
        5 => 0x87,
        _ => 0x80,
    }
}

/// The length of the topic and the identifier of a PUBLISH packet; `None` if they are not whole.
fn publish_start(first: u8, body: &[u8]) -> Option<usize> {
    let topic = usize::from(u16::from_be_bytes(*body.first_chunk()?));
    let identifier = if first & 0b110 == 0 { 0 } else { 2 };
    let start = 2 + topic + identifier;
    (body.len() >= start).then_some(start)
}

/// The properties at the start, and the rest.
fn properties(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, size) = number(bytes)?;
    bytes.get(size..)?.split_at_checked(length)
}

/// The length of the fixed header, and the size of the packet.
fn fixed_header(bytes: &[u8]) -> Option<(usize, usize)> {
    let (length, size) = number(bytes.get(1..)?)?;
    Some((1 + size, 1 + size + length))
}

/// A variable byte integer and its size (MQTT 5, 1.5.5); `None` if it is not whole or not valid.
fn number(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut number = 0;
    for (index, &byte) in bytes.iter().enumerate().take(4) {
        number |= usize::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((number, index + 1));
        }
    }
    None
}

fn put_header(to: &mut BytesMut, first: u8, mut rest: usize) {
    to.put_u8(first);
    loop {
        let digit = (rest & 0x7F) as u8;
        rest >>= 7;
        if rest == 0 {
            return to.put_u8(digit);
        }
        to.put_u8(digit | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn older_of(packet: &[u8]) -> Vec<u8> {
        let (mut from, mut to) = (BytesMut::from(packet), BytesMut::new());
        for cut in 0..packet.len() {
            assert!(!to_older(&mut BytesMut::from(&packet[..cut]), &mut BytesMut::new()), "{cut}");
        }
        assert!(to_older(&mut from, &mut to) && from.is_empty());
        to.to_vec()
    }

    fn newer_of(packet: &[u8]) -> Vec<u8> {
        let (mut from, mut to) = (BytesMut::from(packet), BytesMut::new());
        let Newer::Head(rest) = to_newer(&mut from, &mut to) else { panic!("{packet:?}") };
        assert_eq!(from.len(), rest);
        to.extend_from_slice(&from);
        to.to_vec()
    }

    #[test]
    fn a_connect_packet_has_version_4_and_no_properties() {
        let packet = |expiry: &[u8], flags| {
            let mut packet = vec![0x10, 0, 0, 4, b'M', b'Q', b'T', b'T', 5, flags, 0, 15, expiry.len() as u8];
            packet.extend_from_slice(expiry);
            packet.extend_from_slice(&[0, 2, b'm', b'e', 0, 1, b'u', 0, 1, b'p']);
            packet[1] = packet.len() as u8 - 2;
            packet
        };
        let older = |flags| {
            let start = [0x10, 20, 0, 4, b'M', b'Q', b'T', b'T', 4, flags, 0, 15];
            [&start[..], &[0, 2, b'm', b'e', 0, 1, b'u', 0, 1, b'p']].concat()
        };
        assert_eq!(older_of(&packet(&[0x11, 0, 0, 1, 0, 0x21, 0, 7], 0xC0)), older(0xC0));
        assert_eq!(older_of(&packet(&[0x11, 0, 0, 0, 0], 0xC0)), older(0xC2));
        assert_eq!(older_of(&packet(&[], 0xC2)), older(0xC2));
    }

    #[test]
    fn what_is_sent_has_no_properties_options_or_reasons() {
        let publish = [0x32, 12, 0, 1, b't', 0, 7, 3, 0x26, 0, 0, b'x', b'y', b'z'];
        assert_eq!(older_of(&publish), [0x32, 8, 0, 1, b't', 0, 7, b'x', b'y', b'z']);
        assert_eq!(older_of(&[0x30, 4, 0, 1, b't', 0]), [0x30, 3, 0, 1, b't']);
        let subscribe = [0x82, 11, 0, 1, 0, 0, 1, b'a', 0x15, 0, 1, b'b', 0x2E];
        assert_eq!(older_of(&subscribe), [0x82, 10, 0, 1, 0, 1, b'a', 1, 0, 1, b'b', 2]);
        assert_eq!(older_of(&[0x40, 4, 0, 7, 0x10, 0]), [0x40, 2, 0, 7]);
        assert_eq!(older_of(&[0x62, 2, 0, 7]), [0x62, 2, 0, 7]);
        assert_eq!(older_of(&[0xE0, 2, 4, 0]), [0xE0, 0]);
        assert_eq!(older_of(&[0xC0, 0]), [0xC0, 0]);
    }

    #[test]
    fn what_is_received_has_empty_properties() {
        assert_eq!(newer_of(&[0x20, 2, 1, 0]), [0x20, 3, 1, 0, 0]);
        assert_eq!(newer_of(&[0x20, 2, 0, 5]), [0x20, 3, 0, 0x87, 0]);
        assert_eq!(
            newer_of(&[0x32, 7, 0, 1, b't', 0, 7, b'x', b'y']),
            [0x32, 8, 0, 1, b't', 0, 7, 0, b'x', b'y']
        );
        assert_eq!(newer_of(&[0x30, 3, 0, 1, b't']), [0x30, 4, 0, 1, b't', 0]);
        assert_eq!(newer_of(&[0x90, 4, 0, 1, 1, 0x80]), [0x90, 5, 0, 1, 0, 1, 0x80]);
        assert_eq!(newer_of(&[0x40, 2, 0, 7]), [0x40, 2, 0, 7]);
        // The length takes a byte more.
        let mut long = vec![0x30, 127, 0, 1, b't'];
        long.resize(2 + 127, b'x');
        assert_eq!(newer_of(&long)[..7], [0x30, 0x80, 1, 0, 1, b't', 0]);
    }

    #[test]
    fn what_cannot_be_read_is_passed_on() {
        for bytes in [&[0x30, 0xFF, 0xFF, 0xFF, 0xFF][..], &[0x30, 1, 0], &[0x30, 3, 0, 9, 0], &[0x20, 1, 0]]
        {
            assert_eq!(
                to_newer(&mut BytesMut::from(bytes), &mut BytesMut::new()),
                Newer::Invalid,
                "{bytes:?}"
            );
        }
        for bytes in [&[][..], &[0x30], &[0x30, 0x80], &[0x30, 9, 0, 3, b'a'], &[0x20, 2, 0]] {
            let (mut from, mut to) = (BytesMut::from(bytes), BytesMut::new());
            assert_eq!(to_newer(&mut from, &mut to), Newer::Incomplete);
            assert_eq!((&from[..], to.len()), (bytes, 0));
        }
        assert_eq!(older_of(&[0x82, 3, 0, 1, 9]), [0x82, 3, 0, 1, 9]);
    }
}
