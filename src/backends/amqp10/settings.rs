//! The settings of both AMQP 1.0 backends.

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
/// use tower_outbox::amqp10::{Amqp10Settings, RhMsg};
///
/// let settings = Amqp10Settings::new(["amqp://localhost:5672"]);
/// let messenger = RhMsg::new(&settings)?;
/// # Ok::<(), tower_outbox::amqp10::BrokersError>(())
/// ```
#[derive(Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Amqp10Settings {
    /// The brokers, `amqp://[user:password@]host[:5672]` or `amqps://host[:5671]`; tried in a random order.
    #[serde(deserialize_with = "crate::backends::brokers::one_or_many")]
    pub urls: Vec<String>,
    /// How long connecting to one broker may take; 60 s by default.
    #[serde(deserialize_with = "crate::util::units::duration")]
    pub connection_timeout: Duration,
    /// How long one broker may take to confirm a message; 60 s by default.
    #[serde(deserialize_with = "crate::util::units::duration")]
    pub send_timeout: Duration,
    /// How long a broker may be silent before its connection counts as lost; 30 s by default, at least 1 s.
    #[serde(deserialize_with = "crate::util::units::duration")]
    pub idle_timeout: Duration,
    /// The client certificate chain in PEM form, with its key in either order unless `private_key` is set.
    pub certificate: Option<PathBuf>,
    /// The key of the certificate in PEM form, if it is in a file of its own.
    pub private_key: Option<PathBuf>,
    /// The certificate authorities to trust, in PEM form; by default the system's.
    pub cacert: Option<PathBuf>,
    /// Accepts a valid broker certificate issued for any name, as rhmsg does. Whoever holds one certificate
    /// of the same authority can then read and drop every message. Off by default.
    pub dangerous_accept_any_host_name: bool,
    /// How to say who we are; [`Sasl::Auto`] by default.
    #[serde(deserialize_with = "crate::util::units::word")]
    pub sasl: Sasl,
    /// Put before every topic, with exactly one dot between; none by default.
    pub topic_prefix: Option<String>,
    /// The address of a message: a template in which `{topic}` stands for prefix and topic.
    /// By default `{topic}`, for rhmsg `topic://{topic}`. RabbitMQ wants `/topic/{topic}`.
    pub address: Option<String>,
    /// The shape of messages; [`Envelope::Plain`] by default. Not for `rhmsg`, which has its own.
    #[serde(deserialize_with = "crate::util::units::word")]
    pub envelope: Envelope,
    /// Who sends, for [`Envelope::Petisco`].
    pub organization: Option<String>,
    /// Which service of the organization sends, for [`Envelope::Petisco`].
    pub service: Option<String>,
    /// The attribute `source` of [`Envelope::CloudEvents`], a URI; `/tower-outbox` by default.
    pub event_source: Option<String>,
    /// Whether brokers are to keep messages across a restart; by default yes, for rhmsg no, as rhmsg does.
    pub durable: Option<bool>,
    /// How long a message is worth delivering when it does not say so itself; no limit by default.
    #[serde(deserialize_with = "crate::util::units::optional_duration")]
    pub ttl: Option<Duration>,
    /// The priority of messages that do not set their own, 0 to 9; 4 by default.
    pub priority: u8,
    /// How many messages of one topic may await their outcome; 256 by default. 1 keeps the order of a
    /// topic even when a broker releases a message and accepts the next one.
    pub window: u32,
}

impl Amqp10Settings {
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
impl fmt::Debug for Amqp10Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let urls: Vec<_> = self.urls.iter().map(|url| redacted_url(url)).collect();
        f.debug_struct("Amqp10Settings")
            .field("urls", &urls)
            .field("topic_prefix", &self.topic_prefix)
            .field("address", &self.address)
            .field("sasl", &self.sasl)
            .finish_non_exhaustive()
    }
}

impl Default for Amqp10Settings {
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
            address: None,
            durable: None,
            ttl: None,
            priority: 4,
            window: 256,
        }
    }
}
