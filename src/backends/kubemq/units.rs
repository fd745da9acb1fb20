//! The memory of fetched messages: `PREFETCH_BYTES`.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes are counted in units of so many.
const UNIT: usize = 1 << 10;

/// The bytes that may be fetched and not settled.
pub(super) struct Units {
    free: Arc<Semaphore>,
    most: usize,
}

impl Units {
    pub(super) fn new(bytes: usize) -> Self {
        let most = count(bytes);
        Self { free: Arc::new(Semaphore::new(most)), most }
    }

    /// Waits for the memory of a message; one that is larger than all of it takes all.
    pub(super) async fn acquire(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let units = u32::try_from(count(bytes).min(self.most)).ok()?;
        Arc::clone(&self.free).acquire_many_owned(units).await.ok()
    }
}

fn count(bytes: usize) -> usize {
    bytes.div_ceil(UNIT).clamp(1, (u32::MAX as usize).min(Semaphore::MAX_PERMITS))
}
