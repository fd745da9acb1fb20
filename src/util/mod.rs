//! Helpers that do not depend on messages.

pub(crate) mod backoff;
pub(crate) mod body;
pub(crate) mod caught;
pub(crate) mod crash;
pub(crate) mod deadline;
pub(crate) mod error;
#[cfg(feature = "settings")]
#[cfg_attr(not(feature = "embedded"), allow(dead_code, reason = "only a durable outbox is in a folder"))]
pub(crate) mod file_system;
#[cfg(any(
    feature = "amqp091",
    feature = "kafka",
    feature = "kubemq-client",
    feature = "mqtt",
    feature = "nats"
))]
pub(crate) mod finished;
#[cfg_attr(not(feature = "settings"), allow(dead_code, reason = "only stores and settings need it"))]
pub(crate) mod host_name;
#[cfg(feature = "nats")]
pub(crate) mod in_order;
#[cfg(any(feature = "serve", feature = "kubemq", feature = "wavemq"))]
pub(crate) mod no_delay;
#[cfg(all(feature = "testing", feature = "embedded"))]
pub(crate) mod paused;
#[cfg(feature = "admin")]
pub(crate) mod percent;
pub(crate) mod rate;
#[cfg_attr(
    not(all(feature = "cli", feature = "dashboard")),
    allow(dead_code, reason = "each face uses a part of it")
)]
pub(crate) mod readable;
pub(crate) mod repeated;
pub(crate) mod rfc3339;
#[cfg(any(feature = "settings", feature = "_brokers"))]
pub(crate) mod secret;
#[cfg(any(feature = "serve", feature = "cli"))]
pub(crate) mod signals;
#[cfg_attr(not(feature = "settings"), allow(dead_code, reason = "only a bus stops tasks"))]
pub(crate) mod stop;
pub(crate) mod sync;
#[cfg(any(feature = "settings", feature = "_brokers", feature = "kubemq", feature = "signing"))]
pub(crate) mod text_file;
#[cfg(any(feature = "settings", feature = "_brokers"))]
pub(crate) mod units;
