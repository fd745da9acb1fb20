//! The faults of the settings of a backend with brokers.

use std::path::PathBuf;

use super::url::UrlError;
use crate::tls::TlsError;
use crate::util::error::{BoxError, debug_as_display};

/// A fault of the settings of a messenger or source, found without a broker.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum BrokersError {
    /// The settings name no broker.
    #[error(
        "URLS is empty: name at least one broker, such as amqps://broker.example.com:5671 or mqtts://broker.example.com:8883"
    )]
    NoUrls,
    /// The address of a broker is invalid.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// Certificates or keys cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The configuration file of fedora-messaging cannot be used.
    #[error("CONFIG {} is not a configuration file of fedora-messaging that can be used", .path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The fault in it.
        source: BoxError,
    },
    /// A setting has an invalid value, or contradicts another one.
    #[error("{key} {problem}")]
    Setting {
        /// The key.
        key: &'static str,
        /// The fault and the cure.
        problem: String,
    },
}

debug_as_display!(BrokersError);

impl BrokersError {
    pub(crate) fn setting(key: &'static str, problem: impl Into<String>) -> Self {
        Self::Setting { key, problem: problem.into() }
    }
}
