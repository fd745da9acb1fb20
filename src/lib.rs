//! Events leave when, and only when, the request succeeds.
//!
//! A tower layer puts a [`MessageQueue`] into each request; handlers enqueue onto it; on a 2xx
//! response the layer hands the messages to a [`Messenger`]; on anything else they are dropped.
//!
//! ```
//! use axum::{Router, http::StatusCode, routing::post};
//! use tower_outbox::{EnqueueError, Message, MessageQueue, MessagingLayer, Recording};
//!
//! async fn create_user(queue: MessageQueue) -> Result<StatusCode, EnqueueError> {
//!     queue.enqueue(Message::json("user.created", &serde_json::json!({"id": 7}))?)?;
//!     Ok(StatusCode::CREATED)
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! use tower::ServiceExt;
//!
//! let recording = Recording::new();
//! let sent = recording.listen();
//! let app: Router = Router::new()
//!     .route("/users", post(create_user))
//!     .layer(MessagingLayer::new(recording));
//!
//! let request = axum::http::Request::post("/users").body(axum::body::Body::empty()).unwrap();
//! app.oneshot(request).await.unwrap();
//! assert_eq!(sent.topics(), ["user.created"]);
//! # });
//! ```
//!
//! # From settings to a running bus
//! [`Bus`] reads `MESSAGE_BUS` settings and gives the layer, health and an orderly shutdown.
//!
//! # Features
//! | feature | gives | default |
//! |---|---|---|
//! | `settings` | `Settings` and `Bus` | yes |
//! | `amqp091` | the backends `amqp091` and `fedmsg` (AMQP 0-9-1) | |
//! | `amqp10` | the backends `amqp10` and `rhmsg` (AMQP 1.0) | |
//! | `embedded` | the durable outbox on the local disk: `Embedded`, `DELIVERY = "durable"` | |
//! | `postgres`, `sqlite` | the transactional outbox in the app's own database: `Tx`, `PostgresStore`, `SqliteStore` | |
//! | `admin` | `Bus::admin`, an axum router to look into the outbox | |
//! | `cli` | the command line tool `tower-outbox` | |
//! | `chaos` | faults on purpose: `ChaosLayer` | |
//! | `metrics` | counters and histograms through the `metrics` facade | |
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(doctest, doc = include_str!("../README.md"))]

#[cfg(feature = "admin")]
mod admin;
mod admission;
mod backends;
mod background;
mod backoff;
#[cfg(feature = "settings")]
mod bus;
mod caught;
#[cfg(feature = "chaos")]
mod chaos;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
mod consumer;
mod crash;
mod deadline;
mod delivery;
#[cfg(feature = "_brokers")]
mod envelope;
mod error;
mod failed_attempt;
mod fallback;
#[cfg(feature = "_fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod headers;
mod in_flight;
mod layer;
mod message;
mod messenger;
mod outbox;
mod queue;
mod rfc3339;
#[cfg(any(feature = "settings", feature = "_brokers"))]
mod secret;
#[cfg(feature = "settings")]
mod settings;
pub mod source;
pub mod store;
mod stores;
mod telemetry;
#[cfg(any(feature = "settings", feature = "_brokers"))]
mod text_file;
#[cfg(feature = "_brokers")]
mod tls;
mod topic;
mod trace_context;
#[cfg_attr(not(feature = "_sql"), allow(dead_code, reason = "only databases have transactions"))]
mod transaction;
#[cfg(feature = "_sql")]
mod tx;
#[cfg(any(feature = "settings", feature = "_brokers"))]
mod units;

pub use async_trait::async_trait;

#[cfg(feature = "amqp10")]
pub use self::backends::amqp10;
#[cfg(feature = "amqp091")]
pub use self::backends::amqp091;
pub use self::backends::{DeadLetter, Dummy, Memory, Recording, Sent, StoreQueue};
pub use self::background::{Background, BackgroundSettings, BackgroundWorker, WhenFull};
#[cfg(feature = "settings")]
pub use self::bus::{Bus, BusBuilder, Shutdown};
#[cfg(feature = "chaos")]
pub use self::chaos::{Chaos, ChaosError, ChaosLayer, ChaosSettings};
pub use self::consumer::{Consumer, ConsumerHandle, ConsumerSettings, ConsumerStatus};
pub use self::delivery::{Delivery, MessageId, NoDelivery};
#[cfg(feature = "_brokers")]
pub use self::envelope::{Envelope, PetiscoMessage};
pub use self::error::BoxError;
pub use self::fallback::Fallback;
pub use self::in_flight::{InFlight, InFlightToken};
pub use self::layer::{MessagingLayer, MessagingService, OnSendFailure, ResponseBody, ResponseFuture};
pub use self::message::{Event, Message, MessageError, Scalar};
pub use self::messenger::{Admission, Failure, Health, Messenger, Refused, Unsent};
pub use self::outbox::{Breaker, Expired, Outbox, OutboxHandle, OutboxStatus, Relay, RelaySettings};
pub use self::queue::{EnqueueError, MessageQueue, MissingMessagingLayer};
#[cfg(feature = "settings")]
pub use self::settings::{
    BackendTable, ConsumerTable, DatabaseUrl, DeliveryMode, OutboxSettings, RequestSettings, Settings,
    SettingsError,
};
#[cfg(feature = "_sql")]
pub use self::stores::DatabaseSettings;
#[cfg(feature = "postgres")]
pub use self::stores::PostgresStore;
#[cfg(feature = "sqlite")]
pub use self::stores::SqliteStore;
#[cfg(feature = "embedded")]
pub use self::stores::{Embedded, EmbeddedSettings, OpenError};
pub use self::topic::{Topic, TopicError};
#[cfg(feature = "_sql")]
pub use self::tx::{PersistError, Tx, TxDatabase, TxRejection};
