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
//! # fn main() {
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
//! # }
//! ```
//! `examples/opentelemetry` in the repository is an app that prints such a trace.

mod context;
mod propagation;
mod spans;

pub use self::context::attach;
pub(crate) use self::context::{create, pass_on};
pub(crate) use self::propagation::is_on;
pub use self::propagation::{Relation, set_propagation};
#[cfg(feature = "_brokers")]
pub(crate) use self::spans::sending_to;
pub(crate) use self::spans::{Received, Settled, created, failed, process, receive, send, settle, store};
