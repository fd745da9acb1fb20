//! The capacity of the buffer, in messages and bytes.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::messenger::{Admission, Failure};
use crate::store::admission::room_for;

/// The capacity of a buffer, and the admission control that follows from it.
pub(super) struct Permits {
    messages: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    size: (u32, u32),
    pub(super) admission: Admission,
}

impl Permits {
    pub(super) fn new(size: (u32, u32)) -> Arc<Self> {
        let semaphore = |size: u32| Arc::new(Semaphore::new(size as usize));
        let admission = Admission::default();
        let permits = Self { messages: semaphore(size.0), bytes: semaphore(size.1), size, admission };
        permits.admission.set_free(permits.free());
        Arc::new(permits)
    }

    /// Returns how many more messages fit.
    fn free(&self) -> u64 {
        let free = (self.messages.available_permits() as u64, self.bytes.available_permits() as u64);
        let (messages, bytes) = (u64::from(self.size.0), u64::from(self.size.1));
        let held = (messages.saturating_sub(free.0), bytes.saturating_sub(free.1));
        if free.1 == 0 { 0 } else { room_for(free.0, free.1, held) }
    }

    /// Acquires capacity, if there is some that is not reserved for other requests.
    pub(super) fn try_acquire(self: &Arc<Self>, messages: u32, bytes: u32) -> Option<Permit> {
        let acquired = self.admission.take_over(self.admission.own(), |gate| {
            if !gate.fits(messages.into(), self.messages.available_permits() as u64) {
                return None;
            }
            let messages = Arc::clone(&self.messages).try_acquire_many_owned(messages).ok()?;
            let bytes = Arc::clone(&self.bytes).try_acquire_many_owned(bytes).ok()?;
            gate.free = self.free();
            Some((messages, bytes))
        })?;
        Some(Permit { acquired: Some(acquired), permits: Arc::clone(self) })
    }

    /// Waits for capacity.
    pub(super) async fn acquire(self: &Arc<Self>, messages: u32, bytes: u32) -> Result<Permit, Failure> {
        let stopped = |_| Failure::transient("the background worker has stopped");
        let acquired = (
            Arc::clone(&self.messages).acquire_many_owned(messages).await.map_err(stopped)?,
            Arc::clone(&self.bytes).acquire_many_owned(bytes).await.map_err(stopped)?,
        );
        Ok(Permit { acquired: Some(acquired), permits: Arc::clone(self) })
    }

    /// Whether the worker has stopped.
    pub(super) fn is_closed(&self) -> bool {
        self.messages.is_closed()
    }

    pub(super) fn close(&self) {
        self.messages.close();
        self.bytes.close();
    }
}

/// Capacity that is acquired until this is dropped.
pub(super) struct Permit {
    acquired: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
    permits: Arc<Permits>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.acquired = None;
        self.permits.admission.take_over(None, |gate| gate.free = self.permits.free());
    }
}
