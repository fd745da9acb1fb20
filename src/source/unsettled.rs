//! A received message that must be settled.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::runtime::Handle;

use super::delivery::Delivery;
use super::error::SourceError;
use crate::message::{FailedAttempt, Message, Settlement};
use crate::reply::{Reply, ReplyTo};

/// A received message, which is settled exactly once. Dropping it releases it.
///
/// Handlers get a view of it: [`Delivery`].
pub struct Unsettled {
    content: Result<Delivery, Arc<str>>,
    /// `None` once it is settled.
    settle: Option<Box<dyn Settle>>,
}

impl Unsettled {
    /// For implementors of a source. `attempt` counts from 1; `failures` are those of earlier attempts, oldest first, as far as
    /// they are known.
    #[must_use]
    pub fn new(
        message: Message,
        attempt: u32,
        redelivered: bool,
        source: Arc<str>,
        failures: Vec<FailedAttempt>,
        settle: impl Settle,
    ) -> Self {
        Self::of(Delivery::new(message, attempt.max(1), redelivered, source, failures), settle)
    }

    pub(crate) fn of(delivery: Delivery, settle: impl Settle) -> Self {
        Self { content: Ok(delivery), settle: Some(Box::new(settle)) }
    }

    /// Sets whether the message came as a CloudEvent.
    #[cfg(feature = "_brokers")]
    pub(crate) fn with_event(mut self, is_event: bool) -> Self {
        if let (true, Ok(view)) = (is_event, &mut self.content) {
            view.set_event();
        }
        self
    }

    /// For implementors of a source: the message is a request, and its response goes to this address, through [`Settle::reply`]. Give one
    /// only if the protocol vouches for the address.
    #[must_use]
    pub fn with_reply_to(mut self, reply_to: ReplyTo) -> Self {
        if let Ok(view) = &mut self.content {
            view.set_reply_to(reply_to);
        }
        self
    }

    /// For implementors of a source: received bytes that cannot be read as a message, with the reason.
    #[must_use]
    pub fn poison(reason: impl Into<Arc<str>>, settle: impl Settle) -> Self {
        Self { content: Err(reason.into()), settle: Some(Box::new(settle)) }
    }

    /// For decorators of a source: the same delivery with another message, or as poison with a reason. Poison stays poison.
    #[must_use]
    pub fn map_message(mut self, change: impl FnOnce(&Delivery) -> Result<Message, Arc<str>>) -> Self {
        if let Ok(view) = &self.content {
            self.content = change(view).map(|message| view.with_message(message));
        }
        self
    }

    /// For decorators of a source: the same content, settled by what `settle` makes of the received message.
    #[must_use]
    pub fn settled_by<S: Settle>(self, settle: impl FnOnce(Self) -> S) -> Self {
        let content = self.content.clone();
        Self { content, settle: Some(Box::new(settle(self))) }
    }

    /// Returns the view that handlers get.
    ///
    /// # Errors
    /// The reason why the message cannot be read.
    pub fn view(&self) -> Result<&Delivery, &Arc<str>> {
        self.content.as_ref()
    }

    /// Sends the reply to a request. The message stays unsettled.
    ///
    /// # Errors
    /// [`SourceError`] when the reply could not be sent. A caller that no longer waits is no error.
    ///
    /// # Cancel safety
    /// Dropping the future may leave the reply unsent.
    pub async fn reply(&mut self, reply: Reply) -> Result<(), SourceError> {
        match &mut self.settle {
            Some(settle) => settle.reply(reply).await,
            None => Err(SourceError::Closed),
        }
    }

    /// Extends the time in which the message must be settled: to so long from now. A source without such a time does nothing.
    ///
    /// # Errors
    /// [`SourceError`] when the message cannot be settled any more: it is delivered again.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the time extended or not.
    pub async fn extend(&mut self, visibility: Duration) -> Result<(), SourceError> {
        match &mut self.settle {
            Some(settle) => settle.extend(visibility).await,
            None => Err(SourceError::Closed),
        }
    }

    /// Acknowledges the message: it was handled, and is not delivered again.
    ///
    /// # Errors
    /// [`SourceError`] when it could not be settled: it is delivered again.
    ///
    /// # Cancel safety
    /// Dropping the future may leave the message unsettled: it is delivered again then.
    pub async fn ack(self) -> Result<(), SourceError> {
        self.settle_as(Settlement::Ack).await
    }

