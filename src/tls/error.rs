//! Faults of certificates and keys.

use std::path::PathBuf;

use crate::util::error::debug_as_display;

/// A fault of the TLS settings, with the file and the cure.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {setting} {}: check the path and that this user may read it", .path.display())]
    Read {
        /// The name of the setting.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
    /// The setting has the text of a PEM in place of a path.
    #[error(
        "{setting} holds the text of a PEM itself: write that into a file, and the path of the file here"
    )]
    NotAPath {
        /// The name of the setting.
        setting: &'static str,
    },
    /// A file that should hold certificates holds none.
    #[error("{setting} {} holds no certificate in PEM form (-----BEGIN CERTIFICATE-----): {found}", .path.display())]
    NoCertificate {
        /// The name of the setting.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// Its content, and the cure.
        found: String,
    },
    /// One certificate of a file cannot be used.
    #[error("certificate {number} in {setting} {} {problem}: take it out, or copy it there again", .path.display())]
    BadCertificate {
        /// The name of the setting.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// Which of the certificates in it, from 1.
        number: usize,
        /// The fault.
        problem: String,
    },
    /// No private key was found.
    #[error(
        "{setting} {} holds no private key in PEM form: {found}. Put the key into CERTIFICATE beside the certificate, \
         or name its file in PRIVATE_KEY (an encrypted key must be decrypted first)", .path.display()
    )]
    NoPrivateKey {
        /// The name of the setting.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// Its content.
        found: String,
    },
    /// There is a key, but no certificate.
    #[error("PRIVATE_KEY is set without CERTIFICATE: set both, or neither")]
    KeyWithoutCertificate,
    /// Certificate and key do not make a client identity; most often they do not match.
    #[error("the key in {} does not fit the certificate in {}: use the pair that was issued together, the certificate of \
         the key before those of its authorities",
        .key.display(), .certificate.display())]
    Identity {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// The error of the TLS library.
        source: rustls::Error,
    },
    /// The certificate is not valid now.
    #[error("certificate 1 in CERTIFICATE {} {problem}: renew it", .path.display())]
    NotValidNow {
        /// The file.
        path: PathBuf,
        /// Since or from when.
        problem: String,
    },
    /// The system has no root certificates.
    #[error("the system has no root certificates: install ca-certificates, or set CACERT")]
    NoSystemRoots,
    /// The TLS library cannot be set up.
    #[error("TLS cannot be set up")]
    Setup(#[source] rustls::Error),
}

debug_as_display!(TlsError);
