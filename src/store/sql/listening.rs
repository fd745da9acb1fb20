//! What an instance hears of the others.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::util::caught::again;

/// Wakes who waits for what other instances do, for as long as it is kept. It may wake for nothing.
pub(crate) struct Listening {
    /// They may have stored messages for this one.
    pub(crate) messages: Arc<Notify>,
    /// They may have come or gone, or given up buckets.
    pub(crate) buckets: Arc<Notify>,
    _stop: DropGuard,
}

impl Listening {
    /// Starts the task that wakes the two; it ends with this.
    pub(crate) fn start<F>(task: impl Fn(Arc<Notify>, Arc<Notify>) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (messages, buckets) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let wakes = (Arc::clone(&messages), Arc::clone(&buckets));
        let task = again("listening", move || task(Arc::clone(&wakes.0), Arc::clone(&wakes.1)));
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        tokio::spawn(async move { stopped.run_until_cancelled(task).await });
        Self { messages, buckets, _stop: stop.drop_guard() }
    }
}

impl fmt::Debug for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listening").finish_non_exhaustive()
    }
}
