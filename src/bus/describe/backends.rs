//! The facts of each backend.

use super::facts::{Facts, Input};
#[cfg(feature = "amqp10")]
use crate::backends::amqp10::{Amqp10Settings, Amqp10Subscription};
#[cfg(feature = "amqp091")]
use crate::backends::amqp091::{Amqp091Settings, Amqp091Subscription, RetryBy};
#[cfg(feature = "_brokers")]
use crate::backends::brokers::BrokerSettings;
#[cfg(feature = "kafka")]
use crate::backends::kafka::{KafkaSettings, KafkaSubscription};
#[cfg(feature = "kubemq-client")]
use crate::backends::kubemq::{KubemqSettings, KubemqSubscription, Pattern};
#[cfg(feature = "mqtt")]
use crate::backends::mqtt::{MqttSettings, MqttSubscription};
#[cfg(feature = "nats")]
use crate::backends::nats::{self, NatsSettings, NatsSubscription, SubscriptionPattern};
#[cfg(all(feature = "channels", feature = "nats"))]
use crate::channels::JetstreamChannelsSettings;
#[cfg(feature = "channels")]
use crate::channels::{ChannelConsumerSettings, ChannelsSettings, ReceivePattern, SendPattern};
use crate::settings::{ConsumerTable, Settings};
#[cfg(feature = "_brokers")]
use crate::util::secret::redacted_url;

