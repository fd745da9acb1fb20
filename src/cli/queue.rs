//! The queues of consumers and of their dead letters, from the settings.

use super::context::Context;
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
pub(super) fn amqp091(settings: &Settings) -> Result<Option<Consumers>, SettingsError> {
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
#[derive(Debug)]
pub(super) struct Route {
    pub(super) queue: String,
    pub(super) dead: String,
}

#[cfg(any(feature = "channels", feature = "kubemq-client"))]
impl Route {
    fn of(queue: String, dead: Option<String>) -> Self {
        let dead = dead.unwrap_or_else(|| format!("{queue}.dead"));
        Self { queue, dead }
    }
}

/// Reads the queues of the consumers whose dead letters can be listed; as far as the settings can be read.
pub(super) fn routes(settings: &Settings) -> Vec<Route> {
    #[cfg(feature = "amqp091")]
    if let Ok(Some((_, consumers))) = amqp091(settings) {
        let queues = consumers.iter().filter(|(_, consumer)| consumer.dead_letter_exchange.is_none());
        let route = |consumer: &Amqp091Subscription| Route {
            queue: consumer.queue.clone(),
            dead: consumer.dead_letter_queue(),
        };
        return queues.map(|(_, consumer)| route(consumer)).collect();
    }
    #[cfg(feature = "amqp10")]
    if ["amqp10", "rhmsg"].contains(&settings.backend.as_str()) {
        let tables = settings.consumers.values();
        let subscriptions = tables.filter_map(|table| table.source_keys.parse::<Amqp10Subscription>().ok());
        let route = |it: Amqp10Subscription| Some(Route { dead: it.dead_letter_address?, queue: it.address });
        return subscriptions.filter_map(route).collect();
    }
    #[cfg(feature = "channels")]
    if settings.backend == "channels" {
        let tables = settings.consumers.values();
        let consumers = tables.filter_map(|table| table.source_keys.parse::<ChannelConsumerSettings>().ok());
        let consumers = consumers.filter(|it| it.pattern == ReceivePattern::Queue);
        return consumers.map(|it| Route::of(it.channel, it.dead_letter_queue)).collect();
    }
    #[cfg(feature = "kubemq-client")]
    if settings.backend == "kubemq" {
        let tables = settings.consumers.values();
        let consumers = tables.filter_map(|table| table.source_keys.parse::<KubemqSubscription>().ok());
        let keys = settings.backend_keys.parse_both::<BrokerSettings, KubemqSettings>();
        let default = keys.map(|(_, keys)| keys.pattern).unwrap_or_default();
        let consumers = consumers.filter(|it| it.pattern.unwrap_or(default) == Pattern::Queues);
        return consumers.map(|it| Route::of(it.channel, it.dead_letter_queue)).collect();
    }
    #[cfg(feature = "nats")]
    if settings.backend == "nats" {
        let tables = settings.consumers.values();
        let consumers = tables.filter_map(|table| table.source_keys.parse::<NatsSubscription>().ok());
        let consumers = consumers.filter(|it| !it.durable.is_empty() && it.dead_letter_subject.is_none());
        let route = |it: NatsSubscription| Route {
            queue: format!("{}/{}", it.stream, it.durable),
            dead: format!("{}-{}-dead", it.stream, it.durable),
        };
        return consumers.map(route).collect();
    }
    let _ = settings;
    Vec::new()
}

/// Notes where the dead letters of consumers are, if the settings can be read and name consumers.
pub(super) fn note_dead_letters(context: &Context) {
    if let Some(note) = context.load_settings().ok().as_ref().and_then(note) {
        context.output.note(note);
    }
}

fn note(settings: &Settings) -> Option<String> {
    let routes = routes(settings);
    if let Some(Route { dead, .. }) = routes.first() {
        let all: Vec<_> = routes.iter().map(|route| route.dead.as_str()).collect();
        return Some(format!(
            "the dead letters of consumers are in the broker: {}. `tower-outbox dead-letters list --queue {dead}` lists them",
            all.join(", ")
        ));
    }
    let has_consumers = !settings.consumers.is_empty();
    has_consumers.then(|| "the dead letters of consumers are in the broker, not in the outbox".to_owned())
}
