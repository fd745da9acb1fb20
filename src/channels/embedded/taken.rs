//! Guards of messages that were taken from a queue for a consumer who may go away.

use std::sync::{Arc, Weak};

use super::entry::Entry;
use super::op::Op;
use super::record::Record;
use super::shared::EngineShared;
use super::state::{Batch, ChannelState};

/// Messages that a receive has taken. Dropping it hands them back, unless the consumer got them.
pub(super) struct Taken {
    shared: Arc<EngineShared>,
    receipt: Option<u64>,
}

impl Taken {
    pub(super) fn new(shared: Arc<EngineShared>, receipt: u64) -> Self {
        Self { shared, receipt: Some(receipt) }
    }

    /// Lets the receipt hold them.
    pub(super) fn keep(&mut self) {
        self.receipt = None;
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if let Some(receipt) = self.receipt.take() {
            self.shared.lock().release(receipt);
        }
    }
}

/// Messages that were acknowledged on behalf of a consumer. Dropping it restores them, unless the consumer got them.
pub(super) struct Restore {
    shared: Weak<EngineShared>,
    queue: u32,
    entries: Vec<Entry>,
}

impl Restore {
    pub(super) fn new(shared: Weak<EngineShared>, queue: u32, entries: Vec<Entry>) -> Self {
        Self { shared, queue, entries }
    }

    /// Lets the consumer have them.
    pub(super) fn forget(mut self) {
        self.entries.clear();
    }

    /// Restores them, under the lock.
    pub(super) fn restore(mut self, state: &mut ChannelState) {
        let entries = std::mem::take(&mut self.entries);
        restore(state, self.queue, entries);
    }
}

impl Drop for Restore {
    fn drop(&mut self) {
        let entries = std::mem::take(&mut self.entries);
        if let (false, Some(shared)) = (entries.is_empty(), self.shared.upgrade()) {
            restore(&mut shared.lock(), self.queue, entries);
            shared.wake();
        }
    }
}

fn restore(state: &mut ChannelState, index: u32, entries: Vec<Entry>) {
    if entries.is_empty() {
        return;
    }
    let name = state.queues[index as usize].name.clone();
    let (mut batch, seed) = (Batch::new(), state.seed);
    let record = Record::Restored { queue: name.as_str(), entries: entries.clone() };
    if batch.push(seed, &record, Op::Restored { queue: index, entries }).is_ok()
        && state.enqueue(batch).is_err()
    {
        tracing::warn!(queue = %name, "a consumer went away while its messages were acknowledged, and the channels closed; they are lost");
    }
}
