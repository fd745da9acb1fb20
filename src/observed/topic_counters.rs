//! Counters of each topic, of what this process sends.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::SystemTime;

use crate::message::{Message, Topic};
use crate::messenger::{Failure, Unsent};
use crate::util::error::Chain;
use crate::util::rate::Rate;
use crate::util::sync::lock;

/// How many topics are counted. Messages of later ones are not.
const TOPICS: usize = 500;

/// The counters of topics since the start of the process; a clone is another handle.
#[derive(Clone, Default)]
pub(crate) struct TopicCounters(Arc<RwLock<HashMap<Topic, Arc<TopicCounter>>>>);

#[derive(Default)]
struct TopicCounter {
    sent: AtomicU64,
    rate: Rate,
    rejected: AtomicU64,
    failed: AtomicU64,
    last_failure: Mutex<Option<(SystemTime, Failure)>>,
}

/// The counters of one topic.
pub(crate) struct TopicTraffic {
    pub(crate) topic: Topic,
    pub(crate) sent: u64,
    pub(crate) sent_per_second: f64,
    pub(crate) rejected: u64,
    pub(crate) failed: u64,
    pub(crate) last_failure: Option<(SystemTime, String)>,
}

/// A batch on its way: a counter and a number of messages for each topic. Most batches have one.
pub(super) struct Counting {
    first: Option<(Arc<TopicCounter>, usize)>,
    others: Vec<(Arc<TopicCounter>, usize)>,
}

impl TopicCounters {
    /// Returns the counters of all topics, in no particular order.
    pub(crate) fn read(&self) -> Vec<TopicTraffic> {
        let read = |(topic, counter): (&Topic, &Arc<TopicCounter>)| {
            let last = lock(&counter.last_failure);
            TopicTraffic {
                topic: topic.clone(),
                sent: counter.sent.load(Ordering::Relaxed),
                sent_per_second: counter.rate.per_second(),
                rejected: counter.rejected.load(Ordering::Relaxed),
                failed: counter.failed.load(Ordering::Relaxed),
                last_failure: last.as_ref().map(|(at, failure)| (*at, Chain(failure.cause()).to_string())),
            }
        };
        self.0.read().unwrap_or_else(PoisonError::into_inner).iter().map(read).collect()
    }

    /// Notes a batch that is about to be sent.
    pub(super) fn begin(&self, batch: &[Message]) -> Counting {
        let of_topics = batch.chunk_by(|one, next| one.topic() == next.topic());
        let mut counters =
            of_topics.filter_map(|same| Some((self.counter(same.first()?.topic())?, same.len())));
        Counting { first: counters.next(), others: counters.collect() }
    }

    /// Counts a batch that was sent, but for the messages that came back.
    pub(super) fn end(&self, batch: Counting, unsent: Option<&Unsent>) {
        let Counting { mut first, mut others } = batch;
        for (message, failure) in unsent.into_iter().flat_map(Unsent::iter) {
            let Some(counter) = self.counter(message.topic()) else { continue };
            let mut of_topics = first.iter_mut().chain(&mut others);
            if let Some((_, messages)) =
                of_topics.find(|(of, messages)| Arc::ptr_eq(of, &counter) && *messages > 0)
            {
                *messages -= 1;
            }
            counter.came_back(failure);
        }
        first.into_iter().chain(others).for_each(|(counter, messages)| counter.sent(messages));
    }

    fn counter(&self, topic: &Topic) -> Option<Arc<TopicCounter>> {
        if let Some(known) = self.0.read().unwrap_or_else(PoisonError::into_inner).get(topic) {
            return Some(Arc::clone(known));
        }
        let mut counters = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match counters.get(topic) {
            Some(known) => Some(Arc::clone(known)),
            None if counters.len() >= TOPICS => None,
            None => Some(Arc::clone(counters.entry(topic.clone()).or_default())),
        }
    }
}

impl TopicCounter {
    fn sent(&self, messages: usize) {
        if messages > 0 {
            self.sent.fetch_add(messages as u64, Ordering::Relaxed);
            self.rate.add(messages);
        }
    }

    fn came_back(&self, failure: &Failure) {
        let of = if failure.is_transient() { &self.failed } else { &self.rejected };
        of.fetch_add(1, Ordering::Relaxed);
        *lock(&self.last_failure) = Some((SystemTime::now(), failure.clone()));
    }
}

impl fmt::Debug for TopicCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TopicCounters").finish_non_exhaustive()
    }
}
