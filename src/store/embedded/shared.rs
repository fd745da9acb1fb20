//! The parts of a store that its handles and its threads share.

use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;

use super::index::{LogIndex, Reply};
use crate::log::head::Head;
use crate::log::writer::LogHandle;
use crate::store::{StoreError, ThisInstance};
use crate::util::sync::lock;

/// The state of a store's compaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Compaction {
    #[default]
    Idle,
    Queued,
    Running,
}

#[derive(Debug)]
pub(super) struct StoreShared {
    pub(super) folder: PathBuf,
    pub(super) instance: ThisInstance,
    pub(super) segment_bytes: u64,
    /// The random number of the store's log.
    pub(super) log: u64,
    index: Mutex<LogIndex>,
    /// The store at the thread that writes.
    pub(super) handle: Arc<LogHandle>,
    compaction: Mutex<Compaction>,
    /// Wakes callers that wait for the end of the compaction.
    compacted: Condvar,
    /// Wakes callers that lease.
    pub(super) changed: Notify,
    /// Leads to a task that answers appends: a task wakes other tasks more cheaply than a thread does.
    replies: UnboundedSender<Vec<Reply>>,
}

impl StoreShared {
    pub(super) fn new(
        folder: PathBuf,
        instance: ThisInstance,
        segment_bytes: u64,
        log: u64,
        index: LogIndex,
        handle: Arc<LogHandle>,
        replies: UnboundedSender<Vec<Reply>>,
    ) -> Self {
        Self {
            folder,
            instance,
            segment_bytes,
            log,
            index: Mutex::new(index),
            handle,
            compaction: Mutex::default(),
            compacted: Condvar::new(),
            changed: Notify::new(),
            replies,
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, LogIndex> {
        lock(&self.index)
    }

    pub(super) fn compaction(&self) -> MutexGuard<'_, Compaction> {
        lock(&self.compaction)
    }

    /// Notes that the compaction has ended.
    pub(super) fn end_compaction(&self) {
        *self.compaction() = Compaction::Idle;
        self.compacted.notify_all();
    }

    /// Cancels a compaction that has not begun, and waits for the end of one that has. Blocks.
    pub(super) fn stop_compaction(&self) {
        let mut compaction = self.compaction();
        while *compaction == Compaction::Running {
            compaction = self.compacted.wait(compaction).unwrap_or_else(PoisonError::into_inner);
        }
        *compaction = Compaction::Idle;
    }

    /// Returns the seed of the checksums of payloads.
    pub(super) fn seed(&self) -> u32 {
        Head::journal(self.log).key().payload
    }

    /// Lets the writer run soon.
    pub(super) fn wake_writer(&self) {
        self.handle.wake();
    }

    /// Waits until the journal is on disk. Blocks.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        let (sender, synced) = channel();
        {
            let mut index = self.lock();
            if index.ended {
                return Err(StoreError::Closed);
            }
            index.syncs.push(sender);
        }
        self.wake_writer();
        match synced.recv() {
            Ok(result) => result.map_err(StoreError::unavailable),
            Err(_) => Err(StoreError::Closed),
        }
    }

    /// Answers appends as stored.
    pub(super) fn answer(&self, replies: Vec<Reply>) {
        if let Err(unsent) = self.replies.send(replies) {
            answer(unsent.0);
        }
    }
}

/// Answers appends as stored. A caller that has gone is no error.
pub(super) fn answer(replies: Vec<Reply>) {
    for reply in replies {
        let _ = reply.send(Ok(()));
    }
}
