//! The middleware: a queue for every request, flushed when the request succeeds.

mod body;
mod commit;
mod config;
mod flight;
mod flush;
pub(crate) mod idempotency;
mod on_send_failure;
mod service;

use std::fmt;
use std::sync::Arc;

use http::{request, response};
use tower_layer::Layer;

pub use self::body::ResponseBody;
use self::config::LayerConfig;
#[cfg(feature = "settings")]
pub(crate) use self::config::is_success;
use self::flight::{Flight, FlightLimits};
pub use self::on_send_failure::OnSendFailure;
pub use self::service::{MessagingService, ResponseFuture};
use crate::message::Message;
use crate::messenger::in_flight::InFlight;
use crate::messenger::{Messenger, Unsent};
use crate::queue::QueueConfig;

/// Puts a [`MessageQueue`](crate::queue::MessageQueue) into every request and sends what is in it when the response is a success.
///
/// | what happens | messages |
/// |---|---|
/// | 2xx response head | sent, in order, before the head goes out |
/// | 1xx, 3xx, 4xx, 5xx | dropped; [`with_success`](Self::with_success) changes the rule |
/// | 200 with a non-zero `grpc-status` header | dropped |
/// | inner service error, handler panic, panic of a hook of this layer, timeout outside, client gone before the handler is done | dropped |
/// | client gone while sending | sending goes on to its end, in a task of its own |
/// | enqueued through [`always`](crate::queue::MessageQueue::always) | sent whatever the outcome |
/// | sending fails | logged, and the client gets 503 with `Retry-After`; [`with_on_send_failure`](Self::with_on_send_failure) keeps the response instead |
/// | the messenger has no room, as a full outbox; or too much is [in flight](Self::with_max_messages_in_flight) | 503 with `Retry-After`, before the handler runs (but for GET and other safe methods) |
/// | two nested layers | the inner one joins the queue of the outer one; what is enqueued inside it leaves, and a `Tx` begun inside it is committed, only if both responses are a success |
///
/// A layer that calls the service again, as `tower::retry`, goes outside of this one; or between two of these, so that the
/// messages of each call that fails are dropped before the next. Inside a single one, the messages of all calls leave.
///
/// A handler that writes to a database commits before it returns, so that what leaves is true; or it takes a `Tx` (features
/// `postgres` and `sqlite`), and this layer commits both.
///
/// ```
/// use axum::{Router, routing::post};
/// use tower_outbox::dummy::Dummy;
/// use tower_outbox::MessagingLayer;
///
/// let app: Router = Router::new()
///     .route("/users", post(|| async { "created" }))
///     .layer(MessagingLayer::new(Dummy::new()));
/// ```
///
/// A clone shares everything with its original.
#[derive(Clone)]
#[must_use]
pub struct MessagingLayer {
    config: Arc<LayerConfig>,
}

impl MessagingLayer {
    /// A layer that sends through `messenger`.
    pub fn new(messenger: impl Messenger) -> Self {
        let messenger: Arc<dyn Messenger> = Arc::new(messenger);
        let capabilities = messenger.capabilities();
        Self {
            config: Arc::new(LayerConfig {
                admission: capabilities.admission,
                flight: Flight::default(),
                flight_limits: FlightLimits { messages: 10_000, bytes: 64 << 20 },
                queue: Arc::new(QueueConfig {
                    messenger,
                    outbox: capabilities.outbox,
                    in_flight: capabilities.in_flight.unwrap_or_default(),
                    max_messages: 1_000,
                    max_bytes: 8 << 20,
                }),
                idempotency_key: false,
                on_send_failure: OnSendFailure::default(),
                success: config::is_success,
                enrich: None,
                on_unsent: None,
            }),
        }
    }

    /// Sets which responses count as a success.
    ///
    /// By default status 2xx, and no `grpc-status` header other than `0`. PDC counted everything
    /// below 400: `with_success(|response| response.status.as_u16() < 400)`.
    pub fn with_success(self, success: fn(&response::Parts) -> bool) -> Self {
        self.with(|config| config.success = success)
    }

    /// Sets what the client gets when sending fails; by default [`OnSendFailure::Reject`].
    pub fn with_on_send_failure(self, on_send_failure: OnSendFailure) -> Self {
        self.with(|config| config.on_send_failure = on_send_failure)
    }

    /// Sets how many messages a request may enqueue; 1,000 by default.
    pub fn with_max_messages(self, max_messages: usize) -> Self {
        self.with_queue(|queue| queue.max_messages = max_messages)
    }

