//! What can be wrong with the settings of a backend with brokers.

use std::path::PathBuf;

use super::url::UrlError;
use crate::tls::TlsError;
use crate::util::error::{BoxError, debug_as_display};

/// Why a messenger cannot be made: all that can be known without a broker.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum BrokersError {
    /// No broker is named.
    #[error("URLS is empty: name at least one broker, such as amqps://broker.example.com:5671")]
    NoUrls,
    /// A broker's address is not one.
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
        /// What is wrong with it.
        source: BoxError,
    },
    /// A setting has a value it cannot have, or contradicts another.
    #[error("{key} {problem}")]
    Setting {
        /// The key.
        key: &'static str,
        /// What is wrong, and what to write.
        problem: String,
    },
}

debug_as_display!(BrokersError);

impl BrokersError {
    pub(crate) fn setting(key: &'static str, problem: impl Into<String>) -> Self {
        Self::Setting { key, problem: problem.into() }
    }
}
