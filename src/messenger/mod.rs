//! The contract of everything that sends messages.

pub(crate) mod in_flight;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

pub use self::in_flight::{InFlight, InFlightToken};
use crate::message::Message;
use crate::store::Store;
pub use crate::store::admission::Admission;
use crate::telemetry;
use crate::util::error::{BoxError, debug_as_display};

/// Sends batches of messages to a bus, or decorates another messenger that does.
///
/// # Contract
/// - **`Ok` means confirmed.** `send` returns `Ok(())` only when the bus has confirmed every message of
///   the batch, or, for a decorator that says so, when it has taken them over.
/// - **What is not confirmed comes back**, in [`Unsent`], each message marked
///   [transient](Failure::Transient) (worth another try) or [rejected](Failure::Rejected) (never).
///   No message is in neither place.
/// - **Order** within a batch is kept for each topic and key. A message a bus hands back while it
///   confirms a later one can only follow that one.
/// - **Part failure** is normal: some messages confirmed, some rejected, some transient.
/// - **At least once**: a message whose confirm was lost is sent again. Its id is the same.
///
/// # Cancel safety
/// Dropping the future of `send` leaves each message confirmed or not sent by us: never half-sent,
/// and never sent again by this messenger. [`MessagingLayer`](crate::layer::MessagingLayer) never drops it.
///
/// # Example
/// ```
/// use tower_outbox::{Message, Messenger, Unsent, async_trait};
///
/// struct Stdout;
///
/// #[async_trait]
/// impl Messenger for Stdout {
///     async fn send(&self, batch: Vec<Message>) -> Result<(), Unsent> {
///         for message in &batch {
///             println!("{} {}", message.topic(), String::from_utf8_lossy(message.body()));
///         }
///         Ok(())
///     }
/// }
/// ```
#[async_trait]
pub trait Messenger: Send + Sync + 'static {
    /// Sends a batch and waits until all of it is confirmed.
    ///
    /// # Errors
    /// [`Unsent`] hands back every message that is not confirmed.
    async fn send(&self, batch: Vec<Message>) -> Result<(), Unsent>;

    /// Checks at enqueue what this bus could never send: too large, not JSON, a topic too long.
    ///
    /// # Errors
    /// Says why; the handler gets it from `enqueue`. By default everything passes.
    fn check(&self, message: &Message) -> Result<(), BoxError> {
        let _ = message;
        Ok(())
    }

    /// Whether messages can leave now. By default [`Health::Up`].
    async fn health(&self) -> Health {
        Health::Up
    }

    /// The health of each broker by itself, with its address: what `tower-outbox check` shows.
    ///
    /// Where messages can leave by several brokers, it connects to every one of them anew. By default there is one
    /// entry, [`health`](Self::health). A decorator hands on the inner one's.
    async fn brokers(&self) -> Vec<(String, Health)> {
        vec![("the bus".to_owned(), self.health().await)]
    }

    /// Closes connections after everything handed over has ended, for at most `deadline`.
    ///
    /// Returns the messages that are left: they were taken over, and are neither confirmed nor handed
    /// back otherwise. Sending afterwards fails as transient. By default there is nothing to close.
    async fn close(&self, deadline: Duration) -> Vec<Message> {
        let _ = deadline;
        Vec::new()
    }

    /// The work in flight towards this messenger, as the layer and the decorators above it count it.
    ///
    /// A decorator hands on the inner one's; a messenger for tests keeps one to wait on. By default a new one.
    fn in_flight(&self) -> InFlight {
        InFlight::default()
    }

    /// Closed while messages could not be taken over. By default there is none: requests are always let in.
    ///
    /// A decorator hands on the inner one's.
    fn admission(&self) -> Option<Admission> {
        None
    }

    /// What keeps the messages of an outbox, so that a transaction of the app can put them there itself. By default there is
    /// none: this is no outbox.
    ///
    /// A decorator hands on the inner one's.
    fn store(&self) -> Option<Arc<dyn Store>> {
        None
    }

    /// Counts messages that a transaction of the app has put into the [`store`](Self::store). By default nothing is counted.
    ///
    /// A decorator hands it on.
    fn stored(&self, messages: usize) {
        let _ = messages;
    }
}

#[async_trait]
impl<M: Messenger + ?Sized> Messenger for Arc<M> {
    async fn send(&self, batch: Vec<Message>) -> Result<(), Unsent> {
        (**self).send(batch).await
    }

    fn check(&self, message: &Message) -> Result<(), BoxError> {
        (**self).check(message)
    }

    async fn health(&self) -> Health {
        (**self).health().await
    }

    async fn brokers(&self) -> Vec<(String, Health)> {
        (**self).brokers().await
    }

    async fn close(&self, deadline: Duration) -> Vec<Message> {
        (**self).close(deadline).await
    }

    fn in_flight(&self) -> InFlight {
        (**self).in_flight()
    }

