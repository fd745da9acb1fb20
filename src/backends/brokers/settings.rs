//! The settings that every backend with brokers has.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::envelope::{Envelope, Origin};
use crate::tls::TlsSettings;
use crate::util::secret::redacted_url;
pub(crate) use crate::util::units::one_or_many;

/// How long connecting to one broker may take by default.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one broker may take to confirm a message by default.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// The brokers and the way to them, alike for every backend that has brokers.
///
/// In a settings file these are keys of `[MESSAGE_BUS]`, in any case, beside those of the backend. Durations are texts
/// such as `"30s"`, or plain seconds.
#[derive(Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct BrokerSettings {
    /// The brokers, `amqp://[user:password@]host[:5672]` or `amqps://host[:5671]`, for MQTT `mqtt://host[:1883]` or
    /// `mqtts://host[:8883]`, for NATS `nats://host[:4222]` or `tls://host[:4222]`; tried in a random order. For AMQP 0-9-1 the path is the virtual host.
    #[serde(deserialize_with = "one_or_many")]
    pub urls: Vec<String>,
    /// How long connecting to one broker may take; 5 s by default, 60 s for `rhmsg`.
    #[serde(deserialize_with = "crate::util::units::optional_duration")]
    pub connection_timeout: Option<Duration>,
    /// How long one broker may take to confirm a message; 10 s by default, 60 s for `rhmsg`.
    #[serde(deserialize_with = "crate::util::units::optional_duration")]
    pub send_timeout: Option<Duration>,
    /// How long a broker may be silent before its connection counts as lost; 30 s by default. At least 1 s, and 2 s for
    /// AMQP 0-9-1 and MQTT, whose heartbeats are requested at half of it.
    #[serde(deserialize_with = "crate::util::units::duration")]
    pub idle_timeout: Duration,
    /// The client certificate chain in PEM form, with its key in either order unless `private_key` is set.
    pub certificate: Option<PathBuf>,
    /// The key of the certificate in PEM form, if it is in a file of its own.
    pub private_key: Option<PathBuf>,
    /// The certificate authorities to trust, in PEM form; by default the system's.
    pub cacert: Option<PathBuf>,
    /// Accepts a valid broker certificate issued for any name, as python-rhmsg does. Whoever holds one certificate of
    /// the same authority can then read and drop every message. Off by default.
    pub dangerous_accept_any_host_name: bool,
    /// The SASL mechanism of AMQP; [`Sasl::Auto`] by default.
    #[serde(deserialize_with = "crate::util::units::word")]
    pub sasl: Sasl,
    /// Precedes every topic, with exactly one dot between; none by default.
    pub topic_prefix: Option<String>,
    /// The shape of messages; [`Envelope::Plain`] by default. Not for `fedmsg` and `rhmsg`, which have their own.
    #[serde(deserialize_with = "crate::util::units::word")]
    pub envelope: Envelope,
    /// The organization that sends, for [`Envelope::Petisco`].
    pub organization: Option<String>,
    /// The service of the organization that sends, for [`Envelope::Petisco`].
    pub service: Option<String>,
    /// The attribute `source` of [`Envelope::CloudEvents`], a URI; `/tower-outbox` by default.
    pub event_source: Option<String>,
    /// How long a message is worth delivering when it does not set its own expiry; no limit by default.
    #[serde(deserialize_with = "crate::util::units::optional_duration")]
    pub ttl: Option<Duration>,
    /// How many messages may await their confirm; 256 by default. For AMQP 0-9-1, MQTT and NATS on a connection. For AMQP 1.0 of one
    /// topic, where 1 keeps the order even when a broker releases a message and accepts the next one.
    pub window: u32,
}

