//! The settings of both AMQP 0-9-1 backends.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::backends::brokers::Sasl;
use crate::envelope::{Envelope, Origin};
use crate::tls::TlsSettings;
use crate::util::secret::redacted_url;

/// Where the brokers are and how to talk to them.
///
/// In a settings file these are keys of `[MESSAGE_BUS]`, in any case. Durations are texts such as `"30s"`, or
/// plain seconds.
///
/// ```
/// use tower_outbox::amqp091::{Amqp091Settings, Fedmsg};
///
/// let settings = Amqp091Settings::new(["amqp://localhost:5672"]);
/// let messenger = Fedmsg::new(&settings)?;
/// # Ok::<(), tower_outbox::amqp091::BrokersError>(())
/// ```
#[derive(Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Amqp091Settings {
    /// The brokers, `amqp://[user:password@]host[:5672][/vhost]` or `amqps://host[:5671]`; tried in a random order.
    #[serde(deserialize_with = "crate::backends::brokers::one_or_many")]
    pub urls: Vec<String>,
    /// How long connecting to one broker may take; 60 s by default.
    #[serde(deserialize_with = "crate::util::units::duration")]
    pub connection_timeout: Duration,
    /// How long one broker may take to confirm a message; 60 s by default.
    #[serde(deserialize_with = "crate::util::units::duration")]
    pub send_timeout: Duration,
    /// How long a broker may be silent before its connection counts as lost; 30 s by default, at least 2 s.
    /// Heartbeats are asked for at half of it.
    #[serde(deserialize_with = "crate::util::units::duration")]
    pub idle_timeout: Duration,
    /// The client certificate chain in PEM form, with its key in either order unless `private_key` is set.
    pub certificate: Option<PathBuf>,
    /// The key of the certificate in PEM form, if it is in a file of its own.
    pub private_key: Option<PathBuf>,
    /// The certificate authorities to trust, in PEM form; by default the system's.
    pub cacert: Option<PathBuf>,
    /// Accepts a valid broker certificate issued for any name. Whoever holds one certificate of the same
    /// authority can then read and drop every message. Off by default.
    pub dangerous_accept_any_host_name: bool,
    /// How to say who we are; [`Sasl::Auto`] by default.
    #[serde(deserialize_with = "crate::util::units::word")]
    pub sasl: Sasl,
    /// Put before every topic in the routing key, with exactly one dot between; none by default.
    pub topic_prefix: Option<String>,
    /// The shape of messages; [`Envelope::Plain`] by default. Not for `fedmsg`, which has its own.
    #[serde(deserialize_with = "crate::util::units::word")]
    pub envelope: Envelope,
    /// Who sends, for [`Envelope::Petisco`].
    pub organization: Option<String>,
    /// Which service of the organization sends, for [`Envelope::Petisco`].
    pub service: Option<String>,
    /// The attribute `source` of [`Envelope::CloudEvents`], a URI; `/tower-outbox` by default.
    pub event_source: Option<String>,
    /// The exchange, which must exist; `amq.topic` by default, for [`Envelope::Petisco`] `<organization>.<service>`.
    pub exchange: Option<String>,
    /// Whether a message that no queue is bound for is rejected; by default it is dropped by the broker, silently.
    pub mandatory: bool,
    /// Whether brokers are to keep messages across a restart (delivery mode 2); yes by default.
    pub durable: bool,
    /// How long a message is worth delivering when it does not say so itself; no limit by default.
    #[serde(deserialize_with = "crate::util::units::optional_duration")]
    pub ttl: Option<Duration>,
    /// The priority of messages that do not set their own; none by default.
    pub priority: Option<u8>,
    /// How many messages may await their confirm on a connection; 256 by default.
    pub window: u32,
    /// What the broker's operators see of us, `client_properties.app`; `tower-outbox` by default.
    pub app: Option<String>,
    /// A configuration file of fedora-messaging, whose keys for publishing count where these settings say
    /// nothing: `amqp_url`, `tls`, `client_properties.app`, `publish_exchange`, `topic_prefix` and
    /// `publish_priority`. For the backend `fedmsg` only.
    pub config: Option<PathBuf>,
}

impl Amqp091Settings {
    /// The brokers at `urls`, and defaults for the rest.
    pub fn new<U: Into<String>>(urls: impl IntoIterator<Item = U>) -> Self {
        Self { urls: urls.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// What envelopes say of who sends.
    pub(crate) fn origin(&self) -> Origin<'_> {
        Origin {
            organization: self.organization.as_deref(),
            service: self.service.as_deref(),
            event_source: self.event_source.as_deref(),
        }
    }

    /// The files that concern TLS.
    pub(crate) fn tls(&self) -> TlsSettings<'_> {
        TlsSettings {
            certificate: self.certificate.as_deref(),
            private_key: self.private_key.as_deref(),
            cacert: self.cacert.as_deref(),
            dangerous_accept_any_host_name: self.dangerous_accept_any_host_name,
        }
    }
}

/// Shows where messages go, without passwords.
impl fmt::Debug for Amqp091Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let urls: Vec<_> = self.urls.iter().map(|url| redacted_url(url)).collect();
        f.debug_struct("Amqp091Settings")
            .field("urls", &urls)
            .field("exchange", &self.exchange)
            .field("topic_prefix", &self.topic_prefix)
            .field("sasl", &self.sasl)
            .finish_non_exhaustive()
    }
}

impl Default for Amqp091Settings {
    fn default() -> Self {
        Self {
            urls: Vec::new(),
            connection_timeout: Duration::from_secs(60),
            send_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(30),
            certificate: None,
            private_key: None,
            cacert: None,
            dangerous_accept_any_host_name: false,
            sasl: Sasl::default(),
            topic_prefix: None,
            envelope: Envelope::default(),
            organization: None,
            service: None,
            event_source: None,
            exchange: None,
            mandatory: false,
            durable: true,
            ttl: None,
            priority: None,
            window: 256,
            app: None,
            config: None,
        }
    }
}
