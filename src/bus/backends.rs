//! The table of backends: from the name in `BACKEND` to a messenger and its sources.

use std::sync::Arc;

use async_trait::async_trait;
#[cfg(feature = "_brokers")]
use serde::de::DeserializeOwned;

#[cfg(feature = "amqp10")]
use crate::backends::amqp10;
#[cfg(feature = "amqp091")]
use crate::backends::amqp091;
#[cfg(feature = "_brokers")]
use crate::backends::brokers::{BrokerSettings, BrokersError};
use crate::backends::dummy::Dummy;
#[cfg(feature = "kubemq-client")]
use crate::backends::kubemq;
use crate::backends::memory::Memory;
#[cfg(feature = "mqtt")]
use crate::backends::mqtt;
use crate::message::Topic;
use crate::messenger::Messenger;
#[cfg(feature = "cli")]
use crate::messenger::probe::Probe;
use crate::reply::Requester;
use crate::settings::{BackendTable, SettingsError};
use crate::source::Source;
use crate::util::error::BoxError;

/// One row of the table.
struct BackendEntry {
    /// The name in `BACKEND`.
    name: &'static str,
    /// The backend, or the feature that compiles it in.
    driver: Result<&'static dyn Driver, Feature>,
}

/// The name of a feature.
type Feature = &'static str;

/// Every backend, compiled in or not.
const ALL: &[BackendEntry] = &[
    BackendEntry { name: "dummy", driver: Ok(&DummyDriver) },
    BackendEntry { name: "amqp091", driver: AMQP091 },
    BackendEntry { name: "amqp10", driver: AMQP10 },
    BackendEntry { name: "channels", driver: CHANNELS },
    BackendEntry { name: "embedded", driver: EMBEDDED },
    BackendEntry { name: "fedmsg", driver: FEDMSG },
    BackendEntry { name: "kubemq", driver: KUBEMQ },
    BackendEntry { name: "memory", driver: Ok(&MemoryDriver) },
    BackendEntry { name: "mqtt", driver: MQTT },
    BackendEntry { name: "rhmsg", driver: RHMSG },
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
    (&["disk", "file"], "a queue on the local disk is embedded"),
    (&["none", "noop", "log"], "sending nowhere is dummy"),
];

/// The way from settings to a backend that is compiled in.
#[async_trait]
trait Driver: Sync {
    async fn backend(&self, name: &str, keys: &BackendTable) -> Result<Backend, SettingsError>;

    /// The source of a consumer's table, for a backend that is not its own source.
    fn source(
        &self,
        name: &str,
        keys: &BackendTable,
        source_keys: &BackendTable,
    ) -> Result<Arc<dyn Source>, SettingsError> {
        let _ = (keys, source_keys);
        Err(own_source(name))
    }

    /// Checks a consumer's table without connecting.
    fn check_source(
        &self,
        name: &str,
        keys: &BackendTable,
        source_keys: &BackendTable,
    ) -> Result<(), SettingsError> {
        self.source(name, keys, source_keys).map(drop)
    }

    /// The source of the confirmations that come to an address.
    fn confirmations(
        &self,
        name: &str,
        keys: &BackendTable,
        address: &Topic,
    ) -> Result<Arc<dyn Source>, SettingsError> {
        let _ = (keys, address);
        Err(fault(name, "its consumers cannot confirm messages: leave ACKNOWLEDGED out"))
    }

    /// The settings of the brokers, of a backend that has them and can read its keys.
    #[cfg(all(feature = "cli", feature = "_brokers"))]
    fn broker_settings(&self, name: &str, keys: &BackendTable) -> Option<BrokerSettings> {
        let _ = (name, keys);
        None
    }
}

/// Makes the source of a consumer from its keys, on what the messenger has open.
pub(super) type LocalSources =
    Arc<dyn Fn(&BackendTable) -> Result<Arc<dyn Source>, SettingsError> + Send + Sync>;

/// Makes the requester of a client, from the client's name and its keys.
pub(super) type Requesters =
    Arc<dyn Fn(&str, &BackendTable) -> Result<Arc<dyn Requester>, SettingsError> + Send + Sync>;

/// A messenger, with the sources that belong to it when both are one thing.
pub(super) struct Backend {
    pub(super) messenger: Arc<dyn Messenger>,
    pub(super) sources: Option<LocalSources>,
    /// The sender of requests, if the backend can send them.
    pub(super) requesters: Option<Requesters>,
    /// Asks its brokers one by one; none if it has no brokers.
    #[cfg(feature = "cli")]
    pub(super) probe: Option<Arc<dyn Probe>>,
}

