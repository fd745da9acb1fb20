//! Persisted messages: the last value of a URI.

use crate::message::{Message, Scalar};

/// The header that marks a persisted message. It is not sent as a header.
pub(super) const PERSIST: &str = "tower-outbox-persist";

/// Marks a message as the last value of its URI: the designated router keeps it and replaces the one before it, and
/// [`Routing::query`](super::Routing::query) reads it.
///
/// The mark survives an outbox. Other backends send it as a header.
///
/// ```
/// use tower_outbox::{Message, routing};
///
/// let message = routing::persist(Message::json("floor1.temperature", &21.5)?);
/// assert!(routing::is_persisted(&message));
/// # Ok::<(), tower_outbox::message::MessageError>(())
/// ```
#[must_use]
pub fn persist(message: Message) -> Message {
    message.with_header(PERSIST, true)
}

/// Whether a message is marked by [`persist`], or was received with the mark.
#[must_use]
pub fn is_persisted(message: &Message) -> bool {
    message.header(PERSIST) == Some(&Scalar::Bool(true))
}