/// The brokers, without passwords.
pub(super) fn brokers(settings: &Settings) -> Vec<String> {
    #[cfg(feature = "_brokers")]
    if let Some(broker) = broker(settings) {
        return broker.urls.iter().map(|url| redacted_url(url)).collect();
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

/// The word for a pattern in settings.
#[cfg(any(feature = "channels", feature = "kubemq-client"))]
fn word(pattern: impl std::fmt::Debug) -> String {
    format!("{pattern:?}").to_lowercase().replace("eventstore", "event_store")
}

/// How a consumer receives from a channel.
#[cfg(any(feature = "channels", feature = "kubemq-client"))]
fn channel(facts: &mut Facts, channel: &str, pattern: &str, dead: Option<String>, is_request: bool) {
    facts.insert("channel", format!("{channel}, of {pattern}"));
    let dead = match (is_request, dead) {
        (true, _) => "are none: the caller gets the response".to_owned(),
        (false, Some(dead)) => format!("in the queue {dead}"),
        (false, None) => format!("in the queue {channel}.dead"),
    };
    facts.insert("dead letters", dead);
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
        #[cfg(feature = "kafka")]
        "kafka" => {
            let parsed = settings.backend_keys.parse_both::<BrokerSettings, KafkaSettings>();
            let Ok((broker, _)) = parsed else { return facts };
            facts.insert("goes to", format!("the topic {}; the key chooses the partition", topic(&broker)));
            facts.insert("counts as sent", "when all replicas in sync have it".to_owned());
        }
        #[cfg(feature = "nats")]
        "nats" => {
            let parsed = settings.backend_keys.parse_both::<BrokerSettings, NatsSettings>();
            let Ok((broker, keys)) = parsed else { return facts };
            facts.insert("goes to", format!("the subject {}", topic(&broker)));
            facts.insert(
                "counts as sent",
                match keys.pattern {
                    nats::Pattern::Events => "when the server has read it; without a subscriber it is lost",
                    nats::Pattern::Streams => "when a stream has stored it",
                }
                .to_owned(),
            );
        }
        #[cfg(feature = "kubemq-client")]
        "kubemq" => {
            let parsed = settings.backend_keys.parse_both::<BrokerSettings, KubemqSettings>();
            let Ok((broker, keys)) = parsed else { return facts };
            let channel = keys.channel.as_deref().unwrap_or("{topic}").replace("{topic}", &topic(&broker));
            facts.insert("goes to", format!("the channel {channel}, of {}", word(keys.pattern)));
            facts.insert(
                "counts as sent",
                match keys.pattern {
                    Pattern::Events => "when the broker has it; without a subscriber it is lost",
                    _ => "when the broker has stored it",
                }
                .to_owned(),
            );
        }
        #[cfg(all(feature = "channels", feature = "nats"))]
        "channels" if settings.backend_keys.has("urls") => {
            let parsed = settings.backend_keys.parse_both::<BrokerSettings, JetstreamChannelsSettings>();
            let Ok((_, keys)) = parsed else { return facts };
            let channel = keys.channel.as_deref().unwrap_or("TOPIC");
            facts.insert("goes to", format!("the channel {channel}, of {}, in NATS", word(keys.pattern)));
            facts.insert(
                "counts as sent",
                match keys.pattern {
                    SendPattern::Events => "at once; without a subscriber it is lost",
                    _ => "when a stream of NATS has stored it",
                }
                .to_owned(),
            );
        }
        #[cfg(feature = "channels")]
        "channels" => {
            let Ok(keys) = settings.backend_keys.parse::<ChannelsSettings>() else { return facts };
            let channel = keys.channel.as_deref().unwrap_or("TOPIC");
            let (kind, folder) = (word(keys.pattern), keys.path.display());
            facts.insert("goes to", format!("the channel {channel}, of {kind}, in the folder {folder}"));
            facts.insert(
                "counts as sent",
                match keys.pattern {
                    SendPattern::Events => "at once; without a subscriber it is lost",
                    _ => "when it is on the local disk",
                }
                .to_owned(),
            );
        }
        #[cfg(feature = "embedded")]
        "embedded" => drop(facts.insert("goes to", "a queue on the local disk".to_owned())),
        #[cfg(feature = "routing")]
        "routing" => drop(facts.insert("goes to", "the router in this app".to_owned())),
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
        #[cfg(feature = "kafka")]
        "kafka" => {
            let Ok(it) = table.source_keys.parse::<KafkaSubscription>() else { return (facts, input) };
            facts.insert("topics", it.topics.join(", "));
            facts.insert("group", format!("{}: its members share the partitions", it.group));
            facts.insert(
                "a retry waits",
                match &it.retry_topic {
                    Some(topic) => format!("in the topic {topic}"),
                    None => "here, uncommitted".to_owned(),
                },
            );
            facts.insert("dead letters", format!("to the topic {}", it.dead_letter_topic));
            input.address = it.topics.first().cloned();
        }
        #[cfg(feature = "nats")]
        "nats" => {
            let Ok(it) = table.source_keys.parse::<NatsSubscription>() else { return (facts, input) };
            if !it.subjects.is_empty() {
                facts.insert("subjects", it.subjects.join(", "));
            }
            input.address = it.subjects.first().cloned();
            if it.pattern == SubscriptionPattern::Requests {
                facts.insert("dead letters", "are none: the caller gets the response".to_owned());
            } else {
                let (stream, durable) = (&it.stream, &it.durable);
                facts.insert("stream", format!("{stream}, by its consumer {durable}"));
                let dead = it.dead_letter_subject.unwrap_or_else(|| format!("dead.{stream}.{durable}"));
                facts.insert("dead letters", format!("at the subject {dead}"));
            }
        }
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
        #[cfg(feature = "kubemq-client")]
        "kubemq" => {
            let keys = settings.backend_keys.parse_both::<BrokerSettings, KubemqSettings>();
            let (Ok((_, keys)), Ok(it)) = (keys, table.source_keys.parse::<KubemqSubscription>()) else {
                return (facts, input);
            };
            let pattern = it.pattern.unwrap_or(keys.pattern);
            let is_request = matches!(pattern, Pattern::Commands | Pattern::Queries);
            channel(&mut facts, &it.channel, &word(pattern), it.dead_letter_queue, is_request);
            input.address = Some(it.channel);
        }
        #[cfg(feature = "channels")]
        "channels" => {
            let Ok(it) = table.source_keys.parse::<ChannelConsumerSettings>() else { return (facts, input) };
            let is_request = it.pattern == ReceivePattern::Requests;
            channel(&mut facts, &it.channel, &word(it.pattern), it.dead_letter_queue, is_request);
            input.address = Some(it.channel);
        }
        _ => {}
    }
    (facts, input)
}
