//! A bus that runs.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};
use tower_layer::Layer;

use super::acknowledging::Acknowledgement;
use super::client::Clients;
use super::describe::Description;
use super::shutdown::{Left, Shutdown, Worker};
use super::source::Sources;
use crate::client::Client;
use crate::consumer::{Consumer, ConsumerHandle};
use crate::layer::{MessagingLayer, MessagingService, OnSendFailure, is_success};
use crate::messenger::Messenger;
use crate::outbox::OutboxHandle;
#[cfg(feature = "admin")]
use crate::settings::DeliveryMode;
use crate::settings::SettingsError;
use crate::source::Source;
use crate::util::caught::caught;
use crate::util::deadline::after;
use crate::util::stop::Stopper;

/// A messenger with all its workers, running.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use std::time::Duration;
/// use tower_outbox::{Bus, Settings};
///
/// let bus = Bus::start(&Settings::from_env()?).await?;
/// let app: axum::Router = axum::Router::new().layer(bus.layer());
/// // .. serve the app until a signal; `Bus::serve` does this and the shutdown ..
/// let left = bus.shutdown(Duration::from_secs(10)).await;
/// assert!(left.is_clean());
/// # Ok::<(), tower_outbox::SettingsError>(())
/// # }).unwrap();
/// ```
///
/// Dropping a bus stops nothing: its tasks run on until the process ends.
pub struct Bus {
    pub(super) description: Description,
    pub(super) messenger: Arc<dyn Messenger>,
    pub(super) layer: MessagingLayer,
    pub(super) worker: Mutex<Option<Worker>>,
    pub(super) outbox: Option<OutboxHandle>,
    pub(super) sources: Sources,
    pub(super) acknowledgement: Acknowledgement,
    pub(super) clients: Clients,
    /// Stops the consumers of this bus.
    pub(super) stopper: Stopper,
    /// The consumers of this bus, by their names.
    pub(super) consumers: Arc<Mutex<Vec<(String, ConsumerHandle)>>>,
    /// Shows that the worker of the delivery has ended.
    pub(super) worker_ended: Option<AbortHandle>,
    /// The settings of a transactional outbox.
    #[cfg(feature = "_sql")]
    pub(super) database: Option<crate::store::SqlStoreSettings>,
    #[cfg(feature = "chaos")]
    pub(super) chaos: crate::chaos::ChaosSettings,
    #[cfg(feature = "admin")]
    pub(super) delivery: DeliveryMode,
    /// The drops that can be undone.
    #[cfg(feature = "admin")]
    pub(super) later_drops: crate::admin::LaterDrops,
    #[cfg(feature = "admin")]
    pub(super) parts: crate::admin::Parts,
    #[cfg(feature = "dashboard")]
    pub(super) trace_url: Option<crate::settings::TraceUrl>,
}

impl Bus {
    /// The layer for the app's routes.
    pub fn layer(&self) -> MessagingLayer {
        self.layer.clone()
    }

    /// Returns what the bus does: where messages go, what they survive, how its consumers receive.
    #[must_use]
    pub fn describe(&self) -> &Description {
        &self.description
    }

    /// The messenger, for sending outside of requests.
    #[must_use]
    pub fn messenger(&self) -> Arc<dyn Messenger> {
        Arc::clone(&self.messenger)
    }

