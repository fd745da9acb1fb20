//! Foreign bytes of AMQP 1.0, for [`fuzzing`](crate::fuzzing).

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use fe2o3_amqp_types::messaging::Header;
use fe2o3_amqp_types::messaging::message::__private::Serializable;
use fe2o3_amqp_types::performatives::{Attach, Begin, Close, Detach, Disposition, End, Flow, Open, Transfer};
use serde_amqp::from_slice;

use super::guard::{self, ADDED, Frames, HeldBytes};
use super::incoming::Reader;
use super::outgoing::{AmqpMessage, Plain, Shape};
use super::rhmsg::Rhmsg;
use crate::backends::brokers::{BrokerUrl, UrlError};
use crate::envelope::Envelope;
use crate::message::fuzzing::message;

fn reader(envelope: Envelope, content_types: [&'static str; 2]) -> Reader {
    Reader {
        address: "queue://eng.users".into(),
        topic_prefix: Some("eng".to_owned()),
        envelope,
        content_types,
    }
}

fn written(message: AmqpMessage) -> Bytes {
    serde_amqp::to_vec(&Serializable(message)).expect("a message can be written").into()
}

/// The sections of a message, as on the wire.
pub fn amqp10_sections(data: &[u8]) {
    let is_safe = guard::check(data).is_ok();
    for (envelope, types, is_rabbitmq_3) in [
        (Envelope::Plain, Reader::PLAIN, true),
        (Envelope::Plain, Reader::RHMSG, false),
        (Envelope::CloudEvents, Reader::PLAIN, false),
        (Envelope::Petisco, Reader::PLAIN, false),
    ] {
        let reader = reader(envelope, types);
        let (original, read) = reader.read(Bytes::copy_from_slice(data), is_rabbitmq_3);
        assert!(is_safe || read.is_err());
        if let Ok(message) = &read {
            assert!(message.size() <= 4 * data.len() + 256);
        }
        assert_eq!(original.content(), original.content());
        drop((original.delivery_count(), original.is_first(), original.foreign_failures("other")));
        let letter = {
            let topic = reader.topic(&original);
            written(original.into_dead_letter(&reader.address, topic.as_ref(), 3, &[], "a reason"))
        };
        guard::check(&letter).expect("a dead letter can be read");
        let (_, back) = reader.read(letter, false);
        if let (Ok(message), Ok(back)) = (read, back) {
            assert_eq!((back.topic(), back.body()), (message.topic(), message.body()));
        }
    }
}

/// A message in both shapes, encoded and decoded.
pub fn rhmsg(data: &[u8]) {
    let Some(message) = message(data) else { return };
    if Plain::check(&message).is_ok() && super::outgoing::check_headers(&message).is_ok() {
        let wire =
            written(Plain::encode(Header::default(), &message).expect("what is checked can be encoded"));
        let read =
            reader(Envelope::Plain, Reader::PLAIN).read(wire, false).1.expect("what is sent can be read");
        assert_eq!((read.id(), read.body()), (message.id(), message.body()));
        assert_eq!((read.key(), read.content_type()), (message.key(), message.content_type()));
    }
    if Rhmsg::check(&message).is_ok() && super::outgoing::check_headers(&message).is_ok() {
        let wire =
            written(Rhmsg::encode(Header::default(), &message).expect("what is checked can be encoded"));
        let read =
            reader(Envelope::Plain, Reader::RHMSG).read(wire, false).1.expect("what is sent can be read");
        assert_eq!(read.body(), message.body());
    }
}

/// How many bytes may be here, how large the pieces are in which they come, and what a broker sends.
pub fn amqp10_frames(data: &[u8]) {
    let [room, size, input @ ..] = data else { return };
    let pass = |size: usize| {
        let held = Arc::new(HeldBytes::default());
        held.limit(usize::from(*room) * 16);
        let (mut frames, mut some, mut output) =
            (Frames::new(Arc::clone(&held)), BytesMut::new(), BytesMut::new());
        let result = input.chunks(size).try_for_each(|piece| {
            some.extend_from_slice(piece);
            frames.pass(&mut some, &mut output)
        });
        (result, output, held.count())
    };
    let whole = pass(input.len().max(1));
    assert_eq!(pass(usize::from(*size) + 1), whole, "it matters where the bytes are split");
    assert_eq!(pass(1), whole, "it matters where the bytes are split");
    let (_, output, held) = whole;
    assert!(output.len() <= input.len() + ADDED * (input.len() / 8) && held <= input.len());
    decode(output.get(8..).unwrap_or_default());
}

/// As the client library does it.
fn decode(mut frames: &[u8]) {
    while let Some((size, _)) = frames.split_first_chunk::<4>() {
        let (frame, rest) = frames.split_at(u32::from_be_bytes(*size) as usize);
        frames = rest;
        let body = &frame[8..];
        let number = match body {
            [0, 0x53, number, ..] => *number,
            _ => continue,
        };
        match number {
            0x10 => drop(from_slice::<Open>(body)),
            0x11 => drop(from_slice::<Begin>(body)),
            0x12 => drop(from_slice::<Attach>(body)),
            0x13 => drop(from_slice::<Flow>(body)),
            0x14 => drop(from_slice::<Transfer>(body)),
            0x15 => drop(from_slice::<Disposition>(body)),
            0x16 => drop(from_slice::<Detach>(body)),
            0x17 => drop(from_slice::<End>(body)),
            _ => drop(from_slice::<Close>(body)),
        }
    }
}

/// The printed form of a URL, as the address of a broker.
pub(crate) fn url(text: &str) -> String {
    let print = |result: Result<BrokerUrl, UrlError>| match result {
        Ok(url) => format!("{url} {url:?} {:?}", url.credentials().map(|(_, password)| password)),
        Err(error) => format!("{error} {error:?}"),
    };
    print(BrokerUrl::parse(text)) + &print(BrokerUrl::parse_with_vhost(text))
}
