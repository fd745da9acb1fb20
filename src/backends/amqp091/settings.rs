//! The settings of both AMQP 0-9-1 backends.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::backends::brokers::{BrokerSettings, BrokerUrl, Brokers, BrokersError, Rules};
use crate::envelope::Envelope;
use crate::message::topic::Topic;

/// Ten years: what RabbitMQ's timers hold (`MAX_EXPIRY_TIMER` in its `rabbit.hrl`).
pub(super) const MAX_EXPIRY: Duration = Duration::from_millis(315_360_000_000);

/// The brokers, and the exchange that messages go to.
///
/// In a settings file these are keys of `[MESSAGE_BUS]` in any case, beside those of [`BrokerSettings`].
///
/// ```
/// use tower_outbox::amqp091::{Amqp091Settings, BrokerSettings, Fedmsg};
///
/// let settings = Amqp091Settings::new(["amqp://localhost:5672"]);
/// let messenger = Fedmsg::new(&settings)?;
///
/// let brokers = BrokerSettings::new(["amqp://localhost:5672/orders"]).with_topic_prefix("shop");
/// let messenger = Fedmsg::new(&brokers.into())?;
/// # Ok::<(), tower_outbox::amqp091::BrokersError>(())
/// ```
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Amqp091Settings {
    /// The brokers and the way to them.
    #[serde(skip)]
    pub broker: BrokerSettings,
    /// The exchange, which must exist; `amq.topic` by default, for [`Envelope::Petisco`] `<organization>.<service>`.
    pub exchange: Option<String>,
    /// Whether a message that no queue is bound for is rejected; by default the broker drops it silently.
    pub mandatory: bool,
    /// Whether brokers keep messages across a restart (delivery mode 2); yes by default.
    pub durable: bool,
    /// The priority of messages that do not set their own; none by default.
    pub priority: Option<u8>,
    /// The name that operators of the broker see, `client_properties.app`; `tower-outbox` by default.
    pub app: Option<String>,
    /// A configuration file of fedora-messaging, whose keys for publishing count where these settings are
    /// silent: `amqp_url`, `tls`, `client_properties.app`, `publish_exchange`, `topic_prefix` and
    /// `publish_priority`. For the backend `fedmsg` only.
    pub config: Option<PathBuf>,
}

impl Amqp091Settings {
    /// The brokers at `urls`, and defaults for the rest.
    pub fn new<U: Into<String>>(urls: impl IntoIterator<Item = U>) -> Self {
        BrokerSettings::new(urls).into()
    }

    /// Sets the exchange.
    #[must_use]
    pub fn with_exchange(self, exchange: impl Into<String>) -> Self {
        Self { exchange: Some(exchange.into()), ..self }
    }

    /// Checks the settings and completes the exchange; `wraps` is whether `ENVELOPE` may name another shape.
    pub(super) fn check(&mut self, wraps: bool) -> Result<Brokers, BrokersError> {
        // Heartbeats are whole seconds, two to a timeout.
        let least_idle_timeout = Duration::from_secs(2);
        let rules =
            Rules { parse_url: BrokerUrl::parse_with_vhost, tls_scheme: "amqps", least_idle_timeout, wraps };
        let brokers = self.broker.check(&rules)?;
        if let (Envelope::Petisco, None, Some(organization), Some(service)) =
            (self.broker.envelope, &self.exchange, &self.broker.organization, &self.broker.service)
        {
            self.exchange = Some(format!("{organization}.{service}"));
        }
        if self.exchange.as_deref().is_some_and(|exchange| exchange.len() > Topic::MAX_LEN) {
            return Err(BrokersError::setting("EXCHANGE", "is longer than 255 bytes"));
        }
        if self.broker.ttl.is_some_and(|ttl| ttl > MAX_EXPIRY) {
            let problem = "is longer than ten years (3650d), the longest of brokers";
            return Err(BrokersError::setting("TTL", problem));
        }
        Ok(brokers)
    }
}

impl From<BrokerSettings> for Amqp091Settings {
    fn from(broker: BrokerSettings) -> Self {
        Self { broker, ..Self::default() }
    }
}

impl Default for Amqp091Settings {
    fn default() -> Self {
        Self {
            broker: BrokerSettings::default(),
            exchange: None,
            mandatory: false,
            durable: true,
            priority: None,
            app: None,
            config: None,
        }
    }
}
