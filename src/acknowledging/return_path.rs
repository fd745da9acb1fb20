//! Whether confirmations can come back.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::timeout;

/// The state of the way back, which messenger and worker share.
#[derive(Debug)]
pub(super) struct ReturnPath {
    state: watch::Sender<State>,
    doubted: Notify,
}

#[derive(Clone, Debug)]
enum State {
    Open,
    /// No confirmation can come, for this reason.
    Blocked(Arc<str>),
    /// No confirmation can come any more.
    Closed,
}

impl State {
    fn reason(&self) -> Option<Arc<str>> {
        match self {
            Self::Open => None,
            Self::Blocked(reason) => Some(Arc::clone(reason)),
            Self::Closed => Some("nothing receives confirmations any more".into()),
        }
    }
}

impl ReturnPath {
    pub(super) fn new(reason: impl Into<Arc<str>>) -> Self {
        Self { state: watch::Sender::new(State::Blocked(reason.into())), doubted: Notify::new() }
    }

    pub(super) fn open(&self) {
        let state = self.state.send_replace(State::Open);
        if !matches!(state, State::Open) {
            tracing::info!("confirmations of consumers come back");
        }
    }

    pub(super) fn block(&self, reason: impl Into<Arc<str>>) {
        self.state.send_replace(State::Blocked(reason.into()));
    }

    pub(super) fn close(&self) {
        self.state.send_replace(State::Closed);
    }

    /// Returns why no confirmation can come; `None` if they come.
    pub(super) fn blocked(&self) -> Option<Arc<str>> {
        self.state.borrow().reason()
    }

    /// Waits until confirmations come back.
    ///
    /// # Errors
    /// The reason why they do not, after `wait`; at once when it is closed.
    pub(super) async fn is_open(&self, wait: Duration) -> Result<(), Arc<str>> {
        let mut state = self.state.subscribe();
        let _ = timeout(wait, state.wait_for(|state| !matches!(state, State::Blocked(_)))).await;
        self.blocked().map_or(Ok(()), Err)
    }

    /// Waits until it is closed.
    pub(super) async fn closed(&self) {
        let mut state = self.state.subscribe();
        if state.wait_for(|state| matches!(state, State::Closed)).await.is_err() {
            std::future::pending().await
        }
    }

    /// Asks for a new proof, since a confirmation is missing.
    pub(super) fn doubt(&self) {
        self.doubted.notify_one();
    }

    /// Waits until a confirmation is missing.
    pub(super) async fn doubted(&self) {
        self.doubted.notified().await;
    }
}
