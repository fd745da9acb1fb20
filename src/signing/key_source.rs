//! Where trusted keys are.

use std::sync::Arc;

use async_trait::async_trait;

use super::trusted_key::TrustedKey;
use crate::util::error::BoxError;

/// The most keys of one origin that are tried.
pub(super) const MOST_KEYS: usize = 8;

/// Finds the public keys of an origin: a folder ([`TrustedFolder`](super::TrustedFolder)), or a table of the app's own.
///
/// While the keys of an origin change, both the old and the new ones are returned. At most 8 are tried.
#[async_trait]
pub trait KeySource: Send + Sync + 'static {
    /// Returns the keys of this origin; none if it is not trusted. The name is foreign input: 1 to 255 letters, digits, `.`,
    /// `-`, `_` or `@`, not beginning with a dot.
    ///
    /// With `anew` an earlier answer did not fit, so that it should be read again, unless that was a moment ago.
    ///
    /// # Errors
    /// Why the keys cannot be read now. The messages wait, and the consumer is reported as down.
    async fn keys(&self, origin: &str, anew: bool) -> Result<Arc<[TrustedKey]>, BoxError>;
}

#[async_trait]
impl<K: KeySource + ?Sized> KeySource for Arc<K> {
    async fn keys(&self, origin: &str, anew: bool) -> Result<Arc<[TrustedKey]>, BoxError> {
        (**self).keys(origin, anew).await
    }
}
