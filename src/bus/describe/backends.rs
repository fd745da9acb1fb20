//! The facts of each backend.

use super::facts::{Facts, Input};
#[cfg(feature = "amqp10")]
use crate::backends::amqp10::{Amqp10Settings, Amqp10Subscription};
#[cfg(feature = "amqp091")]
use crate::backends::amqp091::{Amqp091Settings, Amqp091Subscription, RetryBy};
#[cfg(feature = "_brokers")]
use crate::backends::brokers::BrokerSettings;
#[cfg(feature = "mqtt")]
use crate::backends::mqtt::{MqttSettings, MqttSubscription};
use crate::settings::{ConsumerTable, Settings};
#[cfg(feature = "_brokers")]
use crate::util::secret::redacted;

/// The brokers, without passwords.
pub(super) fn brokers(settings: &Settings) -> Vec<String> {
    #[cfg(feature = "_brokers")]
    if let Some(broker) = broker(settings) {
        return broker.urls.iter().map(|url| redacted(url)).collect();
    }
    let _ = settings;
    Vec::new()
}

#[cfg(feature = "_brokers")]
fn broker(settings: &Settings) -> Option<BrokerSettings> {
    crate::bus::backends::broker_settings(&settings.backend, &settings.backend_keys)
}

#[cfg(feature = "_brokers")]
fn topic(broker: &BrokerSettings) -> String {
    match broker.topic_prefix.as_deref().map(|prefix| prefix.trim_matches('.')) {
        None | Some("") => "TOPIC".to_owned(),
        Some(prefix) => format!("{prefix}.TOPIC"),
    }
}

/// Where a message goes.
pub(super) fn sending(settings: &Settings) -> Facts {
    let mut facts = Facts::new();
    match settings.backend.as_str() {
        "dummy" => drop(facts.insert("goes to", "the log: no message is sent".to_owned())),
        "memory" => drop(facts.insert("goes to", "a queue in memory, for tests".to_owned())),
        #[cfg(feature = "amqp091")]
        "amqp091" | "fedmsg" => {
            let parsed = settings.backend_keys.parse_both::<BrokerSettings, Amqp091Settings>();
            let Ok((broker, keys)) = parsed else { return facts };
            let exchange = keys.exchange.as_deref().unwrap_or("amq.topic");
            facts.insert(
                "goes to",
                format!("the exchange {exchange:?} with the routing key {}", topic(&broker)),
            );
            let unbound = if keys.mandatory { "becomes a dead letter" } else { "is confirmed and dropped" };
            facts.insert(
                "counts as sent",
                format!("after a publisher confirm; a message for which no queue is bound {unbound}"),
            );
        }
        #[cfg(feature = "amqp10")]
        "amqp10" | "rhmsg" => {
            let parsed = settings.backend_keys.parse_both::<BrokerSettings, Amqp10Settings>();
            let Ok((broker, keys)) = parsed else { return facts };
            let template = if settings.backend == "rhmsg" { "topic://{topic}" } else { "{topic}" };
            let address = keys.address.as_deref().unwrap_or(template).replace("{topic}", &topic(&broker));
            facts.insert("goes to", format!("the address {address}"));
            facts.insert(
                "counts as sent",
                "when the broker has accepted it; a topic without subscribers drops it".to_owned(),
            );
        }
        #[cfg(feature = "mqtt")]
        "mqtt" => {
            let parsed = settings.backend_keys.parse_both::<BrokerSettings, MqttSettings>();
            let Ok((broker, keys)) = parsed else { return facts };
            let topic = topic(&broker).replace('.', &keys.separator);
            facts.insert("goes to", format!("the topic {topic}, with {} for each dot", keys.separator));
            let unbound = if keys.mandatory { "becomes a dead letter" } else { "is confirmed and dropped" };
            facts.insert(
                "counts as sent",
                format!("with QoS {}; a message without subscribers {unbound}", keys.qos),
            );
        }
        _ => {}
    }
    #[cfg(feature = "_brokers")]
    if let Some(broker) = broker(settings) {
        facts.insert("format", format!("{:?}", broker.envelope).to_lowercase());
    }
    facts
}

/// How a consumer receives.
#[cfg_attr(
    not(any(feature = "channels", feature = "_brokers")),
    allow(unused_mut, unused_variables, reason = "only these backends have keys")
)]
pub(super) fn receiving(settings: &Settings, table: &ConsumerTable) -> (Facts, Input) {
    let mut facts = Facts::new();
    let mut input = Input::default();
    match settings.backend.as_str() {
        #[cfg(feature = "amqp091")]
        "amqp091" | "fedmsg" => {
            let keys = settings.backend_keys.parse_both::<BrokerSettings, Amqp091Settings>();
            let (Ok((broker, keys)), Ok(it)) = (keys, table.source_keys.parse::<Amqp091Subscription>())
            else {
                return (facts, input);
            };
            let queue = &it.queue;
            let kind =
                it.queue_type.map(|kind| format!(", as a {} queue", kind.as_str())).unwrap_or_default();
            facts.insert("queue", format!("{queue}; created durable{kind} if it is missing"));
            let exchange = it.exchange.as_deref().or(keys.exchange.as_deref()).unwrap_or("amq.topic");
            if !it.bindings.is_empty() {
                let prefix = topic(&broker).replace("TOPIC", "");
                let bindings: Vec<_> =
                    it.bindings.iter().map(|binding| format!("{prefix}{binding}")).collect();
                facts.insert("bindings", format!("{} of the exchange {exchange:?}", bindings.join(", ")));
            }
            facts.insert(
                "a retry waits",
                match it.retry {
                    RetryBy::Delay => format!("in a queue {queue}.retry.quorum.MS"),
                    RetryBy::Petisco { .. } => format!("in the queue retry.{queue} of petisco"),
                },
            );
            facts.insert(
                "dead letters",
                match (&it.dead_letter_exchange, it.dead_letter_queue()) {
                    (None, queue) => format!("in the queue {queue}, durable, created by the first one"),
                    (Some(exchange), key) => {
                        format!("to the exchange {exchange:?} with the routing key {key}")
                    }
                },
            );
            input = Input { address: Some(it.queue.clone()), patterns: it.bindings };
        }
        #[cfg(feature = "amqp10")]
        "amqp10" | "rhmsg" => {
            let Ok(it) = table.source_keys.parse::<Amqp10Subscription>() else { return (facts, input) };
            facts.insert("address", it.address.clone());
            if let Some(selector) = &it.selector {
                facts.insert("selector", selector.clone());
            }
            facts.insert("a retry waits", "here, unsettled".to_owned());
            facts.insert(
                "dead letters",
                match &it.dead_letter_address {
                    Some(address) => format!("to the address {address}"),
                    None => "are rejected: the broker may drop them".to_owned(),
                },
            );
            input.address = Some(it.address);
        }
        #[cfg(feature = "mqtt")]
        "mqtt" => {
            let Ok(it) = table.source_keys.parse::<MqttSubscription>() else { return (facts, input) };
            facts.insert("topics", it.topics.join(", "));
            if let Some(group) = &it.group {
                facts.insert("group", format!("{group}: its members share the messages"));
            }
            facts.insert("a retry waits", "here, unacknowledged".to_owned());
            facts.insert(
                "dead letters",
                match &it.dead_letter_topic {
                    Some(topic) => format!("to the topic {topic}"),
                    None => "are logged and dropped".to_owned(),
                },
            );
            input.address = it.topics.first().cloned();
        }
        _ => {}
    }
    (facts, input)
}
