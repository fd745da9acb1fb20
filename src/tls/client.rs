//! TLS of connections to brokers: root certificates and the certificate of the client.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::error::TlsError;
use super::identity;
use super::pem::PemFile;

/// The settings of a backend for TLS.
#[derive(Clone, Debug, Default)]
pub(crate) struct TlsSettings<'a> {
    pub(crate) certificate: Option<&'a Path>,
    pub(crate) private_key: Option<&'a Path>,
    pub(crate) cacert: Option<&'a Path>,
    pub(crate) dangerous_accept_any_host_name: bool,
}

/// Builds the TLS client, so that every fault a file can have shows at start.
pub(crate) fn client_config(settings: &TlsSettings<'_>) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let roots = Arc::new(roots(settings.cacert)?);
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Setup)?;
    let builder = if settings.dangerous_accept_any_host_name {
        tracing::warn!("host names of brokers are not verified: DANGEROUS_ACCEPT_ANY_HOST_NAME is on");
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyHostName::new(roots, provider)?))
    } else {
        builder.with_root_certificates(roots)
    };
    let config = match (settings.certificate, settings.private_key) {
        (None, None) => builder.with_no_client_auth(),
        (None, Some(_)) => return Err(TlsError::KeyWithoutCertificate),
        (Some(certificate), key) => {
            let (chain, key_der) = identity::load(certificate, key)?;
            builder.with_client_auth_cert(chain, key_der).map_err(|source| TlsError::Identity {
                certificate: certificate.to_owned(),
                key: key.unwrap_or(certificate).to_owned(),
                source,
            })?
        }
    };
    Ok(Arc::new(config))
}

fn roots(cacert: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    match cacert {
        Some(path) => {
            let file = PemFile::read("CACERT", path)?;
            for (index, certificate) in file.certificates()?.into_iter().enumerate() {
                let added = roots.add(certificate);
                added.map_err(|error| {
                    file.bad_certificate(index + 1, format!("cannot be trusted: {error}"))
                })?;
            }
        }
        None => {
            let (added, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if added == 0 {
                return Err(TlsError::NoSystemRoots);
            }
        }
    }
    Ok(roots)
}

/// Checks a server certificate in all but its name.
#[derive(Debug)]
struct AnyHostName(Arc<WebPkiServerVerifier>);

impl AnyHostName {
    fn new(roots: Arc<RootCertStore>, provider: Arc<CryptoProvider>) -> Result<Self, TlsError> {
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider).build();
        verifier.map(Self).map_err(|error| TlsError::Setup(rustls::Error::General(error.to_string())))
    }
}

impl ServerCertVerifier for AnyHostName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // rustls checks the name last: everything else has passed.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
