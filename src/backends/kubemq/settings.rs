//! The settings of the backend `kubemq`.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tonic::metadata::{Ascii, MetadataValue};

use crate::backends::brokers::{BrokerSettings, BrokerUrl, Brokers, BrokersError, Rules, Sasl};
use crate::backends::brokers::{is_first_warning, is_open};
use crate::util::secret::Secret;

/// The longest wait and expiry of a server with its own defaults, in seconds.
pub(super) const MOST_SECONDS: u64 = 43_200;

/// The brokers, and the channels that messages go to.
///
/// In a settings file these are keys of `[MESSAGE_BUS]` in any case, beside those of [`BrokerSettings`].
///
/// ```
/// use tower_outbox::kubemq_client::{Kubemq, KubemqSettings};
///
/// let settings = KubemqSettings::new(["kubemq://localhost:50000"]).with_channel("orders");
/// let messenger = Kubemq::new(&settings)?;
/// # Ok::<(), tower_outbox::kubemq_client::BrokersError>(())
/// ```
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct KubemqSettings {
    /// The brokers and the way to them.
    #[serde(skip)]
    pub broker: BrokerSettings,
    /// The kind of channels; [`Pattern::Queues`] by default.
    #[serde(deserialize_with = "crate::util::units::word")]
    pub pattern: Pattern,
    /// The channel of a message: a template in which `{topic}` is replaced by prefix and topic. By default `{topic}`.
    pub channel: Option<String>,
    /// The name of this client at the broker; `tower-outbox` by default.
    pub client_id: Option<String>,
    /// The token of this client; none by default.
    pub token: Option<Token>,
    /// A file with the token, which is read at each connection; none by default.
    pub token_file: Option<PathBuf>,
}

/// The kind of channels that messages go to, or that a consumer receives from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Pattern {
    /// `queues`: a message is kept until one consumer has acknowledged it.
    #[default]
    Queues,
    /// `events`: a message goes to the subscribers that are there; it is lost for all others.
    Events,
    /// `event_store`: a message is kept, and each subscriber reads it from the position of its own.
    EventStore,
    /// `commands`: a consumer replies to requests, of which the caller learns only whether they succeeded.
    Commands,
    /// `queries`: a consumer replies to requests. [`KubemqRequester`](super::KubemqRequester) sends such.
    Queries,
}

/// A token, which is not printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Secret);

impl<T: Into<String>> From<T> for Token {
    fn from(token: T) -> Self {
        Self(Secret::new(token))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

impl KubemqSettings {
    /// The brokers at `urls`, and defaults for the rest.
    pub fn new<U: Into<String>>(urls: impl IntoIterator<Item = U>) -> Self {
        BrokerSettings::new(urls).into()
    }

    /// Sets the kind of channels.
    #[must_use]
    pub fn with_pattern(self, pattern: Pattern) -> Self {
        Self { pattern, ..self }
    }

    /// Sets the channel of a message.
    #[must_use]
    pub fn with_channel(self, channel: impl Into<String>) -> Self {
        Self { channel: Some(channel.into()), ..self }
    }

    /// Sets the name of this client.
    #[must_use]
    pub fn with_client_id(self, client_id: impl Into<String>) -> Self {
        Self { client_id: Some(client_id.into()), ..self }
    }

    /// Sets the token.
    #[must_use]
    pub fn with_token(self, token: impl Into<String>) -> Self {
        Self { token: Some(token.into().into()), ..self }
    }

    pub(super) fn client_id(&self) -> &str {
        self.client_id.as_deref().unwrap_or("tower-outbox")
    }

    /// Checks the settings that messenger and source share.
    pub(super) fn check(&self) -> Result<Brokers, BrokersError> {
        let fault = |key, problem: &str| Err(BrokersError::setting(key, problem));
        let (urls, tls) = self.broker.check(&Rules {
            parse_url: BrokerUrl::parse_kubemq,
            tls_scheme: "kubemqs",
            least_idle_timeout: Duration::from_secs(1),
            wraps: true,
        })?;
        if self.broker.sasl != Sasl::Auto {
            return fault("SASL", "is for AMQP: leave it out, and write TOKEN or CERTIFICATE");
        }
        if urls.iter().any(|url| url.credentials().is_some()) {
            return fault("URLS", "name a user, which KubeMQ does not know: write TOKEN instead");
        }
        let template = self.channel.as_deref().unwrap_or("{topic}");
        if !is_channel(&template.replace("{topic}", "t")) {
            return fault(
                "CHANNEL",
                "must be dotted segments without blanks and wildcards, such as \"shop.{topic}\"",
            );
        }
        if self.client_id().trim().is_empty() {
            return fault("CLIENT_ID", "is empty: write a name, or leave it out");
        }
        if self.token.is_some() && self.token_file.is_some() {
            return fault("TOKEN", "and TOKEN_FILE are both set: keep one");
        }
        self.authorization().map_err(|problem| BrokersError::setting("TOKEN", problem))?;
        if self.token.is_some() || self.token_file.is_some() {
            for url in urls.iter().filter(|url| is_open(url) && is_first_warning(url)) {
                tracing::warn!(broker = %url, "the token crosses the network unencrypted: use kubemqs://");
            }
        }
        // gRPC needs HTTP/2, which TLS must announce.
        let tls = tls.map(|config| {
            let mut config = (*config).clone();
            config.alpn_protocols = vec![b"h2".to_vec()];
            Arc::new(config)
        });
        Ok((urls, tls))
    }

    /// The token as it is sent.
    pub(super) fn authorization(&self) -> Result<Option<MetadataValue<Ascii>>, String> {
        let token = match (&self.token, &self.token_file) {
            (Some(token), _) => token.0.expose().to_owned(),
            (None, Some(file)) => std::fs::read_to_string(file)
                .map_err(|error| format!("cannot be read from TOKEN_FILE {}: {error}", file.display()))?,
            (None, None) => return Ok(None),
        };
        let value = token.trim().parse::<MetadataValue<Ascii>>();
        let mut value = value.map_err(|_| "is not a line of printable ASCII".to_owned())?;
        if value.is_empty() {
            return Err("is empty: write the token, or leave it out".to_owned());
        }
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

impl From<BrokerSettings> for KubemqSettings {
    fn from(broker: BrokerSettings) -> Self {
        Self { broker, ..Self::default() }
    }
}

/// Whether a server accepts the name of a channel to send to.
pub(super) fn is_channel(name: &str) -> bool {
    let is_odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '*' | '>');
    !name.is_empty() && !name.ends_with('.') && !name.contains(is_odd) && name.len() <= 4096
}