    fn admission(&self) -> Option<Admission> {
        (**self).admission()
    }

    fn store(&self) -> Option<Arc<dyn Store>> {
        (**self).store()
    }

    fn stored(&self, messages: usize) {
        (**self).stored(messages);
    }
}

/// Whether a messenger can send now.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Health {
    /// Messages leave.
    Up,
    /// Messages do not leave, and why.
    Down {
        /// The last error, for a person to read.
        reason: String,
    },
}

impl Health {
    /// Whether messages leave.
    #[must_use]
    pub fn is_up(&self) -> bool {
        matches!(self, Self::Up)
    }
}

/// Why a message was not confirmed.
#[derive(Clone)]
#[non_exhaustive]
pub enum Failure {
    /// It may pass later: connection lost, timed out, throttled, released by the broker.
    Transient(Arc<dyn std::error::Error + Send + Sync>),
    /// It never will: too large, forbidden, unroutable, malformed.
    Rejected(Arc<dyn std::error::Error + Send + Sync>),
}

impl Failure {
    /// A failure worth another try.
    pub fn transient(cause: impl Into<BoxError>) -> Self {
        Self::Transient(Arc::from(cause.into()))
    }

    /// A final failure.
    pub fn rejected(cause: impl Into<BoxError>) -> Self {
        Self::Rejected(Arc::from(cause.into()))
    }

    /// Whether another try may succeed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Transient(_))
    }

    /// What went wrong.
    #[must_use]
    pub fn cause(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
        match self {
            Self::Transient(cause) | Self::Rejected(cause) => cause.as_ref(),
        }
    }

    /// The word for it in logs and metrics: `transient` or `rejected`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        if self.is_transient() { "transient" } else { "rejected" }
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Failure({self})")
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind(), crate::util::error::Chain(self.cause()))
    }
}

/// The messages of a batch that were not confirmed, in their order, each with its [`Failure`].
#[derive(Default)]
pub struct Unsent(Vec<(Message, Failure)>);

impl Unsent {
    /// All of `messages`, with one failure.
    #[must_use]
    pub fn new(messages: Vec<Message>, failure: &Failure) -> Self {
        messages.into_iter().map(|message| (message, failure.clone())).collect()
    }

    /// How many messages came back.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none came back.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The messages with their failures.
    pub fn iter(&self) -> std::slice::Iter<'_, (Message, Failure)> {
        self.0.iter()
    }

    /// Takes it apart: what is worth another try, and what is not, both in order.
    #[must_use]
    pub fn split(self) -> (Self, Self) {
        let (transient, rejected) = self.0.into_iter().partition(|(_, failure)| failure.is_transient());
        (Self(transient), Self(rejected))
    }

    /// The messages alone.
    #[must_use]
    pub fn into_messages(self) -> Vec<Message> {
        self.0.into_iter().map(|(message, _)| message).collect()
    }

    /// Gives the messages up: each is logged and counted.
    pub(crate) fn log(&self) {
        for (message, failure) in self {
            telemetry::unsent(message, failure.kind(), failure.cause());
        }
    }

    /// `Ok` when nothing came back.
    ///
    /// # Errors
    /// Itself, when something did.
    pub fn into_result(self) -> Result<(), Self> {
        if self.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl Extend<(Message, Failure)> for Unsent {
    fn extend<I: IntoIterator<Item = (Message, Failure)>>(&mut self, unsent: I) {
        self.0.extend(unsent);
    }
}

impl FromIterator<(Message, Failure)> for Unsent {
    fn from_iter<I: IntoIterator<Item = (Message, Failure)>>(unsent: I) -> Self {
        Self(unsent.into_iter().collect())
    }
}

impl IntoIterator for Unsent {
    type Item = (Message, Failure);
    type IntoIter = std::vec::IntoIter<(Message, Failure)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Unsent {
    type Item = &'a (Message, Failure);
    type IntoIter = std::slice::Iter<'a, (Message, Failure)>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Unsent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.first() {
            None => f.write_str("no message is unsent"),
            Some((_, failure)) => write!(f, "{} message(s) unsent; the first is {failure}", self.len()),
        }
    }
}

debug_as_display!(Unsent);

impl std::error::Error for Unsent {}

/// The cause of a [`Failure`] when a buffer or store did not take the messages over: it is full, or cannot write.
///
/// [`MessagingLayer`](crate::layer::MessagingLayer) answers 503 to it, whatever its
/// [`OnSendFailure`](crate::layer::OnSendFailure) says: the user chose refusal over loss.
#[derive(thiserror::Error)]
#[error(transparent)]
pub struct Overloaded(BoxError);

debug_as_display!(Overloaded);

impl Overloaded {
    /// Says why.
    pub fn new(reason: impl Into<BoxError>) -> Self {
        Self(reason.into())
    }
}
