//! The findings of a guard, looked up by delivery.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The fault of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// It was mended, as it could not be read; and why.
    Unreadable(String),
    /// Its body was left out, as there was no room for so many bytes: it has to be handed back.
    NoRoom(u64),
    /// It is one that was handed back for that.
    CameBack,
}

/// Whether there is room for a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    Found,
    /// It was handed back, and room was kept for it.
    Kept,
    Missing,
}

/// The findings of one connection, and the bytes of bodies that came over it and are unanswered.
#[derive(Debug)]
pub(crate) struct Findings {
    /// By channel and delivery tag.
    found: Mutex<HashMap<(u16, u64), Finding>>,
    held: AtomicUsize,
    /// How many had no room and are not handed back yet.
    refused: AtomicUsize,
    /// Whether those that come for the first time wait behind them.
    in_order: AtomicBool,
    /// How many bytes one has that was handed back and did not come again, the largest: it will be admitted. Or 0.
    awaited: AtomicUsize,
    /// Whether one of them is to come at once: it comes before those that come for the first time.
    comes: AtomicBool,
    room: usize,
    freed: Notify,
}

/// The room of one body; dropped, it is given back.
#[derive(Debug)]
pub(crate) struct HeldBytes {
    findings: Arc<Findings>,
    bytes: usize,
}

impl HeldBytes {
    /// Of a body that was admitted.
    pub(crate) fn new(findings: &Arc<Findings>, bytes: usize) -> Self {
        Self { findings: Arc::clone(findings), bytes }
    }
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        let Findings { held, refused, freed, .. } = &*self.findings;
        let rest = |held: usize| Some(held.saturating_sub(self.bytes));
        let _ = held.fetch_update(Ordering::SeqCst, Ordering::SeqCst, rest);
        if refused.load(Ordering::SeqCst) > 0 {
            freed.notify_one();
        }
    }
}

impl Findings {
    /// There is room for this many bytes of bodies that a consumer gets.
    pub(crate) fn new(room: usize) -> Self {
        Self {
            found: Mutex::default(),
            held: AtomicUsize::default(),
            refused: AtomicUsize::default(),
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

    /// Takes out the fault of a delivery.
    pub(crate) fn take(&self, channel: u16, tag: u64) -> Option<Finding> {
        let mut found = self.found();
        if found.is_empty() { None } else { found.remove(&(channel, tag)) }
    }

    /// Takes room for a body, if there is some. One alone may be larger than all of it. While others wait for room, those
    /// that come for the first time wait behind them.
    pub(super) fn admit(&self, bytes: u64, redelivered: bool) -> Room {
        let bytes = in_memory(bytes);
        let is_awaited = bytes > 0
            && redelivered
            && self.awaited.compare_exchange(bytes, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        let others = || self.comes.load(Ordering::SeqCst) || self.refused.load(Ordering::SeqCst) > 0;
        let waits = || self.in_order.load(Ordering::SeqCst) && others();
        let may = bytes == 0 || redelivered || !waits();
        let take = |held: usize| (is_awaited || self.fits(held, bytes)).then(|| held.saturating_add(bytes));
        if may && self.held.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok() {
            if is_awaited {
                self.comes.store(false, Ordering::SeqCst);
                return Room::Kept;
            }
            return Room::Found;
        }
        if self.refused.fetch_add(1, Ordering::SeqCst) == 0 {
            self.in_order.store(true, Ordering::SeqCst);
        }
        Room::Missing
    }

    /// Whether there is room for a body now.
    pub(crate) fn has_room(&self, bytes: u64) -> bool {
        self.fits(self.held.load(Ordering::SeqCst), in_memory(bytes))
    }

    fn fits(&self, held: usize, bytes: usize) -> bool {
        held == 0 || held.checked_add(bytes).is_some_and(|sum| sum <= self.room)
    }

    /// One for which there was no room is handed back, as there is now.
    pub(crate) fn handed_back(&self, bytes: u64) {
        self.awaited.fetch_max(in_memory(bytes), Ordering::SeqCst);
        self.comes.store(bytes > 0, Ordering::SeqCst);
        self.let_go(1);
    }

    /// So many of them are, and may come again or not.
    pub(crate) fn let_go(&self, refused: usize) {
        self.refused.fetch_sub(refused, Ordering::SeqCst);
    }

    /// A message handed back does not come again at once: the others need not wait for it.
    pub(crate) fn strayed(&self) {
        self.in_order.store(false, Ordering::SeqCst);
        self.comes.store(false, Ordering::SeqCst);
    }

    /// Completes when room was given back, also before it was called.
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
