//! Checks of settings and messages that need no broker.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::ClientConfig;

use super::error::BrokersError;
use super::settings::{BrokerSettings, Sasl};
use super::url::{BrokerUrl, UrlError};
use crate::envelope::Envelope;
use crate::message::topic::Topic;
use crate::message::{Message, headers};
use crate::tls;
use crate::util::error::BoxError;
use crate::util::sync::lock;

/// The rules of one backend for the shared settings.
pub(crate) struct Rules {
    pub(crate) parse_url: fn(&str) -> Result<BrokerUrl, UrlError>,
    /// The scheme of addresses with TLS.
    pub(crate) tls_scheme: &'static str,
    pub(crate) least_idle_timeout: Duration,
    /// Whether `ENVELOPE` may name another shape than the backend's own.
    pub(crate) wraps: bool,
}

/// The brokers, and the TLS client if one of them is reached by TLS.
pub(crate) type Brokers = (Vec<BrokerUrl>, Option<Arc<ClientConfig>>);

/// The brokers whose unencrypted secrets were logged.
static WARNED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Whether a secret for this broker crosses the network unencrypted.
pub(in crate::backends) fn is_open(url: &BrokerUrl) -> bool {
    !url.is_tls() && !url.is_loopback()
}

/// Whether no warning of this broker was logged: messenger, requester and consumers all check the same settings.
pub(in crate::backends) fn is_first_warning(url: &BrokerUrl) -> bool {
    lock(&WARNED).insert(url.to_string())
}

impl BrokerSettings {
    /// Checks everything that can be known without a broker.
    pub(crate) fn check(&self, rules: &Rules) -> Result<Brokers, BrokersError> {
        let fault = |key, problem: &str| Err(BrokersError::setting(key, problem));
        self.check_envelope(rules.wraps)?;
        if self.urls.is_empty() {
            return Err(BrokersError::NoUrls);
        }
        let urls = self.urls.iter().map(|url| (rules.parse_url)(url)).collect::<Result<Vec<_>, _>>()?;
        if self.window == 0 {
            return fault("WINDOW", "is 0: nothing could be sent; write 1 or more");
        }
        for (key, timeout) in
            [("CONNECTION_TIMEOUT", self.connection_timeout()), ("SEND_TIMEOUT", self.send_timeout())]
        {
            if timeout.is_zero() {
                return fault(key, "is 0: no broker answers at once; write seconds, such as 10");
            }
        }
        if self.idle_timeout < rules.least_idle_timeout {
            let least = rules.least_idle_timeout;
            return fault("IDLE_TIMEOUT", &format!("is below {least:?}, the least possible; write \"30s\""));
        }
        if let Some(prefix) = self.topic_prefix.as_deref().map(|prefix| prefix.trim_matches('.'))
            && !prefix.is_empty()
            && let Err(error) = Topic::new(prefix.to_owned())
        {
            return fault("TOPIC_PREFIX", &format!("does not begin a topic: {error}"));
        }
        let tls_scheme = rules.tls_scheme;
        let with_tls = urls.iter().any(BrokerUrl::is_tls);
        if self.sasl == Sasl::External && (self.certificate.is_none() || !with_tls) {
            return fault("SASL", &format!("external needs CERTIFICATE and {tls_scheme}:// in URLS"));
        }
        if self.sasl == Sasl::Plain && urls.iter().any(|url| url.credentials().is_none()) {
            let problem =
                format!("plain needs a user and password in each of URLS: {tls_scheme}://user:password@host");
            return fault("SASL", &problem);
        }
        if !with_tls && (self.certificate.is_some() || self.cacert.is_some()) {
            let problem =
                format!("or CACERT is set, but no URL begins with {tls_scheme}://: they would not be used");
            return fault("CERTIFICATE", &problem);
        }
        let open = urls.iter().filter(|url| url.credentials().is_some() && is_open(url));
        for url in open.filter(|url| is_first_warning(url)) {
            tracing::warn!(broker = %url, "the password crosses the network unencrypted: use {tls_scheme}://");
        }
        let tls = with_tls.then(|| tls::client_config(&self.tls())).transpose()?;
        Ok((urls, tls))
    }

    fn check_envelope(&self, wraps: bool) -> Result<(), BrokersError> {
        if self.envelope != Envelope::Plain && !wraps {
            let problem = "is not for this backend, which has a shape of its own; leave it out";
            return Err(BrokersError::setting("ENVELOPE", problem));
        }
        if self.envelope == Envelope::Petisco && self.topic_prefix.is_some() {
            let problem =
                "is not for ENVELOPE \"petisco\", whose routing keys begin with ORGANIZATION and SERVICE";
            return Err(BrokersError::setting("TOPIC_PREFIX", problem));
        }
        let checked = self.envelope.check_origin(self.origin());
        checked.map_err(|(key, problem)| BrokersError::setting(key, problem))
    }

    /// Rejects a message that no AMQP or MQTT broker can take.
    #[cfg(any(feature = "amqp091", feature = "amqp10", feature = "mqtt"))]
    pub(crate) fn check_message(&self, message: &Message) -> Result<(), BoxError> {
        if message.delay().is_some() {
            return Err("AMQP and MQTT brokers do not delay messages: send it without a delay".into());
        }
        self.check_size(message)
    }

    /// Rejects a message with too long a topic or too many headers.
    pub(crate) fn check_size(&self, message: &Message) -> Result<(), BoxError> {
        if self.prefixed(message.topic()).len() > Topic::MAX_LEN {
            return Err(format!("prefix and topic together are longer than {} bytes", Topic::MAX_LEN).into());
        }
        let count = message.headers().len();
        if count > headers::MOST {
            let most = headers::MOST;
            return Err(format!("it has {count} headers: a consumer takes {most} at most").into());
        }
        Ok(())
    }

    /// Prefix, exactly one dot, topic.
    pub(crate) fn prefixed(&self, topic: &Topic) -> String {
        match self.topic_prefix.as_deref().map(|prefix| prefix.trim_matches('.')) {
            None | Some("") => topic.as_str().to_owned(),
            Some(prefix) => format!("{prefix}.{topic}"),
        }
    }
}
