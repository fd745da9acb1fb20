//! The context that a message or a request gets.

use std::collections::HashMap;

use http::{HeaderMap, HeaderName, HeaderValue};
use tracing::Span;

use super::propagation::{PROPAGATION, Propagation, Relation};
use super::spans;
use crate::message::Message;
use crate::message::trace_context::TraceContext;
use crate::util::caught::called;

/// Gives a message the context of the current span, unless it has one. [`MessageQueue`](crate::queue::MessageQueue) does this for each
/// message; call it for one that is sent through a messenger without a queue.
pub fn attach(message: &mut Message) {
    drop(create(message, &TraceContext::default()));
}

/// Gives a message the context of a new span `create`, which is a child of the current span, or else of that of the request.
/// Returns that span; without a tracer, a span that is disabled.
pub(crate) fn create(message: &mut Message, request: &TraceContext) -> Span {
    let (span, is_written) = match PROPAGATION.get() {
        // The context that the app has set itself stays.
        Some(propagation) if message.header("traceparent").is_none() => begin(propagation, message, request),
        _ => (Span::none(), false),
    };
    match is_written {
        // Another context beside it, perhaps of another format, would be of another trace.
        true => request.complete_baggage(message),
        false => request.complete(message),
    }
    span
}

/// Opens the span; also returns whether a context of it was written.
fn begin(propagation: &Propagation, message: &mut Message, request: &TraceContext) -> (Span, bool) {
    let span = spans::create(message);
    if span.is_disabled() {
        return (span, false);
    }
    let mut headers = HashMap::new();
    if Span::current().is_none() {
        headers.extend(request.parts().map(|(name, value)| (name.to_owned(), value.to_owned())));
        called(|| (propagation.extract)(&span, &headers, Relation::Parent));
        headers.clear();
    }
    called(|| (propagation.inject)(&span, &mut headers));
    let is_written = headers.keys().any(|name| name != "baggage");
    for (name, value) in headers {
        if message.header(&name).is_none() {
            message.set_header(name, value);
        }
    }
    (span, is_written)
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
