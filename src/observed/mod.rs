//! A decorator that observes what a backend sends.

#[cfg(feature = "admin")]
mod topic_counters;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tracing::Instrument;

#[cfg(feature = "admin")]
pub(crate) use self::topic_counters::{TopicCounters, TopicTraffic};
use crate::message::Message;
use crate::messenger::{Capabilities, Health, Messenger, Unsent};
use crate::util::error::BoxError;
use crate::{telemetry, trace};

/// A messenger with a span `send` and a duration for each batch that goes to the broker. [`Bus`](crate::bus::Bus) puts one around every
/// backend; put it directly around a messenger that is used without a bus.
///
/// ```
/// use tower_outbox::dummy::Dummy;
/// use tower_outbox::observed::Observed;
///
/// let messenger = Observed::new(Dummy::new(), "dummy");
/// ```
pub struct Observed<M> {
    inner: M,
    backend: Arc<str>,
    #[cfg(feature = "admin")]
    topics: TopicCounters,
}

impl<M: Messenger> Observed<M> {
    /// Observes `inner`. The name of the backend is a label of metrics, and `messaging.system` of spans.
    pub fn new(inner: M, backend: impl Into<Arc<str>>) -> Self {
        Self {
            inner,
            backend: backend.into(),
            #[cfg(feature = "admin")]
            topics: TopicCounters::default(),
        }
    }

    /// Counts by topic here.
    #[cfg(feature = "admin")]
    pub(crate) fn with_topics(mut self, topics: TopicCounters) -> Self {
        self.topics = topics;
        self
    }
}

impl<M> fmt::Debug for Observed<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observed").field("backend", &self.backend).finish_non_exhaustive()
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<M: Messenger> Messenger for Observed<M> {
    async fn send(&self, batch: Vec<Message>) -> Result<(), Unsent> {
        let (count, begun) = (batch.len(), Instant::now());
        #[cfg(feature = "admin")]
        let topics = self.topics.begin(&batch);
        let span = trace::send(&batch, telemetry::system(&self.backend));
        let sent = self.inner.send(batch).instrument(span.clone()).await;
        #[cfg(feature = "admin")]
        self.topics.end(topics, sent.as_ref().err());
        let unsent = sent.as_ref().err().and_then(|unsent| unsent.iter().next());
        let failure = unsent.map(|(_, failure)| failure.kind());
        failure.into_iter().for_each(|failure| trace::failed(&span, failure));
        telemetry::operation(&self.backend, count, failure, begun.elapsed());
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
        self.inner.capabilities().with_backend(Arc::clone(&self.backend))
    }
}
