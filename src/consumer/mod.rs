//! Receiving: messages from a source become requests to a service.

mod answer;
mod attempt;
mod dispatcher;
mod disposition;
mod handle;
pub(crate) mod request;
mod settings;

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum_core::body::Body;
use http::{Request, Response};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tower_service::Service;

use self::attempt::Worker;
use self::dispatcher::{Dispatcher, name};
pub use self::handle::{ConsumerHandle, ConsumerStatus};
pub use self::settings::ConsumerSettings;
use crate::source::Source;
use crate::telemetry;
use crate::util::backoff::Backoff;
use crate::util::caught::{called, caught};
use crate::util::deadline::after;
use crate::util::error::BoxError;
use crate::util::repeated::Repeated;
use crate::util::stop::StopSignal;

/// Runs the messages of a source through a service, such as an axum `Router`, until shutdown.
///
/// A message of the topic `user.created` becomes `POST /user/created`: its headers are the request's, as are the attributes
/// of CloudEvents (`ce-id`, `ce-type`, `ce-source`, `ce-time`), its body is as it came, and the extractors
/// [`Delivery`](crate::source::delivery::Delivery) and [`MessageId`](crate::source::delivery::MessageId) give the rest. Headers that would be taken for facts about
/// an HTTP request (`host`, `content-length`, `authorization`, `cookie`, `x-forwarded-*` and the like) are not copied:
/// they are in [`Delivery::message`](crate::source::delivery::Delivery::message). The response decides:
///
/// | what the service does | the message |
/// |---|---|
/// | 2xx | is acknowledged |
/// | 408, 425, 429, 5xx | delivered again after `Retry-After` or else a backoff that doubles from one second, with full jitter; after [`max_attempts`](ConsumerSettings::max_attempts) it is a dead letter |
/// | takes longer than [`timeout`](ConsumerSettings::timeout), panics, gives an error | the same |
/// | anything else, such as the 404 of a router without the route | is a dead letter, with the status and the start of the body as its reason |
/// | (the message cannot be read, is larger than [`max_bytes`](ConsumerSettings::max_bytes), has over 1,000 headers or 64 KiB of them) | is a dead letter |
///
/// A message with a [reply address](crate::source::delivery::Delivery::reply_address) is a request of a [`Client`](crate::client::Client). Such a
/// request has no attributes of CloudEvents. Its response is sent as the reply before the message is acknowledged, whatever the status; a
/// panic or an error is a 500, a timeout a 504.
/// With [`retry_requests`](ConsumerSettings::retry_requests) a failed one is retried while the caller waits. The handler is dropped when its
/// caller stops waiting, and a request past its deadline is dropped untried.
///
/// [`MessagingLayer`](crate::layer::MessagingLayer) works inside: messages that a handler enqueues leave when *it* succeeds, and
/// carry the headers `correlation_id` and `causation_id`. With
/// [`OnSendFailure::Log`](crate::layer::OnSendFailure::Log) a message may be acknowledged whose follow-up could not be
/// sent. While the layer rejects requests with 503 because the outbox is full, messages wait, and no attempt is counted.
///
/// Up to [`concurrency`](ConsumerSettings::concurrency) messages are handled at a time. Messages of one topic and key are handled one
/// after the other, in order. Messages of other keys overtake them while at most 4 times `concurrency` messages are held here,
/// if the source delivers them. A message that waits for its retry lets later ones of its key pass, unless the source holds
/// them back, as an embedded store does.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use std::time::Duration;
/// use axum::{Router, routing::post};
/// use tower_outbox::testing::Memory;
/// use tower_outbox::{Consumer, Message, MessageId, Messenger};
///
/// async fn on_user_created(MessageId(id): MessageId, body: String) {
///     println!("{id}: {body}");
/// }
///
/// let bus = Memory::new();
/// bus.send(vec![Message::json("user.created", &7)?]).await?;
///
/// let app: Router = Router::new().route("/user/created", post(on_user_created));
/// let signal = { let bus = bus.clone(); async move { bus.wait_idle().await } };
/// Consumer::new(bus, app).with_graceful_shutdown(signal, Duration::from_secs(10)).await;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[must_use]
pub struct Consumer<S> {
    source: Arc<dyn Source>,
    service: S,
    settings: ConsumerSettings,
    handle: ConsumerHandle,
    /// The name in spans, log lines and metrics; by default that of the source.
    name: Option<Arc<str>>,
    /// The backend of the source, if it is known.
    backend: Option<Arc<str>>,
    /// The stop signal of the bus that made this consumer.
    stop: Option<StopSignal>,
}

