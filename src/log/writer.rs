//! A thread that writes for many logs, and the few threads that all logs of a process share.
//!
//! In each round the thread runs the logs that were woken: first every log writes what waits, then every log syncs its
//! file, then every log does its housekeeping. Batches that arrive during a round share the next one. A log that fails or
//! panics does not affect the others.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, TryLockError, Weak};
use std::time::Instant;

use crate::util::caught::called;
use crate::util::sync::lock;

/// The most threads for the logs on one file system. A few syncs side by side cost hardly more than one, so that they are far
/// faster than one after the other.
const THREADS: usize = 8;

/// The part of a log that runs on the thread of a [`LogWriter`].
pub(crate) trait LogJob: Send + 'static {
    /// Writes the batches that wait, without a sync.
    fn write(&mut self);

    /// Syncs the last write, and answers its batches.
    fn sync(&mut self);

    /// Does what is due besides; returns when the job runs next.
    fn tidy(&mut self) -> Next;

    /// Does work that takes long, on a thread of its own. Until it returns, the job does not run otherwise.
    fn work_slowly(&mut self);

    /// Writes and syncs everything, and ends the log.
    fn close(self: Box<Self>);
}

/// When a job runs next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// When the log is woken.
    Woken,
    /// When the log is woken, or at this time.
    At(Instant),
    /// After [`LogJob::work_slowly`], at once.
    Slow,
}

/// A thread that writes for many logs. A clone is a handle to the same thread.
///
/// The thread starts with the first log, and ends with the last one.
#[derive(Clone, Debug, Default)]
pub(crate) struct LogWriter(Arc<Queue>);

#[derive(Debug, Default)]
struct Queue {
    pending: Mutex<Pending>,
    /// Wakes the thread.
    woken: Condvar,
}

#[derive(Debug, Default)]
struct Pending {
    /// The logs that were woken since the last round began.
    ready: Vec<Arc<LogHandle>>,
    /// The number of logs that are open.
    logs: usize,
    /// Whether the thread exists.
    is_running: bool,
    /// Whether the thread waits for [`Queue::woken`].
    is_asleep: bool,
}

/// A log at its [`LogWriter`].
pub(crate) struct LogHandle {
    queue: Arc<Queue>,
    /// The job; `None` before the start, after the stop, and after a panic. Locked while the job runs.
    job: Mutex<Option<Box<dyn LogJob>>>,
    /// Whether the log is among [`Pending::ready`].
    is_ready: AtomicBool,
    /// Whether the job runs on a thread of its own.
    is_slow: AtomicBool,
    is_open: AtomicBool,
}

impl LogWriter {
    /// Returns the writer with the fewest logs among the [`THREADS`] that all logs of this process on the file system of
    /// `folder` share. A disk that hangs thus stops only the logs on it.
    pub(crate) fn of(folder: &Path) -> Self {
        static WRITERS: Mutex<BTreeMap<u64, [Weak<Queue>; THREADS]>> = Mutex::new(BTreeMap::new());
        let mut writers = lock(&WRITERS);
        let queues = writers.entry(file_system(folder)).or_default();
        let Some(least) = queues.iter_mut().min_by_key(|queue| queue.strong_count()) else {
            return Self::default();
        };
        if let Some(queue) = least.upgrade() {
            return Self(queue);
        }
        let writer = Self::default();
        *least = Arc::downgrade(&writer.0);
        writer
    }

    /// Adds a log, which runs from [`LogHandle::start`] on.
    pub(crate) fn add(&self) -> Arc<LogHandle> {
        Arc::new(LogHandle {
            queue: Arc::clone(&self.0),
            job: Mutex::new(None),
            is_ready: AtomicBool::new(false),
            is_slow: AtomicBool::new(false),
            is_open: AtomicBool::new(false),
        })
    }
}

/// Identifies the file system of a folder.
#[cfg(unix)]
fn file_system(folder: &Path) -> u64 {
    std::fs::metadata(folder).map_or(0, |metadata| std::os::unix::fs::MetadataExt::dev(&metadata))
}

#[cfg(not(unix))]
fn file_system(_folder: &Path) -> u64 {
    0
}

impl LogHandle {
    /// Starts the job.
    ///
    /// # Errors
    /// The thread cannot be started; the job is dropped.
    pub(crate) fn start(self: &Arc<Self>, job: Box<dyn LogJob>) -> io::Result<()> {
        {
            let mut pending = lock(&self.queue.pending);
            if !pending.is_running {
                let queue = Arc::clone(&self.queue);
                std::thread::Builder::new().name("log-writer".to_owned()).spawn(move || queue.run())?;
                pending.is_running = true;
            }
            pending.logs += 1;
        }
        self.is_open.store(true, Ordering::Release);
        *lock(&self.job) = Some(job);
        self.wake();
        Ok(())
    }

