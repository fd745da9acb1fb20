//! The end of a connection, as every task on it learns of it.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;

use super::failure::{ConnectionClosed, ConnectionGone, LinkLost, SessionLost};
use crate::messenger::Failure;

/// Notifies every task of a connection when it is lost, with the reason. A clone is a handle to the same lifeline.
#[derive(Clone, Default)]
pub(super) struct Lifeline {
    cut: CancellationToken,
    failure: Arc<OnceLock<Failure>>,
    /// Whether the connection only finishes what it already carries.
    retired: Arc<AtomicBool>,
}

impl Lifeline {
    /// Retires the connection after a session was lost over no fault of its address: the next attempt takes a new
    /// connection, while the links of other addresses continue on this one.
    pub(super) fn retire_if_over(&self, failure: &Failure) {
        let cause = failure.cause();
        if cause.is::<SessionLost>() || cause.is::<ConnectionGone>() || cause.is::<ConnectionClosed>() {
            self.retired.store(true, Ordering::Release);
        }
    }

    /// Whether no new message may go over the connection.
    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    /// Ends the connection for every task; the first cause is kept.
    pub(super) fn cut(&self, failure: &Failure) {
        let _ = self.failure.set(failure.clone());
        self.cut.cancel();
    }

    pub(super) fn failure(&self) -> Option<Failure> {
        self.failure.get().cloned()
    }

    pub(super) async fn lost(&self) -> Failure {
        self.cut.cancelled().await;
        self.failure().unwrap_or_else(|| Failure::transient(LinkLost("unknown".to_owned())))
    }

    pub(super) async fn while_alive<F: Future>(&self, future: F) -> Result<F::Output, Failure> {
        tokio::select! {
            biased;
            failure = self.lost() => Err(failure),
            output = future => Ok(output),
        }
    }
}
