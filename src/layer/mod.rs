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

/// Puts a [`MessageQueue`](crate::queue::MessageQueue) into every request, and sends its messages when the response is a success.
///
/// | case | messages |
/// |---|---|
/// | 2xx response head | sent, in order, before the client gets the head |
/// | 1xx, 3xx, 4xx, 5xx | dropped; [`with_success`](Self::with_success) changes the rule |
/// | 200 with a non-zero `grpc-status` header | dropped |
/// | inner service error, handler panic, panic of a hook of this layer, timeout outside, client gone before the handler is done | dropped |
/// | client gone while sending | sent to the end, in a separate task |
/// | enqueued through [`always`](crate::queue::MessageQueue::always) | sent whatever the outcome |
/// | sending fails | logged, and the client gets 503 with `Retry-After`; [`with_on_send_failure`](Self::with_on_send_failure) keeps the response instead |
/// | the messenger is full, such as an outbox at its limit, or too much is [in flight](Self::with_max_messages_in_flight) | the request is rejected with 503 and `Retry-After` before the handler runs, unless its method is safe, such as GET |
/// | two nested layers | the inner layer uses the queue of the outer one; its messages are sent, and its `Tx` is committed, only if both responses are a success |
///
/// Put a layer that calls the service again, such as `tower::retry`, outside of this one, or between two of these: then the
/// messages of a failed call are dropped before the next call. Inside a single one, the messages of all calls are sent.
///
/// A handler that writes to a database either commits before it returns, or takes a `Tx` (features `postgres` and `sqlite`):
/// then this layer commits rows and messages together.
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
    /// Makes a layer that sends through `messenger`.
    pub fn new(messenger: impl Messenger) -> Self {
        let messenger: Arc<dyn Messenger> = Arc::new(messenger);
        let capabilities = messenger.capabilities();
        Self {
            config: Arc::new(LayerConfig {
                admission: capabilities.admission,
                flight: Flight::default(),
                stage: capabilities.stage,
                backend: capabilities.backend,
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
    /// By default a response with status 2xx, and without a `grpc-status` header other than `0`. PDC counts every status
    /// below 400: `with_success(|response| response.status.as_u16() < 400)`.
    pub fn with_success(self, success: fn(&response::Parts) -> bool) -> Self {
        self.with(|config| config.success = success)
    }

    /// Sets the answer to the client when sending fails; by default [`OnSendFailure::Reject`].
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

    /// Sets how many messages of all requests may be in flight to the messenger at a time; 10,000 by default.
    ///
    /// Sending continues when a client hangs up, so messages to a broker that does not answer would accumulate without a
    /// limit. At the limit, requests are rejected with 503 and `Retry-After` before their handler runs, unless their method
    /// is safe, such as GET. Messages of an admitted request that do not fit are logged and counted as unsent, and the
    /// client gets 503 too. A batch larger than the limit is sent alone.
    pub fn with_max_messages_in_flight(self, max_messages: usize) -> Self {
        self.with(|config| config.flight_limits.messages = max_messages)
    }

    /// Sets how many bytes the messages in flight may hold; 64 MiB by default. See
    /// [`with_max_messages_in_flight`](Self::with_max_messages_in_flight).
    pub fn with_max_bytes_in_flight(self, max_bytes: usize) -> Self {
        self.with(|config| config.flight_limits.bytes = max_bytes)
    }

    /// Sets a function that completes each message before it is sent, from the request (as this layer got it) and the
    /// response: for example with the user or the reason of a change.
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
    /// Messages enqueued through [`always`](crate::queue::MessageQueue::always) are sent without it when there is no response. When the
    /// function panics, the request ends as after a panic of its handler: an outer layer that catches panics answers 500.
    pub fn with_enrich<F>(self, enrich: F) -> Self
    where
        F: Fn(&request::Parts, &response::Parts, &mut Message) + Send + Sync + 'static,
    {
        self.with(|config| config.enrich = Some(Arc::new(enrich)))
    }

    /// Derives the ids of messages from the header `Idempotency-Key` of a request, if it has one; off by default.
    ///
    /// The ids (UUIDv5) are derived from the method, the path as this layer gets it, the key, and the number of messages
    /// enqueued before; an id set by [`Message::with_id`] is kept. A POST that is repeated with the same key makes the same
    /// ids. An outbox in a database stores each of them once within
    /// [`inbox_retention`](https://docs.rs/tower-outbox/latest/tower_outbox/struct.SqlStoreSettings.html#structfield.inbox_retention),
    /// so that the retry cannot publish twice; with other messengers consumers recognise the repetition by the id.
    ///
    /// The handler runs again: only unique constraints of the app keep it from writing its rows twice. The app must make
    /// sure that no two clients use the same key, and that no client uses a key for two purposes, or different events get
    /// the same id. Let clients make a random UUID for each request. If they are not trusted to do so, prefix the key with
    /// the name of the client in an outer layer.
    ///
    /// The key is a string of 1 to 255 printable ASCII characters, in quotes as in
    /// draft-ietf-httpapi-idempotency-key-header, or without. Any other value is answered 400 before the handler runs.
    pub fn with_idempotency_key(self) -> Self {
        self.with(|config| config.idempotency_key = true)
    }

    /// Sets a function that gets the unsent messages, after they are logged.
    pub fn with_on_unsent<F>(self, on_unsent: F) -> Self
    where
        F: Fn(Unsent) + Send + Sync + 'static,
    {
        self.with(|config| config.on_unsent = Some(Arc::new(on_unsent)))
    }

    /// Returns the sends in flight, including those whose client has gone.
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
