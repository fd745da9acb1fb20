//! Settling an event: the broker knows no acknowledgement, so that events wait for their next attempt here.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::sleep;

use super::connection::Connection;
use super::dead_letters;
use super::incoming::Incoming;
use super::prefetched::Prefetched;
use super::source_context::SourceContext;
use crate::message::{FailedAttempt, Settlement};
use crate::messenger::Failure;
use crate::source::{Settle, SourceError, Unsettled};
use crate::util::error::Chain;

/// How long an event whose dead letter could not be sent waits before it is delivered again.
const HOLD: Duration = Duration::from_secs(1);

/// The parts that events of all connections share.
pub(super) struct EventContext {
    pub(super) context: Arc<SourceContext>,
    /// Not of its own: it has these events in it.
    pub(super) prefetched: Weak<Prefetched>,
    /// The connection in use.
    pub(super) connection: Mutex<Option<Connection>>,
}

/// The handle to settle an event.
pub(super) struct EventSettler {
    pub(super) shared: Arc<EventContext>,
    pub(super) incoming: Incoming,
    pub(super) failures: Vec<FailedAttempt>,
    /// Its place among the fetched events.
    pub(super) places: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
}

impl EventSettler {
    pub(super) fn into_unsettled(self) -> Unsettled {
        let reader = &self.shared.context.reader;
        let attempt = u32::try_from(self.failures.len()).unwrap_or(u32::MAX).saturating_add(1);
        let (name, is_event) = (Arc::clone(&reader.channel), reader.envelope.is_event());
        match reader.read(&self.incoming) {
            Ok(message) => {
                let failures = self.failures.clone();
                Unsettled::new(message, attempt, true, name, failures, self).with_event(is_event)
            }
            Err(reason) => Unsettled::poison(reason, self),
        }
    }

    fn again(self) {
        let shared = Arc::clone(&self.shared);
        if let Some(prefetched) =
            shared.prefetched.upgrade().filter(|_| !shared.context.closed.is_cancelled())
        {
            prefetched.push_front(self.into_unsettled());
        }
    }

    /// Delivers it again after a while, unless the source is closed before.
    fn again_after(self, wait: Duration) {
        let context = Arc::clone(&self.shared.context);
        let tracker = context.answers.clone();
        tracker.spawn(async move {
            tokio::select! {
                () = sleep(wait) => self.again(),
                () = context.closed.cancelled() => {
                    let (channel, sequence) = (&context.reader.channel, self.incoming.sequence);
                    tracing::warn!(%channel, sequence, "stopped before the next attempt at an event; the broker does not deliver it again");
                }
            }
        });
    }

    async fn dead_letter(mut self, reason: &str) -> Result<(), SourceError> {
        let context = Arc::clone(&self.shared.context);
        let mut failures = self.failures.clone();
        failures.push(FailedAttempt::new(SystemTime::now(), reason.into()));
        let letter = self.incoming.clone().into_dead_letter(
            &context.reader,
            (context.settings.client_id(), context.dead_letter_queue()),
            &failures,
            reason,
        );
        let connection = self.shared.connection.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let sent = match &connection {
            Some(connection) => dead_letters::send(connection, letter).await,
            None => Err(Failure::transient("there is no connection to a broker")),
        };
        let Err(failure) = sent else {
            self.places = None;
            return Ok(());
        };
        let (queue, error) = (context.dead_letter_queue(), Chain(failure.cause()).to_string());
        tracing::warn!(queue, %error, "failed to send a dead letter; the event is delivered again");
        self.again_after(HOLD);
        Err(SourceError::unavailable(error))
    }
}

#[async_trait]
impl Settle for EventSettler {
    /// Sends a dead letter in a task of its own, which runs to its end if this is dropped.
    async fn settle(self: Box<Self>, settlement: Settlement) -> Result<(), SourceError> {
        match settlement {
            Settlement::Ack | Settlement::Discard => Ok(()),
            Settlement::Release => {
                self.again();
                Ok(())
            }
            Settlement::Retry { after, reason } => {
                let mut this = *self;
                this.failures.push(FailedAttempt::new(SystemTime::now(), reason));
                this.again_after(after);
                Ok(())
            }
            Settlement::Reject { reason } => {
                let answers = self.shared.context.answers.clone();
                let sent = answers.spawn(async move { self.dead_letter(&reason).await }).await;
                sent.unwrap_or_else(|error| Err(SourceError::unavailable(error)))
            }
        }
    }
}
