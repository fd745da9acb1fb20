//! What a guard has found, for those who get the deliveries.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What is wrong with a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// It was mended, as it could not be read; and why.
    Unreadable(String),
    /// Its body was left out, as there was no room for so many bytes: it has to be handed back.
    NoRoom(u64),
}

/// The findings of one connection, and the bytes of bodies that came over it and are unanswered.
#[derive(Debug)]
pub(crate) struct Findings {
    /// By channel and delivery tag.
    found: Mutex<HashMap<(u16, u64), Finding>>,
    held: AtomicUsize,
    room: usize,
}

impl Findings {
    /// There is room for this many bytes of bodies that a consumer gets.
    pub(crate) fn new(room: usize) -> Self {
        Self { found: Mutex::default(), held: AtomicUsize::new(0), room }
    }

    pub(super) fn note(&self, channel: u16, tag: u64, finding: Finding) {
        self.found().insert((channel, tag), finding);
    }

    /// What is wrong with a delivery; nothing the next time.
    pub(crate) fn take(&self, channel: u16, tag: u64) -> Option<Finding> {
        let mut found = self.found();
        if found.is_empty() { None } else { found.remove(&(channel, tag)) }
    }

    /// Takes room for a body, if there is some. One alone may be larger than all of it.
    pub(super) fn admit(&self, bytes: u64) -> bool {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        let admitted = self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
            let sum = held.checked_add(bytes)?;
            (held == 0 || sum <= self.room).then_some(sum)
        });
        admitted.is_ok()
    }

    /// Gives back the room of a body.
    #[allow(dead_code)]
    pub(crate) fn give_back(&self, bytes: usize) {
        let _ = self
            .held
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| Some(held.saturating_sub(bytes)));
    }

    fn found(&self) -> MutexGuard<'_, HashMap<(u16, u64), Finding>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
