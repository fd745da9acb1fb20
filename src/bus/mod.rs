//! From settings to a running bus: the one place that knows all parts.

mod backends;
mod builder;
#[cfg(feature = "_sql")]
mod database;
mod source;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tower_layer::Layer;

#[cfg(all(feature = "cli", feature = "_brokers"))]
pub(crate) use self::backends::broker_settings;
pub use self::builder::BusBuilder;
#[cfg(all(feature = "_sql", feature = "cli"))]
pub(crate) use self::database::{Database, DatabaseStore};
use self::source::Sources;
use crate::consumer::{Consumer, ConsumerHandle};
use crate::layer::{MessagingLayer, MessagingService, OnSendFailure};
use crate::message::Message;
use crate::messenger::{Health, Messenger};
use crate::outbox::OutboxHandle;
#[cfg(feature = "admin")]
use crate::settings::DeliveryMode;
use crate::settings::{Settings, SettingsError};
use crate::source::Source;
use crate::store::Counts;
use crate::util::caught::caught;
use crate::util::deadline::after;

/// A messenger with all its workers, running.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use std::time::Duration;
/// use tower_outbox::{Bus, Settings};
///
/// let bus = Bus::start(&Settings::load(None)?).await?;
/// let app: axum::Router = axum::Router::new().layer(bus.layer());
/// // .. serve the app until it is told to stop ..
/// let left = bus.shutdown(Duration::from_secs(10)).await;
/// assert!(left.is_clean());
/// # Ok::<(), tower_outbox::SettingsError>(())
/// # }).unwrap();
/// ```
///
/// Dropping it stops nothing: what it runs goes on with the process.
pub struct Bus {
    messenger: Arc<dyn Messenger>,
    layer: MessagingLayer,
    worker: Mutex<Option<Worker>>,
    outbox: Option<OutboxHandle>,
    sources: Sources,
    /// The consumers it made, by their names.
    consumers: Mutex<Vec<(String, ConsumerHandle)>>,
    /// Of a transactional outbox.
    #[cfg(feature = "_sql")]
    database: Option<crate::store::SqlStoreSettings>,
    #[cfg(feature = "chaos")]
    chaos: crate::chaos::ChaosSettings,
    #[cfg(feature = "admin")]
    delivery: DeliveryMode,
}

/// What runs beside the requests, and stops at shutdown.
struct Worker {
    /// Says until when it may go on.
    stop: oneshot::Sender<Instant>,
    task: JoinHandle<Left>,
}

/// What a worker left when it stopped.
enum Left {
    /// In memory.
    Messages(Vec<Message>),
    /// On disk, or in the database.
    #[cfg_attr(
        not(any(feature = "embedded", feature = "_sql")),
        expect(dead_code, reason = "nothing else stores")
    )]
    Stored(Counts),
}

impl Bus {
    /// Starts what the settings say. It does not wait for a broker; whether one answers is logged.
    ///
    /// # Errors
    /// [`SettingsError`]: all that is wrong with the settings and the files they name.
    pub async fn start(settings: &Settings) -> Result<Self, SettingsError> {
        Self::builder(settings).start().await
    }

