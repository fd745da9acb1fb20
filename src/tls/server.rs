//! TLS of a server: its certificate, and the authorities of its clients.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::error::TlsError;
use super::identity;
use super::pem::PemFile;

/// The settings of a server for TLS.
#[derive(Clone, Debug)]
pub(crate) struct ServerTls<'a> {
    pub(crate) certificate: &'a Path,
    pub(crate) private_key: Option<&'a Path>,
    /// With it, each client needs a certificate.
    pub(crate) client_cacert: Option<&'a Path>,
}

/// Builds the TLS server, for HTTP/2 and HTTP/1.1.
pub(crate) fn server_config(settings: &ServerTls<'_>) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Setup)?;
    let builder = match settings.client_cacert {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            let file = PemFile::read("CLIENT_CACERT", path)?;
            for (index, certificate) in file.certificates()?.into_iter().enumerate() {
                let added = roots.add(certificate);
                added.map_err(|error| {
                    file.bad_certificate(index + 1, format!("cannot be trusted: {error}"))
                })?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            let verifier =
                verifier.map_err(|error| TlsError::Setup(rustls::Error::General(error.to_string())))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let (chain, key) = identity::load(settings.certificate, settings.private_key)?;
    let mut config = builder.with_single_cert(chain, key).map_err(|source| TlsError::Identity {
        certificate: settings.certificate.to_owned(),
        key: settings.private_key.unwrap_or(settings.certificate).to_owned(),
        source,
    })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Returns the common name in a certificate.
pub(crate) fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let name = certificate.subject().iter_common_name().next()?.as_str().ok()?;
    Some(name.to_owned())
}
