//! The state that the handles of a router, its subscriptions and its task share.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use tokio::sync::{Notify, Semaphore, mpsc};

use super::command::Command;
use super::counters::Counters;
use super::namespace::Namespace;
use super::router_state::RouterState;
use super::settings::RouterSettings;
use crate::log::record_log::RecordLog;

/// The size of a segment of the log in bytes.
pub(super) const SEGMENT: u64 = 32 << 20;

#[derive(Debug)]
pub(super) struct RouterShared {
    pub(super) id: Arc<str>,
    pub(super) settings: RouterSettings,
    pub(super) state: Mutex<RouterState>,
    pub(super) log: RecordLog,
    pub(super) counters: Counters,
    pub(super) commands: mpsc::Sender<Command>,
    /// The bytes of messages that may still wait for the disk.
    pub(super) room: Arc<Semaphore>,
    pub(super) next_subscriber: AtomicU64,
    /// Wakes the links to designated routers.
    pub(super) subscriptions_changed: Notify,
}

impl RouterShared {
    /// Whether the last values of a namespace are kept here.
    pub(super) fn keeps_values(&self, namespace: &Namespace) -> bool {
        !self.settings.uplinks.contains(namespace)
    }
}
