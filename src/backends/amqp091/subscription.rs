//! The subscription of a source: the queue, its bindings, retries and dead letters.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::settings::Amqp091Settings;
use crate::backends::brokers::BrokersError;
use crate::message::topic::Topic;

/// How long the queue of confirmations stays when its instance is gone.
#[cfg(feature = "settings")]
const UNUSED: Duration = Duration::from_secs(24 * 60 * 60);

/// A queue of RabbitMQ to receive from.
///
/// In a settings file these are keys in any case.
///
/// ```
/// use tower_outbox::amqp091::{Amqp091Settings, Amqp091Source, Amqp091Subscription};
///
/// let settings = Amqp091Settings::new(["amqp://localhost:5672"]);
/// let subscription = Amqp091Subscription::new("invoices").with_binding("order.*");
/// let source = Amqp091Source::new(&settings, &subscription)?;
/// # Ok::<(), tower_outbox::amqp091::BrokersError>(())
/// ```
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Amqp091Subscription {
    /// The queue. Created durable if it is missing; an existing one is used unchanged.
    pub queue: String,
    /// The type of the queue if it is created here: `"classic"` or `"quorum"`; the default of the virtual host by default, which is classic
    /// unless an operator has changed it. An existing queue stays as it is.
    #[serde(deserialize_with = "queue_type")]
    pub queue_type: Option<QueueType>,
    /// Further arguments of the queue if it is created here, such as `x-max-length = 10000`; none by default. An existing queue stays as it is.
    pub queue_arguments: BTreeMap<String, QueueArgument>,
    /// The exchange of the bindings, which must exist; that of the settings by default, or else `amq.topic`.
    pub exchange: Option<String>,
    /// Topics to receive, `order.created`, `order.*` (one segment) or `order.#` (any number); `TOPIC_PREFIX` of the
    /// settings precedes each, with one dot between. None by default: existing bindings stay.
    #[serde(deserialize_with = "crate::backends::brokers::one_or_many")]
    pub bindings: Vec<String>,
    /// How many messages may be unsettled; 64 by default, as many as a consumer of the default
    /// `CONCURRENCY` holds. When a consumer ends, a quorum queue counts each of them as a failed delivery.
    pub prefetch: u16,
    /// How many bytes of bodies may be unsettled in memory, 64 MiB by default; a larger body arrives alone. The broker
    /// sends what `prefetch` allows: a further body is discarded as it arrives, and its message returned when there is space.
    #[serde(deserialize_with = "crate::util::units::size")]
    pub prefetch_bytes: usize,
    /// Where a message waits for its retry; [`RetryBy::Delay`] by default. In a settings file `delay` or `petisco`, with
    /// `ORGANIZATION` and `SERVICE` of the backend.
    #[serde(deserialize_with = "retry_by")]
    pub retry: RetryBy,
    /// The broker deletes a queue that this source has created after so long without consumers; never by default.
    #[serde(skip)]
    pub(super) expires: Option<Duration>,
    /// The exchange for dead letters, which must exist; the default exchange, or that of [`RetryBy::Petisco`].
    pub dead_letter_exchange: Option<String>,
    /// The routing key of dead letters; `<queue>.dead`, or that of [`RetryBy::Petisco`]. With the default exchange it
    /// names a queue, which is created durable if it is missing.
    pub dead_letter_routing_key: Option<String>,
}

/// The type of a queue that is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum QueueType {
    /// On one node.
    Classic,
    /// On a majority of the nodes of a cluster.
    Quorum,
}

impl QueueType {
    /// Returns the value of `x-queue-type`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Quorum => "quorum",
        }
    }
}

/// The value of an argument of a queue.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum QueueArgument {
    /// A truth value.
    Bool(bool),
    /// A number.
    Int(i64),
    /// A text.
    String(String),
}

fn queue_type<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<QueueType>, D::Error> {
    crate::util::units::word(deserializer).map(Some)
}

/// Where a message waits for its retry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RetryBy {
    /// In a queue `<queue>.retry.quorum.<ms>`, created if it is missing; `ms` is the delay, rounded up to the next of
    /// 1, 2, 5, 10, 20, 50 and so on, at most 23 days. The message returns through the default exchange without
    /// loss.
    #[default]
    Delay,
    /// In the retry queue of petisco (1.9 to 2.2), which must exist, with its headers; the queue sets the delay. A broker
    /// that is killed as it ends may lose the message.
    Petisco {
        /// The organisation, as in `retry.<organization>.<service>`.
        organization: String,
        /// The service.
        service: String,
    },
}

fn retry_by<'de, D: Deserializer<'de>>(deserializer: D) -> Result<RetryBy, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Word {
        Delay,
        Petisco,
    }
    Ok(match crate::util::units::word(deserializer)? {
        Word::Delay => RetryBy::Delay,
        // Completed from the settings later.
        Word::Petisco => RetryBy::Petisco { organization: String::new(), service: String::new() },
    })
}

impl Amqp091Subscription {
    /// This queue, and defaults for the rest.
    pub fn new(queue: impl Into<String>) -> Self {
        Self { queue: queue.into(), ..Self::default() }
    }

