//! Shared by the tests of stores and of their users.

use std::time::{Duration, Instant};

use tokio::time::sleep;
use tower_outbox::store::{EmbeddedStore, EmbeddedStoreSettings, OpenError};
pub use tower_outbox::testing::support::stores::*;

/// Opens an embedded store; one that was dropped a moment ago may need another to let go of its folder.
pub async fn open(settings: &EmbeddedStoreSettings) -> Result<EmbeddedStore, OpenError> {
    let begun = Instant::now();
    loop {
        match EmbeddedStore::open(settings).await {
            Err(OpenError::InUse { .. }) if begun.elapsed() < STUCK => sleep(Duration::from_millis(5)).await,
            opened => return opened,
        }
    }
}
