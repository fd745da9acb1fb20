//! The client's own certificate and key.

use std::path::Path;

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::error::TlsError;
use super::pem::PemFile;

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Reads a certificate chain and its key: from one PEM in either order, or from two files.
pub(super) fn load(certificate: &Path, private_key: Option<&Path>) -> Result<Identity, TlsError> {
    let file = PemFile::read("CERTIFICATE", certificate)?;
    let chain = file.certificates()?;
    check_validity(certificate, &chain[0])?;
    let key = match private_key {
        Some(path) => PemFile::read("PRIVATE_KEY", path)?.key()?,
        None => file.key()?,
    };
    Ok((chain, key))
}

fn check_validity(path: &Path, certificate: &CertificateDer<'_>) -> Result<(), TlsError> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
        return Ok(());
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
