//! The client's own certificate and key.

use std::path::Path;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{TlsError, read_certificates};

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Reads a certificate chain and its key: from one PEM in either order, or from two files.
pub(super) fn load(certificate: &Path, private_key: Option<&Path>) -> Result<Identity, TlsError> {
    let chain = read_certificates(certificate, "CERTIFICATE")?;
    check_validity(certificate, &chain[0])?;
    let path = private_key.unwrap_or(certificate);
    let setting = if private_key.is_some() { "PRIVATE_KEY" } else { "CERTIFICATE" };
    let pem =
        std::fs::read(path).map_err(|source| TlsError::Read { setting, path: path.to_owned(), source })?;
    let key =
        PrivateKeyDer::from_pem_slice(&pem).map_err(|_| TlsError::NoPrivateKey { path: path.to_owned() })?;
    Ok((chain, key))
}

fn check_validity(path: &Path, certificate: &CertificateDer<'_>) -> Result<(), TlsError> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
        return Err(TlsError::NoCertificate { setting: "CERTIFICATE", path: path.to_owned() });
    };
    let validity = certificate.validity();
    if validity.is_valid() {
        return Ok(());
    }
    let now = x509_parser::time::ASN1Time::now();
    let problem = if validity.not_after < now {
        format!("expired on {}", validity.not_after)
    } else {
        format!("is valid only from {}", validity.not_before)
    };
    Err(TlsError::NotValidNow { path: path.to_owned(), problem })
}
