//! The types of events.

use std::any::Any;
use std::fmt;
use std::time::SystemTime;

use tokio::sync::mpsc;

use super::capacity::Capacity;
use super::content::Content;
use super::name::ChannelName;

/// An event, as it is received.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event {
    /// The channel on which it was published.
    pub channel: ChannelName,
    /// Its content.
    pub content: Content,
    /// When it was published.
    pub time: SystemTime,
}

impl Event {
    /// For implementors of an engine.
    #[must_use]
    pub fn new(channel: ChannelName, content: Content, time: SystemTime) -> Self {
        Self { channel, content, time }
    }
}

/// A subscription to events. Dropping it ends it.
pub struct EventSubscription {
    events: mpsc::Receiver<Event>,
    capacity: Option<Capacity>,
    _guard: Box<dyn Any + Send + Sync>,
}

impl EventSubscription {
    /// For implementors of an engine: the events, and a value that is dropped with the subscription.
    #[must_use]
    pub fn new(events: mpsc::Receiver<Event>, guard: impl Any + Send + Sync) -> Self {
        Self { events, capacity: None, _guard: Box::new(guard) }
    }

    /// Sets the room that a received event frees.
    pub(super) fn with_capacity(mut self, capacity: Capacity) -> Self {
        self.capacity = Some(capacity);
        self
    }

    /// Waits for the next event; `None` once the engine is closed.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Event> {
        let event = self.events.recv().await?;
        self.free(&event);
        Some(event)
    }

    /// Waits for events, and appends at least one and at most `max` of them; returns how many, 0 once the engine is closed.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn next_many(&mut self, events: &mut Vec<Event>, max: usize) -> usize {
        let count = self.events.recv_many(events, max).await;
        events.iter().rev().take(count).for_each(|event| self.free(event));
        count
    }

    fn free(&self, event: &Event) {
        if let Some(capacity) = &self.capacity {
            capacity.free(event.content.size());
        }
    }
}

impl fmt::Debug for EventSubscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventSubscription").finish_non_exhaustive()
    }
}
