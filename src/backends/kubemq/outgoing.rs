//! Encoding of messages to send.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use prost::Message as _;

use super::settings::{KubemqSettings, MOST_SECONDS, Pattern};
use crate::kubemq_wire::request::RequestType;
use crate::kubemq_wire::{Event, QueueMessage, QueueMessagePolicy, Request};
use crate::message::headers::{KEY, PRIORITY, TOPIC};
use crate::message::{Message, Scalar};
use crate::util::error::BoxError;
use crate::util::rfc3339;

/// The tag with the media type of the body.
pub(super) const CONTENT_TYPE: &str = "tower-outbox-content-type";
/// The tag with the time of the event.
pub(super) const TIME: &str = "tower-outbox-time";
/// The tag with the types of the headers that are no texts: JSON, `{"n": "int"}`.
pub(super) const TYPES: &str = "tower-outbox-types";

/// The largest message of a server with its own defaults, less room for the request around it.
pub(super) const MOST_BYTES: usize = (100 << 20) - (64 << 10);

/// Rejects a message that no server takes.
pub(super) fn check(settings: &KubemqSettings, message: &Message) -> Result<(), BoxError> {
    let is_queue = settings.pattern == Pattern::Queues;
    for (name, span) in [("delay", message.delay()), ("expiry", message.expiry().or(settings.broker.ttl))] {
        let Some(span) = span else { continue };
        if !is_queue && name == "delay" {
            return Err("only queues of KubeMQ delay messages: send it without a delay".into());
        }
        if is_queue && seconds(span) > MOST_SECONDS {
            return Err(format!("its {name} is above 12 hours, the most of KubeMQ: shorten it").into());
        }
    }
    rfc3339::write(message.time())?;
    fits(message.size())?;
    settings.broker.check_size(message)
}

fn seconds(span: Duration) -> u64 {
    span.as_secs() + u64::from(span.subsec_nanos() > 0)
}

fn channel(settings: &KubemqSettings, message: &Message) -> String {
    let topic = settings.broker.prefixed(message.topic());
    settings.channel.as_deref().unwrap_or("{topic}").replace("{topic}", &topic)
}

pub(super) fn queue_message(settings: &KubemqSettings, message: &Message) -> Result<QueueMessage, BoxError> {
    let whole = |span: Duration| i32::try_from(seconds(span)).unwrap_or(i32::MAX);
    let left = |expiry: Duration| {
        let age = SystemTime::now().duration_since(message.time()).unwrap_or_default();
        whole(expiry.saturating_sub(age)).max(1)
    };
    let expiry = message.expiry().map(left).or_else(|| settings.broker.ttl.map(whole));
    let (expiration_seconds, delay_seconds) = (expiry.unwrap_or(0), message.delay().map_or(0, whole));
    let policy = QueueMessagePolicy { expiration_seconds, delay_seconds, ..QueueMessagePolicy::default() };
    let encoded = QueueMessage {
        message_id: message.id().to_string(),
        client_id: settings.client_id().to_owned(),
        channel: channel(settings, message),
        // Not empty: a server rejects a message with neither metadata nor body.
        metadata: message.topic().to_string(),
        body: message.body().clone(),
        tags: tags(settings, message)?,
        attributes: None,
        policy: (expiration_seconds != 0 || delay_seconds != 0).then_some(policy),
    };
    fits(encoded.encoded_len()).map(|()| encoded)
}

pub(super) fn event(settings: &KubemqSettings, message: &Message) -> Result<Event, BoxError> {
    let encoded = Event {
        event_id: message.id().to_string(),
        client_id: settings.client_id().to_owned(),
        channel: channel(settings, message),
        metadata: message.topic().to_string(),
        body: message.body().clone(),
        store: settings.pattern == Pattern::EventStore,
        tags: tags(settings, message)?,
    };
    fits(encoded.encoded_len()).map(|()| encoded)
}

/// Rejects a request that no server takes.
pub(super) fn check_request(settings: &KubemqSettings, request: &Message) -> Result<(), BoxError> {
    if request.delay().is_some() {
        return Err("KubeMQ does not delay requests: send it without a delay".into());
    }
    rfc3339::write(request.time())?;
    fits(request.size())?;
    settings.broker.check_size(request)
}

pub(super) fn query(
    settings: &KubemqSettings,
    message: &Message,
    timeout: Duration,
) -> Result<Request, BoxError> {
    check_request(settings, message)?;
    let encoded = Request {
        request_id: message.id().to_string(),
        request_type_data: RequestType::Query as i32,
        client_id: settings.client_id().to_owned(),
        channel: channel(settings, message),
        metadata: message.topic().to_string(),
        body: message.body().clone(),
        timeout: i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX).max(1),
        tags: tags(settings, message)?,
        ..Request::default()
    };
    fits(encoded.encoded_len()).map(|()| encoded)
}

fn fits(size: usize) -> Result<(), BoxError> {
    match size <= MOST_BYTES {
        true => Ok(()),
        false => Err(format!("it has {size} bytes; KubeMQ takes {MOST_BYTES}").into()),
    }
}

fn tags(settings: &KubemqSettings, message: &Message) -> Result<BTreeMap<String, String>, BoxError> {
    let mut types = serde_json::Map::new();
    let mut tags: BTreeMap<_, _> = message
        .headers()
        .map(|(name, value)| {
            let kind = match value {
                Scalar::Null => Some("null"),
                Scalar::Bool(_) => Some("bool"),
                Scalar::Int(_) => Some("int"),
                Scalar::Float(_) => Some("float"),
                Scalar::String(_) => None,
            };
            if let Some(kind) = kind {
                types.insert(name.to_owned(), kind.into());
            }
            (name.to_owned(), value.to_string())
        })
        .collect();
    let mut set = |name: &str, value: String| tags.insert(name.to_owned(), value);
    set(TOPIC, settings.broker.prefixed(message.topic()));
    set(CONTENT_TYPE, message.content_type().to_owned());
    set(TIME, rfc3339::write(message.time())?);
    if let Some(key) = message.key() {
        set(KEY, key.to_owned());
    }
    if let Some(priority) = message.priority() {
        set(PRIORITY, priority.to_string());
    }
    if !types.is_empty() {
        set(TYPES, serde_json::Value::Object(types).to_string());
    }
    Ok(tags)
}