impl Backend {
    /// The backend of this name; `own` are the names that the app registered.
    pub(super) async fn of(name: &str, keys: &BackendTable, own: Vec<String>) -> Result<Self, SettingsError> {
        match ALL.iter().find(|entry| entry.name == name) {
            Some(BackendEntry { driver: Ok(driver), .. }) => driver.backend(name, keys).await,
            Some(BackendEntry { driver: Err(feature), .. }) => {
                Err(SettingsError::NotCompiled { name: name.to_owned(), feature })
            }
            None => Err(unknown(name, own)),
        }
    }

    /// A messenger of the app's own.
    pub(super) fn custom(messenger: Arc<dyn Messenger>) -> Self {
        Self {
            messenger,
            sources: None,
            requesters: None,
            #[cfg(feature = "cli")]
            probe: None,
        }
    }

    fn both(queue: impl Messenger + Source + Clone) -> Self {
        let source: Arc<dyn Source> = Arc::new(queue.clone());
        let sources: LocalSources =
            Arc::new(move |keys| keys.parse::<NoKeys>().map(|NoKeys {}| Arc::clone(&source)));
        Self { sources: Some(sources), ..Self::custom(Arc::new(queue)) }
    }

    /// Adds a requester that is the same for all clients and has no keys.
    fn with_requester(self, requester: impl Requester) -> Self {
        let requester: Arc<dyn Requester> = Arc::new(requester);
        let requesters: Requesters =
            Arc::new(move |_, keys| keys.parse::<NoKeys>().map(|NoKeys {}| Arc::clone(&requester)));
        Self { requesters: Some(requesters), ..self }
    }

    #[cfg(feature = "_brokers")]
    fn with_brokers(
        #[cfg(feature = "cli")] messenger: impl Messenger + Probe,
        #[cfg(not(feature = "cli"))] messenger: impl Messenger,
    ) -> Self {
        let messenger = Arc::new(messenger);
        Self {
            #[cfg(feature = "cli")]
            probe: Some(Arc::clone(&messenger) as _),
            ..Self::custom(messenger)
        }
    }
}

