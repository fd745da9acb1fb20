//! The state that the handles of an engine and its writer share.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::hub::Hub;
use super::settings::EmbeddedEngineSettings;
use super::state::ChannelState;
use crate::channels::event_types::Event;
use crate::channels::request_types::Incoming;
use crate::log::writer::LogHandle;
use crate::util::sync::lock;

/// The most bytes that wait for the writer, in KiB; a send waits for room among them.
pub(super) const PENDING_KIB: u32 = 64 << 10;

pub(super) struct EngineShared {
    pub(super) settings: EmbeddedEngineSettings,
    /// The random number of the log.
    pub(super) log: u64,
    state: Mutex<ChannelState>,
    pub(super) handle: Arc<LogHandle>,
    /// Capacity among the bytes that wait for the writer, in KiB.
    pub(super) room: Arc<Semaphore>,
    /// Cancelled when the engine closes.
    pub(super) closing: CancellationToken,
    pub(super) events: Arc<Hub<Event>>,
    pub(super) commands: Arc<Hub<Incoming>>,
    pub(super) queries: Arc<Hub<Incoming>>,
}

impl EngineShared {
    pub(super) fn new(
        settings: EmbeddedEngineSettings,
        log: u64,
        state: ChannelState,
        handle: Arc<LogHandle>,
    ) -> Self {
        Self {
            settings,
            log,
            state: Mutex::new(state),
            handle,
            room: Arc::new(Semaphore::new(PENDING_KIB as usize)),
            closing: CancellationToken::new(),
            events: Arc::default(),
            commands: Arc::default(),
            queries: Arc::default(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, ChannelState> {
        lock(&self.state)
    }

    pub(super) fn folder(&self) -> &PathBuf {
        &self.settings.path
    }

    /// Lets the writer run soon.
    pub(super) fn wake(&self) {
        self.handle.wake();
    }

    /// Lets the writer run if it would run too late for this time.
    pub(super) fn wake_before(&self, state: &ChannelState, due: Option<Instant>) {
        if due.is_some_and(|due| state.planned.is_none_or(|planned| due < planned)) {
            self.wake();
        }
    }
}