    /// Records a failed attempt with its reason; the message is delivered again after about `after` or later, as the next attempt.
    ///
    /// # Errors
    /// As [`ack`](Self::ack).
    ///
    /// # Cancel safety
    /// As [`ack`](Self::ack).
    pub async fn retry(self, after: Duration, reason: impl Into<Arc<str>>) -> Result<(), SourceError> {
        self.settle_as(Settlement::Retry { after, reason: reason.into() }).await
    }

    /// Makes the message a dead letter, with this reason.
    ///
    /// # Errors
    /// As [`ack`](Self::ack).
    ///
    /// # Cancel safety
    /// As [`ack`](Self::ack).
    pub async fn reject(self, reason: impl Into<Arc<str>>) -> Result<(), SourceError> {
        self.settle_as(Settlement::Reject { reason: reason.into() }).await
    }

    /// Hands the message back untried, as dropping it does, and waits until that is done.
    ///
    /// # Errors
    /// As [`ack`](Self::ack).
    ///
    /// # Cancel safety
    /// As [`ack`](Self::ack).
    pub async fn release(self) -> Result<(), SourceError> {
        self.settle_as(Settlement::Release).await
    }

    /// Removes the message without an attempt.
    pub(crate) async fn discard(self) -> Result<(), SourceError> {
        self.settle_as(Settlement::Discard).await
    }

    async fn settle_as(mut self, settlement: Settlement) -> Result<(), SourceError> {
        match self.settle.take() {
            Some(settle) => settle.settle(settlement).await,
            None => Ok(()),
        }
    }

    /// Whether the message can no longer be settled since its connection is lost: it is delivered again, and need not be
    /// handled now.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.settle.as_ref().is_none_or(|settle| settle.is_stale())
    }
}

impl Drop for Unsettled {
    fn drop(&mut self) {
        // Without a runtime the connection is about to end, which releases its unsettled messages.
        if let Some(settle) = self.settle.take()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(async move { drop(settle.settle(Settlement::Release).await) });
        }
    }
}

/// For decorators of a source, which settle the message after work of their own.
#[async_trait]
impl Settle for Unsettled {
    async fn settle(self: Box<Self>, settlement: Settlement) -> Result<(), SourceError> {
        self.settle_as(settlement).await
    }

    async fn reply(&mut self, reply: Reply) -> Result<(), SourceError> {
        Self::reply(self, reply).await
    }

    async fn extend(&mut self, visibility: Duration) -> Result<(), SourceError> {
        Self::extend(self, visibility).await
    }

    fn is_stale(&self) -> bool {
        Self::is_stale(self)
    }
}

impl fmt::Debug for Unsettled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unsettled").field("content", &self.content).finish_non_exhaustive()
    }
}

/// Settles one received message: the source's side of [`Unsettled`].
///
/// Dropping it without a call may leave the message unsettled until its connection ends.
#[async_trait]
pub trait Settle: Send + Sync + 'static {
    /// Settles the message.
    ///
    /// # Errors
    /// [`SourceError`] when that failed: the message is delivered again.
    async fn settle(self: Box<Self>, settlement: Settlement) -> Result<(), SourceError>;

    /// Sends the reply to a message that was given with [`Unsettled::with_reply_to`], before it is settled. A reply to a caller that no
    /// longer waits is dropped and counted, and `Ok`. By default it fails.
    ///
    /// # Errors
    /// [`SourceError`] when that failed: the request is handled again while its caller waits.
    async fn reply(&mut self, reply: Reply) -> Result<(), SourceError> {
        let _ = reply;
        Err(SourceError::unavailable("this source sends no replies"))
    }

    /// As [`Unsettled::extend`]; by default it does nothing.
    ///
    /// # Errors
    /// [`SourceError`] when the message cannot be settled any more.
    async fn extend(&mut self, visibility: Duration) -> Result<(), SourceError> {
        let _ = visibility;
        Ok(())
    }

    /// As [`Unsettled::is_stale`]; by default `false`.
    fn is_stale(&self) -> bool {
        false
    }
}
