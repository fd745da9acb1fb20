//! The keys of the backend `routing`, and of its consumers.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::handle::Routing;
use super::source::RoutingSource;
use crate::routing::{Namespace, NamespaceError, Pattern, QueueLimits, RouterSettings, UriError};

/// The keys of the backend `routing`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RoutingSettings {
    /// The folder; `router` by default. Its parent must exist.
    pub path: PathBuf,
    /// The namespace of the app's messages, in base64url; `YXBw` by default, the text `app`.
    pub namespace: String,
    /// The configuration of a router with an uplink and WAVEMQ's clients, `wavemq.toml` (feature `wavemq`); none by default. It has the
    /// folder and the limits, so the other keys do not count.
    pub config: Option<PathBuf>,
    /// The largest number of messages in the queue of a subscriber; 10,000 by default.
    pub max_messages: u64,
    /// The largest size of the queue of a subscriber; 100 MiB by default.
    #[serde(deserialize_with = "crate::util::units::size_u64")]
    pub max_bytes: u64,
    /// How long a queue lives while nobody subscribes, at most; one day by default.
    #[serde(deserialize_with = "crate::util::units::duration")]
    pub queue_expiry: Duration,
    /// The time between two writes to the disk; 0 by default: each message is on the disk before it is confirmed.
    #[serde(deserialize_with = "crate::util::units::duration")]
    pub flush_interval: Duration,
}

impl Default for RoutingSettings {
    fn default() -> Self {
        let RouterSettings { path, subscription_limits, queue_expiry, flush_interval, .. } =
            RouterSettings::new("router");
        Self {
            path,
            namespace: "YXBw".to_owned(),
            config: None,
            max_messages: subscription_limits.length,
            max_bytes: subscription_limits.bytes,
            queue_expiry,
            flush_interval: flush_interval.unwrap_or_default(),
        }
    }
}

impl RoutingSettings {
    /// Returns the namespace.
    ///
    /// # Errors
    /// [`NamespaceError`].
    pub fn namespace(&self) -> Result<Namespace, NamespaceError> {
        self.namespace.parse()
    }

    /// Whether all keys but `CONFIG` and `NAMESPACE` have their defaults.
    pub(crate) fn has_defaults(&self) -> bool {
        let Self { namespace, config, .. } = self.clone();
        *self == Self { namespace, config, ..Self::default() }
    }

    /// Returns the settings of a router without an uplink.
    #[must_use]
    pub fn router(&self) -> RouterSettings {
        let mut settings = RouterSettings::new(&self.path);
        settings.subscription_limits = QueueLimits { length: self.max_messages, bytes: self.max_bytes };
        settings.queue_expiry = self.queue_expiry;
        settings.flush_interval = Some(self.flush_interval).filter(|it| !it.is_zero());
        settings
    }
}

/// The keys of a consumer of the backend `routing`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct RoutingConsumerSettings {
    /// The URIs: `floor1/+/temperature`. `+` is one level, `*` any number, also none.
    pub uri: String,
    /// The name under which the queue is resumed; by default the URI. One consumer at a time has it.
    #[serde(default)]
    pub identifier: Option<String>,
    /// How long the queue lives while the consumer does not run; by default the `QUEUE_EXPIRY` of the router.
    #[serde(default, deserialize_with = "crate::util::units::optional_duration")]
    pub expiry: Option<Duration>,
    /// Whether the consumer gets the dead letters of the identifier; by default not.
    #[serde(default)]
    pub dead_letters: bool,
}

impl RoutingConsumerSettings {
    /// Checks the URI.
    ///
    /// # Errors
    /// As [`source`](Self::source).
    pub fn check(&self) -> Result<(), UriError> {
        Pattern::new(&self.uri).map(drop)
    }

    /// Returns the source of these settings.
    ///
    /// # Errors
    /// [`UriError`] of the URI.
    pub fn source(&self, routing: &Routing) -> Result<RoutingSource, UriError> {
        let pattern = Pattern::new(&self.uri)?;
        let identifier = self.identifier.clone().unwrap_or_else(|| pattern.as_str().to_owned());
        let source = routing.subscription(identifier, pattern);
        let source = self.expiry.into_iter().fold(source, RoutingSource::with_expiry);
        Ok(if self.dead_letters { source.dead_letters() } else { source })
    }
}
