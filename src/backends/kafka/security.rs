//! How a client proves itself to the cluster, and the cluster to it.

use std::path::Path;

use krafka::auth::{AuthConfig, TlsConfig};

use super::sasl_mechanism::SaslMechanism;
use crate::backends::brokers::{BrokerSettings, BrokerUrl, BrokersError};
use crate::tls::TlsError;

/// TLS and SASL of a client.
#[derive(Clone)]
pub(super) struct Security(pub(super) AuthConfig);

impl Security {
    /// None for a cluster without both. The files were checked before.
    pub(super) fn new(
        broker: &BrokerSettings,
        mechanism: SaslMechanism,
        url: &BrokerUrl,
    ) -> Result<Option<Self>, BrokersError> {
        let tls = url.is_tls().then(|| tls(broker)).transpose()?;
        let sasl = url.credentials().map(|(user, password)| match mechanism {
            SaslMechanism::Plain => AuthConfig::sasl_plain(user, password.expose()),
            SaslMechanism::ScramSha256 => AuthConfig::sasl_scram_sha256(user, password.expose()),
            SaslMechanism::ScramSha512 => AuthConfig::sasl_scram_sha512(user, password.expose()),
        });
        Ok(match (sasl, tls) {
            (Some(sasl), Some(tls)) => Some(Self(sasl.with_tls(tls))),
            (Some(sasl), None) => Some(Self(sasl)),
            (None, Some(tls)) => Some(Self(AuthConfig::ssl(tls))),
            (None, None) => None,
        })
    }
}

fn tls(broker: &BrokerSettings) -> Result<TlsConfig, BrokersError> {
    let mut tls = match &broker.cacert {
        Some(file) => TlsConfig::new().with_ca_cert_pem(read("CACERT", file)?),
        None => TlsConfig::new().with_native_roots(),
    };
    if let Some(file) = &broker.certificate {
        let key = match &broker.private_key {
            Some(file) => read("PRIVATE_KEY", file)?,
            None => read("CERTIFICATE", file)?,
        };
        tls = tls.with_client_cert_pem(read("CERTIFICATE", file)?, key);
    }
    Ok(tls)
}

fn read(setting: &'static str, file: &Path) -> Result<Vec<u8>, BrokersError> {
    let unreadable = |source| TlsError::Read { setting, path: file.to_owned(), source };
    Ok(std::fs::read(file).map_err(unreadable)?)
}
