//! Notifications of what other instances do.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::util::caught::again;

/// Notifies of what other instances do, until it is dropped. It may notify for nothing.
pub(crate) struct Listener {
    /// Other instances may have stored messages for this one.
    pub(crate) messages: Arc<Notify>,
    /// Instances may have joined or left, or released partitions.
    pub(crate) partitions: Arc<Notify>,
    _stop: DropGuard,
}

impl Listener {
    /// Starts the task that notifies of `messages` and `partitions`, in this order.
    pub(crate) fn start<F>(task: impl Fn(Arc<Notify>, Arc<Notify>) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (messages, partitions) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let wakes = (Arc::clone(&messages), Arc::clone(&partitions));
        let task = again("listening", move || task(Arc::clone(&wakes.0), Arc::clone(&wakes.1)));
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        tokio::spawn(async move { stopped.run_until_cancelled(task).await });
        Self { messages, partitions, _stop: stop.drop_guard() }
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").finish_non_exhaustive()
    }
}
