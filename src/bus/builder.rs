//! Starting a bus.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::acknowledging::Acknowledgement;
use super::backends::{self, Backend, fault, not_named};
use super::client::Clients;
#[cfg(feature = "_sql")]
use super::database::{Database, DatabaseStore};
use super::describe::{Description, EventType};
use super::running::Bus;
use super::shutdown::{Left, Worker};
use super::source::Sources;
use crate::background::Background;
use crate::layer::MessagingLayer;
#[cfg(feature = "cli")]
use crate::messenger::probe::Probe;
use crate::messenger::{Health, Messenger};
use crate::observed::Observed;
use crate::outbox::OutboxHandle;
use crate::settings::{BackendTable, DeliveryMode, Settings, SettingsError, SuccessStatus};
use crate::telemetry;
use crate::util::error::BoxError;
use crate::util::stop::Stopper;

impl Bus {
    /// Starts the backend and the delivery of the settings. It does not wait for a broker; a WARN is logged when none answers.
    ///
    /// # Errors
    /// [`SettingsError`] when the settings, or the files that they name, are wrong.
    pub async fn start(settings: &Settings) -> Result<Self, SettingsError> {
        Self::builder(settings).start().await
    }

    /// Starts with backends of the app's own.
    pub fn builder(settings: &Settings) -> BusBuilder<'_> {
        BusBuilder::new(settings)
    }
}

type Factory = Box<dyn FnOnce(&BackendTable) -> Result<Arc<dyn Messenger>, BoxError> + Send>;

type Decorator = Box<dyn FnOnce(Arc<dyn Messenger>) -> Arc<dyn Messenger> + Send>;

/// Builds a [`Bus`] with backends of the app's own, with decorators, or with the app's database pool.
#[must_use]
pub struct BusBuilder<'a> {
    settings: &'a Settings,
    backends: BTreeMap<String, Factory>,
    decorators: Vec<Decorator>,
    events: Vec<EventType>,
    #[cfg(feature = "_sql")]
    database: Option<Database>,
}

impl<'a> BusBuilder<'a> {
    pub(super) fn new(settings: &'a Settings) -> Self {
        Self {
            settings,
            backends: BTreeMap::new(),
            decorators: Vec::new(),
            events: Vec::new(),
            #[cfg(feature = "_sql")]
            database: None,
        }
    }

    /// Registers a backend under the name that `BACKEND` gives it, such as `acme.Kafka`.
    pub fn with_backend<M, E, F>(mut self, name: impl Into<String>, factory: F) -> Self
    where
        M: Messenger,
        E: Into<BoxError>,
        F: FnOnce(&BackendTable) -> Result<M, E> + Send + 'static,
    {
        let factory = |table: &BackendTable| match factory(table) {
            Ok(messenger) => Ok(Arc::new(messenger) as Arc<dyn Messenger>),
            Err(error) => Err(error.into()),
        };
        self.backends.insert(name.into(), Box::new(factory));
        self
    }

    /// Registers an event that the app sends, with its JSON schema, for [`Bus::describe`] and AsyncAPI documents.
    #[cfg(feature = "schemas")]
    #[cfg_attr(docsrs, doc(cfg(feature = "schemas")))]
    pub fn with_event<E: crate::message::Event + schemars::JsonSchema>(mut self) -> Self {
        self.events.push(EventType::of::<E>());
        self
    }

    /// Returns what the bus will do.
    #[must_use]
    pub fn describe(&self) -> Description {
        Description::with_types(self.settings, self.events.clone())
    }