    /// Starts with backends of the app's own.
    pub fn builder(settings: &Settings) -> BusBuilder<'_> {
        BusBuilder::new(settings)
    }

    /// The layer for the app's routes.
    pub fn layer(&self) -> MessagingLayer {
        self.layer.clone()
    }

    /// The messenger, for sending outside of requests.
    #[must_use]
    pub fn messenger(&self) -> Arc<dyn Messenger> {
        Arc::clone(&self.messenger)
    }

    /// A consumer of the table `CONSUMERS.<name>`, which runs what it receives through `service`, such as an axum `Router`.
    ///
    /// The layer of this bus is around the service: what handlers enqueue leaves when they succeed, and a message is
    /// acknowledged only when it has. It does nothing before [`Consumer::run`]; several may run side by side. Stop them
    /// before [`shutdown`](Self::shutdown).
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use std::time::Duration;
    /// use axum::{Router, routing::post};
    /// use tower_outbox::{Bus, Settings};
    ///
    /// let settings: Settings = toml::from_str("BACKEND = 'memory'\n[CONSUMERS.users]\nCONCURRENCY = 4")?;
    /// let bus = Bus::start(&settings).await?;
    /// let app: Router = Router::new().route("/user/created", post(|| async {}));
    /// let consumer = bus.consumer("users", app)?;
    /// let running = tokio::spawn(consumer.run(async { /* until told to stop */ }, Duration::from_secs(10)));
    /// # running.await?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`SettingsError`] when there is no such table, or the source cannot be what it says.
    pub fn consumer<S>(
        &self,
        name: &str,
        service: S,
    ) -> Result<Consumer<MessagingService<S>>, SettingsError> {
        let layer = self.layer().with_on_send_failure(OnSendFailure::Reject);
        let consumer = Consumer::new(self.source(name)?, layer.layer(service));
        let settings = self.sources.settings(name)?;
        #[cfg(feature = "_sql")]
        if let Some(database) = &self.database {
            database.check_inbox_retention(name, settings.retry_span());
        }
        let mut consumers = self.consumers.lock().unwrap_or_else(PoisonError::into_inner);
        // A new one takes the place of those of its name that are down.
        consumers.retain(|(of, handle)| match handle.health().is_up() {
            true => !handle.is_last(),
            false => of != name,
        });
        consumers.push((name.to_owned(), consumer.handle()));
        Ok(consumer.with_settings(settings))
    }

    /// The source of the table `CONSUMERS.<name>`, for a [`Consumer`] of the app's own.
    ///
    /// # Errors
    /// As [`consumer`](Self::consumer).
    pub fn source(&self, name: &str) -> Result<Arc<dyn Source>, SettingsError> {
        self.sources.source(name)
    }

    /// The layer that lets go wrong what the table `CHAOS` and the environment variables `MESSAGE_CHAOS_*` say: nothing, by
    /// default. Put it on the service of a consumer.
    #[cfg(feature = "chaos")]
    #[cfg_attr(docsrs, doc(cfg(feature = "chaos")))]
    pub fn chaos(&self) -> crate::chaos::ChaosLayer {
        crate::chaos::ChaosLayer::new(self.chaos.clone())
    }

    /// Whether messages can leave now, and its [consumers](Self::consumer) that were not told to stop receive. It may take up to
    /// two seconds for each broker.
    pub async fn health(&self) -> Health {
        let health = self.messenger.health().await;
        if !health.is_up() {
            return health;
        }
        let consumers = self.consumers.lock().unwrap_or_else(PoisonError::into_inner);
        let down = consumers.iter().find_map(|(name, handle)| match handle.health() {
            Health::Up => None,
            Health::Down { reason } => Some(format!("the consumer `{name}`: {reason}")),
        });
        down.map_or(Health::Up, |reason| Health::Down { reason })
    }

    /// A handle to the durable or transactional outbox, if that is how messages are delivered.
    #[must_use]
    pub fn outbox(&self) -> Option<OutboxHandle> {
        self.outbox.clone()
    }

    /// A router to look into the durable or transactional outbox and to operate on it, which the app nests where it likes. It is mounted
    /// nowhere by itself, and knows no passwords: **put it behind a layer that lets in operators only**.
    ///
    /// ```
    /// use axum::extract::Request;
    /// use axum::http::{StatusCode, header::AUTHORIZATION};
    /// use axum::middleware::{Next, from_fn};
    /// use axum::response::Response;
    /// use axum::Router;
    /// # use tower_outbox::{Bus, Settings};
    ///
    /// async fn operators(request: Request, next: Next) -> Result<Response, StatusCode> {
    ///     let token = request.headers().get(AUTHORIZATION).ok_or(StatusCode::UNAUTHORIZED)?;
    ///     // Compare it with the service's own way of knowing people.
    ///     # let _ = token;
    ///     Ok(next.run(request).await)
    /// }
    ///
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// # let bus = Bus::start(&Settings::default()).await.unwrap();
    /// let app: Router = Router::new()
    ///     // .. the routes of the app ..
    ///     .layer(bus.layer())
    ///     .nest("/admin/outbox", bus.admin().layer(from_fn(operators)));
    /// # });
    /// ```
    ///
    /// The command line tool speaks to it: `tower-outbox --url http://localhost:3000/admin/outbox status`.
    ///
    /// # Routes
    /// Everything is JSON, sent as `application/json`; every error is `{"error": ".."}`. Without
    /// an outbox there is only `/status`.
    ///
    /// | route | gives |
    /// |---|---|
    /// | `GET /status` | health of the bus, depth, bytes, oldest age, rates, breaker, last error |
    /// | `GET /messages` | a page of messages without headers and bodies; narrowed by `state` (`pending`, `dead`), `id`, `topic` (`user.*`), `key`, `reason`, `older_than` (`1d`); `limit` (50, at most 500); `after`: the `next` of the page before; `body=true` adds headers and bodies |
    /// | `GET /messages/{id}` | the whole message: body, headers, failed attempts, `explain` (why it has not left), the next attempt |
    /// | `POST /messages` | stores a message, `{"topic": "user.created", "body": {"id": 7}}`, or JSON lines of them, all or none; gives their `ids` |
    /// | `POST /requeue` | gives dead letters another life: `{"filter": {"topic": "user.*"}, "dry_run": false, "rate": 100}` |
    /// | `POST /drop` | drops messages: `{"filter": {"id": ".."}, "dry_run": false}` |
    ///
    /// Requeue and drop take the keys of the list as `filter`, and only count what it means unless `dry_run` is false.
    /// Requeue lets `rate` messages a second go, 100 by default, and means dead letters when the filter names no state.
    #[cfg(feature = "admin")]
    #[cfg_attr(docsrs, doc(cfg(feature = "admin")))]
    pub fn admin(&self) -> axum::Router {
        let (messenger, outbox) = (Arc::clone(&self.messenger), self.outbox.clone());
        crate::admin::Admin { delivery: self.delivery, running: true, messenger, outbox }.router()
    }

    /// Waits until nothing is in flight: no send of a request, no message in the background buffer.
    /// What a durable outbox has stored is not waited for.
    pub async fn flushed(&self) {
        self.layer.in_flight().wait_idle().await;
    }

    /// Waits for everything in flight, then stops the workers and closes the connections, all within
    /// `deadline`. Call it when the server has stopped. A messenger that has something to close refuses later sends.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the bus half stopped; what is in flight goes on.
    pub async fn shutdown(&self, deadline: Duration) -> Shutdown {
        let until = after(Instant::now(), deadline);
        let in_flight = self.layer.in_flight();
        let _ = timeout_at(until, in_flight.wait_idle()).await;
        let worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut shutdown = Shutdown::default();
        if let Some(Worker { stop, task }) = worker {
            let _ = stop.send(until);
            match task.await {
                Ok(Left::Messages(left)) => shutdown.left = left,
                Ok(Left::Stored(counts)) => shutdown.stored = counts.pending,
                Err(error) => tracing::error!(%error, "the worker of the message bus ended before its time"),
            }
        }
        let deadline = until.saturating_duration_since(Instant::now());
        if caught(self.messenger.close(deadline)).await.is_none() {
            tracing::error!("the messenger panicked while it was closed");
        }
        shutdown.sends = in_flight.len();
        if let Some(outbox) = self.outbox.as_ref().filter(|_| shutdown.stored > 0) {
            let (messages, place) = (shutdown.stored, outbox.location());
            tracing::warn!(messages, %place, "messages wait in the outbox, and leave after the next start");
        }
        if shutdown.is_clean() {
            tracing::info!("message bus stopped");
        } else {
            tracing::error!(
                messages = shutdown.left.len(),
                sends = shutdown.sends,
                "message bus stopped with messages left"
            );
        }
        shutdown
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bus").field("layer", &self.layer).finish_non_exhaustive()
    }
}

/// What [`Bus::shutdown`] could not bring to an end.
#[derive(Debug, Default)]
#[must_use]
#[non_exhaustive]
pub struct Shutdown {
    /// The messages taken over and not confirmed.
    pub left: Vec<Message>,
    /// How many sends were still in flight.
    pub sends: usize,
    /// How many messages wait in the durable outbox; they are safe, and leave after the next start.
    pub stored: u64,
}

impl Shutdown {
    /// Whether nothing is left: all that was taken over is confirmed, stored, handed back, or was logged as unsent before.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.left.is_empty() && self.sends == 0
    }
}
