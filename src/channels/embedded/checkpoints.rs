//! When checkpoints are written, and what they keep.

use std::fs;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::checkpoint::{self, Written};
use super::shared::EngineShared;
use crate::log::background::run_later;
use crate::log::files::write_error;
use crate::util::crash;
use crate::util::sync::lock;

/// The time after a failed checkpoint until the next try.
const RETRY: Duration = Duration::from_secs(5);

/// The checkpoints of an engine.
pub(super) struct Checkpoints {
    shared: Arc<EngineShared>,
    /// The positions of the checkpoints on disk, oldest first.
    bases: Vec<u64>,
    /// The bytes of the log since the newest checkpoint.
    since: u64,
    /// The size of the newest checkpoint.
    size: u64,
    /// The checkpoint that is being made durable, and then its result.
    running: Option<Arc<Mutex<Option<io::Result<()>>>>>,
    /// The position of that checkpoint.
    running_base: u64,
    not_before: Instant,
    /// When streams are looked at the next time.
    pub(super) sweep: Instant,
    /// When unused channels are looked for the next time.
    pub(super) look: Instant,
    /// The batches of copies that are not written yet.
    pub(super) copying: Arc<AtomicUsize>,
}

impl Checkpoints {
    pub(super) fn new(shared: Arc<EngineShared>, bases: Vec<u64>) -> Self {
        let now = Instant::now();
        Self {
            shared,
            bases,
            since: 0,
            size: 0,
            running: None,
            running_base: 0,
            not_before: now,
            sweep: now,
            look: now,
            copying: Arc::new(AtomicUsize::new(0)),
        }
    }

    /// Notes bytes of the log.
    pub(super) fn written(&mut self, bytes: usize) {
        self.since += bytes as u64;
    }

    /// Returns the position before which the log is not needed, but for the messages in it.
    pub(super) fn safe(&self) -> Option<u64> {
        let older = self.bases.len().checked_sub(2)?;
        Some(self.bases[older])
    }

    /// Begins a checkpoint if enough was written since the last one, and takes note of one that is done.
    pub(super) fn checkpoint_if_due(&mut self) {
        self.take_done();
        let interval = self.shared.settings.segment_bytes.max(4 * self.size);
        if self.running.is_some() || self.since < interval || Instant::now() < self.not_before {
            return;
        }
        match checkpoint::write(&self.shared) {
            Err(error) => self.failed(&error),
            Ok(written) => {
                let (result, shared) = (Arc::new(Mutex::new(None)), Arc::clone(&self.shared));
                self.begun(&written);
                self.running = Some(Arc::clone(&result));
                let finish = move || {
                    *lock(&result) = Some(written.finish());
                    shared.wake();
                };
                if let Err(error) = run_later(finish) {
                    self.running = None;
                    self.failed(&error);
                }
            }
        }
    }

    /// Writes a checkpoint, for a log that ends.
    pub(super) fn checkpoint_now(&mut self) {
        while self.running.is_some() {
            std::thread::sleep(Duration::from_millis(1));
            self.take_done();
        }
        if self.since == 0 && !self.bases.is_empty() {
            return;
        }
        let written = checkpoint::write(&self.shared).and_then(|written| {
            self.begun(&written);
            written.finish()
        });
        match written {
            Ok(()) => self.done(),
            Err(error) => self.failed(&error),
        }
    }

    fn begun(&mut self, written: &Written) {
        self.running_base = written.base();
        (self.since, self.size) = (0, written.size);
    }

    fn take_done(&mut self) {
        let Some(result) = self.running.as_ref().and_then(|running| lock(running).take()) else { return };
        self.running = None;
        match result {
            Ok(()) => self.done(),
            Err(error) => self.failed(&error),
        }
    }

    fn done(&mut self) {
        if self.bases.last() != Some(&self.running_base) {
            self.bases.push(self.running_base);
        }
        while self.bases.len() > 2 {
            crash::point("checkpoint_before_delete");
            let old = self.bases.remove(0);
            let _ = fs::remove_file(self.shared.folder().join(checkpoint::name(old)));
        }
    }

    fn failed(&mut self, error: &io::Error) {
        let path = self.shared.folder().join(checkpoint::NEW);
        tracing::warn!(error = %write_error(&path.display(), error), "could not write a checkpoint of the channels; the next start takes longer");
        let _ = fs::remove_file(path);
        self.since = u64::MAX / 2;
        self.not_before = Instant::now() + RETRY;
    }

    /// Whether copies are on their way to the disk.
    pub(super) fn is_copying(copying: &AtomicUsize) -> bool {
        copying.load(Ordering::Acquire) > 0
    }
}
