//! The contract of an engine.

use std::time::Duration;

use async_trait::async_trait;

use super::capabilities::EngineCapabilities;
use super::error::EngineError;
use super::events::Events;
use super::info::{ChannelInfo, ChannelKind, ChannelLimits};
use super::name::ChannelName;
use super::queue::Queues;
use super::requests::Requests;
use super::stream::Streams;

/// The implementation of the patterns: [`Queues`], [`Streams`], [`Events`] and [`Requests`].
///
/// # Contract
/// - **`Ok` means stored.** A message that was sent or appended, and a settlement, survive a crash of the engine once the
///   call has returned `Ok`. Events and requests are not stored.
/// - **A failed call** may have taken place if it failed with [`EngineError::Unavailable`], and has not otherwise.
/// - **Channels exist when they are used.** The first message, subscriber or receive creates a channel.
/// - **Thousands of channels** cost no thread, file or connection each.
/// - **Dropping a future** never loses a message: messages that it had taken are back at their place.
#[async_trait]
pub trait Engine: Queues + Streams + Events + Requests {
    /// Creates a channel, or sets its limits if it exists.
    ///
    /// # Errors
    /// [`EngineError::Full`] when there are too many channels.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the channel created or not.
    async fn create(
        &self,
        kind: ChannelKind,
        channel: &ChannelName,
        limits: ChannelLimits,
    ) -> Result<(), EngineError>;

    /// Deletes a channel with all its messages, cursors and limits; returns whether it existed. Held messages are gone too.
    /// Subscriptions stay, and continue with later messages, whose sequences start anew.
    ///
    /// # Errors
    /// [`EngineError`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves the channel deleted or not.
    async fn delete(&self, kind: ChannelKind, channel: &ChannelName) -> Result<bool, EngineError>;

    /// Returns the channels of a kind whose names contain `search`, by name.
    ///
    /// # Errors
    /// [`EngineError`].
    async fn list(&self, kind: ChannelKind, search: &str) -> Result<Vec<ChannelInfo>, EngineError>;

    /// Returns one channel; `None` if it does not exist.
    ///
    /// # Errors
    /// [`EngineError`].
    async fn info(
        &self,
        kind: ChannelKind,
        channel: &ChannelName,
    ) -> Result<Option<ChannelInfo>, EngineError>;

    /// Returns which parts of the contract it keeps exactly; by default all of them.
    fn capabilities(&self) -> EngineCapabilities {
        EngineCapabilities::exact()
    }

    /// Returns why messages cannot be stored now; `Ok` when they can.
    ///
    /// # Errors
    /// The reason.
    async fn health(&self) -> Result<(), EngineError>;

    /// Closes the engine within about `deadline`: held messages are back, waiting receives and subscriptions end with
    /// [`EngineError::Closed`], and everything is stored.
    async fn close(&self, deadline: Duration);
}
