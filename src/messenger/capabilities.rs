//! The parts of a messenger that the request layer uses besides sending.

use std::fmt;
use std::sync::Arc;

use super::in_flight::InFlight;
use crate::store::Store;
use crate::store::admission::Admission;
use crate::telemetry::{self, Stage};
use crate::util::rate::Rate;

/// The parts of a [`Messenger`](super::Messenger) that the request layer uses besides `send`.
///
/// [`MessagingLayer::new`](crate::layer::MessagingLayer::new) reads it once. A clone shares everything with its original.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Capabilities {
    /// Admission control: closed while the messenger cannot accept messages, so that the layer answers 503 before the
    /// handler runs. `None` admits every request.
    pub admission: Option<Admission>,
    /// The outbox behind this messenger, so that the app's transaction can store messages in it. `None`: there is no outbox.
    pub outbox: Option<OutboxStore>,
    /// Counts messages that were accepted and are not confirmed yet. `None`: the layer counts its own sends only.
    pub in_flight: Option<InFlight>,
    /// How far messages are when `send` returns `Ok`; by default confirmed.
    pub stage: Stage,
    /// The name of the backend in metrics and spans.
    pub backend: Option<Arc<str>>,
}

impl Capabilities {
    /// Sets [`admission`](Self::admission).
    #[must_use]
    pub fn with_admission(mut self, admission: Admission) -> Self {
        self.admission = Some(admission);
        self
    }

    /// Sets [`outbox`](Self::outbox).
    #[must_use]
    pub fn with_outbox(mut self, outbox: OutboxStore) -> Self {
        self.outbox = Some(outbox);
        self
    }

    /// Sets [`in_flight`](Self::in_flight).
    #[must_use]
    pub fn with_in_flight(mut self, in_flight: InFlight) -> Self {
        self.in_flight = Some(in_flight);
        self
    }

    /// Sets [`stage`](Self::stage).
    #[must_use]
    pub fn with_stage(mut self, stage: Stage) -> Self {
        self.stage = stage;
        self
    }

    /// Sets [`backend`](Self::backend).
    #[must_use]
    pub fn with_backend(mut self, backend: impl Into<Arc<str>>) -> Self {
        self.backend = Some(backend.into());
        self
    }

    /// Returns the capabilities of a messenger that sends through either of two: it admits requests while one of them
    /// does, counts what is in flight behind both, and has the outbox, the stage and the backend of the first.
    #[must_use]
    pub fn either(first: Self, second: Self) -> Self {
        Self {
            admission: first.admission.zip(second.admission).map(|(first, second)| first.or(second)),
            outbox: first.outbox,
            stage: first.stage,
            backend: first.backend,
            in_flight: match (first.in_flight, second.in_flight) {
                (Some(first), Some(second)) => Some(first.and(second)),
                (first, second) => first.or(second),
            },
        }
    }
}

/// The store of an outbox, and the count of messages that enter it. A clone is another handle.
#[derive(Clone)]
pub struct OutboxStore {
    store: Arc<dyn Store>,
    rate: Arc<Rate>,
}

impl OutboxStore {
    /// A store with a count that begins at zero.
    #[must_use]
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, rate: Arc::default() }
    }

    /// Returns the store.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Records that `messages` messages were stored: in the outbox's status and in the metrics.
    pub fn record(&self, messages: usize) {
        self.rate.add(messages);
        telemetry::stored(messages);
    }

    /// Returns how many messages were stored in each minute of the last hour, oldest first.
    #[cfg(feature = "admin")]
    pub(crate) fn stored_by_minute(&self) -> Vec<u64> {
        self.rate.by_minute()
    }

    /// Returns how many messages were stored each second, over the last minute.
    #[must_use]
    pub fn stored_per_second(&self) -> f64 {
        self.rate.per_second()
    }
}

impl fmt::Debug for OutboxStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutboxStore").field("store", &self.store.location()).finish_non_exhaustive()
    }
}
