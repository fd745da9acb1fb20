//! Event types that know their topic.

use serde::Serialize;

/// An event type that knows its topic, for [`MessageQueue::emit`](crate::queue::MessageQueue::emit).
///
/// ```
/// use serde::Serialize;
/// use tower_outbox::Event;
///
/// #[derive(Serialize)]
/// struct UserCreated { id: u64 }
///
/// impl Event for UserCreated {
///     const TOPIC: &'static str = "user.created";
/// }
/// ```
pub trait Event: Serialize {
    /// The topic of every event of this type.
    const TOPIC: &'static str;

    /// Returns the ordering key of this event: events of the same topic and key keep their order, across requests and outages. By default
    /// there is none, and so no order across requests.
    fn key(&self) -> Option<String> {
        None
    }
}
