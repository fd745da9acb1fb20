//! The contract of events.

use async_trait::async_trait;

use super::content::Content;
use super::error::EngineError;
use super::event_types::EventSubscription;
use super::name::{ChannelName, Pattern};

/// Events: each goes to the subscribers there are now, to one member of each group, at most once.
///
/// A subscriber that does not keep up loses events; the metric `tower_outbox_channels_events_lost` counts them.
#[async_trait]
pub trait Events: Send + Sync + 'static {
    /// Publishes an event; returns without waiting for subscribers.
    ///
    /// # Errors
    /// [`EngineError`]. That nobody has subscribed is no error.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the event published or not.
    async fn publish(&self, channel: &ChannelName, event: Content) -> Result<(), EngineError>;

    /// Subscribes to the channels that match a pattern. With a group, each event goes to one of its members. `buffer` events,
    /// at most 65,536 and 0 for the engine's setting, and 64 MiB of them wait for the subscriber before it loses some.
    ///
    /// # Errors
    /// [`EngineError`].
    ///
    /// # Cancel safety
    /// It may be dropped at any time.
    async fn subscribe_events(
        &self,
        pattern: &Pattern,
        group: Option<&str>,
        buffer: usize,
    ) -> Result<EventSubscription, EngineError>;
}
