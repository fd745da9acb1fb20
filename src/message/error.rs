//! Why a message could not be made.

use crate::message::topic::TopicError;
use crate::util::error::debug_as_display;

/// Why a message could not be made.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// The topic is invalid.
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// JSON cannot represent the value, or the body is not a JSON object.
    #[error("the message body cannot be serialised as JSON")]
    Serialize(#[source] serde_json::Error),
}

debug_as_display!(MessageError);
