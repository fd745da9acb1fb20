//! The schedule of an engine, shared with its tasks and the transactions under way.

use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;

use super::schedule::SqlSchedule;
use crate::util::sync::lock;

/// The schedule of an engine, and who is notified when it changes.
#[derive(Debug)]
pub(crate) struct EngineShared {
    schedule: Mutex<SqlSchedule>,
    /// A message may be due.
    pub(crate) changed: Notify,
    /// Messages were stored that other instances send.
    pub(crate) other_instances: Arc<Notify>,
}

impl EngineShared {
    pub(crate) fn new(schedule: SqlSchedule, other_instances: Arc<Notify>) -> Self {
        Self { schedule: Mutex::new(schedule), changed: Notify::new(), other_instances }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, SqlSchedule> {
        lock(&self.schedule)
    }

    /// Notifies this process of messages that were stored, and other instances if they send some of them.
    pub(crate) fn notify(&self, other_instances: bool) {
        self.changed.notify_waiters();
        if other_instances {
            self.other_instances.notify_one();
        }
    }
}