    /// Lets the job run soon.
    pub(crate) fn wake(self: &Arc<Self>) {
        if self.is_ready.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut pending = lock(&self.queue.pending);
        pending.ready.push(Arc::clone(self));
        let is_asleep = std::mem::take(&mut pending.is_asleep);
        drop(pending);
        if is_asleep {
            self.queue.woken.notify_one();
        }
    }

    /// Takes the job away from the thread, so that the caller can [close](LogJob::close) it; `None` if it was taken before,
    /// or panicked. Blocks while the job runs.
    pub(crate) fn stop(&self) -> Option<Box<dyn LogJob>> {
        let job = lock(&self.job).take();
        if self.is_open.swap(false, Ordering::AcqRel) {
            lock(&self.queue.pending).logs -= 1;
            self.queue.woken.notify_one();
        }
        job
    }

    /// Runs a part of the job; `None` if there is no job, or if another thread runs it.
    fn run<T>(&self, part: impl FnOnce(&mut dyn LogJob) -> T) -> Option<T> {
        if self.is_slow.load(Ordering::Acquire) {
            return None;
        }
        match self.job.try_lock() {
            Ok(mut job) => run_part(&mut job, part),
            Err(TryLockError::Poisoned(poisoned)) => run_part(&mut poisoned.into_inner(), part),
            // It is being stopped.
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Runs the slow part of the job beside the thread, which skips the log meanwhile.
    fn run_slowly(self: &Arc<Self>) {
        self.is_slow.store(true, Ordering::Release);
        let work = |log: &Arc<Self>| {
            run_part(&mut lock(&log.job), |job| job.work_slowly());
            log.is_slow.store(false, Ordering::Release);
            log.wake();
        };
        let log = Arc::clone(self);
        let spawned = std::thread::Builder::new().name("log-slow".to_owned()).spawn(move || work(&log));
        if spawned.is_err() {
            work(self);
        }
    }
}

/// Runs a part of a job. A job that panics is dropped.
fn run_part<T>(job: &mut Option<Box<dyn LogJob>>, part: impl FnOnce(&mut dyn LogJob) -> T) -> Option<T> {
    let running = job.as_deref_mut()?;
    let done = called(|| part(running));
    if done.is_none() {
        *job = None;
    }
    done
}

impl std::fmt::Debug for LogHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogHandle").finish_non_exhaustive()
    }
}

impl Queue {
    /// Runs rounds until no log is open.
    fn run(&self) {
        let mut round: Vec<Arc<LogHandle>> = Vec::new();
        let mut timers: BTreeMap<(Instant, usize), Arc<LogHandle>> = BTreeMap::new();
        while self.next_round(&mut round, &mut timers) {
            for log in &round {
                // Cleared before the job looks for work, so that no later wake is lost.
                log.is_ready.swap(false, Ordering::AcqRel);
                log.run(|job| job.write());
            }
            for log in &round {
                log.run(|job| job.sync());
            }
            for log in round.drain(..) {
                match log.run(|job| job.tidy()) {
                    None | Some(Next::Woken) => {}
                    Some(Next::At(at)) => {
                        timers.insert((at, Arc::as_ptr(&log).addr()), log);
                    }
                    Some(Next::Slow) => log.run_slowly(),
                }
            }
        }
    }