impl<S> Consumer<S> {
    /// A consumer with default settings. It does nothing before it is awaited, plainly or
    /// [with a graceful shutdown](Self::with_graceful_shutdown).
    pub fn new(source: impl Source, service: S) -> Self {
        let source: Arc<dyn Source> = Arc::new(source);
        let (settings, handle) = (ConsumerSettings::default(), ConsumerHandle::new(&source));
        Self { source, service, settings, handle, name: None, backend: None, stop: None }
    }

    /// Sets the name of the consumer in spans, log lines and metrics. By default it is that of the source.
    pub fn with_name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = Some(name.into());
        self
    }

    #[cfg(feature = "settings")]
    pub(crate) fn with_backend(mut self, backend: &str) -> Self {
        self.backend = Some(backend.into());
        self
    }

    #[cfg(feature = "settings")]
    pub(crate) fn with_stop(mut self, stop: StopSignal) -> Self {
        self.stop = Some(stop);
        self
    }

    /// Sets the settings.
    pub fn with_settings(mut self, settings: ConsumerSettings) -> Self {
        self.settings = settings;
        self
    }

    /// A handle to pause and resume the consumer, and to read its status.
    #[must_use]
    pub fn handle(&self) -> ConsumerHandle {
        self.handle.clone()
    }

    /// Consumes until `signal`, then takes no more messages and lets the running handlers end for at most `deadline`.
    /// Messages whose handlers have not ended by then are handed back, and the source is closed. Consuming ends too when
    /// the source is closed, or when the [`Bus`](crate::bus::Bus) that made this consumer shuts down, within the deadline of
    /// [`Bus::shutdown`](crate::bus::Bus::shutdown).
    ///
    /// Returns how many messages were handed back unfinished.
    ///
    /// # Cancel safety
    /// Dropping the future drops the running handlers; their messages are delivered again.
    pub async fn with_graceful_shutdown<B>(
        self,
        signal: impl Future<Output = ()>,
        deadline: Duration,
    ) -> usize
    where
        S: Service<Request<Body>, Response = Response<B>, Error: Into<BoxError>, Future: Send>
            + Clone
            + Send
            + 'static,
        B: http_body::Body<Data: Send, Error: Send> + Send + 'static,
    {
        let signal = async {
            signal.await;
            after(Instant::now(), deadline)
        };
        self.run(signal).await
    }

    /// Consumes until `signal`, which gives the time to end by.
    async fn run<B>(self, signal: impl Future<Output = Instant>) -> usize
    where
        S: Service<Request<Body>, Response = Response<B>, Error: Into<BoxError>, Future: Send>
            + Clone
            + Send
            + 'static,
        B: http_body::Body<Data: Send, Error: Send> + Send + 'static,
    {
        let Self { source, service, mut settings, handle, name: own_name, backend, stop } = self;
        let _token = stop.as_ref().map(StopSignal::token);
        let shutdown = async {
            match stop {
                None => signal.await,
                Some(stop) => tokio::select! {
                    until = signal => until,
                    until = stop.received() => until,
                },
            }
        };
        settings.concurrency = settings.concurrency.max(1);
        settings.max_attempts = settings.max_attempts.max(1);
        // A handler ends within its time limit.
        let timeout = settings.timeout;
        let source_name = name(&source);
        let consumer = own_name.unwrap_or_else(|| Arc::clone(&source_name));
        tracing::info!(source = %source_name, %consumer, "started consuming");
        telemetry::consumer_began(&consumer);
        handle.set_name(Arc::clone(&consumer));
        let ending = Ending(Some(handle.clone()));
        let (handle_of_worker, ce_source) = (handle.clone(), request::source(&source_name));
        let worker = Arc::new(Worker {
            settings,
            handle: handle_of_worker,
            source: ce_source,
            consumer,
            backend,
            faults: Repeated::default(),
        });
        let attempt = Arc::clone(&worker);
        let mut dispatcher = Dispatcher {
            source: Arc::clone(&source),
            name: Arc::clone(&source_name),
            worker,
            begin: Box::new(move |tasks, key, delivery| {
                let (worker, service) = (Arc::clone(&attempt), called(|| service.clone()));
                // In a box: a task is moved several times before it runs.
                tasks.spawn(Box::pin(async move {
                    // After a panic, waiting messages of the key go on.
                    if caught(worker.handle(service, delivery)).await.is_none() {
                        tracing::error!("settling a message panicked; the message will be delivered again");
                    }
                    key
                }));
            }),
            tasks: JoinSet::new(),
            keys: HashMap::new(),
            waiting: 0,
            failing: false,
            faults: Repeated::default(),
        };
        tokio::pin!(shutdown);
        handle.set_down(None);
        let mut ended = 0;
        let stopped = loop {
            let delay = tokio::select! {
                biased;
                until = &mut shutdown => break Some(until),
                worked = caught(dispatcher.work()) => match worked {
                    Some(()) => break None,
                    None => Backoff::default().delay(ended),
                },
            };
            ended = ended.saturating_add(1);
            tracing::error!(source = %source_name, ?delay, "the consumer panicked; restarting it");
            handle.set_down(Some("the consumer panicked and restarts soon".to_owned()));
            tokio::select! {
                until = &mut shutdown => break Some(until),
                () = tokio::time::sleep(delay) => handle.set_down(None),
            }
        };
        ending.expected();
        if stopped.is_none() {
            tracing::warn!(source = %source_name, "the source was closed; this consumer receives nothing any more");
        }
        match stopped {
            Some(_) => handle.set_down(None),
            None => handle.set_ended("the source was closed"),
        }
        let until = stopped.unwrap_or_else(|| after(Instant::now(), timeout));
        let unfinished = dispatcher.drain(until).await;
        let close = source.close(until.saturating_duration_since(Instant::now()));
        if caught(close).await.is_none() {
            tracing::error!(source = %source_name, "the source panicked while it was being closed");
        }
        if unfinished > 0 {
            tracing::warn!(source = %source_name, messages = unfinished, "stopped the consumer with unfinished messages; they will be delivered again");
        } else {
            tracing::info!(source = %source_name, "stopped the consumer");
        }
        unfinished
    }
}

/// Consumes until the [`Bus`](crate::bus::Bus) that made this consumer shuts down, or until the source is closed.
impl<S, B> IntoFuture for Consumer<S>
where
    S: Service<Request<Body>, Response = Response<B>, Error: Into<BoxError>, Future: Send>
        + Clone
        + Send
        + 'static,
    B: http_body::Body<Data: Send, Error: Send> + Send + 'static,
{
    type Output = usize;
    type IntoFuture = Pin<Box<dyn Future<Output = usize> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run(std::future::pending()))
    }
}

impl<S> fmt::Debug for Consumer<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("source", &name(&self.source))
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// Reports a consumer that ends without a signal to stop.
struct Ending(Option<ConsumerHandle>);

impl Ending {
    fn expected(mut self) {
        self.0 = None;
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(handle) = &self.0 {
            tracing::error!("a consumer was dropped; it receives nothing until it runs again");
            handle.set_ended("the consumer was dropped before the signal to stop");
        }
    }
}