/// The source of a consumer's table.
pub(super) fn source(
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
pub(super) fn check_source(
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
pub(super) fn not_named(key: String) -> SettingsError {
    let known: Vec<_> = ALL.iter().map(|entry| entry.name).filter(|name| *name != "dummy").collect();
    SettingsError::NoBackend { key, known: known.join(", ") }
}

/// The source of the confirmations that come to an address.
pub(super) fn confirmations(
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
#[cfg(all(feature = "cli", feature = "_brokers"))]
pub(crate) fn broker_settings(name: &str, keys: &BackendTable) -> Option<BrokerSettings> {
    let entry = ALL.iter().find(|entry| entry.name == name)?;
    entry.driver.ok()?.broker_settings(name, keys)
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

fn own_source(name: &str) -> SettingsError {
    fault(name, "it is a backend of the app's own, which makes its own source: use Consumer::new")
}

pub(super) fn no_requests(name: &str) -> SettingsError {
    fault(
        name,
        "it sends no requests, or makes its own requester for Client::new; memory, channels and kubemq do",
    )
}

pub(super) fn fault(name: &str, source: impl Into<BoxError>) -> SettingsError {
    SettingsError::backend(name, source)
}

/// The keys of a table that has none.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NoKeys {}

struct DummyDriver;

#[async_trait]
impl Driver for DummyDriver {
    async fn backend(&self, _: &str, keys: &BackendTable) -> Result<Backend, SettingsError> {
        keys.parse::<NoKeys>()
            .map(|NoKeys {}| Backend::custom(Arc::new(Dummy::new())).with_requester(Dummy::new()))
    }

    /// A source from which nothing comes.
    fn source(&self, _: &str, _: &BackendTable, _: &BackendTable) -> Result<Arc<dyn Source>, SettingsError> {
        Ok(Arc::new(Memory::new()))
    }
}

struct MemoryDriver;

#[async_trait]
impl Driver for MemoryDriver {
    async fn backend(&self, _: &str, keys: &BackendTable) -> Result<Backend, SettingsError> {
        keys.parse::<NoKeys>().map(|NoKeys {}| {
            let memory = Memory::new();
            Backend::both(memory.clone()).with_requester(memory)
        })
    }

    fn check_source(&self, _: &str, _: &BackendTable, keys: &BackendTable) -> Result<(), SettingsError> {
        keys.parse::<NoKeys>().map(|NoKeys {}| ())
    }
}

#[cfg(not(feature = "embedded"))]
const EMBEDDED: Result<&dyn Driver, Feature> = Err("embedded");
#[cfg(feature = "embedded")]
const EMBEDDED: Result<&dyn Driver, Feature> = Ok(&EmbeddedDriver);

#[cfg(feature = "embedded")]
struct EmbeddedDriver;

#[cfg(feature = "embedded")]
#[async_trait]
impl Driver for EmbeddedDriver {
    async fn backend(&self, name: &str, keys: &BackendTable) -> Result<Backend, SettingsError> {
        let settings: crate::settings::QueueSettings = keys.parse()?;
        let store = crate::store::EmbeddedStore::open(&settings.store()).await;
        let store = store.map_err(|error| fault(name, error))?;
        Ok(Backend::both(crate::backends::store_queue::StoreQueue::new(Arc::new(store))))
    }

    fn check_source(&self, _: &str, _: &BackendTable, keys: &BackendTable) -> Result<(), SettingsError> {
        keys.parse::<NoKeys>().map(|NoKeys {}| ())
    }
}

#[cfg(not(feature = "channels"))]
const CHANNELS: Result<&dyn Driver, Feature> = Err("channels");
#[cfg(feature = "channels")]
const CHANNELS: Result<&dyn Driver, Feature> = Ok(&ChannelsDriver);

#[cfg(feature = "channels")]
struct ChannelsDriver;

#[cfg(feature = "channels")]
#[async_trait]
impl Driver for ChannelsDriver {
    async fn backend(&self, name: &str, keys: &BackendTable) -> Result<Backend, SettingsError> {
        let settings: crate::channels::ChannelsSettings = keys.parse()?;
        let channels = crate::channels::Channels::open_with(settings.engine()).await;
        let channels = channels.map_err(|error| fault(name, error))?;
        let messenger = settings.messenger(&channels).map_err(|error| fault(name, error))?;
        let backend: Arc<str> = name.into();
        let (name, requesting) = (Arc::clone(&backend), channels.clone());
        let sources: LocalSources = Arc::new(move |keys| {
            let settings: crate::channels::ChannelConsumerSettings = keys.parse()?;
            settings.source(&channels).map_err(|error| fault(&name, error))
        });
        let requesters: Requesters = Arc::new(move |name, keys| {
            let settings: crate::channels::ChannelClientSettings = keys.parse()?;
            let requester = settings.requester(name, &requesting);
            requester.map(|requester| Arc::new(requester) as _).map_err(|error| fault(&backend, error))
        });
        let (sources, requesters) = (Some(sources), Some(requesters));
        Ok(Backend { sources, requesters, ..Backend::custom(Arc::new(messenger)) })
    }

    fn check_source(&self, name: &str, _: &BackendTable, keys: &BackendTable) -> Result<(), SettingsError> {
        keys.parse::<crate::channels::ChannelConsumerSettings>()?.check().map_err(|error| fault(name, error))
    }
}

#[cfg(not(feature = "amqp091"))]
const AMQP091: Result<&dyn Driver, Feature> = Err("amqp091");
#[cfg(feature = "amqp091")]
const AMQP091: Result<&dyn Driver, Feature> = Ok(&BrokerDriver {
    complete: amqp091_settings,
    broker: |settings| settings.broker,
    messenger: |settings| amqp091::Amqp091::new(settings).map(Backend::with_brokers),
    source: amqp091::Amqp091Source::new,
    confirmations: Some(|_, address| amqp091::Amqp091Subscription::of_confirmations(address)),
});

#[cfg(not(feature = "amqp091"))]
const FEDMSG: Result<&dyn Driver, Feature> = Err("amqp091");
#[cfg(feature = "amqp091")]
const FEDMSG: Result<&dyn Driver, Feature> = Ok(&BrokerDriver {
    complete: amqp091_settings,
    broker: |settings| settings.broker,
    messenger: |settings| amqp091::Fedmsg::new(settings).map(Backend::with_brokers),
    source: amqp091::Amqp091Source::fedora,
    confirmations: Some(|_, address| amqp091::Amqp091Subscription::of_confirmations(address)),
});

#[cfg(feature = "amqp091")]
fn amqp091_settings(
    broker: BrokerSettings,
    settings: amqp091::Amqp091Settings,
) -> Result<amqp091::Amqp091Settings, BrokersError> {
    amqp091::fill_from_fedora_config(&amqp091::Amqp091Settings { broker, ..settings })
}

#[cfg(not(feature = "amqp10"))]
const AMQP10: Result<&dyn Driver, Feature> = Err("amqp10");
#[cfg(feature = "amqp10")]
const AMQP10: Result<&dyn Driver, Feature> = Ok(&BrokerDriver {
    complete: amqp10_settings,
    broker: |settings| settings.broker,
    messenger: |settings| amqp10::Amqp10::new(settings).map(Backend::with_brokers),
    source: amqp10::Amqp10Source::new,
    confirmations: Some(amqp10::Amqp10Subscription::of_confirmations),
});

#[cfg(not(feature = "amqp10"))]
const RHMSG: Result<&dyn Driver, Feature> = Err("amqp10");
#[cfg(feature = "amqp10")]
const RHMSG: Result<&dyn Driver, Feature> = Ok(&BrokerDriver {
    complete: amqp10_settings,
    broker: |settings| settings.broker,
    messenger: |settings| amqp10::RhMsg::new(settings).map(Backend::with_brokers),
    source: amqp10::Amqp10Source::rhmsg,
    confirmations: None,
});

#[cfg(feature = "amqp10")]
fn amqp10_settings(
    broker: BrokerSettings,
    settings: amqp10::Amqp10Settings,
) -> Result<amqp10::Amqp10Settings, BrokersError> {
    Ok(amqp10::Amqp10Settings { broker, ..settings })
}

#[cfg(not(feature = "kubemq-client"))]
const KUBEMQ: Result<&dyn Driver, Feature> = Err("kubemq-client");
#[cfg(feature = "kubemq-client")]
const KUBEMQ: Result<&dyn Driver, Feature> = Ok(&BrokerDriver {
    complete: |broker, settings| Ok(kubemq::KubemqSettings { broker, ..settings }),
    broker: |settings| settings.broker,
    messenger: |settings| {
        let requester = kubemq::KubemqRequester::new(settings)?;
        kubemq::Kubemq::new(settings)
            .map(|messenger| Backend::with_brokers(messenger).with_requester(requester))
    },
    source: kubemq::KubemqSource::new,
    confirmations: Some(kubemq::KubemqSubscription::of_address),
});

#[cfg(not(feature = "mqtt"))]
const MQTT: Result<&dyn Driver, Feature> = Err("mqtt");
#[cfg(feature = "mqtt")]
const MQTT: Result<&dyn Driver, Feature> = Ok(&BrokerDriver {
    complete: |broker, settings| Ok(mqtt::MqttSettings { broker, ..settings }),
    broker: |settings| settings.broker,
    messenger: |settings| mqtt::Mqtt::new(settings).map(Backend::with_brokers),
    source: mqtt::MqttSource::new,
    confirmations: Some(mqtt::MqttSubscription::of_confirmations),
});

/// A backend with brokers, whose table holds the keys of [`BrokerSettings`] and its own, `T`; `U` are the keys of a
/// consumer.
#[cfg(feature = "_brokers")]
struct BrokerDriver<T, U, S> {
    /// Joins and completes the settings.
    complete: fn(BrokerSettings, T) -> Result<T, BrokersError>,
    #[cfg_attr(not(feature = "cli"), expect(dead_code, reason = "only the command line asks"))]
    broker: fn(T) -> BrokerSettings,
    messenger: fn(&T) -> Result<Backend, BrokersError>,
    source: fn(&T, &U) -> Result<S, BrokersError>,
    /// The keys of the source of confirmations that come to an address; none if its messages cannot be confirmed.
    confirmations: Option<fn(&T, &Topic) -> U>,
}

#[cfg(feature = "_brokers")]
impl<T: DeserializeOwned, U, S> BrokerDriver<T, U, S> {
    fn settings(&self, name: &str, keys: &BackendTable) -> Result<T, SettingsError> {
        let (broker, settings) = keys.parse_both()?;
        (self.complete)(broker, settings).map_err(|error| fault(name, error))
    }
}

#[cfg(feature = "_brokers")]
#[async_trait]
impl<T: DeserializeOwned, U: DeserializeOwned, S: Source> Driver for BrokerDriver<T, U, S> {
    async fn backend(&self, name: &str, keys: &BackendTable) -> Result<Backend, SettingsError> {
        (self.messenger)(&self.settings(name, keys)?).map_err(|error| fault(name, error))
    }

    fn source(
        &self,
        name: &str,
        keys: &BackendTable,
        source_keys: &BackendTable,
    ) -> Result<Arc<dyn Source>, SettingsError> {
        let source = (self.source)(&self.settings(name, keys)?, &source_keys.parse()?);
        source.map(|source| Arc::new(source) as _).map_err(|error| fault(name, error))
    }

    fn confirmations(
        &self,
        name: &str,
        keys: &BackendTable,
        address: &Topic,
    ) -> Result<Arc<dyn Source>, SettingsError> {
        let Some(confirmations) = self.confirmations else {
            return Err(fault(
                name,
                "its messages carry no id that a consumer could confirm: leave ACKNOWLEDGED out",
            ));
        };
        let settings = self.settings(name, keys)?;
        let source = (self.source)(&settings, &confirmations(&settings, address));
        source.map(|source| Arc::new(source) as _).map_err(|error| fault(name, error))
    }

    #[cfg(feature = "cli")]
    fn broker_settings(&self, name: &str, keys: &BackendTable) -> Option<BrokerSettings> {
        self.settings(name, keys).ok().map(self.broker)
    }
}