    /// Waits until a log was woken or its timer has expired; `false` when no log is open any more.
    fn next_round(
        &self,
        round: &mut Vec<Arc<LogHandle>>,
        timers: &mut BTreeMap<(Instant, usize), Arc<LogHandle>>,
    ) -> bool {
        let mut pending = lock(&self.pending);
        loop {
            let mut wait = None;
            while let Some(timer) = timers.first_entry() {
                wait = timer.key().0.checked_duration_since(Instant::now()).filter(|wait| !wait.is_zero());
                if wait.is_some() {
                    break;
                }
                let log = timer.remove();
                if !log.is_ready.swap(true, Ordering::AcqRel) {
                    pending.ready.push(log);
                }
            }
            if !pending.ready.is_empty() {
                std::mem::swap(round, &mut pending.ready);
                return true;
            }
            if pending.logs == 0 {
                pending.is_running = false;
                return false;
            }
            pending.is_asleep = true;
            pending = match wait {
                None => self.woken.wait(pending).unwrap_or_else(PoisonError::into_inner),
                Some(wait) => {
                    self.woken.wait_timeout(pending, wait).unwrap_or_else(PoisonError::into_inner).0
                }
            };
            pending.is_asleep = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Duration;

    use super::*;

    /// A job that counts what it was given, and what it has synced.
    #[derive(Default)]
    struct Counter {
        given: Arc<AtomicUsize>,
        written: usize,
        synced: Arc<AtomicUsize>,
        panics: bool,
        /// Receives when the slow work may end.
        slow: Option<(Sender<()>, Receiver<()>)>,
    }

    impl LogJob for Counter {
        fn write(&mut self) {
            assert!(!self.panics, "a job that panics");
            self.written = self.given.load(Ordering::SeqCst);
        }

        fn sync(&mut self) {
            self.synced.store(self.written, Ordering::SeqCst);
        }

        fn tidy(&mut self) -> Next {
            if self.slow.is_some() { Next::Slow } else { Next::Woken }
        }

        fn work_slowly(&mut self) {
            if let Some((begun, may_end)) = self.slow.take() {
                begun.send(()).unwrap();
                may_end.recv().unwrap();
            }
        }

        fn close(self: Box<Self>) {}
    }

    fn until(what: &str, condition: impl Fn() -> bool) {
        let begun = Instant::now();
        while !condition() {
            assert!(begun.elapsed() < Duration::from_secs(30), "{what}");
            std::thread::yield_now();
        }
    }

    /// Gives a job more to write, and waits until it is synced.
    fn assert_writes(log: &Arc<LogHandle>, given: &AtomicUsize, synced: &AtomicUsize) {
        let wanted = given.fetch_add(1, Ordering::SeqCst) + 1;
        log.wake();
        until("it is synced", || synced.load(Ordering::SeqCst) >= wanted);
    }

    fn start(writer: &LogWriter, job: Counter) -> (Arc<LogHandle>, Arc<AtomicUsize>, Arc<AtomicUsize>) {
        let (given, synced) = (Arc::clone(&job.given), Arc::clone(&job.synced));
        let log = writer.add();
        log.start(Box::new(job)).unwrap();
        (log, given, synced)
    }

    #[test]
    fn no_wake_is_lost() {
        let writer = LogWriter::default();
        let logs: Vec<_> = (0..8).map(|_| start(&writer, Counter::default())).collect();
        std::thread::scope(|scope| {
            for (log, given, synced) in &logs {
                scope.spawn(move || (0..2_000).for_each(|_| assert_writes(log, given, synced)));
            }
        });
        logs.iter().for_each(|(log, ..)| drop(log.stop()));
    }

    #[test]
    fn a_job_that_panics_does_not_stop_the_others() {
        let writer = LogWriter::default();
        let (log, given, synced) = start(&writer, Counter::default());
        let (broken, ..) = start(&writer, Counter { panics: true, ..Counter::default() });
        until("it has panicked", || lock(&broken.job).is_none());
        assert_writes(&log, &given, &synced);
        assert!(broken.stop().is_none());
        assert!(log.stop().is_some());
    }

    #[test]
    fn slow_work_of_one_log_does_not_hold_up_the_others() {
        let writer = LogWriter::default();
        let (log, given, synced) = start(&writer, Counter::default());
        let ((begun, has_begun), (end, may_end)) = (channel(), channel());
        let job = Counter { slow: Some((begun, may_end)), ..Counter::default() };
        let (slow, slow_given, slow_synced) = start(&writer, job);
        has_begun.recv().unwrap();
        slow_given.fetch_add(1, Ordering::SeqCst);
        slow.wake();
        assert_writes(&log, &given, &synced);
        assert_eq!(slow_synced.load(Ordering::SeqCst), 0);
        end.send(()).unwrap();
        until("it continues", || slow_synced.load(Ordering::SeqCst) == 1);
        assert!(slow.stop().is_some() && log.stop().is_some());
    }

    #[test]
    fn the_thread_ends_with_the_last_log_and_starts_with_the_next() {
        let writer = LogWriter::default();
        for _ in 0..3 {
            let (log, given, synced) = start(&writer, Counter::default());
            assert_writes(&log, &given, &synced);
            assert!(log.stop().is_some() && log.stop().is_none());
            until("it ends", || !lock(&writer.0.pending).is_running);
        }
    }
}
