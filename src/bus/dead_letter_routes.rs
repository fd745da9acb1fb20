//! The queues of consumers and of their dead letters, from the settings.

#[cfg(feature = "amqp10")]
use crate::backends::amqp10::Amqp10Subscription;
#[cfg(feature = "amqp091")]
use crate::backends::amqp091::{Amqp091Settings, Amqp091Subscription, fill_from_fedora_config};
#[cfg(any(feature = "amqp091", feature = "kubemq-client"))]
use crate::backends::brokers::BrokerSettings;
#[cfg(feature = "kubemq-client")]
use crate::backends::kubemq::{KubemqSettings, KubemqSubscription, Pattern};
#[cfg(feature = "nats")]
use crate::backends::nats::NatsSubscription;
#[cfg(feature = "channels")]
use crate::channels::{ChannelConsumerSettings, ReceivePattern};
use crate::settings::Settings;
#[cfg(feature = "amqp091")]
use crate::settings::SettingsError;

/// The settings of RabbitMQ and of its consumers, by their names.
#[cfg(feature = "amqp091")]
type Consumers = (Amqp091Settings, Vec<(String, Amqp091Subscription)>);

/// Reads the settings of RabbitMQ and of its consumers; `None` for another backend.
#[cfg(feature = "amqp091")]
pub(crate) fn amqp091_consumers(settings: &Settings) -> Result<Option<Consumers>, SettingsError> {
    if !["amqp091", "fedmsg"].contains(&settings.backend.as_str()) {
        return Ok(None);
    }
    let (broker, keys): (BrokerSettings, Amqp091Settings) = settings.backend_keys.parse_both()?;
    let keys = fill_from_fedora_config(&Amqp091Settings { broker, ..keys })
        .map_err(|error| SettingsError::backend(&settings.backend, error))?;
    let tables = settings.consumers.iter();
    let consumers = tables.map(|(name, table)| Ok((name.clone(), table.source_keys.parse()?)));
    Ok(Some((keys, consumers.collect::<Result<_, SettingsError>>()?)))
}

/// The queue of a consumer, and that of its dead letters.
#[derive(Clone, Debug)]
pub(crate) struct DeadLetterRoute {
    pub(crate) queue: String,
    pub(crate) dead: String,
}

#[cfg(any(feature = "channels", feature = "kubemq-client"))]
impl DeadLetterRoute {
    fn of(queue: String, dead: Option<String>) -> Self {
        let dead = dead.unwrap_or_else(|| format!("{queue}.dead"));
        Self { queue, dead }
    }
}

/// Reads the queues of the consumers whose dead letters can be listed; as far as the settings can be read.
pub(crate) fn dead_letter_routes(settings: &Settings) -> Vec<DeadLetterRoute> {
    #[cfg(feature = "amqp091")]
    if let Ok(Some((_, consumers))) = amqp091_consumers(settings) {
        let queues = consumers.iter().filter(|(_, consumer)| consumer.dead_letter_exchange.is_none());
        let route = |consumer: &Amqp091Subscription| DeadLetterRoute {
            queue: consumer.queue.clone(),
            dead: consumer.dead_letter_queue(),
        };
        return queues.map(|(_, consumer)| route(consumer)).collect();
    }
    #[cfg(feature = "amqp10")]
    if ["amqp10", "rhmsg"].contains(&settings.backend.as_str()) {
        let tables = settings.consumers.values();
        let subscriptions = tables.filter_map(|table| table.source_keys.parse::<Amqp10Subscription>().ok());
        let route = |it: Amqp10Subscription| {
            Some(DeadLetterRoute { dead: it.dead_letter_address?, queue: it.address })
        };
        return subscriptions.filter_map(route).collect();
    }
    #[cfg(feature = "channels")]
    if settings.backend == "channels" {
        let tables = settings.consumers.values();
        let consumers = tables.filter_map(|table| table.source_keys.parse::<ChannelConsumerSettings>().ok());
        let consumers = consumers.filter(|it| it.pattern == ReceivePattern::Queue);
        return consumers.map(|it| DeadLetterRoute::of(it.channel, it.dead_letter_queue)).collect();
    }
    #[cfg(feature = "kubemq-client")]
    if settings.backend == "kubemq" {
        let tables = settings.consumers.values();
        let consumers = tables.filter_map(|table| table.source_keys.parse::<KubemqSubscription>().ok());
        let keys = settings.backend_keys.parse_both::<BrokerSettings, KubemqSettings>();
        let default = keys.map(|(_, keys)| keys.pattern).unwrap_or_default();
        let consumers = consumers.filter(|it| it.pattern.unwrap_or(default) == Pattern::Queues);
        return consumers.map(|it| DeadLetterRoute::of(it.channel, it.dead_letter_queue)).collect();
    }
    #[cfg(feature = "nats")]
    if settings.backend == "nats" {
        let tables = settings.consumers.values();
        let consumers = tables.filter_map(|table| table.source_keys.parse::<NatsSubscription>().ok());
        let consumers = consumers.filter(|it| !it.durable.is_empty() && it.dead_letter_subject.is_none());
        let route = |it: NatsSubscription| DeadLetterRoute {
            queue: format!("{}/{}", it.stream, it.durable),
            dead: format!("{}-{}-dead", it.stream, it.durable),
        };
        return consumers.map(route).collect();
    }
    let _ = settings;
    Vec::new()
}
