//! The way to the brokers, as far as it can be checked without them.

use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;

use super::error::BrokersError;
use super::settings::Sasl;
use super::url::{BrokerUrl, UrlError};
use crate::envelope::{Envelope, Origin};
use crate::message::Message;
use crate::message::headers;
use crate::message::topic::Topic;
use crate::tls::{self, TlsSettings};
use crate::util::error::BoxError;

/// What the settings of a backend say of the way to its brokers.
pub(crate) struct Access<'a> {
    pub(crate) urls: &'a [String],
    pub(crate) parse_url: fn(&str) -> Result<BrokerUrl, UrlError>,
    pub(crate) tls: TlsSettings<'a>,
    pub(crate) sasl: Sasl,
    pub(crate) topic_prefix: Option<&'a str>,
    pub(crate) window: u32,
    pub(crate) connection_timeout: Duration,
    pub(crate) send_timeout: Duration,
    pub(crate) idle_timeout: Duration,
    pub(crate) least_idle_timeout: Duration,
}

impl Access<'_> {
    /// Checks all of it; gives the brokers, and the TLS client if one of them is reached by TLS.
    pub(crate) fn check(&self) -> Result<(Vec<BrokerUrl>, Option<Arc<ClientConfig>>), BrokersError> {
        let fault = |key, problem: &str| Err(BrokersError::setting(key, problem));
        if self.urls.is_empty() {
            return Err(BrokersError::NoUrls);
        }
        let urls = self.urls.iter().map(|url| (self.parse_url)(url)).collect::<Result<Vec<_>, _>>()?;
        if self.window == 0 {
            return fault("WINDOW", "is 0: nothing could be sent; write 1 or more");
        }
        if self.connection_timeout.is_zero() || self.send_timeout.is_zero() {
            let problem = "or SEND_TIMEOUT is 0: no broker is that quick; write seconds, such as 60";
            return fault("CONNECTION_TIMEOUT", problem);
        }
        if self.idle_timeout < self.least_idle_timeout {
            let least = self.least_idle_timeout;
            let problem = format!("is below {least:?}, the least that can be kept; write \"30s\"");
            return fault("IDLE_TIMEOUT", &problem);
        }
        if let Some(prefix) = self.topic_prefix.map(|prefix| prefix.trim_matches('.'))
            && !prefix.is_empty()
            && let Err(error) = Topic::new(prefix.to_owned())
        {
            return fault("TOPIC_PREFIX", &format!("does not begin a topic: {error}"));
        }
        let with_tls = urls.iter().any(BrokerUrl::is_tls);
        if self.sasl == Sasl::External && (self.tls.certificate.is_none() || !with_tls) {
            return fault("SASL", "external needs CERTIFICATE and amqps:// in URLS");
        }
        if self.sasl == Sasl::Plain && urls.iter().any(|url| url.credentials().is_none()) {
            let problem = "plain needs a user and password in each of URLS: amqps://user:password@host";
            return fault("SASL", problem);
        }
        if !with_tls && (self.tls.certificate.is_some() || self.tls.cacert.is_some()) {
            let problem = "or CACERT is set, but no URL begins with amqps://: they would not be used";
            return fault("CERTIFICATE", problem);
        }
        for url in urls.iter().filter(|url| url.credentials().is_some() && !url.is_tls()) {
            tracing::warn!(broker = %url, "the password goes over the network unencrypted: use amqps://");
        }
        let tls = with_tls.then(|| tls::client_config(&self.tls)).transpose()?;
        Ok((urls, tls))
    }
}

/// Checks the settings of an envelope; `wraps` says whether the backend may have one.
pub(crate) fn check_envelope(
    envelope: Envelope,
    origin: Origin<'_>,
    topic_prefix: Option<&str>,
    wraps: bool,
) -> Result<(), BrokersError> {
    if envelope != Envelope::Plain && !wraps {
        let problem = "is not for this backend, which has a shape of its own; leave it out";
        return Err(BrokersError::setting("ENVELOPE", problem));
    }
    if envelope == Envelope::Petisco && topic_prefix.is_some() {
        let problem =
            "is not for ENVELOPE \"petisco\", whose routing keys begin with ORGANIZATION and SERVICE";
        return Err(BrokersError::setting("TOPIC_PREFIX", problem));
    }
    envelope.check_origin(origin).map_err(|(key, problem)| BrokersError::setting(key, problem))
}

/// What no broker of AMQP could do for a message.
pub(crate) fn check_message(topic_prefix: Option<&str>, message: &Message) -> Result<(), BoxError> {
    if message.delay().is_some() {
        return Err("AMQP brokers do not hold messages back: send without a delay".into());
    }
    if prefixed(topic_prefix, message.topic()).len() > Topic::MAX_LEN {
        return Err(format!("prefix and topic together are longer than {} bytes", Topic::MAX_LEN).into());
    }
    let count = message.headers().len();
    if count > headers::MOST {
        return Err(format!("it has {count} headers: a consumer takes {} at most", headers::MOST).into());
    }
    Ok(())
}

/// Prefix, exactly one dot, topic.
pub(crate) fn prefixed(prefix: Option<&str>, topic: &Topic) -> String {
    match prefix.map(|prefix| prefix.trim_matches('.')) {
        None | Some("") => topic.as_str().to_owned(),
        Some(prefix) => format!("{prefix}.{topic}"),
    }
}
