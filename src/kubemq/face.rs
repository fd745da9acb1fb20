//! The state that all calls share.

use std::fmt;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tokio_util::sync::CancellationToken;

use super::access::{Access, Caller};
use super::cache::Cache;
use super::counters::Counters;
use super::fault::Refusal;
use super::pending::Pending;
use super::settings::Settings;
use super::streams::{OpenStream, Streams};
use crate::channels::Engine;

/// The state that all calls share.
pub(super) struct Face {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) whole_waits: bool,
    pub(super) access: Arc<Access>,
    pub(super) counters: Arc<Counters>,
    pub(super) pending: Pending,
    pub(super) cache: Cache,
    pub(super) streams: Streams,
    /// Is cancelled when the server stops, which ends waits and streams.
    pub(super) stop: CancellationToken,
    pub(super) started: (SystemTime, Instant),
}

impl Face {
    pub(super) fn new(engine: Arc<dyn Engine>, settings: &Settings) -> Self {
        let counters = Arc::new(Counters::default());
        Self {
            engine,
            whole_waits: settings.whole_waits,
            access: Arc::new(Access::new(settings, Arc::clone(&counters))),
            counters,
            pending: Pending::default(),
            cache: Cache::default(),
            streams: Streams::default(),
            stop: CancellationToken::new(),
            started: (SystemTime::now(), Instant::now()),
        }
    }

    /// Counts one more stream of a client.
    pub(super) fn open(&self, caller: &Caller) -> Result<OpenStream, Refusal> {
        self.streams.open(caller.name()).inspect_err(|_| self.counters.limits.add())
    }
}

impl fmt::Debug for Face {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Face").finish_non_exhaustive()
    }
}