impl BrokerSettings {
    /// The brokers at `urls`, and defaults for the rest.
    pub fn new<U: Into<String>>(urls: impl IntoIterator<Item = U>) -> Self {
        Self { urls: urls.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// Sets how long connecting to one broker may take.
    #[must_use]
    pub fn with_connection_timeout(self, connection_timeout: Duration) -> Self {
        Self { connection_timeout: Some(connection_timeout), ..self }
    }

    /// Sets how long one broker may take to confirm a message.
    #[must_use]
    pub fn with_send_timeout(self, send_timeout: Duration) -> Self {
        Self { send_timeout: Some(send_timeout), ..self }
    }

    /// Sets how long a broker may be silent before its connection counts as lost.
    #[must_use]
    pub fn with_idle_timeout(self, idle_timeout: Duration) -> Self {
        Self { idle_timeout, ..self }
    }

    /// Sets the client certificate, with its key in the same file.
    #[must_use]
    pub fn with_certificate(self, certificate: impl Into<PathBuf>) -> Self {
        Self { certificate: Some(certificate.into()), ..self }
    }

    /// Sets the file of the key, if it is not in that of the certificate.
    #[must_use]
    pub fn with_private_key(self, private_key: impl Into<PathBuf>) -> Self {
        Self { private_key: Some(private_key.into()), ..self }
    }

    /// Sets the certificate authorities to trust.
    #[must_use]
    pub fn with_cacert(self, cacert: impl Into<PathBuf>) -> Self {
        Self { cacert: Some(cacert.into()), ..self }
    }

    /// Sets the SASL mechanism.
    #[must_use]
    pub fn with_sasl(self, sasl: Sasl) -> Self {
        Self { sasl, ..self }
    }

    /// Sets what precedes every topic.
    #[must_use]
    pub fn with_topic_prefix(self, topic_prefix: impl Into<String>) -> Self {
        Self { topic_prefix: Some(topic_prefix.into()), ..self }
    }

    /// Sets the shape of messages.
    #[must_use]
    pub fn with_envelope(self, envelope: Envelope) -> Self {
        Self { envelope, ..self }
    }

    /// Sets the organization and the service that send, for [`Envelope::Petisco`].
    #[must_use]
    pub fn with_service(self, organization: impl Into<String>, service: impl Into<String>) -> Self {
        Self { organization: Some(organization.into()), service: Some(service.into()), ..self }
    }

    /// Sets the attribute `source` of [`Envelope::CloudEvents`].
    #[must_use]
    pub fn with_event_source(self, event_source: impl Into<String>) -> Self {
        Self { event_source: Some(event_source.into()), ..self }
    }

    /// Sets how long a message is worth delivering.
    #[must_use]
    pub fn with_ttl(self, ttl: Duration) -> Self {
        Self { ttl: Some(ttl), ..self }
    }

    /// Sets how many messages may await their confirm.
    #[must_use]
    pub fn with_window(self, window: u32) -> Self {
        Self { window, ..self }
    }

    /// The connection timeout, or its default.
    pub(crate) fn connection_timeout(&self) -> Duration {
        self.connection_timeout.unwrap_or(CONNECTION_TIMEOUT)
    }

    /// The send timeout, or its default.
    pub(crate) fn send_timeout(&self) -> Duration {
        self.send_timeout.unwrap_or(SEND_TIMEOUT)
    }

    /// The sender that envelopes name.
    pub(crate) fn origin(&self) -> Origin<'_> {
        Origin {
            organization: self.organization.as_deref(),
            service: self.service.as_deref(),
            event_source: self.event_source.as_deref(),
        }
    }

    /// The files of TLS.
    pub(crate) fn tls(&self) -> TlsSettings<'_> {
        TlsSettings {
            certificate: self.certificate.as_deref(),
            private_key: self.private_key.as_deref(),
            cacert: self.cacert.as_deref(),
            dangerous_accept_any_host_name: self.dangerous_accept_any_host_name,
        }
    }
}

/// Shows the brokers without passwords.
impl fmt::Debug for BrokerSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let urls: Vec<_> = self.urls.iter().map(|url| redacted_url(url)).collect();
        f.debug_struct("BrokerSettings")
            .field("urls", &urls)
            .field("topic_prefix", &self.topic_prefix)
            .field("sasl", &self.sasl)
            .field("envelope", &self.envelope)
            .finish_non_exhaustive()
    }
}

impl Default for BrokerSettings {
    fn default() -> Self {
        Self {
            urls: Vec::new(),
            connection_timeout: None,
            send_timeout: None,
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
            ttl: None,
            window: 256,
        }
    }
}

/// The SASL mechanism (AMQP 1.0, part 5.3; AMQP 0-9-1, `connection.start`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Sasl {
    /// EXTERNAL with a client certificate, PLAIN with credentials in the URL, else ANONYMOUS. In AMQP 1.0 the
    /// first of these that the broker offers; a broker that disconnects during EXTERNAL is tried again with
    /// ANONYMOUS. In AMQP 0-9-1 PLAIN as `guest` in place of ANONYMOUS.
    #[default]
    Auto,
    /// The client certificate names the client.
    External,
    /// The user and password of the URL.
    Plain,
    /// The client has no name.
    Anonymous,
}
