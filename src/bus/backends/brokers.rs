//! The backends with brokers.

#[cfg(feature = "_brokers")]
use std::sync::Arc;

#[cfg(feature = "_brokers")]
use async_trait::async_trait;
#[cfg(feature = "_brokers")]
use serde::de::DeserializeOwned;

#[cfg(feature = "amqp10")]
use crate::backends::amqp10;
#[cfg(feature = "amqp091")]
use crate::backends::amqp091;
#[cfg(feature = "_brokers")]
use crate::backends::brokers::{BrokerSettings, BrokersError};
#[cfg(feature = "kafka")]
use crate::backends::kafka;
#[cfg(feature = "kubemq-client")]
use crate::backends::kubemq;
#[cfg(feature = "mqtt")]
use crate::backends::mqtt;
#[cfg(feature = "nats")]
use crate::backends::nats;
#[cfg(feature = "_brokers")]
use crate::message::Topic;
#[cfg(feature = "_brokers")]
use crate::settings::{BackendTable, SettingsError};
#[cfg(feature = "_brokers")]
use crate::source::Source;
#[cfg(all(feature = "admin", feature = "_brokers"))]
use crate::source::dead_letters::{DeadLetterQueue, DeadLettersError};

#[cfg(all(feature = "admin", feature = "_brokers"))]
use super::driver::OpenDeadLettersError;
#[cfg(feature = "_brokers")]
use super::driver::{Backend, fault};
use super::driver::{Driver, Feature};

#[cfg(not(feature = "amqp091"))]
pub(super) const AMQP091: Result<&dyn Driver, Feature> = Err("amqp091");
#[cfg(feature = "amqp091")]
pub(super) const AMQP091: Result<&dyn Driver, Feature> = Ok(&BrokerDriver {
    complete: amqp091_settings,
    broker: |settings| settings.broker,
    messenger: |settings| {
        let requester = amqp091::Amqp091Requester::new(settings)?;
        amqp091::Amqp091::new(settings)
            .map(|messenger| Backend::with_brokers(messenger).with_requester(requester))
    },
    source: amqp091::Amqp091Source::new,
    confirmations: Some(|_, address| amqp091::Amqp091Subscription::of_confirmations(address)),
    #[cfg(feature = "admin")]
    dead_letters: Ok(|settings, queue, looks| {
        Box::pin(amqp091::Amqp091DeadLetters::open(settings, queue, looks))
    }),
});

#[cfg(not(feature = "amqp091"))]
pub(super) const FEDMSG: Result<&dyn Driver, Feature> = Err("amqp091");
#[cfg(feature = "amqp091")]
pub(super) const FEDMSG: Result<&dyn Driver, Feature> = Ok(&BrokerDriver {
    complete: amqp091_settings,
    broker: |settings| settings.broker,
    messenger: |settings| amqp091::Fedmsg::new(settings).map(Backend::with_brokers),
    source: amqp091::Amqp091Source::fedora,
    confirmations: Some(|_, address| amqp091::Amqp091Subscription::of_confirmations(address)),
    #[cfg(feature = "admin")]
    dead_letters: Ok(|settings, queue, looks| {
        Box::pin(amqp091::Amqp091DeadLetters::open(settings, queue, looks))
    }),
});

#[cfg(feature = "amqp091")]
fn amqp091_settings(
    broker: BrokerSettings,
    settings: amqp091::Amqp091Settings,
) -> Result<amqp091::Amqp091Settings, BrokersError> {
    amqp091::fill_from_fedora_config(&amqp091::Amqp091Settings { broker, ..settings })
}

#[cfg(not(feature = "amqp10"))]
pub(super) const AMQP10: Result<&dyn Driver, Feature> = Err("amqp10");
#[cfg(feature = "amqp10")]
pub(super) const AMQP10: Result<&dyn Driver, Feature> = Ok(&BrokerDriver {
    complete: amqp10_settings,
    broker: |settings| settings.broker,
    messenger: |settings| {
        let requester = amqp10::Amqp10Requester::new(settings)?;
        amqp10::Amqp10::new(settings)
            .map(|messenger| Backend::with_brokers(messenger).with_requester(requester))
    },
    source: amqp10::Amqp10Source::new,
    confirmations: Some(amqp10::Amqp10Subscription::of_confirmations),
    #[cfg(feature = "admin")]
    dead_letters: Ok(|settings, queue, looks| {
        Box::pin(amqp10::Amqp10DeadLetters::open(settings, queue, looks))
    }),
});

#[cfg(not(feature = "amqp10"))]
pub(super) const RHMSG: Result<&dyn Driver, Feature> = Err("amqp10");
#[cfg(feature = "amqp10")]
pub(super) const RHMSG: Result<&dyn Driver, Feature> = Ok(&BrokerDriver {
    complete: amqp10_settings,
    broker: |settings| settings.broker,
    messenger: |settings| amqp10::RhMsg::new(settings).map(Backend::with_brokers),
    source: amqp10::Amqp10Source::rhmsg,
    confirmations: None,
    #[cfg(feature = "admin")]
    dead_letters: Ok(|settings, queue, looks| {
        Box::pin(amqp10::Amqp10DeadLetters::rhmsg(settings, queue, looks))
    }),
});

#[cfg(feature = "amqp10")]
fn amqp10_settings(
    broker: BrokerSettings,
    settings: amqp10::Amqp10Settings,
) -> Result<amqp10::Amqp10Settings, BrokersError> {
    Ok(amqp10::Amqp10Settings { broker, ..settings })
}

