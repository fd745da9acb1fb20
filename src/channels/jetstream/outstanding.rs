//! The messages that a subscription has not acknowledged.

use std::collections::HashMap;
use std::sync::Mutex;

use async_nats::Subject;
use tokio::sync::Notify;

use crate::util::sync::lock;

/// The messages of one subscription, by sequence: where each is settled.
#[derive(Default)]
pub(super) struct Outstanding {
    pub(super) messages: Mutex<HashMap<u64, Subject>>,
    pub(super) freed: Notify,
}

impl Outstanding {
    pub(super) fn replies(&self) -> Vec<Subject> {
        lock(&self.messages).values().cloned().collect()
    }

    pub(super) fn take(&self, sequence: u64) -> Option<Subject> {
        let taken = lock(&self.messages).remove(&sequence);
        self.freed.notify_one();
        taken
    }
}