    /// Decorates the messenger of the backend, also of a built-in one; a later decorator wraps an earlier one.
    ///
    /// The decorator is between the backend and the delivery mode, so it gets each batch for the broker: with
    /// `DELIVERY = "direct"` the messages of a request, otherwise the batches of the background worker or the relay. It
    /// forwards [`capabilities`](Messenger::capabilities), `check`, `health` and `close` to its inner messenger.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use tower_outbox::dummy::Dummy;
    /// use tower_outbox::fallback::Fallback;
    /// use tower_outbox::{Bus, Settings};
    ///
    /// let settings = Settings::default();
    /// let bus = Bus::builder(&settings).with_decorator(|inner| Fallback::new(inner, Dummy::new())).start().await?;
    /// # Ok::<(), tower_outbox::SettingsError>(())
    /// # }).unwrap();
    /// ```
    pub fn with_decorator<M, F>(mut self, decorate: F) -> Self
    where
        M: Messenger,
        F: FnOnce(Arc<dyn Messenger>) -> M + Send + 'static,
    {
        self.decorators.push(Box::new(|inner| Arc::new(decorate(inner))));
        self
    }

    /// Keeps messages in the app's own Postgres, for [`DeliveryMode::Transactional`], in place of `OUTBOX.DATABASE_URL`.
    ///
    /// A relay holds one connection of it to listen, and a second while it reads or settles.
    #[cfg(feature = "postgres")]
    #[cfg_attr(docsrs, doc(cfg(feature = "postgres")))]
    pub fn with_postgres(mut self, pool: sqlx::PgPool) -> Self {
        self.database = Some(Database::Postgres(pool));
        self
    }

    /// Keeps messages in the app's own SQLite file, for [`DeliveryMode::Transactional`], in place of `OUTBOX.DATABASE_URL`.
    ///
    /// Processes that open a new file together with a write-ahead log can get "database is locked" at once: connect again then.
    #[cfg(feature = "sqlite")]
    #[cfg_attr(docsrs, doc(cfg(feature = "sqlite")))]
    pub fn with_sqlite(mut self, pool: sqlx::SqlitePool) -> Self {
        self.database = Some(Database::Sqlite(pool));
        self
    }

