//! Counters of each topic, of what this process sends.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use crate::message::{Message, Topic};
use crate::messenger::{Capabilities, Failure, Health, Messenger, Unsent};
use crate::util::error::{BoxError, Chain};
use crate::util::rate::Rate;
use crate::util::sync::lock;

/// How many topics are counted. Messages of later ones are not.
const TOPICS: usize = 500;

/// The counters of topics since the start of the process; a clone is another handle.
#[derive(Clone, Default)]
pub(crate) struct TopicCounters(Arc<Mutex<Counted>>);

#[derive(Default)]
struct Counted {
    places: HashMap<Topic, usize>,
    counters: Vec<TopicCounter>,
}

#[derive(Default)]
struct TopicCounter {
    sent: u64,
    rate: Rate,
    rejected: u64,
    failed: u64,
    last_failure: Option<(SystemTime, Failure)>,
}

/// The counters of one topic.
pub(super) struct TopicTraffic {
    pub(super) topic: Topic,
    pub(super) sent: u64,
    pub(super) sent_per_second: f64,
    pub(super) rejected: u64,
    pub(super) failed: u64,
    pub(super) last_failure: Option<(SystemTime, String)>,
}

impl TopicCounters {
    /// Returns the counters of all topics, in no particular order.
    pub(super) fn read(&self) -> Vec<TopicTraffic> {
        let counted = lock(&self.0);
        let read = |(topic, place): (&Topic, &usize)| {
            let counter = counted.counters.get(*place)?;
            let last = counter.last_failure.as_ref();
            Some(TopicTraffic {
                topic: topic.clone(),
                sent: counter.sent,
                sent_per_second: counter.rate.per_second(),
                rejected: counter.rejected,
                failed: counter.failed,
                last_failure: last.map(|(at, failure)| (*at, Chain(failure.cause()).to_string())),
            })
        };
        counted.places.iter().filter_map(read).collect()
    }

    /// Returns the places of the topics of a batch, each with the number of its messages.
    fn places(&self, batch: &[Message]) -> Vec<(usize, usize)> {
        let (mut counted, mut places) = (lock(&self.0), Vec::with_capacity(1));
        for same in batch.chunk_by(|one, next| one.topic() == next.topic()) {
            places.extend(
                same.first().and_then(|first| counted.place(first.topic())).map(|it| (it, same.len())),
            );
        }
        places
    }

    fn record(&self, places: Vec<(usize, usize)>, unsent: Option<&Unsent>) {
        let mut counted = lock(&self.0);
        let mut sent = places;
        for (message, failure) in unsent.into_iter().flatten() {
            let Some(place) = counted.places.get(message.topic()).copied() else { continue };
            if let Some((_, count)) = sent.iter_mut().find(|(of, count)| *of == place && *count > 0) {
                *count -= 1;
            }
            let Some(counter) = counted.counters.get_mut(place) else { continue };
            if failure.is_transient() {
                counter.failed += 1;
            } else {
                counter.rejected += 1;
            }
            counter.last_failure = Some((SystemTime::now(), failure.clone()));
        }
        for (place, count) in sent.into_iter().filter(|(_, count)| *count > 0) {
            if let Some(counter) = counted.counters.get_mut(place) {
                counter.sent += count as u64;
                counter.rate.add(count);
            }
        }
    }
}

impl Counted {
    fn place(&mut self, topic: &Topic) -> Option<usize> {
        let next = self.counters.len();
        match self.places.get(topic) {
            Some(place) => Some(*place),
            None if next == TOPICS => None,
            None => {
                self.places.insert(topic.clone(), next);
                self.counters.push(TopicCounter::default());
                Some(next)
            }
        }
    }
}

impl fmt::Debug for TopicCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TopicCounters").finish_non_exhaustive()
    }
}

/// A messenger that counts by topic what its inner one sends.
pub(crate) struct CountsTopics<M> {
    inner: M,
    counters: TopicCounters,
}

impl<M: Messenger> CountsTopics<M> {
    pub(crate) fn new(inner: M, counters: TopicCounters) -> Self {
        Self { inner, counters }
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<M: Messenger> Messenger for CountsTopics<M> {
    async fn send(&self, batch: Vec<Message>) -> Result<(), Unsent> {
        let places = self.counters.places(&batch);
        let sent = self.inner.send(batch).await;
        self.counters.record(places, sent.as_ref().err());
        sent
    }

    fn check(&self, message: &Message) -> Result<(), BoxError> {
        self.inner.check(message)
    }

    async fn health(&self) -> Health {
        self.inner.health().await
    }

    async fn close(&self, deadline: Duration) {
        self.inner.close(deadline).await;
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
}
