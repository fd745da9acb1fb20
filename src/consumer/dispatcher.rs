//! Messages on their way to handlers: how many, and in which order.

use std::collections::{HashMap, VecDeque};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, timeout_at};

use super::attempt::Worker;
use super::settings::ConsumerSettings;
use crate::message::topic::Topic;
use crate::source::{self, Source, SourceError};
use crate::util::caught::{called, caught};
use crate::util::error::Chain;
use crate::util::repeated::Repeated;
use crate::{telemetry, trace};

/// How many messages are held at most for each concurrent handler, including those that wait for their key.
const HELD: usize = 4;

/// Messages with the same topic and key are handled in order.
pub(super) type Key = (Topic, String);

/// Spawns a task that handles a message and returns its key.
pub(super) type Begin = Box<dyn Fn(&mut JoinSet<Option<Key>>, Option<Key>, source::Unsettled) + Send>;

/// The next step of a dispatcher.
enum Next {
    /// The consumer is paused or resumed.
    Changed,
    Received(Result<Vec<source::Unsettled>, SourceError>),
    /// There is capacity for messages again.
    Capacity,
}

pub(super) struct Dispatcher {
    pub(super) source: Arc<dyn Source>,
    pub(super) name: Arc<str>,
    pub(super) worker: Arc<Worker>,
    pub(super) begin: Begin,
    pub(super) tasks: JoinSet<Option<Key>>,
    /// The keys of the messages being handled, and the messages that wait for each.
    pub(super) keys: HashMap<Key, VecDeque<source::Unsettled>>,
    /// How many messages wait for a key.
    pub(super) waiting: usize,
    /// Whether the last receive failed.
    pub(super) failing: bool,
    /// The log lines about it.
    pub(super) faults: Repeated,
}

impl Dispatcher {
    pub(super) async fn work(&mut self) {
        let mut watched = self.worker.handle.watch();
        let source = Arc::clone(&self.source);
        loop {
            let is_paused = *watched.borrow_and_update();
            if !self.work_until(&source, watched.changed(), is_paused).await {
                return;
            }
            if *watched.borrow() {
                pause(&self.source).await;
                tracing::info!(source = %self.name, "paused the consumer");
            } else {
                tracing::info!(source = %self.name, "resumed the consumer");
            }
        }
    }

    /// Works until the consumer is paused or resumed; returns `false` when the source is closed.
    async fn work_until(&mut self, source: &Arc<dyn Source>, changed: impl Future, is_paused: bool) -> bool {
        let mut changed = pin!(changed);
        loop {
            match self.next(source, changed.as_mut(), is_paused).await {
                Next::Capacity => {}
                Next::Changed => return true,
                Next::Received(Ok(deliveries)) => {
                    if std::mem::take(&mut self.failing) {
                        self.faults.over();
                        self.worker.handle.set_down(None);
                    }
                    telemetry::received(&self.worker.consumer, self.worker.system(), deliveries.len());
                    let messages =
                        deliveries.iter().filter_map(|delivery| Some(delivery.view().ok()?.message()));
                    trace::receive(messages, &self.name, self.worker.system());
                    for delivery in deliveries {
                        self.take(delivery);
                    }
                }
                Next::Received(Err(SourceError::Closed)) => return false,
                Next::Received(Err(error)) => {
                    let reason = Chain(&error).to_string();
                    if let Some(line) = self.faults.occurred() {
                        tracing::error!(source = %self.name, error = %reason, times = line.times, "failed to receive; retrying");
                    }
                    self.worker.handle.set_down(Some(format!("cannot receive: {reason}")));
                    self.failing = true;
                }
            }
        }
    }

    /// Receives once, while handlers end. A handler that ends only makes more room, so receiving goes on with the room there was.
    async fn next(
        &mut self,
        source: &Arc<dyn Source>,
        mut changed: Pin<&mut impl Future>,
        is_paused: bool,
    ) -> Next {
        let room = self.room();
        let mut received = pin!(receive(source, room));
        loop {
            tokio::select! {
                biased;
                _ = &mut changed => return Next::Changed,
                Some(ended) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    self.ended(ended);
                    while let Some(ended) = self.tasks.try_join_next() {
                        self.ended(ended);
                    }
                    if room == 0 {
                        return Next::Capacity;
                    }
                }
                received = &mut received, if room > 0 && !is_paused => return Next::Received(received),
            }
        }
    }

    /// How many more messages to receive. Messages of a busy key are held back, so that others can be handled.
    fn room(&self) -> usize {
        let ConsumerSettings { concurrency, .. } = self.worker.settings;
        let held = self.tasks.len() + self.waiting;
        concurrency
            .saturating_mul(HELD)
            .saturating_sub(held)
            .min(concurrency.saturating_sub(self.tasks.len()))
    }

    fn take(&mut self, delivery: source::Unsettled) {
        let key = delivery.view().ok().and_then(|view| {
            let key = view.message().key()?;
            Some((view.message().topic().clone(), key.to_owned()))
        });
        if let Some(key) = &key {
            if let Some(waiting) = self.keys.get_mut(key) {
                self.waiting += 1;
                return waiting.push_back(delivery);
            }
            self.keys.insert(key.clone(), VecDeque::new());
        }
        self.begin(key, delivery);
    }

    fn begin(&mut self, key: Option<Key>, delivery: source::Unsettled) {
        (self.begin)(&mut self.tasks, key, delivery);
        self.worker.handle.set_handling(self.tasks.len());
    }

    fn ended(&mut self, ended: Result<Option<Key>, JoinError>) {
        self.worker.handle.set_handling(self.tasks.len());
        let key = match ended {
            Ok(Some(key)) => key,
            Ok(None) => return,
            // Only a panicking drop ends here; messages that wait for the key are handed back at shutdown.
            Err(error) => return tracing::error!(%error, "a task of the consumer panicked"),
        };
        loop {
            let Some(waiting) = self.keys.get_mut(&key) else { return };
            let Some(next) = waiting.pop_front() else {
                self.keys.remove(&key);
                return;
            };
            self.waiting -= 1;
            if !called(|| next.is_stale()).unwrap_or(false) {
                return self.begin(Some(key), next);
            }
        }
    }

    /// Lets running handlers end, hands back the other messages, and returns how many handlers did not end.
    pub(super) async fn drain(&mut self, until: Instant) -> usize {
        for (_, waiting) in self.keys.drain() {
            for delivery in waiting {
                let _ = timeout_at(until, caught(delivery.release())).await;
            }
        }
        let _ = timeout_at(until, pause(&self.source)).await;
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        let _ = timeout_at(until, ended).await;
        let unfinished = self.tasks.len();
        self.tasks.shutdown().await;
        self.worker.handle.set_handling(0);
        unfinished
    }
}

/// The wait before receiving again after the source panicked.
const PANICKED: Duration = Duration::from_secs(1);

async fn receive(source: &Arc<dyn Source>, room: usize) -> Result<Vec<source::Unsettled>, SourceError> {
    // The trait object itself: the implementation for `Arc` makes another box.
    match caught((**source).receive(room)).await {
        Some(received) => received,
        None => {
            tokio::time::sleep(PANICKED).await;
            Err(SourceError::unavailable("the source panicked"))
        }
    }
}

async fn pause(source: &Arc<dyn Source>) {
    if caught(source.pause()).await.is_none() {
        tracing::error!(source = %name(source), "the source panicked while it was being paused");
    }
}

pub(super) fn name(source: &Arc<dyn Source>) -> Arc<str> {
    called(|| source.name()).unwrap_or_else(|| "a source whose name panics".into())
}
