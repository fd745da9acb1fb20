//! What the engine, its tasks and the transactions under way share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::state::State;

/// The memory of an engine, and who is told when it changes.
#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    /// Something may be due.
    pub(crate) changed: Notify,
    /// Something was stored that another process is to send.
    pub(crate) elsewhere: Arc<Notify>,
}

impl Shared {
    pub(crate) fn new(state: State, elsewhere: Arc<Notify>) -> Self {
        Self { state: Mutex::new(state), changed: Notify::new(), elsewhere }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
