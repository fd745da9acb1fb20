//! Why a message was not confirmed.

use std::fmt;
use std::sync::Arc;

use crate::util::error::{BoxError, Chain, debug_as_display};

/// Why a message was not confirmed.
#[derive(Clone)]
#[non_exhaustive]
pub enum Failure {
    /// Another try may succeed: connection lost, timed out, throttled, released by the broker.
    Transient(Arc<dyn std::error::Error + Send + Sync>),
    /// No try can succeed: too large, forbidden, unroutable, malformed.
    Rejected(Arc<dyn std::error::Error + Send + Sync>),
}

impl Failure {
    /// A failure worth another try.
    pub fn transient(cause: impl Into<BoxError>) -> Self {
        Self::Transient(Arc::from(cause.into()))
    }

    /// A final failure.
    pub fn rejected(cause: impl Into<BoxError>) -> Self {
        Self::Rejected(Arc::from(cause.into()))
    }

    /// Whether another try may succeed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Transient(_))
    }

    /// Returns the error behind it.
    #[must_use]
    pub fn cause(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
        match self {
            Self::Transient(cause) | Self::Rejected(cause) => cause.as_ref(),
        }
    }

    /// Returns its word in logs and metrics: `transient` or `rejected`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        if self.is_transient() { "transient" } else { "rejected" }
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Failure({self})")
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind(), Chain(self.cause()))
    }
}

/// The cause of a transient [`Failure`] when the broker has a message that its consumer has not confirmed.
///
/// The relay of an [`Outbox`](crate::outbox::Outbox) sends the message again later, and does not take it for a fault of the
/// broker.
#[derive(thiserror::Error)]
#[error(transparent)]
pub struct Unacknowledged(BoxError);

debug_as_display!(Unacknowledged);

impl Unacknowledged {
    /// A missing confirmation, with the wait that ended without it.
    pub fn new(reason: impl Into<BoxError>) -> Self {
        Self(reason.into())
    }
}

/// The cause of a [`Failure`] when a buffer or store did not accept messages: it is full, or cannot write.
///
/// [`MessagingLayer`](crate::layer::MessagingLayer) answers it with 503, whatever its
/// [`OnSendFailure`](crate::layer::OnSendFailure) is: the user chose refusal over loss.
#[derive(thiserror::Error)]
#[error(transparent)]
pub struct Overloaded(BoxError);

debug_as_display!(Overloaded);

impl Overloaded {
    /// An overload with this reason.
    pub fn new(reason: impl Into<BoxError>) -> Self {
        Self(reason.into())
    }
}
