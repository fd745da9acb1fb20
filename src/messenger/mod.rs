//! The contract of everything that sends messages.

mod capabilities;
mod failure;
mod health;
pub(crate) mod in_flight;
#[cfg(feature = "cli")]
pub(crate) mod probe;
mod unsent;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

pub use self::capabilities::{Capabilities, OutboxStore};
pub use self::failure::{Failure, Overloaded, Unacknowledged};
pub use self::health::Health;
pub use self::in_flight::{InFlight, InFlightToken};
pub use self::unsent::Unsent;
use crate::message::Message;
pub use crate::store::admission::Admission;
pub use crate::telemetry::Stage;
use crate::util::error::BoxError;

/// Sends batches of messages to a broker, or decorates another messenger that does.
///
/// # Contract
/// - **`Ok` means confirmed.** `send` returns `Ok(())` only when the broker has confirmed every message of the batch, or,
///   for a decorator that documents it, when the decorator has accepted them.
/// - **Unconfirmed messages come back** in [`Unsent`], each marked [transient](Failure::Transient) (worth another try) or
///   [rejected](Failure::Rejected) (never). Every message is either confirmed or comes back.
/// - **Order** within a batch is kept for each topic and key. A message that a broker hands back while it confirms a later
///   one can only follow that one.
/// - **Partial failure** is normal: some messages confirmed, some rejected, some transient.
/// - **At least once**: a message whose confirm was lost is sent again, with the same id.
///
/// # Decorators
/// Only `send` is required. The other methods have defaults for a messenger that talks to a broker; a decorator forwards
/// them to its inner messenger. A decorator that forwards [`capabilities`](Self::capabilities) keeps admission control and
/// the app's transactions (`Tx`). This crate's decorators carry `#[deny(clippy::missing_trait_methods)]`, so that a
/// forgotten method does not compile; do the same on yours.
///
/// # Cancel safety
/// Dropping the future of `send` leaves each message confirmed or not sent by this messenger: never half-sent, and never
/// sent again by it. [`MessagingLayer`](crate::layer::MessagingLayer) never drops it.
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
    /// Sends a batch; returns `Ok` once the broker has confirmed every message.
    ///
    /// # Errors
    /// [`Unsent`] hands back every message that is not confirmed.
    async fn send(&self, batch: Vec<Message>) -> Result<(), Unsent>;

    /// Rejects, at enqueue time, a message that this broker can never accept: too large, not JSON, a topic too long.
    ///
    /// # Errors
    /// The reason; `enqueue` returns it to the handler. By default every message passes.
    fn check(&self, message: &Message) -> Result<(), BoxError> {
        let _ = message;
        Ok(())
    }

    /// Returns whether messages can be sent now. By default [`Health::Up`].
    async fn health(&self) -> Health {
        Health::Up
    }

    /// Waits for outstanding sends, at most `deadline`, then closes connections. Later sends fail as transient.
    ///
    /// By default there is nothing to close.
    async fn close(&self, deadline: Duration) {
        let _ = deadline;
    }

    /// Returns what the request layer may use besides `send`. By default nothing; a decorator returns its inner
    /// messenger's, changed where it has its own.
    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }
}

#[deny(clippy::missing_trait_methods)]
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

    async fn close(&self, deadline: Duration) {
        (**self).close(deadline).await;
    }

    fn capabilities(&self) -> Capabilities {
        (**self).capabilities()
    }
}
