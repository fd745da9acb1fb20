//! Steering a consumer that runs.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::messenger::Health;

/// A handle to a running [`Consumer`](crate::consumer::Consumer); a clone is a handle to the same.
#[derive(Clone, Debug)]
pub struct ConsumerHandle(Arc<Shared>);

/// What a consumer shares with its handles.
#[derive(Debug)]
struct Shared {
    paused: watch::Sender<bool>,
    handling: AtomicUsize,
    acked: AtomicU64,
    retried: AtomicU64,
    dead: AtomicU64,
    /// Why nothing is received.
    down: Mutex<Option<String>>,
}

/// What a consumer does and did, since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConsumerStatus {
    /// Whether it takes no messages for now.
    pub paused: bool,
    /// How many messages are being handled.
    pub handling: usize,
    /// How many were handled.
    pub acked: u64,
    /// How many attempts failed and are made again.
    pub retried: u64,
    /// How many messages became dead letters.
    pub dead: u64,
}

impl ConsumerHandle {
    pub(super) fn new() -> Self {
        Self(Arc::new(Shared {
            paused: watch::Sender::new(false),
            handling: AtomicUsize::new(0),
            acked: AtomicU64::new(0),
            retried: AtomicU64::new(0),
            dead: AtomicU64::new(0),
            down: Mutex::default(),
        }))
    }

    /// Lets no more messages come. Those being handled go on; those fetched ahead are handed back.
    pub fn pause(&self) {
        self.0.paused.send_replace(true);
    }

    /// Lets messages come again.
    pub fn resume(&self) {
        self.0.paused.send_replace(false);
    }

    /// What it does and did.
    #[must_use]
    pub fn status(&self) -> ConsumerStatus {
        let Shared { paused, handling, acked, retried, dead, .. } = &*self.0;
        ConsumerStatus {
            paused: *paused.borrow(),
            handling: handling.load(Ordering::Relaxed),
            acked: acked.load(Ordering::Relaxed),
            retried: retried.load(Ordering::Relaxed),
            dead: dead.load(Ordering::Relaxed),
        }
    }

    /// Whether messages can be received: down while the source fails, and when the consumer ended before it was told to, as
    /// when its future was dropped or its source closed. It is up before it runs.
    #[must_use]
    pub fn health(&self) -> Health {
        self.down().clone().map_or(Health::Up, |reason| Health::Down { reason })
    }

    /// It receives nothing, for this reason; or it does.
    pub(super) fn set_down(&self, reason: Option<String>) {
        *self.down() = reason;
    }

    fn down(&self) -> MutexGuard<'_, Option<String>> {
        self.0.down.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether neither a consumer nor anybody else has a handle.
    #[cfg(feature = "settings")]
    pub(crate) fn is_last(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    pub(super) fn watch(&self) -> watch::Receiver<bool> {
        self.0.paused.subscribe()
    }

    pub(super) fn set_handling(&self, handling: usize) {
        self.0.handling.store(handling, Ordering::Relaxed);
    }

    pub(super) fn acked(&self) {
        self.0.acked.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn retried(&self) {
        self.0.retried.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn dead(&self) {
        self.0.dead.fetch_add(1, Ordering::Relaxed);
    }
}