#[cfg(not(feature = "kafka"))]
pub(super) const KAFKA: Result<&dyn Driver, Feature> = Err("kafka");
#[cfg(feature = "kafka")]
pub(super) const KAFKA: Result<&dyn Driver, Feature> = Ok(&BrokerDriver {
    complete: |broker, settings| Ok(kafka::KafkaSettings { broker, ..settings }),
    broker: |settings| settings.broker,
    messenger: |settings| kafka::Kafka::new(settings).map(Backend::with_brokers),
    source: kafka::KafkaSource::new,
    confirmations: Some(kafka::KafkaSubscription::of_confirmations),
    #[cfg(feature = "admin")]
    dead_letters: Err(
        "its dead letters are in topics, which no command removes messages from: read the topic of DEAD_LETTER_TOPIC with a consumer of the app, or with kafka-console-consumer.sh",
    ),
});

#[cfg(not(feature = "kubemq-client"))]
pub(super) const KUBEMQ: Result<&dyn Driver, Feature> = Err("kubemq-client");
#[cfg(feature = "kubemq-client")]
pub(super) const KUBEMQ: Result<&dyn Driver, Feature> = Ok(&BrokerDriver {
    complete: |broker, settings| Ok(kubemq::KubemqSettings { broker, ..settings }),
    broker: |settings| settings.broker,
    messenger: |settings| {
        let requester = kubemq::KubemqRequester::new(settings)?;
        kubemq::Kubemq::new(settings)
            .map(|messenger| Backend::with_brokers(messenger).with_requester(requester))
    },
    source: kubemq::KubemqSource::new,
    confirmations: Some(kubemq::KubemqSubscription::of_address),
    #[cfg(feature = "admin")]
    dead_letters: Ok(|settings, queue, looks| {
        Box::pin(kubemq::KubemqDeadLetters::open(settings, queue, looks))
    }),
});

#[cfg(not(feature = "mqtt"))]
pub(super) const MQTT: Result<&dyn Driver, Feature> = Err("mqtt");
#[cfg(feature = "mqtt")]
pub(super) const MQTT: Result<&dyn Driver, Feature> = Ok(&BrokerDriver {
    complete: |broker, settings| Ok(mqtt::MqttSettings { broker, ..settings }),
    broker: |settings| settings.broker,
    messenger: |settings| {
        let backend = Backend::with_brokers(mqtt::Mqtt::new(settings)?);
        Ok(match settings.version {
            mqtt::MqttVersion::V5 => backend.with_requester(mqtt::MqttRequester::new(settings)?),
            // It has no requests.
            _ => backend,
        })
    },
    source: mqtt::MqttSource::new,
    confirmations: Some(mqtt::MqttSubscription::of_confirmations),
    #[cfg(feature = "admin")]
    dead_letters: Err(
        "its broker keeps no dead letters that could be read later: give a consumer of the app, or a client with a kept session, the topic of DEAD_LETTER_TOPIC",
    ),
});

#[cfg(not(feature = "nats"))]
pub(super) const NATS: Result<&dyn Driver, Feature> = Err("nats");
#[cfg(feature = "nats")]
pub(super) const NATS: Result<&dyn Driver, Feature> = Ok(&BrokerDriver {
    complete: |broker, mut settings: nats::NatsSettings| {
        settings.broker = broker;
        Ok(settings)
    },
    broker: |settings| settings.broker,
    messenger: |settings| {
        let requester = nats::NatsRequester::new(settings)?;
        nats::Nats::new(settings).map(|messenger| Backend::with_brokers(messenger).with_requester(requester))
    },
    source: nats::NatsSource::new,
    confirmations: Some(nats::NatsSubscription::of_confirmations),
    #[cfg(feature = "admin")]
    dead_letters: Ok(|settings, queue, looks| Box::pin(nats::NatsDeadLetters::open(settings, queue, looks))),
});

/// A backend with brokers, whose table holds the keys of [`BrokerSettings`] and its own, `T`; `U` are the keys of a
/// consumer.
#[cfg(feature = "_brokers")]
struct BrokerDriver<T, U, S> {
    /// Joins and completes the settings.
    complete: fn(BrokerSettings, T) -> Result<T, BrokersError>,
    broker: fn(T) -> BrokerSettings,
    messenger: fn(&T) -> Result<Backend, BrokersError>,
    source: fn(&T, &U) -> Result<S, BrokersError>,
    /// The keys of the source of confirmations that come to an address; none if its messages cannot be confirmed.
    confirmations: Option<fn(&T, &Topic) -> U>,
    /// Opens a queue of dead letters, or why it cannot.
    #[cfg(feature = "admin")]
    dead_letters: Result<OpenDeadLetters<T>, &'static str>,
}

#[cfg(all(feature = "admin", feature = "_brokers"))]
type OpenDeadLetters<T> = fn(T, String, bool) -> DeadLettersFuture;

#[cfg(all(feature = "admin", feature = "_brokers"))]
type DeadLettersFuture =
    std::pin::Pin<Box<dyn Future<Output = Result<Box<dyn DeadLetterQueue>, DeadLettersError>> + Send>>;

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

    #[cfg(feature = "admin")]
    async fn dead_letters(
        &self,
        name: &str,
        keys: &BackendTable,
        queue: String,
        looks: bool,
    ) -> Result<Box<dyn DeadLetterQueue>, OpenDeadLettersError> {
        let open = self.dead_letters.map_err(|why| fault(name, why))?;
        let opening = open(self.settings(name, keys)?, queue, looks);
        Ok(opening.await?)
    }

    fn broker_settings(&self, name: &str, keys: &BackendTable) -> Option<BrokerSettings> {
        self.settings(name, keys).ok().map(self.broker)
    }
}
