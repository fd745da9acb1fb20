//! Retained messages: the last value of a topic.

use crate::message::{Message, Scalar};

/// The header that marks a retained message. It is not sent as a user property.
pub(super) const RETAIN: &str = "tower-outbox-retain";

/// Marks a message as the last value of its topic: an MQTT broker keeps it, replaces the one before it, and sends it to
/// everyone who subscribes later. A message with an empty body removes the last value.
///
/// The mark survives an outbox. Other backends send it as a header.
///
/// ```
/// use tower_outbox::{Message, mqtt};
///
/// let message = mqtt::retain(Message::json("sensor.1.temperature", &21.5)?);
/// assert!(mqtt::is_retained(&message));
/// # Ok::<(), tower_outbox::message::MessageError>(())
/// ```
#[must_use]
pub fn retain(message: Message) -> Message {
    message.with_header(RETAIN, true)
}

/// Whether a message is marked by [`retain`], or was received because it is the last value of its topic.
#[must_use]
pub fn is_retained(message: &Message) -> bool {
    message.header(RETAIN) == Some(&Scalar::Bool(true))
}
