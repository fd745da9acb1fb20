//! The contract of what signs messages, and verifies them at each hop.

use std::fmt::Debug;

use async_trait::async_trait;
use bytes::Bytes;

use super::message::RoutedMessage;
use crate::util::error::BoxError;

/// Signs the messages that are published at a router, and verifies those that come from other routers.
///
/// [`RoutedMessage::signed_bytes`] returns the bytes that are signed.
#[async_trait]
pub trait Seal: Debug + Send + Sync + 'static {
    /// Returns the signature of a message; empty for none.
    fn sign(&self, message: &RoutedMessage) -> Bytes;

    /// Checks the signature of a message.
    ///
    /// # Errors
    /// [`SealError`].
    ///
    /// # Cancel safety
    /// Dropping the future has no effect.
    async fn verify(&self, message: &RoutedMessage) -> Result<(), SealError>;
}

/// Why a message is not accepted.
#[derive(Debug)]
#[non_exhaustive]
pub enum SealError {
    /// Its signature is missing or does not fit, for this reason: it is dropped.
    Forged(String),
    /// It cannot be verified now: the other router sends it again.
    Unavailable(BoxError),
}
