//! Drops that happen after a while, until when they can be undone. The messages stay where they are meanwhile.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::task::AbortHandle;

use super::audit::{By, readable, record};
use super::error::AdminError;
use super::timestamp;
use crate::outbox::OutboxHandle;
use crate::util::error::Chain;
use crate::util::sync::lock;

/// How many drops wait at most.
const MOST: usize = 100;

/// The drops that wait.
#[derive(Clone, Default)]
pub(crate) struct LaterDrops(Arc<Mutex<Waiting>>);

#[derive(Default)]
struct Waiting {
    last: u64,
    /// How many drops are about to wait.
    slots: usize,
    drops: BTreeMap<u64, (LaterDrop, AbortHandle)>,
}

/// A drop that can still be undone.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LaterDrop {
    pub(crate) id: u64,
    pub(crate) messages: usize,
    /// Which messages: a filter, or positions.
    pub(crate) which: String,
    /// The operator that asked for it.
    #[serde(default)]
    pub(crate) by: Option<String>,
    /// Which messages, for people.
    #[serde(default)]
    pub(crate) selection: String,
    /// When the messages are dropped.
    #[serde(with = "timestamp")]
    pub(crate) due: SystemTime,
}

/// The right to let a drop wait. It is taken first, so that a drop that is refused leaves no record.
pub(super) struct SlotGuard(LaterDrops);

impl LaterDrops {
    /// Takes a slot, if not too many drops wait.
    pub(super) fn slot(&self) -> Result<SlotGuard, AdminError> {
        let mut waiting = lock(&self.0);
        if waiting.drops.len() + waiting.slots >= MOST {
            return Err(AdminError::conflict("too many drops wait already; try again when some are done"));
        }
        waiting.slots += 1;
        Ok(SlotGuard(self.clone()))
    }

    /// Returns the drops that can still be undone.
    pub(super) fn list(&self) -> Vec<LaterDrop> {
        lock(&self.0).drops.values().map(|(drop, _)| drop.clone()).collect()
    }

    /// Takes a drop back; `None` if it is too late.
    pub(super) fn undo(&self, id: u64) -> Option<LaterDrop> {
        let (drop, task) = lock(&self.0).drops.remove(&id)?;
        task.abort();
        Some(drop)
    }
}

impl Drop for SlotGuard {
    fn drop(&mut self) {
        lock(&self.0.0).slots -= 1;
    }
}

impl SlotGuard {
    /// Drops these messages after `wait`, and returns the number by which that is undone.
    pub(super) fn begin(
        self,
        outbox: OutboxHandle,
        positions: Vec<u64>,
        which: String,
        wait: Duration,
        by: By,
    ) -> u64 {
        let mut waiting = lock(&self.0.0);
        waiting.last += 1;
        let id = waiting.last;
        let due = SystemTime::now().checked_add(wait).unwrap_or_else(SystemTime::now);
        let drop = LaterDrop {
            id,
            messages: positions.len(),
            selection: readable(&which, positions.len() as u64),
            which,
            by: by.name(),
            due,
        };
        let (drops, which) = (self.0.clone(), drop.which.clone());
        let task = tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            // From now on it cannot be undone.
            if lock(&drops.0).drops.remove(&id).is_none() {
                return;
            }
            match outbox.drop_positions(&positions).await {
                Ok(messages) => record(&outbox, &by, "drop", messages, which).await,
                Err(error) => {
                    tracing::error!(error = %Chain(&error), messages = positions.len(), "failed to drop messages; they stay stored");
                }
            }
        });
        waiting.drops.insert(id, (drop, task.abort_handle()));
        id
    }
}
