//! The subscription of a source.

use serde::Deserialize;

#[cfg(feature = "settings")]
use super::outgoing::{Plain, Shape, address};
#[cfg(feature = "settings")]
use super::settings::Amqp10Settings;
#[cfg(feature = "settings")]
use crate::message::Topic;

/// The address at the brokers to receive from, and the selection of messages.
///
/// ```
/// use tower_outbox::amqp10::{Amqp10Settings, Amqp10Source, Amqp10Subscription};
///
/// let settings = Amqp10Settings::new(["amqp://localhost:5672"]);
/// let subscription = Amqp10Subscription::new("Consumer.app.VirtualTopic.eng.>")
///     .with_dead_letter_address("queue://app.dead");
/// let source = Amqp10Source::rhmsg(&settings, &subscription)?;
/// # Ok::<(), tower_outbox::amqp10::BrokersError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Amqp10Subscription {
    /// The address: at ActiveMQ a queue (`queue://Q`, or its name alone, such as `Consumer.app.VirtualTopic.eng.>`) or a
    /// topic (`topic://T`), at RabbitMQ 3 `/amq/queue/Q`.
    pub address: String,
    /// A JMS selector of messages by application properties and header fields, `color = 'red' AND n > 7`; all by
    /// default. RabbitMQ 3 does not support selectors.
    pub selector: Option<String>,
    /// The name of a durable subscription to a topic, which keeps messages while no process receives; none by default.
    /// It is also the container id at the broker: one process at a time may use it.
    pub durable: Option<String>,
    /// How many messages may be unsettled, 256 by default. Delayed retries do not count.
    pub credit: u32,
    /// How many bytes of messages may be in memory, 64 MiB by default: less credit is granted for large messages. Sizes are
    /// known only on arrival, so it may be twice that and one message; a further message is released unread.
    #[serde(deserialize_with = "crate::util::units::size")]
    pub prefetch_bytes: usize,
    /// The address for dead letters, with write permission; by default the source rejects them, and the broker may drop
    /// them.
    pub dead_letter_address: Option<String>,
    /// The beginnings of reply-to addresses to which responses are sent as replies; `["temp-queue://"]`, the dynamic nodes of ActiveMQ,
    /// by default. Anyone who may send names such an address, and the reply is sent with the rights of this client.
    pub reply_addresses: Vec<String>,
    /// Whether messages are only looked at, where the broker can do that.
    #[serde(skip)]
    pub(super) browses: bool,
}

impl Amqp10Subscription {
    /// Everything at `address`, and defaults for the rest.
    pub fn new(address: impl Into<String>) -> Self {
        Self { address: address.into(), ..Self::default() }
    }

    /// The address of confirmations.
    #[cfg(feature = "settings")]
    pub(crate) fn of_confirmations(settings: &Amqp10Settings, topic: &Topic) -> Self {
        Self::new(address(settings, Plain::ADDRESS, topic)).with_credit(1_000)
    }

    /// Sets the selector.
    #[must_use]
    pub fn with_selector(mut self, selector: impl Into<String>) -> Self {
        self.selector = Some(selector.into());
        self
    }

    /// Makes it a durable subscription of this name.
    #[must_use]
    pub fn with_durable(mut self, name: impl Into<String>) -> Self {
        self.durable = Some(name.into());
        self
    }

    /// Sets how many messages may be unsettled.
    #[must_use]
    pub fn with_credit(mut self, credit: u32) -> Self {
        self.credit = credit;
        self
    }

    /// Sets how many bytes of messages may be in memory.
    #[must_use]
    pub fn with_prefetch_bytes(mut self, prefetch_bytes: usize) -> Self {
        self.prefetch_bytes = prefetch_bytes;
        self
    }

    /// Sets the beginnings of the addresses to which replies are sent.
    #[must_use]
    pub fn with_reply_addresses<A: Into<String>>(mut self, starts: impl IntoIterator<Item = A>) -> Self {
        self.reply_addresses = starts.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the address for dead letters.
    #[must_use]
    pub fn with_dead_letter_address(mut self, address: impl Into<String>) -> Self {
        self.dead_letter_address = Some(address.into());
        self
    }
}

impl Default for Amqp10Subscription {
    fn default() -> Self {
        Self {
            address: String::new(),
            selector: None,
            durable: None,
            credit: 256,
            prefetch_bytes: 64 << 20,
            dead_letter_address: None,
            reply_addresses: vec!["temp-queue://".to_owned()],
            browses: false,
        }
    }
}