    /// The queue of the confirmations that come to an address.
    #[cfg(feature = "settings")]
    pub(crate) fn of_confirmations(address: &Topic) -> Self {
        let queue = Self::new(address.to_string()).with_binding(address.to_string());
        Self { prefetch: 1_000, expires: Some(UNUSED), ..queue }
    }

    /// Adds a topic to receive.
    #[must_use]
    pub fn with_binding(mut self, pattern: impl Into<String>) -> Self {
        self.bindings.push(pattern.into());
        self
    }

    /// Sets how many messages may be unsettled.
    #[must_use]
    pub fn with_prefetch(mut self, prefetch: u16) -> Self {
        self.prefetch = prefetch;
        self
    }

    /// Sets how many bytes of bodies may be unsettled in memory.
    #[must_use]
    pub fn with_prefetch_bytes(mut self, prefetch_bytes: usize) -> Self {
        self.prefetch_bytes = prefetch_bytes;
        self
    }

    /// Sets the type of the queue if it is created here.
    #[must_use]
    pub fn with_queue_type(mut self, queue_type: QueueType) -> Self {
        self.queue_type = Some(queue_type);
        self
    }

    /// Sets where a message waits for its retry.
    #[must_use]
    pub fn with_retry(mut self, retry: RetryBy) -> Self {
        self.retry = retry;
        self
    }

    /// The routing key of dead letters, which with the default exchange names their queue.
    #[cfg(any(feature = "cli", feature = "settings"))]
    pub(crate) fn dead_letter_queue(&self) -> String {
        self.dead_letter_routing_key.clone().unwrap_or_else(|| format!("{}.dead", self.queue))
    }

    /// Checks the subscription, and completes it from the settings.
    pub(super) fn filled(&self, settings: &Amqp091Settings) -> Result<Self, BrokersError> {
        let fault = |key, problem: &str| Err(BrokersError::setting(key, problem));
        let mut filled = self.clone();
        let prefix = settings.broker.topic_prefix.as_deref().unwrap_or_default().trim_matches('.');
        if !prefix.is_empty() {
            filled.bindings.iter_mut().for_each(|pattern| *pattern = format!("{prefix}.{pattern}"));
        }
        let exchange = filled.exchange.take().or_else(|| settings.exchange.clone());
        filled.exchange = Some(exchange.unwrap_or_else(|| "amq.topic".to_owned()));
        // As long as the longest name made of it, `<queue>.retry.quorum.2000000000`, allows.
        if self.queue.is_empty() || self.queue.len() > Topic::MAX_LEN - ".retry.quorum.2000000000".len() {
            return fault("QUEUE", "must be the name of a queue, of 1 to 231 bytes");
        }
        if self.queue_arguments.keys().any(|name| name == "x-queue-type" || name == "x-expires") {
            return fault(
                "QUEUE_ARGUMENTS",
                "has x-queue-type or x-expires: write QUEUE_TYPE, or create the queue yourself",
            );
        }
        if self.queue_arguments.keys().any(|name| name.is_empty() || name.len() > 255) {
            return fault("QUEUE_ARGUMENTS", "has a name that is empty, or longer than 255 bytes");
        }
        if self.prefetch == 0 {
            return fault(
                "PREFETCH",
                "is 0: fetching ahead without a limit fills the memory; write 1 or more",
            );
        }
        if self.prefetch_bytes == 0 {
            return fault("PREFETCH_BYTES", "is 0: nothing could be received; write \"1MiB\" or more");
        }
        if !self.bindings.is_empty() && filled.exchange.as_deref() == Some("") {
            return fault("EXCHANGE", "is empty: nothing can be bound to the default exchange");
        }
        if filled.bindings.iter().any(|pattern| pattern.is_empty() || pattern.len() > Topic::MAX_LEN) {
            return fault(
                "BINDINGS",
                "has a topic that is empty, or longer than 255 bytes with TOPIC_PREFIX",
            );
        }
        let names = [&filled.exchange, &self.dead_letter_exchange, &self.dead_letter_routing_key];
        if names.into_iter().flatten().any(|name| name.len() > Topic::MAX_LEN) {
            return fault("EXCHANGE", "or a name of the dead letters is longer than 255 bytes");
        }
        if let RetryBy::Petisco { organization, service } = &mut filled.retry {
            let fill = |name: &mut String, from: &Option<String>| {
                if name.is_empty() {
                    *name = from.clone().unwrap_or_default();
                }
            };
            fill(organization, &settings.broker.organization);
            fill(service, &settings.broker.service);
            let exchange = format!("dead_letter.{organization}.{service}");
            if organization.is_empty() || service.is_empty() || exchange.len() > Topic::MAX_LEN {
                return fault("RETRY", "petisco needs ORGANIZATION and SERVICE, of 242 bytes together");
            }
        }
        Ok(filled)
    }
}

impl Default for Amqp091Subscription {
    fn default() -> Self {
        Self {
            queue: String::new(),
            queue_type: None,
            queue_arguments: BTreeMap::new(),
            exchange: None,
            bindings: Vec::new(),
            prefetch: 64,
            prefetch_bytes: 64 << 20,
            retry: RetryBy::default(),
            expires: None,
            dead_letter_exchange: None,
            dead_letter_routing_key: None,
        }
    }
}
