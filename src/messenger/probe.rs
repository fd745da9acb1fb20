//! The health of each broker by itself.

use async_trait::async_trait;

use super::health::Health;

/// Connects to each broker of a backend anew: the findings of `tower-outbox check`.
#[async_trait]
pub(crate) trait Probe: Send + Sync + 'static {
    /// Returns the address and health of each broker.
    async fn brokers(&self) -> Vec<(String, Health)>;
}
