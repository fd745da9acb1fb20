//! The contract of what receives messages.

pub(crate) mod delivery;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::runtime::Handle;

pub use self::delivery::{Delivery, MessageId, NoDelivery};
use crate::message::FailedAttempt;
use crate::message::{Message, Settlement};
use crate::util::error::{BoxError, debug_as_display};

/// Receives messages from a queue, an address or a store, for a [`Consumer`](crate::consumer::Consumer).
///
/// # Contract
/// - **Every delivery is answered once**: [`ack`](Unsettled::ack), [`retry`](Unsettled::retry) or
///   [`reject`](Unsettled::reject). One that is dropped unanswered is handed back, and comes again.
/// - **At least once.** What was given out and not answered when the process or the connection ends comes again.
/// - **A message that waits for its retry holds nothing up**: others are given out meanwhile, also when all that were given
///   out before wait.
/// - **What cannot be read is given out too**, as a [poison](Unsettled::poison) delivery, so that it ends as one dead letter.
/// - **A lost connection is the source's to mend.** `receive` waits meanwhile; it fails only with what a person may have
///   to mend, or when the source is closed. What came over the lost connection and was not given out comes again.
/// - **Bounded**: it fetches only so much ahead.
#[async_trait]
pub trait Source: Send + Sync + 'static {
    /// Waits for messages, and gives at least one and at most `limit` of them, in order.
    ///
    /// # Errors
    /// [`SourceError`]. After all but [`SourceError::Closed`] it may be called again, at once: it paces itself.
    ///
    /// # Cancel safety
    /// Dropped, it has given nothing out, and loses nothing.
    async fn receive(&self, limit: usize) -> Result<Vec<Unsettled>, SourceError>;

    /// Lets no more messages come until `receive` is called again, and hands back those fetched ahead.
    ///
    /// By default nothing is fetched ahead.
    async fn pause(&self) {}

    /// Closes it: hands back what was fetched ahead, waits until the answers given so far are out, for at most
    /// `deadline`. `receive` fails from then on.
    async fn close(&self, deadline: Duration) {
        let _ = deadline;
    }

    /// Where messages come from, for people: a queue, an address, a folder.
    fn name(&self) -> Arc<str>;
}

#[async_trait]
impl<S: Source + ?Sized> Source for Arc<S> {
    async fn receive(&self, limit: usize) -> Result<Vec<Unsettled>, SourceError> {
        (**self).receive(limit).await
    }

    async fn pause(&self) {
        (**self).pause().await;
    }

    async fn close(&self, deadline: Duration) {
        (**self).close(deadline).await;
    }

    fn name(&self) -> Arc<str> {
        (**self).name()
    }
}

/// A message that was received, and is answered exactly once. Dropped unanswered, it is handed back.
///
/// Handlers get a view of it, [`tower_outbox::Unsettled`](crate::source::delivery::Delivery).
pub struct Unsettled {
    content: Result<delivery::Delivery, Arc<str>>,
    /// None once it is answered.
    settle: Option<Box<dyn Settle>>,
}

impl Unsettled {
    /// For sources. `attempt` counts from 1; `failures` are those of earlier attempts, oldest first, if they are known.
    #[must_use]
    pub fn new(
        message: Message,
        attempt: u32,
        redelivered: bool,
        source: Arc<str>,
        failures: Vec<FailedAttempt>,
        settle: impl Settle,
    ) -> Self {
        let view = delivery::Delivery::new(message, attempt.max(1), redelivered, source, failures);
        Self { content: Ok(view), settle: Some(Box::new(settle)) }
    }

    /// For sources that open envelopes: whether it came as a CloudEvent.
    #[cfg(feature = "_brokers")]
    pub(crate) fn with_event(mut self, is_event: bool) -> Self {
        if let (true, Ok(view)) = (is_event, &mut self.content) {
            view.set_event();
        }
        self
    }

    /// For sources: something that was received and cannot be read as a message, and why.
    #[must_use]
    pub fn poison(reason: impl Into<Arc<str>>, settle: impl Settle) -> Self {
        Self { content: Err(reason.into()), settle: Some(Box::new(settle)) }
    }

    /// What a handler is given of it.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub fn view(&self) -> Result<&delivery::Delivery, &Arc<str>> {
        self.content.as_ref()
    }

    /// It was handled: it does not come again.
    ///
    /// # Errors
    /// [`SourceError`] when the answer could not be given: it comes again.
    ///
    /// # Cancel safety
    /// Dropped, the answer may or may not be given. Unless it is, the message comes again.
    pub async fn ack(self) -> Result<(), SourceError> {
        self.answer(Settlement::Ack).await
    }

    /// An attempt failed, for this reason: it comes again after at least about this long, as the next attempt.
    ///
    /// # Errors
    /// As [`ack`](Self::ack).
    ///
    /// # Cancel safety
    /// As [`ack`](Self::ack).
    pub async fn retry(self, after: Duration, reason: impl Into<Arc<str>>) -> Result<(), SourceError> {
        self.answer(Settlement::Retry { after, reason: reason.into() }).await
    }

    /// It is given up on, for this reason, and becomes a dead letter.
    ///
    /// # Errors
    /// As [`ack`](Self::ack).
    ///
    /// # Cancel safety
    /// As [`ack`](Self::ack).
    pub async fn reject(self, reason: impl Into<Arc<str>>) -> Result<(), SourceError> {
        self.answer(Settlement::Reject { reason: reason.into() }).await
    }

    /// It was not tried: hands it back, as dropping it does, and waits until that is done.
    ///
    /// # Errors
    /// As [`ack`](Self::ack).
    ///
    /// # Cancel safety
    /// As [`ack`](Self::ack).
    pub async fn release(self) -> Result<(), SourceError> {
        self.answer(Settlement::Release).await
    }

    async fn answer(mut self, settlement: Settlement) -> Result<(), SourceError> {
        match self.settle.take() {
            Some(settle) => settle.settle(settlement).await,
            None => Ok(()),
        }
    }

    /// Whether no answer can be given any more, as its connection is lost: it comes again, and need not be handled now.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.settle.as_ref().is_none_or(|settle| settle.is_stale())
    }
}

impl Drop for Unsettled {
    fn drop(&mut self) {
        // Without a runtime the connection is about to end, and everything unanswered with it.
        if let Some(settle) = self.settle.take()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(async move { drop(settle.settle(Settlement::Release).await) });
        }
    }
}

impl fmt::Debug for Unsettled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unsettled").field("content", &self.content).finish_non_exhaustive()
    }
}

/// Carries out the answer to one delivery: the source's side of it.
///
/// Dropped without a call, it may leave the delivery to the end of its connection.
#[async_trait]
pub trait Settle: Send + Sync + 'static {
    /// Carries it out.
    ///
    /// # Errors
    /// [`SourceError`] when that failed: the message then comes again.
    async fn settle(self: Box<Self>, settlement: Settlement) -> Result<(), SourceError>;

    /// As [`Unsettled::is_stale`]. By default it never is.
    fn is_stale(&self) -> bool {
        false
    }
}

/// Why nothing can be received, or an answer not be given.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// It was closed.
    #[error("the source is closed")]
    Closed,
    /// It cannot be used now: no connection, no such queue, no permission.
    #[error("the source cannot be used now")]
    Unavailable(#[source] BoxError),
}

debug_as_display!(SourceError);

impl SourceError {
    /// For sources.
    pub fn unavailable(cause: impl Into<BoxError>) -> Self {
        Self::Unavailable(cause.into())
    }
}
