//! Traces: one from a request to its consumers, through whatever tracer the app has.
//!
//! Every message carries a W3C trace context in its headers `traceparent`, `tracestate` and `baggage`, also while it is stored
//! and when it is sent or delivered again. By default that is the valid context of the request, or else a new one.
//!
//! An app with OpenTelemetry gives the two functions that read and write contexts, once, before the bus starts. This crate then
//! opens spans through [`tracing`] with the fields that `tracing-opentelemetry` reads, and the attributes of OpenTelemetry's
//! conventions for messaging:
//!
//! | span | kind | opened | parent | links |
//! |---|---|---|---|---|
//! | `create` | producer | when a message is enqueued; its context goes into the message | the current span of the handler, or else the context of the request | |
//! | `store` | internal | when messages are stored, or committed with a transaction | the request | |
//! | `send` | client | for each batch that goes to the broker, and each further attempt | the request; for a relay that sends one message, its `create` | the `create` of each message |
//! | `receive` | client | when a consumer received messages | | the `create` of each message |
//! | `process` | consumer | for each attempt to handle a message; the service runs inside it | `create` | |
//! | `settle` | client | when a message is acknowledged, retried or rejected | `process` | |
//!
//! ```
//! # #[derive(Clone)] struct Context; impl Context { fn span(&self) -> Self { Self } fn span_context(&self) -> &Self { self } }
//! # trait OpenTelemetrySpanExt { fn context(&self) -> Context { Context } fn set_parent(&self, _: Context) -> Result<(), ()> { Ok(()) } fn add_link(&self, _: Context) {} }
//! # impl OpenTelemetrySpanExt for tracing::Span {}
//! # mod global { pub struct P; impl P { pub fn inject_context<C>(&self, _: &super::Context, _: C) {} pub fn extract<C>(&self, _: C) -> super::Context { super::Context } }
//! # pub fn get_text_map_propagator<T>(f: impl FnOnce(&P) -> T) -> T { f(&P) } }
//! use tower_outbox::trace::{self, Relation};
//!
//! // With `opentelemetry::{global, trace::TraceContextExt}` and `tracing_opentelemetry::OpenTelemetrySpanExt`:
//! trace::set_propagation(
//!     |span, headers| global::get_text_map_propagator(|all| all.inject_context(&span.context(), headers)),
//!     |span, headers, relation| match (relation, global::get_text_map_propagator(|all| all.extract(headers))) {
//!         (Relation::Parent, context) => drop(span.set_parent(context)),
//!         (Relation::Link, context) => span.add_link(context.span().span_context().clone()),
//!     },
//! );
//! ```
//! `examples/opentelemetry` in the repository is an app that prints such a trace.

mod spans;

use std::collections::HashMap;
use std::sync::OnceLock;

use http::{HeaderMap, HeaderName, HeaderValue};
use tracing::Span;

pub(crate) use self::spans::{
    Received, Settled, created, failed, process, receive, send, sending_to, settle, store,
};
use crate::message::trace_context::TraceContext;
use crate::message::{Message, Scalar};
use crate::util::caught::called;

/// The longest header of a message that is given to the function that reads contexts, in bytes.
const MAX_VALUE: usize = 8_192;
/// The most headers of a message that are given to it.
const MAX_HEADERS: usize = 64;

/// The relation of a span to the context that is read from a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// The span continues the trace of the context, as its child.
    Parent,
    /// The span belongs to another trace, or to another parent, and links to the context.
    Link,
}

type Inject = dyn Fn(&Span, &mut HashMap<String, String>) + Send + Sync;
type Extract = dyn Fn(&Span, &HashMap<String, String>, Relation) + Send + Sync;

struct Propagation {
    inject: Box<Inject>,
    extract: Box<Extract>,
}

static PROPAGATION: OnceLock<Propagation> = OnceLock::new();

/// Sets the functions that write the context of a span into the headers of a message, and read it from there. Call it once, before the
/// bus starts; later calls have no effect, and are logged.
///
/// `inject` writes the context of the span, under names in lower case. `extract` makes the context in the headers the parent or a link of the
/// span; it is called before the span is entered. After a panic in one of them the message goes on without its part.
pub fn set_propagation(
    inject: impl Fn(&Span, &mut HashMap<String, String>) + Send + Sync + 'static,
    extract: impl Fn(&Span, &HashMap<String, String>, Relation) + Send + Sync + 'static,
) {
    let propagation = Propagation { inject: Box::new(inject), extract: Box::new(extract) };
    if PROPAGATION.set(propagation).is_err() {
        tracing::warn!("ignored a second call of set_propagation; the first one counts");
    }
}

/// Gives a message the context of the current span, unless it has one. [`MessageQueue`](crate::queue::MessageQueue) does this for each
/// message; call it for one that is sent through a messenger without a queue.
pub fn attach(message: &mut Message) {
    drop(create(message, &TraceContext::default()));
}

/// Gives a message the context of a new span `create`, which is a child of the current span, or else of that of the request.
/// Returns that span; without a tracer, a span that is disabled.
pub(crate) fn create(message: &mut Message, request: &TraceContext) -> Span {
    let span = match PROPAGATION.get() {
        // The context that the app has set itself stays.
        Some(propagation) if message.header("traceparent").is_none() => propagation.create(message, request),
        _ => Span::none(),
    };
    request.complete(message);
    span
}

/// Writes the context of this span into the headers of a request.
pub(crate) fn pass_on(span: &Span, headers: &mut HeaderMap) {
    if span.is_none() {
        return;
    }
    let Some(Propagation { inject, .. }) = PROPAGATION.get() else { return };
    let mut context = HashMap::new();
    called(|| inject(span, &mut context));
    for (name, value) in context {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            headers.insert(name, value);
        }
    }
}

/// Whether spans are opened.
pub(crate) fn is_on() -> bool {
    PROPAGATION.get().is_some()
}

/// Makes the context of a message the parent or a link of a span.
fn relate(span: &Span, message: &Message, relation: Relation) {
    if let Some(Propagation { extract, .. }) = PROPAGATION.get().filter(|_| !span.is_disabled()) {
        called(|| extract(span, &texts(message), relation));
    }
}

/// The headers of a message that can hold a context.
fn texts(message: &Message) -> HashMap<String, String> {
    let text = |(name, value): (&str, &Scalar)| match value {
        Scalar::String(text) if text.len() <= MAX_VALUE => {
            Some((name.to_ascii_lowercase(), text.to_string()))
        }
        _ => None,
    };
    message.headers().take(MAX_HEADERS).filter_map(text).collect()
}

impl Propagation {
    fn create(&self, message: &mut Message, request: &TraceContext) -> Span {
        let is_alone = Span::current().is_none();
        let span = spans::create(message);
        if span.is_disabled() {
            return span;
        }
        let mut headers = HashMap::new();
        if is_alone {
            headers.extend(request.parts().map(|(name, value)| (name.to_owned(), value.to_owned())));
            called(|| (self.extract)(&span, &headers, Relation::Parent));
            headers.clear();
        }
        called(|| (self.inject)(&span, &mut headers));
        for (name, value) in headers {
            if message.header(&name).is_none() {
                message.set_header(name, value);
            }
        }
        span
    }
}
