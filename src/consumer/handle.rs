//! Control and status of a running consumer.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use tokio::sync::watch;

use crate::messenger::Health;
use crate::source::Source;
use crate::telemetry;

/// A handle to a running [`Consumer`](crate::consumer::Consumer); a clone is a handle to the same.
#[derive(Clone, Debug)]
pub struct ConsumerHandle(Arc<HandleInner>);

/// The state that a consumer shares with its handles.
#[derive(Debug)]
struct HandleInner {
    paused: watch::Sender<bool>,
    handling: AtomicUsize,
    acked: AtomicU64,
    retried: AtomicU64,
    dead: AtomicU64,
    /// Why the consumer receives nothing.
    down: Mutex<Option<String>>,
    /// Why the consumer ended without a signal to stop.
    ended: OnceLock<&'static str>,
    /// The name of the consumer, once it runs.
    name: OnceLock<Arc<str>>,
    /// The source, while the consumer has it.
    source: Weak<dyn Source>,
}

/// The counters of a consumer since it was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConsumerStatus {
    /// Whether the consumer is paused.
    pub paused: bool,
    /// How many messages are being handled.
    pub handling: usize,
    /// How many messages were handled and acknowledged.
    pub acked: u64,
    /// How many attempts failed and are retried.
    pub retried: u64,
    /// How many messages became dead letters.
    pub dead: u64,
}

impl ConsumerHandle {
    pub(super) fn new(source: &Arc<dyn Source>) -> Self {
        Self(Arc::new(HandleInner {
            paused: watch::Sender::new(false),
            handling: AtomicUsize::new(0),
            acked: AtomicU64::new(0),
            retried: AtomicU64::new(0),
            dead: AtomicU64::new(0),
            down: Mutex::default(),
            ended: OnceLock::new(),
            name: OnceLock::new(),
            source: Arc::downgrade(source),
        }))
    }

    /// Stops receiving. Running handlers go on; prefetched messages are handed back.
    pub fn pause(&self) {
        self.0.paused.send_replace(true);
    }

    /// Receives again.
    pub fn resume(&self) {
        self.0.paused.send_replace(false);
    }

    /// Returns the counters.
    #[must_use]
    pub fn status(&self) -> ConsumerStatus {
        let HandleInner { paused, handling, acked, retried, dead, .. } = &*self.0;
        ConsumerStatus {
            paused: *paused.borrow(),
            handling: handling.load(Ordering::Relaxed),
            acked: acked.load(Ordering::Relaxed),
            retried: retried.load(Ordering::Relaxed),
            dead: dead.load(Ordering::Relaxed),
        }
    }

    /// Returns how many messages wait to be received; `None` if the source does not know it. It may ask the broker.
    pub async fn backlog(&self) -> Option<u64> {
        self.0.source.upgrade()?.backlog().await
    }

    /// Whether messages can be received: down while the source fails, and after the consumer ended without a signal to stop,
    /// because its future was dropped or its source closed. A consumer that does not run yet is up.
    #[must_use]
    pub fn health(&self) -> Health {
        self.down().clone().map_or(Health::Up, |reason| Health::Down { reason })
    }

    /// Sets why nothing is received; `None` when the consumer receives.
    pub(super) fn set_down(&self, reason: Option<String>) {
        if let Some(name) = self.0.name.get() {
            telemetry::consumer(name, reason.is_none());
        }
        *self.down() = reason;
    }

    /// Sets why the consumer ended without a signal to stop.
    pub(super) fn set_ended(&self, reason: &'static str) {
        let _ = self.0.ended.set(reason);
        self.set_down(Some(reason.to_owned()));
    }

    /// Returns why the consumer ended without a signal to stop.
    #[cfg(feature = "settings")]
    pub(crate) fn ended(&self) -> Option<&'static str> {
        self.0.ended.get().copied()
    }

    pub(super) fn set_name(&self, name: Arc<str>) {
        let _ = self.0.name.set(name);
    }

    fn down(&self) -> MutexGuard<'_, Option<String>> {
        self.0.down.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this is the only handle.
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
