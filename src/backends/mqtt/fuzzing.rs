//! Foreign bytes of MQTT, for [`fuzzing`](crate::fuzzing).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::SystemTime;

use bytes::BytesMut;
use rumqttc::Publish;
use rumqttc::mqttbytes::v5::Packet;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Instant;
use uuid::Uuid;

use super::gate::{Gate, Intake};
use super::incoming::{Reader, content};
use super::names::fault_of;
use super::outgoing::Outgoing;
use super::replies;
use super::settings::{MqttSettings, MqttVersion};
use super::translate::to_older;
use super::translated::Translated;
use crate::backends::brokers::BrokerSettings;
use crate::envelope::Envelope;
use crate::message::FailedAttempt;
use crate::message::fuzzing::shown;

/// The largest packet that is decoded.
const LARGEST: u32 = 1 << 20;

fn reader(envelope: Envelope) -> Reader {
    let broker = BrokerSettings::new(["mqtt://h"]).with_service("acme", "users").with_envelope(envelope);
    Reader { settings: Arc::new(MqttSettings::from(broker.with_topic_prefix("eng"))), source: "users".into() }
}

/// A PUBLISH packet: a message is read or refused, what is read can be sent and read again, and a dead letter of it can always be
/// published.
pub fn mqtt_publish(data: &[u8]) {
    let mut packet = BytesMut::from(data);
    let Ok(Packet::Publish(publish)) = Packet::read(&mut packet, Some(LARGEST)) else { return };
    let arrived = (SystemTime::UNIX_EPOCH, Uuid::from_u128(7));
    let _ = (content(&publish), replies::reply_to(&publish, &["#".to_owned()], Instant::now()));
    for envelope in [
        Envelope::Plain,
        Envelope::CloudEvents,
        Envelope::CloudEventsStructured,
        Envelope::Petisco,
        Envelope::Mqfactory,
    ] {
        let reader = reader(envelope);
        let failures = reader.foreign_failures(&publish);
        assert!(failures.len() <= data.len());
        let failed = [FailedAttempt::new(SystemTime::UNIX_EPOCH, "a\nreason".into())];
        let letter = reader.dead_letter(&publish, "dead", 1, &failed, "a\0reason");
        let of_ours = letter.properties.user_properties.iter().rev().take(5);
        of_ours.for_each(|(_, value)| assert_eq!(fault_of(value), None));
        let Ok(message) = reader.read(&publish, arrived) else { continue };
        // A byte that is no UTF-8 becomes three.
        assert!(message.size() <= 4 * data.len() + 2_048);
        let Ok(sent) = Outgoing::new(&reader.settings, &message) else { continue };
        let mut again = Publish::new(
            sent.topic.clone(),
            publish.qos,
            sent.payload.clone(),
            Some(sent.properties.clone()),
        );
        (again.pkid, again.retain) = (1, sent.retain);
        if again.qos != rumqttc::QoS::AtMostOnce {
            assert_eq!(sent.size(), again.size(), "the size is counted right");
        }
        let read = reader.read(&again, arrived).expect("what is sent can be read");
        if envelope == Envelope::Plain && message.expiry().is_none() {
            assert_eq!(shown(&read), shown(&message));
        }
    }
}

/// The size of the pieces in which it comes, and what a broker sends: the client library gets the same wherever it is split.
pub fn mqtt_stream(data: &[u8]) {
    let Some((size, input)) = data.split_first() else { return };
    for version in [MqttVersion::V5, MqttVersion::V3] {
        let whole = read(input, input.len().max(1), version);
        assert_eq!(read(input, usize::from(*size).max(1), version), whole);
        assert!(whole.len() <= 2 * input.len() + 8);
    }
    let (mut from, mut to) = (BytesMut::from(input), BytesMut::new());
    while to_older(&mut from, &mut to) {}
    assert!(to.len() + from.len() <= input.len() + 5, "it becomes no longer");
}

fn read(input: &[u8], size: usize, version: MqttVersion) -> Vec<u8> {
    let stream = Translated::new(Pieces { input, size }, version);
    let mut gate = Gate::new(stream, Arc::new(Intake::new(usize::MAX, usize::MAX)));
    let (mut all, mut room) = (Vec::new(), [0; 64]);
    loop {
        let mut buf = ReadBuf::new(&mut room);
        match Pin::new(&mut gate).poll_read(&mut Context::from_waker(Waker::noop()), &mut buf) {
            Poll::Ready(Ok(())) if !buf.filled().is_empty() => all.extend_from_slice(buf.filled()),
            _ => return all,
        }
    }
}

/// A stream that ends after the input.
struct Pieces<'a> {
    input: &'a [u8],
    size: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let count = self.size.min(self.input.len()).min(buf.remaining());
        let (piece, rest) = self.input.split_at(count);
        buf.put_slice(piece);
        self.input = rest;
        Poll::Ready(Ok(()))
    }
}
