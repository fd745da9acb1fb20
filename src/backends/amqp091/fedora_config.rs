//! The keys for publishing in the configuration file of fedora-messaging (`fedora_messaging/config.py`).

use std::path::PathBuf;

use serde::Deserialize;

use super::settings::Amqp091Settings;
use crate::backends::brokers::BrokersError;
use crate::util::text_file::{self, toml_fault};

/// Other keys, such as those for consuming, are ignored.
#[derive(Deserialize)]
struct FedoraConfig {
    amqp_url: Option<String>,
    #[serde(default)]
    tls: Tls,
    #[serde(default)]
    client_properties: ClientProperties,
    publish_exchange: Option<String>,
    topic_prefix: Option<String>,
    publish_priority: Option<u8>,
}

#[derive(Default, Deserialize)]
struct Tls {
    ca_cert: Option<PathBuf>,
    certfile: Option<PathBuf>,
    keyfile: Option<PathBuf>,
}

#[derive(Default, Deserialize)]
struct ClientProperties {
    app: Option<String>,
}

/// Completes the settings from the configuration file they name.
pub(crate) fn fill(settings: &Amqp091Settings) -> Result<Amqp091Settings, BrokersError> {
    let mut filled = settings.clone();
    if let Some(path) = &settings.config {
        let fault =
            |source: crate::util::error::BoxError| BrokersError::Config { path: path.clone(), source };
        let bytes = text_file::read(path).map_err(|error| fault(error.into()))?;
        let text = String::from_utf8(bytes).map_err(|error| fault(error.utf8_error().into()))?;
        let config: FedoraConfig =
            toml::from_str(&text).map_err(|error| fault(toml_fault(&text, &error).into()))?;
        config.fill(&mut filled);
    }
    Ok(filled)
}

impl FedoraConfig {
    fn fill(self, settings: &mut Amqp091Settings) {
        if settings.broker.urls.is_empty() {
            // Its default, `amqp://?connection_attempts=3`, is the broker on this machine.
            settings.broker.urls = vec![match self.amqp_url {
                Some(url) => url.replacen("://?", "://localhost?", 1),
                None => "amqp://localhost".to_owned(),
            }];
        }
        // As there, TLS counts only where the URL asks for it.
        let with_tls = settings.broker.urls.iter().any(|url| url.starts_with("amqps:"));
        if with_tls && settings.broker.certificate.is_none() && settings.broker.private_key.is_none() {
            settings.broker.certificate = self.tls.certfile;
            settings.broker.private_key = self.tls.keyfile;
        }
        if with_tls {
            settings.broker.cacert = settings.broker.cacert.take().or(self.tls.ca_cert);
        }
        settings.app = settings.app.take().or(self.client_properties.app);
        settings.exchange = settings.exchange.take().or(self.publish_exchange);
        settings.broker.topic_prefix = settings.broker.topic_prefix.take().or(self.topic_prefix);
        settings.priority = settings.priority.or(self.publish_priority);
    }
}
