//! The findings of a guard, looked up by delivery.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::util::sync::lock;

/// The fault of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// It could not be read and was repaired, with the reason.
    Unreadable(String),
    /// Its body of so many bytes did not fit into memory and was discarded: the message must be returned.
    NoRoom(u64),
    /// It was returned for that reason before.
    CameBack,
}

/// Whether a body fits into memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyMemory {
    Fits,
    /// It was returned before, and memory was reserved for it.
    Reserved,
    Full,
}

/// The findings of one connection, and the bytes of its unsettled bodies.
#[derive(Debug)]
pub(crate) struct Findings {
    /// By channel and delivery tag.
    found: Mutex<HashMap<(u16, u64), Finding>>,
    /// When requests with an expiry arrived.
    arrived: Mutex<HashMap<(u16, u64), Instant>>,
    held: AtomicUsize,
    /// The messages whose bodies were discarded and that are not returned yet.
    discarded: AtomicUsize,
    /// Whether messages on their first delivery wait behind them.
    in_order: AtomicBool,
    /// The size of the largest returned message that was not delivered again yet, which will be admitted; or 0.
    awaited: AtomicUsize,
    /// Whether one of them is about to be delivered, before messages on their first delivery.
    comes: AtomicBool,
    room: usize,
    freed: Notify,
}

/// The memory of one body, freed when it is dropped.
#[derive(Debug)]
pub(crate) struct HeldBytes {
    findings: Arc<Findings>,
    bytes: usize,
}

impl HeldBytes {
    /// The memory of an admitted body.
    pub(crate) fn new(findings: &Arc<Findings>, bytes: usize) -> Self {
        Self { findings: Arc::clone(findings), bytes }
    }
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        let Findings { held, discarded, freed, .. } = &*self.findings;
        let rest = |held: usize| Some(held.saturating_sub(self.bytes));
        let _ = held.fetch_update(Ordering::SeqCst, Ordering::SeqCst, rest);
        if discarded.load(Ordering::SeqCst) > 0 {
            freed.notify_one();
        }
    }
}

impl Findings {
    /// Findings with memory for so many bytes of bodies.
    pub(crate) fn new(room: usize) -> Self {
        Self {
            found: Mutex::default(),
            arrived: Mutex::default(),
            held: AtomicUsize::default(),
            discarded: AtomicUsize::default(),
            in_order: AtomicBool::default(),
            awaited: AtomicUsize::default(),
            comes: AtomicBool::default(),
            room,
            freed: Notify::new(),
        }
    }

    pub(super) fn note(&self, channel: u16, tag: u64, finding: Finding) {
        self.found().insert((channel, tag), finding);
    }

    /// Removes and returns the finding of a delivery.
    pub(crate) fn take(&self, channel: u16, tag: u64) -> Option<Finding> {
        let mut found = self.found();
        if found.is_empty() { None } else { found.remove(&(channel, tag)) }
    }

    /// Records that a request with an expiry arrived now.
    pub(super) fn note_arrival(&self, channel: u16, tag: u64) {
        lock(&self.arrived).insert((channel, tag), Instant::now());
    }

    /// Removes and returns when a request with an expiry arrived.
    pub(crate) fn take_arrival(&self, channel: u16, tag: u64) -> Option<Instant> {
        lock(&self.arrived).remove(&(channel, tag))
    }

    /// Reserves memory for a body, if it fits. A body alone may be larger than the limit. While other messages wait for memory,
    /// messages on their first delivery wait behind them.
    pub(super) fn admit(&self, bytes: u64, redelivered: bool) -> BodyMemory {
        let bytes = in_memory(bytes);
        let is_awaited = bytes > 0
            && redelivered
            && self.awaited.compare_exchange(bytes, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        let others = || self.comes.load(Ordering::SeqCst) || self.discarded.load(Ordering::SeqCst) > 0;
        let waits = || self.in_order.load(Ordering::SeqCst) && others();
        let may = bytes == 0 || redelivered || !waits();
        let take = |held: usize| (is_awaited || self.fits(held, bytes)).then(|| held.saturating_add(bytes));
        if may && self.held.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok() {
            if is_awaited {
                self.comes.store(false, Ordering::SeqCst);
                return BodyMemory::Reserved;
            }
            return BodyMemory::Fits;
        }
        if self.discarded.fetch_add(1, Ordering::SeqCst) == 0 {
            self.in_order.store(true, Ordering::SeqCst);
        }
        BodyMemory::Full
    }

    /// Whether a body fits into memory now.
    pub(crate) fn has_room(&self, bytes: u64) -> bool {
        self.fits(self.held.load(Ordering::SeqCst), in_memory(bytes))
    }

    fn fits(&self, held: usize, bytes: usize) -> bool {
        held == 0 || held.checked_add(bytes).is_some_and(|sum| sum <= self.room)
    }

    /// Records that a message is returned because its body fits now.
    pub(crate) fn handed_back(&self, bytes: u64) {
        self.awaited.fetch_max(in_memory(bytes), Ordering::SeqCst);
        self.comes.store(bytes > 0, Ordering::SeqCst);
        self.let_go(1);
    }

    /// Records that so many messages are returned, without a reservation.
    pub(crate) fn let_go(&self, returned: usize) {
        self.discarded.fetch_sub(returned, Ordering::SeqCst);
    }

    /// Records that a returned message is not delivered again at once: the others need not wait for it.
    pub(crate) fn strayed(&self) {
        self.in_order.store(false, Ordering::SeqCst);
        self.comes.store(false, Ordering::SeqCst);
    }

    /// Completes when memory was freed, also before this call.
    pub(crate) async fn freed(&self) {
        self.freed.notified().await;
    }

    fn found(&self) -> MutexGuard<'_, HashMap<(u16, u64), Finding>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn in_memory(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
