//! Foreign bytes of AMQP 0-9-1, for [`fuzzing`](crate::fuzzing).

use std::sync::Arc;
use std::time::Duration;

use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::protocol::basic::{gen_properties, parse_properties};
use lapin::protocol::parse_class;

use super::fedora::Fedora;
use super::forwarding::Forwarder;
use super::guard::{Findings, Guard};
use super::incoming::{Dialect, Incoming};
use super::json_lines::{from_json_line, to_json_line};
use super::limits::{self, Limits};
use super::outgoing::{Plain, Shape};
use super::settings::Amqp091Settings;
use super::subscription::{Amqp091Subscription, RetryBy};
use crate::envelope::Envelope;
use crate::message::fuzzing::{message, shown};

fn incoming(routing_key: &str, properties: BasicProperties, body: &[u8]) -> Incoming {
    let mut delivery = Delivery::mock(1, "events".into(), routing_key.into(), false, body.to_vec());
    delivery.properties = properties;
    Incoming::new(delivery, "users").0
}

/// A routing key, its length before it; properties as on the wire, theirs in two bytes before them; then the body.
pub fn amqp091_properties(data: &[u8]) {
    let Some((length, rest)) = data.split_first() else { return };
    let (routing_key, rest) = rest.split_at(usize::from(*length).min(rest.len()));
    let Some((length, rest)) = rest.split_first_chunk() else { return };
    let (properties, body) = rest.split_at(usize::from(u16::from_le_bytes(*length)).min(rest.len()));
    let header = [&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], properties].concat();
    let deliver = frame(1, b"\0\x3c\0\x3c\0\0\0\0\0\0\0\0\x01\0\0\0");
    let Ok(passed) = guarded(&[&deliver[..], &frame(2, &header)].concat(), usize::MAX) else { return };
    let header = &passed[deliver.len()..];
    let properties = parse_properties(&header[7 + 12..]).expect("the guard lets nothing else through").1;
    let settings = Amqp091Settings::new(["amqp://h"]);
    let petisco = RetryBy::Petisco { organization: "acme".to_owned(), service: "users".to_owned() };
    let key = String::from_utf8_lossy(routing_key);
    let mut end = key.len().min(255);
    while !key.is_char_boundary(end) {
        end -= 1;
    }
    for (routing_key, retry) in
        [(&key[..end], RetryBy::Delay), ("users", RetryBy::Delay), ("retry.users", petisco)]
    {
        let incoming = incoming(routing_key, properties.clone(), body);
        for dialect in [Dialect::Plain, Dialect::Fedora] {
            let Ok(message) = incoming.decode(dialect, Some("eng"), "users") else { continue };
            // A byte that is no UTF-8 becomes three.
            assert!(message.size() <= 4 * data.len() + 2_048);
            for envelope in [Envelope::CloudEvents, Envelope::Petisco] {
                drop(envelope.open(message.clone()));
            }
        }
        let _ = (incoming.failed(), incoming.expiry());
        assert!(incoming.failures().len() <= data.len());
        let subscription = Amqp091Subscription::new("users").with_retry(retry);
        let Ok(subscription) = subscription.filled(&settings) else { return };
        let topic = incoming.topic(Some("eng"), "users");
        let on = Forwarder {
            subscription: &subscription,
            incoming: &incoming,
            topic,
            id: None,
            has_quorum_queues: true,
        };
        for sent in [on.retry(Duration::from_secs(1), "a reason"), on.dead_letter("a reason")] {
            let publish = sent.publish;
            if Limits::default().check_publish(&publish, 131_072).is_ok() {
                let wire = written(&publish.properties);
                // Without the frame around it, class, weight and size of the body.
                assert_eq!(
                    wire.len() + 20,
                    limits::size_of(&publish.properties),
                    "the size is counted right"
                );
                let read = parse_properties(&wire[..]).expect("what is sent on can be read").1;
                assert_eq!(format!("{read:?}"), format!("{:?}", publish.properties));
            }
        }
    }
}

/// The size of the pieces in which it comes, and what a broker sends.
pub fn amqp091_frames(data: &[u8]) {
    let Some((size, input)) = data.split_first() else { return };
    let whole = guarded(input, usize::MAX);
    for size in [usize::from(*size) + 1, 1] {
        assert_eq!(guarded(input, size), whole, "it matters where the bytes are split");
    }
    let Ok(passed) = whole else { return };
    // A large header has its end before its rest has come.
    assert!(passed.len() <= input.len() + 1);
    // As lapin parses it.
    let mut rest = &passed[..];
    while let [kind, _, _, a, b, c, d, frame @ ..] = rest {
        let Some((payload, behind)) = frame.split_at_checked(u32::from_be_bytes([*a, *b, *c, *d]) as usize)
        else {
            break;
        };
        match kind {
            1 => drop(parse_class(payload)),
            2 => drop(parse_properties(&payload[12..]).expect("the guard lets nothing else through")),
            _ => {}
        }
        rest = behind.get(1..).unwrap_or_default();
    }
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    [&[kind, 0, 1], &(payload.len() as u32).to_be_bytes()[..], payload, &[0xCE]].concat()
}

/// The bytes that pass the guard when they come in pieces of this size.
fn guarded(input: &[u8], size: usize) -> Result<Vec<u8>, String> {
    let mut guard = Guard::new(Arc::new(Findings::new(1_000)));
    let mut passed = Vec::new();
    for piece in input.chunks(size) {
        let (mut piece, mut moved) = (piece.to_vec(), Vec::new());
        let kept = guard.take(&mut piece, &mut moved).map_err(|error| error.to_string())?;
        passed.extend_from_slice(&piece[..kept]);
        passed.append(&mut moved);
    }
    Ok(passed)
}

fn written(properties: &BasicProperties) -> Vec<u8> {
    gen_properties(properties)(Vec::new().into()).expect("properties can be written").write
}

/// A message in both shapes, encoded and decoded.
pub fn fedora(data: &[u8]) {
    let Some(message) = message(data) else { return };
    let settings = Amqp091Settings::new(["amqp://h"]);
    if limits::fields(&message).is_err() {
        return;
    }
    let plain = Plain::check(&message).is_ok().then(|| (Plain::encode(&settings, &message), Dialect::Plain));
    let fedora =
        Fedora::check(&message).is_ok().then(|| (Fedora::encode(&settings, &message), Dialect::Fedora));
    for (properties, dialect) in plain.into_iter().chain(fedora) {
        let wire = written(&properties);
        let properties = parse_properties(&wire[..]).expect("what is sent can be read").1;
        let incoming = incoming(message.topic().as_str(), properties, message.body());
        let read = incoming.decode(dialect, None, "users").expect("what is sent can be decoded");
        assert_eq!((read.id(), read.topic(), read.body()), (message.id(), message.topic(), message.body()));
        assert_eq!(
            (read.content_type(), read.expiry()),
            match dialect {
                Dialect::Plain => (message.content_type(), message.expiry()),
                Dialect::Fedora => ("application/json", message.expiry()),
            }
        );
    }
}

/// A line of fedora-messaging.
pub fn json_lines(data: &[u8]) {
    let Ok(message) = from_json_line(&String::from_utf8_lossy(data)) else { return };
    let line = to_json_line(&message).expect("what was read can be written");
    assert!(!line.contains(['\n', '\r']));
    let again = from_json_line(&line).expect("what was written can be read");
    assert_eq!((again.id(), again.topic()), (message.id(), message.topic()));
    let line = to_json_line(&again).expect("what was read can be written");
    assert_eq!(shown(&from_json_line(&line).expect("what was written can be read")), shown(&again));
}
