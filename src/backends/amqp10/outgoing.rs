//! Encoding of messages to send.

use std::time::SystemTime;

use fe2o3_amqp_types::messaging::{
    ApplicationProperties, Body, Data, Header, Message as Amqp, MessageId, Priority, Properties,
};
use fe2o3_amqp_types::primitives::{Binary, OrderedMap, SimpleValue, Symbol, Timestamp, Value};

use super::settings::Amqp10Settings;
use crate::message::headers::start_of;
use crate::message::topic::Topic;
use crate::message::{Message, Scalar};
use crate::util::error::BoxError;

pub(super) type AmqpMessage = Amqp<Body<Value>>;

/// The wire shape and the addresses of one kind of broker.
pub(super) trait Shape: Send + Sync + 'static {
    /// The address template when the settings name none.
    const ADDRESS: &'static str;
    /// Whether messages are durable by default.
    const DURABLE: bool;
    /// Whether `ENVELOPE` may name another shape.
    const WRAPS: bool;

    /// Completes the timeouts that are not set.
    fn with_timeouts(settings: Amqp10Settings) -> Amqp10Settings {
        settings
    }

    fn check(message: &Message) -> Result<(), BoxError>;

    /// Encodes a message; its errors are those of [`check`](Self::check).
    fn encode(header: Header, message: &Message) -> Result<AmqpMessage, BoxError>;
}

/// The longest content type and header name of brokers that also speak AMQP 0-9-1.
const SHORT: usize = 255;

/// Rejects headers for which RabbitMQ ends the session.
pub(super) fn check_headers(message: &Message) -> Result<(), BoxError> {
    for (name, value) in message.headers() {
        if name.len() > SHORT {
            let (start, len) = (start_of(name, 40), name.len());
            return Err(format!(
                "the name of the header {start:?} is {len} bytes long; brokers take {SHORT}: shorten it"
            )
            .into());
        }
        if let Scalar::Float(value) = value
            && !value.is_finite()
        {
            return Err(format!(
                "the header {name:?} is {value}, which brokers cannot read: send a finite number"
            )
            .into());
        }
    }
    Ok(())
}

/// The shape that AMQP users expect: a data section, and its properties (AMQP 1.0, 3.2.4).
#[derive(Debug)]
pub(super) struct Plain;

impl Shape for Plain {
    const ADDRESS: &'static str = "{topic}";
    const DURABLE: bool = true;
    const WRAPS: bool = true;

    fn check(message: &Message) -> Result<(), BoxError> {
        let content_type = message.content_type();
        if content_type.len() > SHORT || !content_type.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            let (start, len) = (start_of(content_type, 40), content_type.len());
            return Err(format!(
                "the content type {start:?} is {len} bytes long; it may be {SHORT} of printable ASCII"
            )
            .into());
        }
        if message.time() < SystemTime::UNIX_EPOCH {
            return Err("the time is before 1970, which brokers do not know: set another".into());
        }
        Ok(())
    }

    fn encode(header: Header, message: &Message) -> Result<AmqpMessage, BoxError> {
        Self::check(message)?;
        let mut properties = Properties::new();
        properties.message_id = Some(MessageId::String(message.id().to_string()));
        properties.subject = Some(message.topic().to_string());
        properties.content_type = Some(Symbol::from(message.content_type()));
        properties.creation_time = Some(timestamp(message.time()));
        properties.absolute_expiry_time =
            message.expiry().and_then(|expiry| message.time().checked_add(expiry)).map(timestamp);
        properties.group_id = message.key().map(str::to_owned);
        let mut application = OrderedMap::new();
        insert_headers(&mut application, message);
        let body = Body::from(Data(Binary::from(message.body().to_vec())));
        let mut message = assemble(header, Some(properties), application, body);
        message.application_properties = message.application_properties.filter(|found| !found.is_empty());
        Ok(message)
    }
}

/// The address of a message, and the message as it is sent there.
pub(super) fn addressed<E: Shape>(
    settings: &Amqp10Settings,
    message: &Message,
) -> Result<(String, AmqpMessage), BoxError> {
    let broker = &settings.broker;
    let message = &*broker.envelope.seal(message, broker.origin())?;
    broker.check_message(message)?;
    check_headers(message)?;
    let header = header(settings, settings.durable.unwrap_or(E::DURABLE), message);
    Ok((address(settings, E::ADDRESS, message.topic()), E::encode(header, message)?))
}

/// Rejects a message that can never be sent.
pub(super) fn check<E: Shape>(settings: &Amqp10Settings, message: &Message) -> Result<(), BoxError> {
    let broker = &settings.broker;
    let outline = broker.envelope.outline(message, broker.origin())?;
    broker.check_message(&outline)?;
    check_headers(&outline)?;
    E::check(&outline)
}

pub(super) fn assemble(
    header: Header,
    properties: Option<Properties>,
    application: OrderedMap<String, SimpleValue>,
    body: Body<Value>,
) -> AmqpMessage {
    Amqp {
        header: Some(header),
        delivery_annotations: None,
        message_annotations: None,
        properties,
        application_properties: Some(ApplicationProperties(application)),
        body,
        footer: None,
    }
}

/// The header section (3.2.1): fields of the message, or else of the settings.
pub(super) fn header(settings: &Amqp10Settings, durable: bool, message: &Message) -> Header {
    let ttl = message.expiry().or(settings.broker.ttl);
    Header {
        durable,
        priority: Priority(message.priority().unwrap_or(settings.priority).min(9)),
        ttl: ttl.map(|ttl| u32::try_from(ttl.as_millis()).unwrap_or(u32::MAX)),
        ..Header::default()
    }
}

/// The address of a topic, by the template.
pub(super) fn address(settings: &Amqp10Settings, default: &str, topic: &Topic) -> String {
    settings.address.as_deref().unwrap_or(default).replace("{topic}", &settings.broker.prefixed(topic))
}

pub(super) fn insert_headers(application: &mut OrderedMap<String, SimpleValue>, message: &Message) {
    for (name, value) in message.headers() {
        let value = match value {
            Scalar::Null => SimpleValue::Null,
            Scalar::Bool(value) => SimpleValue::Bool(*value),
            Scalar::Int(value) => SimpleValue::Long(*value),
            Scalar::Float(value) => SimpleValue::Double((*value).into()),
            Scalar::String(value) => SimpleValue::String(value.clone().into_owned()),
        };
        application.insert(name.to_owned(), value);
    }
}

fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_milliseconds(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