    /// Starts the bus.
    ///
    /// # Errors
    /// As [`Bus::start`].
    pub async fn start(mut self) -> Result<Bus, SettingsError> {
        let is_dummy = self.settings.backend == "dummy" && !self.backends.contains_key("dummy");
        if is_dummy {
            tracing::warn!(
                backend = "dummy",
                "started without a broker; messages go nowhere. Set BACKEND in MESSAGE_BUS"
            );
        }
        let description = self.describe();
        let is_own = self.backends.contains_key(&self.settings.backend);
        #[cfg(feature = "admin")]
        let Backend { messenger, sources: local, requesters, parts, .. } = self.backend().await?;
        #[cfg(not(feature = "admin"))]
        let Backend { messenger, sources: local, requesters, .. } = self.backend().await?;
        let backend: Arc<str> = self.settings.backend.as_str().into();
        if self.settings.topic_labels {
            telemetry::label_topics();
        }
        telemetry::bus_began(&backend);
        let messenger = Observed::new(messenger, backend);
        #[cfg(feature = "admin")]
        let parts = parts.with_dead_letters(super::broker_dead_letters::DeadLettersOfBroker::of(
            self.settings,
            #[cfg(feature = "channels")]
            parts.channels.clone(),
        ));
        #[cfg(feature = "admin")]
        let messenger = messenger.with_topics(parts.topics.clone());
        let messenger: Arc<dyn Messenger> = Arc::new(messenger);
        let is_local = local.is_some();
        let sources = Sources::new(
            self.settings,
            local,
            #[cfg(feature = "signing")]
            super::signing::Verification::new(self.settings, self.trusted_keys()).await?,
        );
        sources.check(is_own)?;
        let clients = Clients::new(self.settings, requesters);
        clients.check()?;
        #[cfg(feature = "signing")]
        let messenger = super::signing::signed(messenger, self.settings)?;
        let decorators = std::mem::take(&mut self.decorators);
        let messenger = decorators.into_iter().fold(messenger, |inner, decorate| decorate(inner));
        let (messenger, acknowledgement, receiving) =
            Acknowledgement::around(messenger, self.settings, is_local)?;
        #[cfg(feature = "signing")]
        let receiving = receiving.map(|source| sources.verifying(source, "ACKNOWLEDGED")).transpose()?;
        let (stop, stopped) = oneshot::channel();
        let stopped = async {
            match stopped.await {
                Ok(until) => until,
                // A dropped bus stops nothing.
                Err(_) => std::future::pending().await,
            }
        };
        let (messenger, task, outbox): Running = match self.settings.delivery {
            DeliveryMode::Direct => (messenger, None, None),
            DeliveryMode::Background => {
                let (background, worker) = Background::new(messenger, self.settings.background.clone());
                let stopped = async {
                    stopped.await;
                };
                let run =
                    async { Left::Messages(worker.with_graceful_shutdown(stopped, Duration::ZERO).await) };
                (Arc::new(background), Some(tokio::spawn(run)), None)
            }
            #[cfg(feature = "embedded")]
            DeliveryMode::Durable => {
                let fault = |error| SettingsError::outbox("durable", error);
                let settings = &self.settings.outbox;
                let store = crate::store::EmbeddedStore::open(&settings.store()).await.map_err(fault)?;
                if let Some(kind) = crate::util::file_system::volatile(&settings.path) {
                    tracing::warn!(
                        folder = %settings.path.display(),
                        "the outbox is on {kind}: its messages are lost with the container or the machine. Set OUTBOX.PATH to a folder on a volume"
                    );
                }
                stored(messenger, Arc::new(store), self.settings, true, stopped)
            }
            #[cfg(not(feature = "embedded"))]
            DeliveryMode::Durable => {
                return Err(SettingsError::DeliveryNotCompiled {
                    delivery: "durable",
                    features: &["embedded"],
                });
            }
            #[cfg(feature = "_sql")]
            DeliveryMode::Transactional => {
                let settings = &self.settings.outbox;
                match self.database().await?.open(settings).await? {
                    #[cfg(feature = "postgres")]
                    DatabaseStore::Postgres(store) => {
                        stored(messenger, Arc::new(store), self.settings, settings.relay, stopped)
                    }
                    #[cfg(feature = "sqlite")]
                    DatabaseStore::Sqlite(store) => {
                        stored(messenger, Arc::new(store), self.settings, settings.relay, stopped)
                    }
                }
            }
            #[cfg(not(feature = "_sql"))]
            DeliveryMode::Transactional => {
                return Err(SettingsError::DeliveryNotCompiled {
                    delivery: "transactional",
                    features: &["postgres", "sqlite"],
                });
            }
        };
        acknowledgement.receive(receiving);
        let worker_ended = task.as_ref().map(JoinHandle::abort_handle);
        let worker = task.map(|task| Worker { stop, task });
        #[cfg(feature = "metrics")]
        if let Some(outbox) = &outbox {
            tokio::spawn(super::sampling::sample(outbox.clone()));
        }
        let request = &self.settings.request;
        let layer = MessagingLayer::new(Arc::clone(&messenger))
            .with_on_send_failure(self.settings.on_send_failure)
            .with_max_messages(request.max_messages)
            .with_max_bytes(request.max_bytes)
            .with_max_messages_in_flight(request.max_messages_in_flight)
            .with_max_bytes_in_flight(request.max_bytes_in_flight);
        let layer = match self.settings.success {
            SuccessStatus::Successful => layer,
            success => layer.with_success(success.rule()),
        };
        let layer = if request.idempotency_key { layer.with_idempotency_key() } else { layer };
        let warm_up = Arc::clone(&messenger);
        tokio::spawn(async move {
            if let Health::Down { reason } = warm_up.health().await {
                tracing::warn!(%reason, "no broker answers yet; retrying");
            }
        });
        Ok(Bus {
            description,
            messenger,
            layer,
            worker: Mutex::new(worker),
            outbox,
            sources,
            acknowledgement,
            clients,
            stopper: Stopper::default(),
            consumers: Arc::default(),
            worker_ended,
            #[cfg(feature = "_sql")]
            database: (self.settings.delivery == DeliveryMode::Transactional)
                .then(|| self.settings.outbox.database()),
            #[cfg(feature = "chaos")]
            chaos: self.settings.chaos.clone(),
            #[cfg(feature = "admin")]
            delivery: self.settings.delivery,
            #[cfg(feature = "admin")]
            later_drops: crate::admin::LaterDrops::default(),
            #[cfg(feature = "admin")]
            parts,
            #[cfg(feature = "dashboard")]
            trace_url: self.settings.dashboard.trace_url.clone(),
        })
    }

