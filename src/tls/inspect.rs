//! The fields of the certificates in a file.

use std::path::Path;

use x509_parser::prelude::{FromDer, X509Certificate};

use super::error::TlsError;
use super::pem::PemFile;

/// One certificate; times are Unix seconds.
#[derive(Clone, Debug)]
pub(crate) struct Certificate {
    pub(crate) subject: String,
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
}

/// The certificates in the PEM file that a setting names, in its order.
pub(crate) fn inspect(path: &Path, setting: &'static str) -> Result<Vec<Certificate>, TlsError> {
    let file = PemFile::read(setting, path)?;
    let certificates = file.certificates()?;
    let inspect = |(index, der)| {
        let (_, certificate) = X509Certificate::from_der(der)
            .map_err(|_| file.bad_certificate(index + 1, "is no X.509 certificate".to_owned()))?;
        let validity = certificate.validity();
        Ok(Certificate {
            subject: certificate.subject().to_string(),
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
        })
    };
    certificates.iter().map(AsRef::as_ref).enumerate().map(inspect).collect()
}
