//! The table of backends: from the name in `BACKEND` to a messenger and its sources.

use std::sync::Arc;

#[cfg(feature = "_brokers")]
use crate::backends::brokers::BrokerSettings;
use crate::message::Topic;
use crate::settings::{BackendTable, SettingsError};
use crate::source::Source;
#[cfg(feature = "admin")]
use crate::source::dead_letters::DeadLetterQueue;

use super::brokers::{AMQP10, AMQP091, FEDMSG, KAFKA, KUBEMQ, MQTT, NATS, RHMSG};
#[cfg(feature = "admin")]
use super::driver::OpenDeadLettersError;
use super::driver::{Backend, Driver, Feature, fault, own_source};
use super::local::{CHANNELS, DUMMY, EMBEDDED, MEMORY};
use super::routing::ROUTING;

/// One row of the table.
struct BackendEntry {
    /// The name in `BACKEND`.
    name: &'static str,
    /// The backend, or the feature that compiles it in.
    driver: Result<&'static dyn Driver, Feature>,
}

/// Every backend, compiled in or not.
const ALL: &[BackendEntry] = &[
    BackendEntry { name: "dummy", driver: DUMMY },
    BackendEntry { name: "amqp091", driver: AMQP091 },
    BackendEntry { name: "amqp10", driver: AMQP10 },
    BackendEntry { name: "channels", driver: CHANNELS },
    BackendEntry { name: "embedded", driver: EMBEDDED },
    BackendEntry { name: "fedmsg", driver: FEDMSG },
    BackendEntry { name: "kafka", driver: KAFKA },
    BackendEntry { name: "kubemq", driver: KUBEMQ },
    BackendEntry { name: "memory", driver: MEMORY },
    BackendEntry { name: "mqtt", driver: MQTT },
    BackendEntry { name: "nats", driver: NATS },
    BackendEntry { name: "rhmsg", driver: RHMSG },
    BackendEntry { name: "routing", driver: ROUTING },
];

/// The names that people write for a broker or a protocol, and the backend they mean.
const HINTS: &[(&[&str], &str)] = &[
    (&["rabbitmq", "rabbit", "rmq"], "RabbitMQ is amqp091 (or amqp10)"),
    (&["activemq", "amq"], "ActiveMQ is amqp10 (or rhmsg, for the messages of python-rhmsg)"),
    (&["artemis", "activemq-artemis", "qpid", "servicebus"], "AMQP 1.0 brokers are amqp10"),
    (&["amqp", "amqps"], "AMQP is amqp091 for RabbitMQ, and amqp10 for ActiveMQ, Artemis and Qpid"),
    (&["amqp1", "amqp1.0", "amqp-1.0", "amqp1_0"], "AMQP 1.0 is amqp10"),
    (&["amqp0.9.1", "amqp-0-9-1", "amqp0_9_1", "amqp09"], "AMQP 0-9-1 is amqp091"),
    (&["fedora", "fedora-messaging", "fedora_messaging"], "Fedora Messaging is fedmsg"),
    (&["umb", "python-rhmsg"], "the messages of python-rhmsg are rhmsg"),
    (&["mosquitto", "mqtts", "mqtt5", "emqx", "hivemq"], "MQTT brokers are mqtt"),
    (&["wavemq", "router"], "a router for sites is routing"),
    (&["jetstream", "nats-server", "nats.io"], "NATS, with JetStream or without, is nats"),
    (&["redpanda", "apache-kafka", "confluent", "kafkas"], "Kafka, and brokers with its protocol, are kafka"),
    (&["disk", "file"], "a queue on the local disk is embedded"),
    (&["none", "noop", "log"], "sending nowhere is dummy"),
];

/// The backend of this name; `own` are the names that the app registered.
pub(in crate::bus) async fn backend(
    name: &str,
    keys: &BackendTable,
    own: Vec<String>,
) -> Result<Backend, SettingsError> {
    match ALL.iter().find(|entry| entry.name == name) {
        Some(BackendEntry { driver: Ok(driver), .. }) => driver.backend(name, keys).await,
        Some(BackendEntry { driver: Err(feature), .. }) => {
            Err(SettingsError::NotCompiled { name: name.to_owned(), feature })
        }
        None => Err(unknown(name, own)),
    }
}

/// The source of a consumer's table.
pub(in crate::bus) fn source(
    name: &str,
    keys: &BackendTable,
    source_keys: &BackendTable,
) -> Result<Arc<dyn Source>, SettingsError> {
    match ALL.iter().find(|entry| entry.name == name) {
        Some(BackendEntry { driver: Ok(driver), .. }) => driver.source(name, keys, source_keys),
        _ => Err(own_source(name)),
    }
}

/// Checks a consumer's table without connecting; the app checks those of its own backends.
pub(in crate::bus) fn check_source(
    name: &str,
    keys: &BackendTable,
    source_keys: &BackendTable,
) -> Result<(), SettingsError> {
    match ALL.iter().find(|entry| entry.name == name) {
        Some(BackendEntry { driver: Ok(driver), .. }) => driver.check_source(name, keys, source_keys),
        _ => Ok(()),
    }
}

/// The error of a dummy with keys of another backend.
pub(in crate::bus) fn not_named(key: String) -> SettingsError {
    let known: Vec<_> = ALL.iter().map(|entry| entry.name).filter(|name| *name != "dummy").collect();
    SettingsError::NoBackend { key, known: known.join(", ") }
}

/// The source of the confirmations that come to an address.
pub(in crate::bus) fn confirmations(
    name: &str,
    keys: &BackendTable,
    address: &Topic,
) -> Result<Arc<dyn Source>, SettingsError> {
    match ALL.iter().find(|entry| entry.name == name) {
        Some(BackendEntry { driver: Ok(driver), .. }) => driver.confirmations(name, keys, address),
        _ => Err(fault(
            name,
            "it is a backend of the app's own: put acknowledging::Acknowledging around it by with_decorator",
        )),
    }
}

/// The settings of the brokers, of a backend that has brokers and can read its keys.
#[cfg(feature = "_brokers")]
pub(crate) fn broker_settings(name: &str, keys: &BackendTable) -> Option<BrokerSettings> {
    let entry = ALL.iter().find(|entry| entry.name == name)?;
    entry.driver.ok()?.broker_settings(name, keys)
}

/// Opens a queue of dead letters of the backend.
#[cfg(feature = "admin")]
pub(crate) async fn dead_letters(
    name: &str,
    keys: &BackendTable,
    queue: String,
    looks: bool,
) -> Result<Box<dyn DeadLetterQueue>, OpenDeadLettersError> {
    match ALL.iter().find(|entry| entry.name == name) {
        Some(BackendEntry { driver: Ok(driver), .. }) => driver.dead_letters(name, keys, queue, looks).await,
        Some(BackendEntry { driver: Err(feature), .. }) => {
            Err(SettingsError::NotCompiled { name: name.to_owned(), feature }.into())
        }
        None => {
            Err(fault(name, "it is a backend of the app's own; only the app knows its dead letters").into())
        }
    }
}

fn unknown(name: &str, own: Vec<String>) -> SettingsError {
    let known = ALL.iter().map(|entry| entry.name.to_owned()).chain(own);
    let lowered = name.to_lowercase();
    let hint = HINTS.iter().find(|(names, _)| names.contains(&lowered.as_str()));
    SettingsError::UnknownBackend {
        name: name.to_owned(),
        hint: hint.map(|(_, hint)| *hint),
        known: known.collect::<Vec<_>>().join(", "),
    }
}
