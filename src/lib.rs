//! A transactional outbox and message consumer for tower and axum: messages are published if, and only if, the request succeeds.
//!
//! A tower layer puts a [`MessageQueue`] into each request; handlers enqueue onto it; on a 2xx
//! response the layer hands the messages to a [`Messenger`]; on anything else they are dropped.
//!
//! ```
//! use axum::{Router, http::StatusCode, routing::post};
//! use tower_outbox::testing::Recording;
//! use tower_outbox::{EnqueueError, Message, MessageQueue, MessagingLayer};
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
//! # Where to begin
//! The [`guide`] has a page for each question. Without a key messages have no order across requests; with a key ([`Event::key`]) they have.
//!
//! | question | page |
//! |---|---|
//! | How do I build a service with it? | [`guide::order_service`], 15 minutes |
//! | Which messages leave, and when are they safe? | [`guide::guarantees`] |
//! | How does it work? | [`guide::how_it_works`], [`guide::layers`] |
//! | How do I test my app? | [`guide::testing`] |
//! | How do I run it, and see what it does? | [`guide::production`], [`guide::observability`], [`guide::troubleshooting`] |
//! | What does my broker confirm, and what can it lose? | [`guide::rabbitmq`], [`guide::activemq`] and others in the [`guide`] |
//! | How do I write a backend, a decorator, a store? | [`guide::extending`] |
//! | Is it for me? I come from something else. | [`guide::coming_from`] |
//!
//! # Features
//! | feature | gives | default |
//! |---|---|---|
//! | `settings` | `Settings` and `Bus` | yes |
//! | `amqp091` | the backends `amqp091` and `fedmsg` (AMQP 0-9-1) | |
//! | `amqp10` | the backends `amqp10` and `rhmsg` (AMQP 1.0) | |
//! | `channels` | queues, streams, events and requests on the local disk; with `nats` also in NATS | |
//! | `client-cache` | replies that a `Client` keeps: `CACHE_BYTES` | |
//! | `kubemq` | KubeMQ's gRPC interface over channels, for unmodified KubeMQ clients: `kubemq::Kubemq` | |
//! | `kubemq-client` | the backend `kubemq`: a KubeMQ server as the broker | |
//! | `mqtt` | the backend `mqtt` (MQTT 5 and 3.1.1) | |
//! | `kafka` | the backend `kafka` (Kafka); needs Rust 1.95 | |
//! | `nats` | the backend `nats` (NATS, with JetStream or without) | |
//! | `embedded` | the durable outbox on the local disk: `EmbeddedStore`, `DELIVERY = "durable"` | yes |
//! | `postgres`, `sqlite` | the transactional outbox in the app's own database: `Tx`, `PostgresStore`, `SqliteStore` | |
//! | `admin` | `Bus::admin`, an axum router to look into the outbox | |
//! | `dashboard` | `Bus::dashboard`, pages for operators: `dashboard` | |
//! | `cli` | the command line tool `tower-outbox` | |
//! | `routing` | a router for sites with bad links: `routing` | |
//! | `wavemq` | WAVEMQ's gRPC interface over such a router: `wavemq` | |
//! | `serve` | `Bus::serve`, which serves an axum app and stops server, consumers and bus in order | |
//! | `schemas` | JSON schemas of events by `schemars`, for AsyncAPI documents: `BusBuilder::with_event` | |
//! | `signing` | signed messages: `Signing`, `Verifying`, the table `SIGNING` | |
//! | `testing` | doubles for the tests of an app, and conformance suites for messengers, stores and sources | |
//! | `chaos` | faults on purpose: `ChaosLayer` | |
//! | `metrics` | counters and histograms through the `metrics` facade | |
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(doctest, doc = include_str!("../README.md"))]

pub mod acknowledging;
#[cfg(feature = "admin")]
#[cfg_attr(docsrs, doc(cfg(feature = "admin")))]
pub mod admin;
mod backends;
pub mod background;
#[cfg(feature = "settings")]
pub mod bus;
#[cfg(feature = "channels")]
pub mod channels;
#[cfg(feature = "chaos")]
pub mod chaos;
#[cfg(feature = "cli")]
#[cfg_attr(docsrs, doc(cfg(feature = "cli")))]
pub mod cli;
pub mod client;
pub mod consumer;
#[cfg(feature = "dashboard")]
#[cfg_attr(docsrs, doc(cfg(feature = "dashboard")))]
pub mod dashboard;
#[cfg(feature = "_brokers")]
pub mod envelope;
pub mod fallback;
#[cfg(feature = "_fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(any(doc, doctest))]
pub mod guide;
#[cfg(feature = "kubemq")]
#[cfg_attr(docsrs, doc(cfg(feature = "kubemq")))]
pub mod kubemq;
#[cfg(feature = "_kubemq")]
#[doc(hidden)]
pub mod kubemq_wire;
pub mod layer;
#[cfg(feature = "embedded")]
mod log;
pub mod message;
pub mod messenger;
pub mod observed;
pub mod outbox;
pub mod queue;
pub mod reply;
#[cfg(feature = "routing")]
pub mod routing;
#[cfg(feature = "settings")]
pub mod settings;
#[cfg(feature = "signing")]
#[cfg_attr(docsrs, doc(cfg(feature = "signing")))]
pub mod signing;
pub mod source;
pub mod store;
mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(any(feature = "_brokers", feature = "kubemq"))]
mod tls;
pub mod trace;
#[cfg(feature = "_sql")]
pub mod tx;
mod util;
#[cfg(feature = "wavemq")]
pub mod wavemq;
#[cfg(feature = "wavemq")]
#[doc(hidden)]
pub mod wavemq_wire;

pub use async_trait::async_trait;

#[cfg(feature = "amqp10")]
pub use self::backends::amqp10;
#[cfg(feature = "amqp091")]
pub use self::backends::amqp091;
#[cfg(feature = "kafka")]
pub use self::backends::kafka;
#[cfg(feature = "kubemq-client")]
pub use self::backends::kubemq as kubemq_client;
#[cfg(feature = "mqtt")]
pub use self::backends::mqtt;
#[cfg(feature = "nats")]
pub use self::backends::nats;
pub use self::backends::{dummy, store_queue};
#[cfg(feature = "settings")]
pub use self::bus::Bus;
pub use self::consumer::Consumer;
pub use self::layer::MessagingLayer;
pub use self::message::{Event, Message, Topic};
pub use self::messenger::{Failure, Health, Messenger, Unsent};
pub use self::queue::{EnqueueError, MessageQueue};
#[cfg(feature = "settings")]
pub use self::settings::{Settings, SettingsError};
pub use self::source::{Delivery, MessageId};
#[cfg(feature = "_sql")]
pub use self::tx::Tx;
pub use self::util::error::BoxError;
