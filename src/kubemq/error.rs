//! Why the face cannot start or serve.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::settings::TokenAlgorithm;
use crate::tls::TlsError;
use crate::util::error::{BoxError, debug_as_display};

/// Why the face cannot start or serve.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum KubemqError {
    /// The certificates or keys cannot be used.
    #[error("the TLS settings of KUBEMQ cannot be used")]
    Tls(#[from] TlsError),
    /// The file of the key that verifies tokens cannot be read.
    #[error("cannot read TOKEN_KEY {}: check the path and that this user may read it", .path.display())]
    ReadTokenKey {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The key does not fit the algorithm.
    #[error("TOKEN_KEY {} is no key for {algorithm}: {cure}", .path.display())]
    TokenKey {
        /// The file.
        path: PathBuf,
        /// The algorithm of the settings.
        algorithm: TokenAlgorithm,
        /// The cure.
        cure: &'static str,
        /// The fault.
        source: BoxError,
    },
    /// A grant is wrong.
    #[error("the grant {number} of GRANTS {problem}")]
    Grant {
        /// The number of the grant, from 1.
        number: usize,
        /// The fault of the grant.
        problem: String,
    },
    /// `PRIVATE_KEY` or `CLIENT_CACERT` without `CERTIFICATE`.
    #[error("{setting} is set without CERTIFICATE: set the certificate of the server too")]
    NoCertificate {
        /// The setting.
        setting: &'static str,
    },
    /// Other machines can reach the listener, and nothing keeps them out.
    #[error(
        "{address} can be reached from other machines, and clients need neither a token nor a certificate: set TOKEN_KEY or \
         CLIENT_CACERT, listen on 127.0.0.1, or set ALLOW_ANYONE = true"
    )]
    Open {
        /// The address of the listener.
        address: SocketAddr,
    },
    /// The server failed.
    #[error("cannot serve KubeMQ clients")]
    Io(#[from] io::Error),
}

debug_as_display!(KubemqError);
