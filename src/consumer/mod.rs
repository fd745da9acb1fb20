//! Receiving: messages from a source become requests to a service.

mod attempt;
mod handle;
mod request;
mod settings;
mod verdict;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum_core::body::Body;
use http::{Request, Response};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, timeout_at};
use tower_service::Service;

use self::attempt::Worker;
pub use self::handle::{ConsumerHandle, ConsumerStatus};
pub use self::settings::ConsumerSettings;
use crate::message::topic::Topic;
use crate::source::{self, Source, SourceError};
use crate::telemetry;
use crate::util::backoff::Backoff;
use crate::util::caught::{called, caught};
use crate::util::deadline::after;
use crate::util::error::{BoxError, Chain};

/// Runs the messages of a source through a service, such as an axum `Router`, until shutdown.
///
/// A message of the topic `user.created` becomes `POST /user/created`: its headers are the request's, as are the attributes
/// of CloudEvents (`ce-id`, `ce-type`, `ce-source`, `ce-time`), its body is as it came, and the extractors
/// [`Delivery`](crate::source::delivery::Delivery) and [`MessageId`](crate::source::delivery::MessageId) say the rest. Headers that would be taken for facts about
/// an HTTP request (`host`, `content-length`, `authorization`, `cookie`, `x-forwarded-*` and the like) are not the request's:
/// they are among those of [`Delivery::message`](crate::source::delivery::Delivery::message). The response decides:
///
/// | what the service does | the message |
/// |---|---|
/// | 2xx | is acknowledged |
/// | 408, 425, 429, 5xx | comes again, after `Retry-After` or else a backoff that doubles from one second, with full jitter; after [`max_attempts`](ConsumerSettings::max_attempts) it is a dead letter |
/// | takes longer than [`timeout`](ConsumerSettings::timeout), panics, gives an error | the same |
/// | 404 | is a dead letter: no handler |
/// | anything else | is a dead letter, with the status and the start of the body as its reason |
/// | (cannot be read, is larger than [`max_bytes`](ConsumerSettings::max_bytes), has over 1,000 headers or 64 KiB of them) | is a dead letter |
///
/// [`MessagingLayer`](crate::layer::MessagingLayer) works inside as ever: what a handler enqueues leaves when *it* succeeds, and
/// carries the headers `correlation_id` and `causation_id`. With
/// [`OnSendFailure::Log`](crate::layer::OnSendFailure::Log) a message may be acknowledged whose follow-up could not be
/// sent. While the layer turns requests away because the outbox is full, messages wait, and no attempt is counted.
///
/// Up to [`concurrency`](ConsumerSettings::concurrency) messages are handled at a time. Those of one topic and key are handled one
/// after the other, in the order they come. Others pass them while no more than 4 times `concurrency` messages are held here,
/// as far as the source gives them out. A message that waits for its retry lets later ones pass, unless the source keeps
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
/// let consumer = Consumer::new(bus.clone(), app);
/// let shutdown = async move { bus.idle().await };
/// consumer.run(shutdown, Duration::from_secs(10)).await;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[must_use]
pub struct Consumer<S> {
    source: Arc<dyn Source>,
    service: S,
    settings: ConsumerSettings,
    handle: ConsumerHandle,
}

impl<S> Consumer<S> {
    /// A consumer with default settings. It does nothing before [`run`](Self::run).
    pub fn new(source: impl Source, service: S) -> Self {
        let (settings, handle) = (ConsumerSettings::default(), ConsumerHandle::new());
        Self { source: Arc::new(source), service, settings, handle }
    }

    /// Sets how it works.
    pub fn with_settings(mut self, settings: ConsumerSettings) -> Self {
        self.settings = settings;
        self
    }

    /// A handle to pause and resume it, and to see what it does.
    #[must_use]
    pub fn handle(&self) -> ConsumerHandle {
        self.handle.clone()
    }

