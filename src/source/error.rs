//! Why a source failed.

use crate::util::error::{BoxError, debug_as_display};

/// Why messages cannot be received or settled.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The source is closed.
    #[error("the source is closed")]
    Closed,
    /// The source cannot be used now: no connection, no such queue, no permission.
    #[error("the source cannot be used now")]
    Unavailable(#[source] BoxError),
}

debug_as_display!(SourceError);

impl SourceError {
    /// For implementors of a source.
    pub fn unavailable(cause: impl Into<BoxError>) -> Self {
        Self::Unavailable(cause.into())
    }
}
