//! What the certificates in a file say of themselves.

use std::path::Path;

use x509_parser::prelude::{FromDer, X509Certificate};

use super::{TlsError, read_certificates};

/// One certificate; times are Unix seconds.
#[derive(Clone, Debug)]
pub(crate) struct Certificate {
    pub(crate) subject: String,
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
}

/// The certificates in the PEM file that a setting names, in its order.
pub(crate) fn inspect(path: &Path, setting: &'static str) -> Result<Vec<Certificate>, TlsError> {
    let certificates = read_certificates(path, setting)?;
    let inspect = |der| {
        let (_, certificate) = X509Certificate::from_der(der)
            .map_err(|_| TlsError::NoCertificate { setting, path: path.to_owned() })?;
        let validity = certificate.validity();
        Ok(Certificate {
            subject: certificate.subject().to_string(),
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
        })
    };
    certificates.iter().map(|der| inspect(der.as_ref())).collect()
}
