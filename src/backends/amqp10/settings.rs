//! The settings of both AMQP 1.0 backends.

use std::time::Duration;

use serde::Deserialize;

use crate::backends::brokers::{BrokerSettings, BrokerUrl, Brokers, BrokersError, Rules};

/// The timeouts of python-rhmsg.
const RHMSG_TIMEOUT: Duration = Duration::from_secs(60);

/// The brokers, and the addresses that messages go to.
///
/// In a settings file these are keys of `[MESSAGE_BUS]` in any case, beside those of [`BrokerSettings`].
///
/// ```
/// use tower_outbox::amqp10::{Amqp10Settings, BrokerSettings, RhMsg};
///
/// let settings = Amqp10Settings::new(["amqp://localhost:5672"]);
/// let messenger = RhMsg::new(&settings)?;
///
/// let brokers = BrokerSettings::new(["amqp://localhost:5672"]).with_topic_prefix("VirtualTopic.eng");
/// let messenger = RhMsg::new(&brokers.into())?;
/// # Ok::<(), tower_outbox::amqp10::BrokersError>(())
/// ```
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Amqp10Settings {
    /// The brokers and the way to them.
    #[serde(skip)]
    pub broker: BrokerSettings,
    /// The address of a message: a template in which `{topic}` is replaced by prefix and topic.
    /// By default `{topic}`, for rhmsg `topic://{topic}`. RabbitMQ needs `/topic/{topic}`.
    pub address: Option<String>,
    /// Whether brokers keep messages across a restart; by default yes, for rhmsg no, as python-rhmsg does.
    pub durable: Option<bool>,
    /// The priority of messages that do not set their own, 0 to 9; 4 by default.
    pub priority: u8,
}

impl Amqp10Settings {
    /// The brokers at `urls`, and defaults for the rest.
    pub fn new<U: Into<String>>(urls: impl IntoIterator<Item = U>) -> Self {
        BrokerSettings::new(urls).into()
    }

    /// Sets the address of a message.
    #[must_use]
    pub fn with_address(self, address: impl Into<String>) -> Self {
        Self { address: Some(address.into()), ..self }
    }

    /// Fills the timeouts that are not set with those of python-rhmsg.
    pub(super) fn with_rhmsg_timeouts(mut self) -> Self {
        self.broker.connection_timeout.get_or_insert(RHMSG_TIMEOUT);
        self.broker.send_timeout.get_or_insert(RHMSG_TIMEOUT);
        self
    }

    /// Checks the settings that messenger and source share; `wraps` is whether `ENVELOPE` may name another shape.
    pub(super) fn check(&self, wraps: bool) -> Result<Brokers, BrokersError> {
        let least_idle_timeout = Duration::from_secs(1);
        self.broker.check(&Rules {
            parse_url: BrokerUrl::parse,
            tls_scheme: "amqps",
            least_idle_timeout,
            wraps,
        })
    }
}

impl From<BrokerSettings> for Amqp10Settings {
    fn from(broker: BrokerSettings) -> Self {
        Self { broker, ..Self::default() }
    }
}

impl Default for Amqp10Settings {
    fn default() -> Self {
        Self { broker: BrokerSettings::default(), address: None, durable: None, priority: 4 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_that_are_not_set_are_5_and_10_seconds_and_60_for_rhmsg() {
        let seconds = |settings: &Amqp10Settings| {
            let broker = &settings.broker;
            (broker.connection_timeout().as_secs(), broker.send_timeout().as_secs())
        };
        assert_eq!(seconds(&Amqp10Settings::default()), (5, 10));
        assert_eq!(seconds(&Amqp10Settings::default().with_rhmsg_timeouts()), (60, 60));
        let broker = BrokerSettings::default().with_connection_timeout(Duration::from_secs(7));
        assert_eq!(seconds(&Amqp10Settings::from(broker).with_rhmsg_timeouts()), (7, 60));
    }
}