    /// Sets how many bytes the messages of a request may hold; 8 MiB by default.
    pub fn with_max_bytes(self, max_bytes: usize) -> Self {
        self.with_queue(|queue| queue.max_bytes = max_bytes)
    }

    /// Sets how many messages of all requests may be on their way to the messenger at a time; 10,000 by default.
    ///
    /// Sending goes on when a client hangs up, so a bus that hangs would gather them without end. While there are as many,
    /// requests are answered 503 with `Retry-After` before their handler runs, but for GET and other safe methods. The
    /// messages of a request that was let in and do not fit are handed back, logged and counted as unsent, and it is
    /// answered 503 too. A batch larger than the limit is sent alone.
    pub fn with_max_messages_in_flight(self, max_messages: usize) -> Self {
        self.with(|config| config.flight_limits.messages = max_messages)
    }

    /// Sets how many bytes they may hold; 64 MiB by default. See
    /// [`with_max_messages_in_flight`](Self::with_max_messages_in_flight).
    pub fn with_max_bytes_in_flight(self, max_bytes: usize) -> Self {
        self.with(|config| config.flight_limits.bytes = max_bytes)
    }

    /// Sets a function that completes each message when it is about to leave, from the request
    /// (as this layer saw it) and the response: who asked, why, which change.
    ///
    /// ```
    /// use tower_outbox::dummy::Dummy;
    /// use tower_outbox::MessagingLayer;
    ///
    /// let layer = MessagingLayer::new(Dummy::new()).with_enrich(|request, _response, message| {
    ///     if let Some(Ok(comment)) = request.headers.get("PDC-Change-Comment").map(|value| value.to_str()) {
    ///         let _ = message.set_field("comment", comment);
    ///     }
    /// });
    /// ```
    ///
    /// Messages enqueued through [`always`](crate::queue::MessageQueue::always) leave without it when there is no response. When it panics,
    /// the request ends as by a panic of its handler: a layer outside that catches it answers 500.
    pub fn with_enrich<F>(self, enrich: F) -> Self
    where
        F: Fn(&request::Parts, &response::Parts, &mut Message) + Send + Sync + 'static,
    {
        self.with(|config| config.enrich = Some(Arc::new(enrich)))
    }

    /// Makes the ids of messages of the header `Idempotency-Key`, where a request has it; off by default.
    ///
    /// The ids (UUIDv5) are made of the method, the path as this layer sees it, the key, and how many messages were enqueued
    /// before; those set by [`Message::with_id`] stay. A client that sends its POST again with the same key makes the same
    /// ids. An outbox in a database stores each of them once within
    /// [`inbox_retention`](https://docs.rs/tower-outbox/latest/tower_outbox/struct.SqlStoreSettings.html#structfield.inbox_retention),
    /// so that the retry cannot publish twice; elsewhere consumers can tell by the id.
    ///
    /// The handler runs again: what it writes is unique by the app's own tables, or is there twice. The app must see to
    /// it that no two clients use the same key, and no client uses one for two purposes: their events would be taken
    /// for one. Clients make a random UUID for each request; where they cannot be trusted with that, put the name of
    /// the client before the key, in a layer outside this one.
    ///
    /// The key is a string in quotes, as in draft-ietf-httpapi-idempotency-key-header, or the same without quotes; of
    /// 1 to 255 printable ASCII characters. Anything else is answered 400, before the handler runs.
    pub fn with_idempotency_key(self) -> Self {
        self.with(|config| config.idempotency_key = true)
    }

    /// Sets a function that gets the messages that could not be sent, after they are logged.
    pub fn with_on_unsent<F>(self, on_unsent: F) -> Self
    where
        F: Fn(Unsent) + Send + Sync + 'static,
    {
        self.with(|config| config.on_unsent = Some(Arc::new(on_unsent)))
    }

    /// The sends in flight: those whose response waits, and those whose client has gone.
    #[must_use]
    pub fn in_flight(&self) -> InFlight {
        self.config.queue.in_flight.clone()
    }

    fn with(mut self, change: impl FnOnce(&mut LayerConfig)) -> Self {
        change(Arc::make_mut(&mut self.config));
        self
    }

    fn with_queue(self, change: impl FnOnce(&mut QueueConfig)) -> Self {
        self.with(|config| change(Arc::make_mut(&mut config.queue)))
    }
}

impl fmt::Debug for MessagingLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessagingLayer").field("config", &self.config).finish()
    }
}

impl<S> Layer<S> for MessagingLayer {
    type Service = MessagingService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        MessagingService::new(inner, Arc::clone(&self.config))
    }
}
