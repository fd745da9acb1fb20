//! Why the router cannot be started or served.

use std::io;
use std::net::SocketAddr;

use super::config::ConfigError;
use crate::routing::{GrantError, OpenError, RouteError};
use crate::signing::SigningError;
use crate::util::error::debug_as_display;

/// Why the router cannot be started or served.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum WavemqError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file of grants is wrong.
    #[error(transparent)]
    Grants(#[from] GrantError),
    /// A key for signatures cannot be used.
    #[error(transparent)]
    Signing(#[from] SigningError),
    /// The folder of the queues cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The queue for a designated router cannot be opened.
    #[error("the queue for a designated router cannot be opened")]
    Queue(#[source] RouteError),
    /// A file of a certificate or key cannot be used.
    #[error("the file {path} cannot be used: {reason}")]
    Certificate {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// The address of a designated router is wrong.
    #[error("the address {address:?} of a designated router cannot be used: {reason}; write host:port")]
    Address {
        /// The address.
        address: String,
        /// Why.
        reason: String,
    },
    /// Other machines can reach the listener, and nothing keeps them out.
    #[error("{address} can be reached from other machines, and {missing}; listen on 127.0.0.1, or add it")]
    Unguarded {
        /// The address.
        address: SocketAddr,
        /// The reason why they are refused.
        missing: &'static str,
    },
    /// A listener failed.
    #[error("the listener {address} failed")]
    Listener {
        /// The address.
        address: SocketAddr,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The server for other routers failed.
    #[error("the server for other routers failed")]
    Peers(#[source] tonic::transport::Error),
}

debug_as_display!(WavemqError);
