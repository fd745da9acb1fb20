//! The other side of a connection.

use std::sync::Arc;

/// The other side of a connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Peer(Option<Arc<str>>);

impl Peer {
    pub(super) fn new(name: Option<String>) -> Self {
        Self(name.map(Arc::from))
    }

    /// Returns the common name of the client's certificate.
    pub(super) fn name(&self) -> Option<&str> {
        self.0.as_deref()
    }
}
