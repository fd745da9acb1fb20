//! The metrics of an outbox that change while nothing happens.

use std::time::{Duration, SystemTime};

use crate::outbox::OutboxHandle;
use crate::store::StoreError;
use crate::telemetry;

/// How often the store is read. In a database this is one query that counts.
const PERIOD: Duration = Duration::from_secs(30);

/// Measures the age of the oldest message until the store is closed.
pub(super) async fn sample(outbox: OutboxHandle) {
    loop {
        match outbox.status().await {
            Ok(status) => {
                let oldest = status.counts.oldest.filter(|_| status.counts.pending > 0);
                let age = oldest.and_then(|oldest| SystemTime::now().duration_since(oldest).ok());
                telemetry::oldest(age.unwrap_or_default());
            }
            Err(StoreError::Closed) => return,
            // The relay reports that the store cannot be read.
            Err(_) => {}
        }
        tokio::time::sleep(PERIOD).await;
    }
}