    /// Puts messages into the outbox in the transaction of this connection, outside a request: in a cron job, or in a gRPC
    /// service without the layer. Returns how many messages are stored.
    ///
    /// The messages are sent when that transaction is committed, and not if it is rolled back. It needs
    /// `DELIVERY = "transactional"` in the database of the connection.
    ///
    /// The COMMIT wakes the relay, however long after `persist` it comes: at once in Postgres, which sends a notification with
    /// it, and within 100 milliseconds in SQLite, whose file is checked ten times a second. If a notification is lost with its
    /// connection, or a busy database has stored more than 1,000 other messages since `persist`, the messages leave with the
    /// next sweep, in 2 to 30 seconds. In Postgres, transactions with a notification are committed one after the other, so a
    /// request with many others beside it should store its messages through [`Tx`](crate::tx::Tx).
    ///
    /// ```no_run
    /// # #[cfg(feature = "postgres")]
    /// # mod example {
    /// use sqlx::PgPool;
    /// use tower_outbox::{BoxError, Bus, Message};
    ///
    /// async fn expire_users(bus: &Bus, pool: &PgPool) -> Result<(), BoxError> {
    ///     let mut transaction = pool.begin().await?;
    ///     sqlx::query("DELETE FROM users WHERE expires < now()").execute(&mut *transaction).await?;
    ///     bus.persist(&mut *transaction, vec![Message::json("users.expired", "today")?]).await?;
    ///     transaction.commit().await?;
    ///     Ok(())
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`PersistError`](crate::tx::PersistError): no message is stored when there is no such outbox or no transaction, or
    /// the broker can never accept one of the messages. After an error of the database, roll the transaction back.
    ///
    /// # Cancel safety
    /// Dropping the future may leave messages in the transaction: roll it back.
    #[cfg(feature = "_sql")]
    #[cfg_attr(docsrs, doc(cfg(any(feature = "postgres", feature = "sqlite"))))]
    pub async fn persist<C>(
        &self,
        connection: &mut C,
        messages: Vec<crate::message::Message>,
    ) -> Result<usize, crate::tx::PersistError>
    where
        C: sqlx::Connection<Database: crate::tx::TxDatabase<Connection = C>>,
    {
        crate::tx::persist(&*self.messenger, connection, messages).await
    }

    /// A consumer of the table `CONSUMERS.<name>`, which runs received messages through `service`, such as an axum `Router`.
    ///
    /// The layer of this bus is around the service: messages that handlers enqueue leave when the handlers succeed, and a
    /// message is acknowledged only after that. A consumer does nothing before it is awaited. Awaited plainly, it runs until
    /// [`shutdown`](Self::shutdown) of this bus; [`Consumer::with_graceful_shutdown`] stops it earlier. Several may run side
    /// by side.
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
    /// let consumer = tokio::spawn(bus.consumer("users", app)?.into_future());
    /// // .. until a signal ..
    /// let left = bus.shutdown(Duration::from_secs(10)).await;
    /// assert!(left.is_clean() && consumer.await? == 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`SettingsError`] when there is no such table, or its source cannot be made.
    pub fn consumer<S>(
        &self,
        name: &str,
        service: S,
    ) -> Result<Consumer<MessagingService<S>>, SettingsError> {
        // A consumer acknowledges a 2xx only, whatever `SUCCESS` counts for requests.
        let layer = self.layer().with_on_send_failure(OnSendFailure::Reject).with_success(is_success);
        let consumer = Consumer::new(self.source(name)?, layer.layer(service))
            .with_name(name)
            .with_backend(self.sources.backend());
        let settings = self.sources.settings(name)?;
        #[cfg(feature = "_sql")]
        if let Some(database) = &self.database {
            database.check_inbox_retention(name, settings.retry_span());
        }
        let mut consumers = self.consumers.lock().unwrap_or_else(PoisonError::into_inner);
        // A new consumer replaces those of its name that are down.
        consumers.retain(|(of, handle)| match handle.health().is_up() {
            true => !handle.is_last(),
            false => of != name,
        });
        consumers.push((name.to_owned(), consumer.handle()));
        Ok(consumer.with_settings(settings).with_stop(self.stopper.signal()))
    }

    /// The source of the table `CONSUMERS.<name>`, for a [`Consumer`] of the app's own. [`shutdown`](Self::shutdown) does not
    /// stop that consumer: stop it before.
    ///
    /// # Errors
    /// As [`consumer`](Self::consumer).
    pub fn source(&self, name: &str) -> Result<Arc<dyn Source>, SettingsError> {
        Ok(self.acknowledgement.source(self.sources.source(name)?))
    }

    /// A client for the service of this name, with the settings of the table `CLIENTS.<name>`, if there is one: a tower service whose
    /// requests the consumers of that service answer. The backend gives the name its meaning; with `memory` there is one service.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use axum::body::Body;
    /// use axum::http::Request;
    /// use axum::{Router, routing::post};
    /// use tower::ServiceExt;
    /// use tower_outbox::{Bus, Settings};
    ///
    /// let settings: Settings = toml::from_str("BACKEND = 'memory'\n[CONSUMERS.orders]\n[CLIENTS.orders]\nTIMEOUT = '2s'")?;
    /// let bus = Bus::start(&settings).await?;
    /// let app: Router = Router::new().route("/order/quote", post(|| async { "5 EUR" }));
    /// tokio::spawn(bus.consumer("orders", app)?.into_future());
    ///
    /// let orders = bus.client("orders")?;
    /// let response = orders.oneshot(Request::post("/order/quote").body(Body::empty())?).await?;
    /// assert!(response.status().is_success());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`SettingsError`] when the backend sends no requests, or does not know a key of the table.
    pub fn client(&self, name: &str) -> Result<Client, SettingsError> {
        self.clients.client(name)
    }

    /// A layer that causes the faults of the table `CHAOS` and of the environment variables `MESSAGE_CHAOS_*`; by default
    /// none. Put it on the service of a consumer.
    #[cfg(feature = "chaos")]
    #[cfg_attr(docsrs, doc(cfg(feature = "chaos")))]
    pub fn chaos(&self) -> crate::chaos::ChaosLayer {
        crate::chaos::ChaosLayer::new(self.chaos.clone())
    }

    /// A handle to the outbox; `None` unless the delivery is durable or transactional.
    #[must_use]
    pub fn outbox(&self) -> Option<OutboxHandle> {
        self.outbox.clone()
    }

    /// A router to inspect and operate the outbox. The app nests it at a path of its choice. The router checks no passwords:
    /// **put it behind a layer that admits operators only**.
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
    ///     // Check the token in the way of the service.
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
    /// The command line tool uses it: `tower-outbox --url http://localhost:3000/admin/outbox status`.
    ///
    /// # Routes
    /// Requests and answers are JSON, sent as `application/json`; every error is `{"error": ".."}`. Without an outbox only
    /// `/status` works.
    ///
    /// | route | answer |
    /// |---|---|
    /// | `GET /status` | health of the broker, depth, bytes, oldest age, rates, breaker, last error; `within` bounds how long the broker is asked |
    /// | `GET /messages` | a page of messages without headers and bodies; filtered by `state` (`pending`, `dead`), `id`, `topic` (`user.*`), `key`, `reason`, `older_than` (`1d`); `limit` (50, at most 500); `after`: the `next` of the page before; `body=true` adds headers and bodies, and ends the page with 8 MiB of them; `within` (1s) ends the search early |
    /// | `GET /count` | the number of messages, with the filter of the list; `within` (1s) bounds it: then `exact` is false |
    /// | `GET /groups` | dead letters by reason and topic, with numbers, first and last time; filtered and bounded as a count |
    /// | `GET /messages/{id}` | the whole message: body, headers, failed attempts, `explain` (why it is still stored), the next attempt |
    /// | `POST /messages` | stores a message, `{"topic": "user.created", "body": {"id": 7}}`, or JSON lines of messages, all or none; returns their `ids` |
    /// | `POST /requeue` | sends dead letters again: `{"filter": {"topic": "user.*"}, "dry_run": false, "rate": 100}` |
    /// | `POST /drop` | drops messages: `{"filter": {"id": ".."}, "dry_run": false}`; with `"after": "30s"` later, and `undo` is a number for `/undo` |
    /// | `GET /drops`, `POST /undo` | the drops that wait; `{"id": 1}` undoes one |
    /// | `GET /consumers`, `POST /consumers` | the consumers of this process; `{"name": "users", "paused": true}` pauses or resumes |
    /// | `GET /topics` | what this process sends by topic, and how much is stored of each; `within` (1s) bounds the count: then `exact` is false |
    /// | `GET /channels` | the channels of the backend `channels`, with depth, consumers, limits and last sequence; `search`: a part of the name |
    /// | `GET /routing` | the router of the backend `routing`: counters, links, queues |
    /// | `GET /parts` | which of these parts this process has |
    /// | `GET /broker-queues` | the queues in which the broker keeps dead letters of the consumers in the settings, with their numbers |
    /// | `GET /broker-dead-letters` | the first dead letters of such a `queue`; `limit` (50, at most 500); `id`: one message with headers and body |
    /// | `POST /broker-dead-letters` | `{"queue": "users.dead", "act": "requeue", "ids": [".."], "dry_run": false}`, or `"first": 100` instead of `ids`; `act` is `requeue` or `drop` |
    /// | `GET /openapi.json` | this table as an OpenAPI description |
    /// | `GET /operations` | who did what when: an [`Operator`](crate::admin::Operator) in the extensions of a request says who |
    ///
    /// Requeue and drop take the keys of the list as `filter`, or `positions` of messages instead. They only count the matching messages unless `dry_run` is false.
    /// Requeue sends at most `rate` messages a second, 100 by default, and matches dead letters when the filter names no state.
    #[cfg(feature = "admin")]
    #[cfg_attr(docsrs, doc(cfg(feature = "admin")))]
    pub fn admin(&self) -> axum::Router {
        let (messenger, outbox) = (Arc::clone(&self.messenger), self.outbox.clone());
        let app = crate::admin::AppState::Running;
        let consumers = Arc::clone(&self.consumers);
        let later = self.later_drops.clone();
        let parts = self.parts.clone();
        let destination = self.description.destination();
        crate::admin::Admin {
            delivery: self.delivery,
            app,
            messenger,
            outbox,
            consumers,
            later,
            parts,
            destination,
        }
        .router()
    }

    /// Stops the consumers by this time, and waits for them until then.
    #[cfg(feature = "serve")]
    pub(super) async fn stop_consumers(&self, until: Instant) {
        self.stopper.stop(until).await;
    }

    /// Stops the parts of the bus in order, within `deadline`: the [consumers](Self::consumer) first, whose running handlers
    /// get at most three quarters of it; then sends in flight, the relay or the background buffer, and the connections. Call it
    /// when the server has stopped. A messenger with connections refuses later sends.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the bus half stopped; sends in flight continue.
    pub async fn shutdown(&self, deadline: Duration) -> Shutdown {
        let begun = Instant::now();
        let until = after(begun, deadline);
        self.stopper.stop(after(begun, deadline / 4 * 3)).await;
        self.acknowledgement.consumers_stopped();
        let in_flight = self.layer.in_flight();
        let _ = timeout_at(until, in_flight.wait_idle()).await;
        let worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut shutdown = Shutdown::default();
        if let Some(Worker { stop, task }) = worker {
            let _ = stop.send(until);
            match task.await {
                Ok(Left::Messages(left)) => shutdown.left = left,
                Ok(Left::Stored(counts)) => shutdown.stored = counts.pending,
                Err(error) => tracing::error!(%error, "the worker of the message bus panicked"),
            }
        }
        self.acknowledgement.stop(until).await;
        let rest = until.saturating_duration_since(Instant::now());
        if caught(self.messenger.close(rest)).await.is_none() {
            tracing::error!("the messenger panicked while it was being closed");
        }
        shutdown.sends = in_flight.len();
        if let Some(outbox) = self.outbox.as_ref().filter(|_| shutdown.stored > 0) {
            let (messages, location) = (shutdown.stored, outbox.location());
            tracing::warn!(messages, %location, "stopped with messages in the outbox; they leave after the next start");
        }
        if shutdown.is_clean() {
            tracing::info!("stopped the message bus");
        } else {
            tracing::error!(
                messages = shutdown.left.len(),
                sends = shutdown.sends,
                "stopped the message bus with unsent messages; they are lost unless the app keeps them"
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
