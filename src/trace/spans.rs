//! The spans, with the attributes of OpenTelemetry's conventions for messaging.

use tracing::Span;
use tracing::field::Empty;
use uuid::Uuid;

use super::propagation::{Relation, is_on, relate};
use crate::message::headers::CORRELATION_ID;
use crate::message::{Message, Scalar};

/// The most links of a span: the default limit of OpenTelemetry's SDKs.
const MAX_LINKS: usize = 128;

/// A message that is enqueued.
pub(super) fn create(message: &Message) -> Span {
    let topic = message.topic().as_str();
    let conversation = message.header(CORRELATION_ID).and_then(Scalar::as_str);
    tracing::info_span!(
        "create",
        otel.name = format!("create {topic}"),
        otel.kind = "producer",
        otel.status_code = Empty,
        messaging.operation.name = "create",
        messaging.operation.type = "create",
        messaging.destination.name = topic,
        messaging.message.id = Empty,
        messaging.message.conversation_id = conversation,
        messaging.message.body.size = message.body().len() as i64,
        error.type = Empty,
    )
}

/// Notes the id of the message, or that it was not enqueued.
pub(crate) fn created(span: &Span, id: Option<&Uuid>) {
    match id {
        Some(id) => drop(span.record("messaging.message.id", tracing::field::display(id))),
        None => failed(span, "not_enqueued"),
    }
}

/// Messages that are stored.
pub(crate) fn store(batch: &[Message]) -> Span {
    if !is_on() {
        return Span::none();
    }
    let topic = common_topic(batch);
    tracing::info_span!(
        "store",
        otel.name = named("store", topic),
        otel.status_code = Empty,
        messaging.destination.name = topic,
        messaging.batch.message_count = batch.len() as i64,
        error.type = Empty,
    )
}

/// A batch that goes to a broker.
pub(crate) fn send(batch: &[Message], system: &str) -> Span {
    if !is_on() {
        return Span::none();
    }
    let is_alone = Span::current().is_none();
    let topic = common_topic(batch);
    let only = if let [only] = batch { Some(only) } else { None };
    let span = tracing::info_span!(
        "send",
        otel.name = named("send", topic),
        otel.kind = "client",
        otel.status_code = Empty,
        messaging.system = system,
        messaging.operation.name = "send",
        messaging.operation.type = "send",
        messaging.destination.name = topic,
        messaging.message.id = only.map(|message| message.id().to_string()),
        messaging.message.body.size = only.map(|message| message.body().len() as i64),
        messaging.batch.message_count = only.is_none().then_some(batch.len() as i64),
        server.address = Empty,
        server.port = Empty,
        error.type = Empty,
    );
    if let Some(message) = only.filter(|_| is_alone) {
        relate(&span, message, Relation::Parent);
    }
    link(&span, batch.iter());
    span
}

/// Notes in the span of a batch which broker it goes to.
#[cfg(feature = "_brokers")]
pub(crate) fn sending_to(host: &str, port: u16) {
    let span = Span::current();
    // Without a span of ours the current one is the app's, which may have a field of this name.
    if span.metadata().is_some_and(|of| of.name() == "send" && of.target() == module_path!()) {
        span.record("server.address", host).record("server.port", i64::from(port));
    }
}

/// Messages that a consumer received.
pub(crate) fn receive<'a>(
    batch: impl Iterator<Item = &'a Message> + Clone,
    source: &str,
    system: Option<&str>,
) {
    if !is_on() {
        return;
    }
    let span = tracing::info_span!(
        parent: None,
        "receive",
        otel.name = format!("receive {source}"),
        otel.kind = "client",
        messaging.system = system,
        messaging.operation.name = "receive",
        messaging.operation.type = "receive",
        messaging.destination.name = source,
        messaging.batch.message_count = batch.clone().count() as i64,
    );
    link(&span, batch);
}

/// A received message, as its spans and log lines show it.
#[derive(Clone, Copy)]
pub(crate) struct Received<'a> {
    pub(crate) message: &'a Message,
    pub(crate) attempt: u32,
    pub(crate) source: &'a str,
    pub(crate) consumer: &'a str,
    /// The kind of broker, if it is known.
    pub(crate) system: Option<&'a str>,
}

/// An attempt to handle a message. The log lines of its handler carry the first fields.
pub(crate) fn process(received: Received<'_>) -> Span {
    let Received { message, attempt, source, consumer, system } = received;
    let (id, topic, is_on) = (message.id(), message.topic().as_str(), is_on());
    // At the level of errors: a filter of lesser lines does not take the fields away from the others.
    let span = tracing::error_span!(
        parent: None,
        "process",
        %id,
        topic,
        attempt,
        consumer,
        otel.name = is_on.then(|| format!("process {topic}")),
        otel.kind = is_on.then_some("consumer"),
        otel.status_code = Empty,
        messaging.system = system.filter(|_| is_on),
        messaging.operation.name = is_on.then_some("process"),
        messaging.operation.type = is_on.then_some("process"),
        messaging.destination.name = is_on.then_some(topic),
        messaging.consumer.group.name = is_on.then_some(source),
        messaging.message.id = is_on.then(|| id.to_string()),
        messaging.message.conversation_id =
            message.header(CORRELATION_ID).and_then(Scalar::as_str).filter(|_| is_on),
        messaging.message.body.size = is_on.then_some(message.body().len() as i64),
        error.type = Empty,
    );
    relate(&span, message, Relation::Parent);
    span
}

/// How a received message is settled.
#[derive(Clone, Copy)]
pub(crate) enum Settled {
    Ack,
    Retry,
    Reject,
    Release,
    Discard,
}

/// The settlement of a message that this span is about.
pub(crate) fn settle(process: &Span, settled: Settled, topic: &str, system: Option<&str>) -> Span {
    if !is_on() || process.is_disabled() {
        return Span::none();
    }
    let name = match settled {
        Settled::Ack => "ack",
        Settled::Retry => "retry",
        Settled::Reject => "reject",
        Settled::Release => "release",
        Settled::Discard => "discard",
    };
    tracing::info_span!(
        parent: process,
        "settle",
        otel.name = format!("{name} {topic}"),
        otel.kind = "client",
        otel.status_code = Empty,
        messaging.system = system,
        messaging.operation.name = name,
        messaging.operation.type = "settle",
        messaging.destination.name = topic,
        error.type = Empty,
    )
}

/// Marks a span as failed.
pub(crate) fn failed(span: &Span, error: &str) {
    if is_on() && !span.is_disabled() {
        span.record("otel.status_code", "ERROR").record("error.type", error);
    }
}

fn link<'a>(span: &Span, batch: impl Iterator<Item = &'a Message>) {
    if !span.is_disabled() {
        batch.take(MAX_LINKS).for_each(|message| relate(span, message, Relation::Link));
    }
}

fn named(operation: &str, topic: Option<&str>) -> String {
    topic.map_or_else(|| operation.to_owned(), |topic| format!("{operation} {topic}"))
}

/// The topic of all messages, if they have the same.
fn common_topic(batch: &[Message]) -> Option<&str> {
    let topic = batch.first()?.topic();
    batch.iter().all(|message| message.topic() == topic).then(|| topic.as_str())
}