    /// Consumes until `shutdown`, or until the source is closed; then takes no more messages, and lets those being handled
    /// end for at most `deadline`. What has not ended by then is handed back, and the source is closed.
    ///
    /// Gives how many messages were handed back unfinished.
    ///
    /// # Cancel safety
    /// Dropping the future drops the handlers where they are; their messages come again.
    pub async fn run<B>(self, shutdown: impl Future<Output = ()>, deadline: Duration) -> usize
    where
        S: Service<Request<Body>, Response = Response<B>, Error: Into<BoxError>, Future: Send>
            + Clone
            + Send
            + 'static,
        B: http_body::Body<Data: Send, Error: Send> + Send + 'static,
    {
        let Self { source, service, mut settings, handle } = self;
        settings.concurrency = settings.concurrency.max(1);
        settings.max_attempts = settings.max_attempts.max(1);
        let source_name = name(&source);
        tracing::info!(source = %source_name, "consuming");
        let ending = Ending(Some(handle.clone()));
        let worker =
            Arc::new(Worker { settings, handle: handle.clone(), source: request::source(&source_name) });
        let attempt = Arc::clone(&worker);
        let mut running = Running {
            source: Arc::clone(&source),
            name: Arc::clone(&source_name),
            worker,
            begin: Box::new(move |tasks, key, delivery| {
                let (worker, service) = (Arc::clone(&attempt), called(|| service.clone()));
                // In a box: a task is moved several times before it runs.
                tasks.spawn(Box::pin(async move {
                    // Whatever panics, those who wait behind the key go on.
                    if caught(worker.handle(service, delivery)).await.is_none() {
                        tracing::error!("the answer to a message panicked: it comes again");
                    }
                    key
                }));
            }),
            tasks: JoinSet::new(),
            keys: HashMap::new(),
            waiting: 0,
            failing: false,
        };
        tokio::pin!(shutdown);
        handle.set_down(None);
        let mut ended = 0;
        let is_closed = loop {
            let delay = tokio::select! {
                () = &mut shutdown => break false,
                worked = caught(running.work()) => match worked {
                    Some(()) => break true,
                    None => Backoff::default().delay(ended),
                },
            };
            ended = ended.saturating_add(1);
            tracing::error!(source = %source_name, ?delay, "the consumer panicked: it is started again");
            handle.set_down(Some("it panicked, and is started again soon".to_owned()));
            tokio::select! {
                () = &mut shutdown => break false,
                () = tokio::time::sleep(delay) => handle.set_down(None),
            }
        };
        ending.expected();
        if is_closed {
            tracing::warn!(source = %source_name, "the source was closed: nothing is received any more");
        }
        handle.set_down(is_closed.then(|| "its source was closed".to_owned()));
        let until = after(Instant::now(), deadline);
        let unfinished = running.drain(until).await;
        let close = source.close(until.saturating_duration_since(Instant::now()));
        if caught(close).await.is_none() {
            tracing::error!(source = %source_name, "the source panicked while it was closed");
        }
        if unfinished > 0 {
            tracing::warn!(source = %source_name, messages = unfinished, "consumer stopped; messages that were being handled come again");
        } else {
            tracing::info!(source = %source_name, "consumer stopped");
        }
        unfinished
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

/// How long nothing is received after the source panicked.
const PANICKED: Duration = Duration::from_secs(1);

async fn receive(source: &Arc<dyn Source>, room: usize) -> Result<Vec<source::Unsettled>, SourceError> {
    match caught(source.receive(room)).await {
        Some(received) => received,
        None => {
            tokio::time::sleep(PANICKED).await;
            Err(SourceError::unavailable("the source panicked"))
        }
    }
}

async fn pause(source: &Arc<dyn Source>) {
    if caught(source.pause()).await.is_none() {
        tracing::error!(source = %name(source), "the source panicked while it was paused");
    }
}

fn name(source: &Arc<dyn Source>) -> Arc<str> {
    called(|| source.name()).unwrap_or_else(|| "a source whose name panics".into())
}

/// Says that the consumer ended before its time, unless that was expected.
struct Ending(Option<ConsumerHandle>);

impl Ending {
    fn expected(mut self) {
        self.0 = None;
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(handle) = &self.0 {
            tracing::error!("a consumer was dropped: nothing is received until it runs again");
            handle.set_down(Some("it was dropped before it was told to stop".to_owned()));
        }
    }
}

/// How many messages are held at most for each that may be handled, those that wait behind their keys included.
const HELD: usize = 4;

/// What is handled in order.
type Key = (Topic, String);

/// Begins to handle a message, in a task that ends with its key.
type Begin = Box<dyn Fn(&mut JoinSet<Option<Key>>, Option<Key>, source::Unsettled) + Send>;

struct Running {
    source: Arc<dyn Source>,
    name: Arc<str>,
    worker: Arc<Worker>,
    begin: Begin,
    tasks: JoinSet<Option<Key>>,
    /// The keys of the messages being handled, and what waits behind each.
    keys: HashMap<Key, VecDeque<source::Unsettled>>,
    /// How many wait so.
    waiting: usize,
    /// The last try to receive has failed.
    failing: bool,
}

impl Running {
    async fn work(&mut self) {
        let mut paused = self.worker.handle.watch();
        loop {
            let room = self.room();
            let is_paused = *paused.borrow_and_update();
            let source = Arc::clone(&self.source);
            tokio::select! {
                biased;
                _ = paused.changed() => {
                    if *paused.borrow() {
                        pause(&self.source).await;
                        tracing::info!(source = %self.name, "consumer paused");
                    } else {
                        tracing::info!(source = %self.name, "consumer resumed");
                    }
                }
                Some(ended) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    self.ended(ended);
                    while let Some(ended) = self.tasks.try_join_next() {
                        self.ended(ended);
                    }
                }
                received = receive(&source, room), if room > 0 && !is_paused => match received {
                    Ok(deliveries) => {
                        if std::mem::take(&mut self.failing) {
                            self.worker.handle.set_down(None);
                        }
                        telemetry::received(deliveries.len());
                        for delivery in deliveries {
                            self.take(delivery);
                        }
                    }
                    Err(SourceError::Closed) => return,
                    Err(error) => {
                        let reason = Chain(&error).to_string();
                        tracing::error!(source = %self.name, error = %reason, "nothing can be received");
                        self.worker.handle.set_down(Some(format!("nothing can be received: {reason}")));
                        self.failing = true;
                    }
                }
            }
        }
    }

    /// How many more messages may come: those of a standing key are looked past, as far as there is room to hold them.
    fn room(&self) -> usize {
        let ConsumerSettings { concurrency, .. } = self.worker.settings;
        let held = self.tasks.len() + self.waiting;
        concurrency
            .saturating_mul(HELD)
            .saturating_sub(held)
            .min(concurrency.saturating_sub(self.tasks.len()))
    }

    fn take(&mut self, delivery: source::Unsettled) {
        let key = delivery.view().ok().and_then(|view| {
            let message = view.message();
            Some((message.topic().clone(), message.key()?.to_owned()))
        });
        if let Some(key) = &key {
            if let Some(waiting) = self.keys.get_mut(key) {
                self.waiting += 1;
                return waiting.push_back(delivery);
            }
            self.keys.insert(key.clone(), VecDeque::new());
        }
        self.begin(key, delivery);
    }

    fn begin(&mut self, key: Option<Key>, delivery: source::Unsettled) {
        (self.begin)(&mut self.tasks, key, delivery);
        self.worker.handle.set_handling(self.tasks.len());
    }

    fn ended(&mut self, ended: Result<Option<Key>, JoinError>) {
        self.worker.handle.set_handling(self.tasks.len());
        let key = match ended {
            Ok(Some(key)) => key,
            Ok(None) => return,
            // Only a drop that panics ends so; what waits behind its key is handed back at the end.
            Err(error) => return tracing::error!(%error, "a task of the consumer panicked"),
        };
        loop {
            let Some(waiting) = self.keys.get_mut(&key) else { return };
            let Some(next) = waiting.pop_front() else {
                self.keys.remove(&key);
                return;
            };
            self.waiting -= 1;
            if !called(|| next.is_stale()).unwrap_or(false) {
                return self.begin(Some(key), next);
            }
        }
    }

    /// Lets what is being handled end; hands back the rest, and says how many of those had begun.
    async fn drain(&mut self, until: Instant) -> usize {
        for (_, waiting) in self.keys.drain() {
            for delivery in waiting {
                let _ = timeout_at(until, caught(delivery.release())).await;
            }
        }
        let _ = timeout_at(until, pause(&self.source)).await;
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        let _ = timeout_at(until, ended).await;
        let unfinished = self.tasks.len();
        self.tasks.shutdown().await;
        self.worker.handle.set_handling(0);
        unfinished
    }
}