    /// Whether this is a backend of the app's own.
    #[cfg(feature = "cli")]
    pub(crate) fn has_backend(&self, name: &str) -> bool {
        self.backends.contains_key(name)
    }

    /// The pool of the app.
    #[cfg(all(feature = "_sql", feature = "cli"))]
    pub(crate) fn into_database(self) -> Option<Database> {
        self.database
    }

    /// The messenger alone, without workers; and what connects to each of its brokers, if it has brokers.
    #[cfg(feature = "cli")]
    pub(crate) async fn messenger(
        &mut self,
    ) -> Result<(Arc<dyn Messenger>, Option<Arc<dyn Probe>>), SettingsError> {
        self.backend().await.map(|backend| (backend.messenger, backend.probe))
    }

    /// The app's pool, or a new one.
    #[cfg(feature = "_sql")]
    async fn database(&mut self) -> Result<Database, SettingsError> {
        let database = match self.database.take() {
            Some(database) => database,
            None => Database::connect(&self.settings.outbox).await?,
        };
        Ok(self.database.insert(database).clone())
    }

    /// The keys in the database, whose tables are migrated first if the settings ask for it.
    #[cfg(all(feature = "signing", feature = "_sql"))]
    async fn trusted_keys(&mut self) -> Result<crate::signing::TrustedTable, SettingsError> {
        let (database, outbox) = (self.database().await?, &self.settings.outbox);
        if outbox.migrate {
            database.migrate(outbox).await?;
        }
        database.trusted_keys(outbox).await
    }

    #[cfg(all(feature = "signing", not(feature = "_sql")))]
    #[allow(clippy::unused_self, clippy::unused_async, reason = "as with a database")]
    async fn trusted_keys(&mut self) -> Result<crate::signing::TrustedFolder, SettingsError> {
        Err(SettingsError::value(
            "SIGNING.TRUSTED = \"database\" needs the feature `postgres` or `sqlite`: enable it, or name a folder",
        ))
    }

    async fn backend(&mut self) -> Result<Backend, SettingsError> {
        let (name, table) = (self.settings.backend.as_str(), &self.settings.backend_keys);
        let Some(factory) = self.backends.remove(name) else {
            let own: Vec<String> = self.backends.keys().cloned().collect();
            return backends::backend(name, table, own).await.map_err(|error| match error {
                SettingsError::UnknownKey { key, nearest: None } if !self.settings.names_backend() => {
                    not_named(key)
                }
                error => error,
            });
        };
        let messenger = factory(table).map_err(|error| fault(name, error))?;
        Ok(Backend::custom(messenger))
    }
}

type Running = (Arc<dyn Messenger>, Option<JoinHandle<Left>>, Option<OutboxHandle>);

/// An outbox before the messenger, and its relay if this process sends.
#[cfg(any(feature = "embedded", feature = "_sql"))]
fn stored(
    messenger: Arc<dyn Messenger>,
    store: Arc<dyn crate::store::Store>,
    settings: &Settings,
    relays: bool,
    stopped: impl Future<Output = tokio::time::Instant> + Send + 'static,
) -> Running {
    let relay_settings = settings.outbox.relay_settings().with_one_by_one(settings.acknowledged);
    let (outbox, relay) = crate::outbox::Outbox::new(messenger, store, relay_settings);
    let handle = outbox.handle();
    let task = relays.then(|| tokio::spawn(async { Left::Stored(relay.run_until(stopped).await) }));
    (Arc::new(outbox), task, Some(handle))
}

impl fmt::Debug for BusBuilder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BusBuilder").field("backends", &self.backends.keys()).finish_non_exhaustive()
    }
}
