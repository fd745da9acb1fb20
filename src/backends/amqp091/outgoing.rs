//! Encoding of messages to send.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};

use super::settings::Amqp091Settings;
use crate::message::headers::KEY;
use crate::message::{Message, Scalar};
use crate::util::error::BoxError;

/// One message as it is published.
#[derive(Clone)]
pub(super) struct Publish {
    pub(super) exchange: String,
    pub(super) routing_key: String,
    pub(super) mandatory: bool,
    pub(super) properties: BasicProperties,
    pub(super) body: Bytes,
}

/// The wire shape of one kind of broker.
pub(super) trait Shape: Send + Sync + 'static {
    /// Whether `ENVELOPE` may name another shape.
    const WRAPS: bool;

    fn check(message: &Message) -> Result<(), BoxError>;

    fn encode(settings: &Amqp091Settings, message: &Message) -> BasicProperties;
}

/// The shape that AMQP users expect: the fields as properties, the headers unchanged.
#[derive(Debug)]
pub(super) struct Plain;

impl Shape for Plain {
    const WRAPS: bool = true;

    fn check(_: &Message) -> Result<(), BoxError> {
        Ok(())
    }

    fn encode(settings: &Amqp091Settings, message: &Message) -> BasicProperties {
        let mut headers = FieldTable::default();
        for (name, value) in message.headers() {
            headers.insert(name.into(), header(value));
        }
        if let Some(key) = message.key() {
            headers.insert(KEY.into(), AMQPValue::LongString(key.as_bytes().to_vec().into()));
        }
        let seconds = message.time().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        common(settings, message).with_timestamp(seconds).with_headers(headers)
    }
}

/// The properties of both shapes.
pub(super) fn common(settings: &Amqp091Settings, message: &Message) -> BasicProperties {
    let mut properties = BasicProperties::default()
        .with_message_id(message.id().to_string().into())
        .with_content_type(message.content_type().into())
        .with_delivery_mode(if settings.durable { 2 } else { 1 });
    if let Some(priority) = message.priority().or(settings.priority) {
        properties = properties.with_priority(priority);
    }
    if let Some(expiry) = message.expiry().or(settings.broker.ttl) {
        properties = properties.with_expiration(milliseconds(expiry).into());
    }
    properties
}

pub(super) fn header(value: &Scalar) -> AMQPValue {
    match value {
        Scalar::Null => AMQPValue::Void,
        Scalar::Bool(value) => AMQPValue::Boolean(*value),
        Scalar::Int(value) => AMQPValue::LongLongInt(*value),
        Scalar::Float(value) => AMQPValue::Double(*value),
        Scalar::String(value) => AMQPValue::LongString(value.as_bytes().to_vec().into()),
    }
}

fn milliseconds(duration: Duration) -> String {
    duration.as_millis().to_string()
}
