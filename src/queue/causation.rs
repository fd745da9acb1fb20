//! The chain of messages: which message caused which.

use crate::message::headers::{CAUSATION_ID, CORRELATION_ID};
use crate::message::{Message, Scalar};

/// The longest correlation id that is copied from the handled message, in bytes.
const MAX_CORRELATION: usize = 255;

/// Sets the correlation and causation ids of a message, unless it has them.
pub(super) fn follow(message: &mut Message, cause: &Message) {
    let id = || cause.id().to_string();
    if message.header(CORRELATION_ID).is_none() {
        // A foreign id of any length could make every message of the handler too large.
        let correlation = cause.header(CORRELATION_ID).map(Scalar::to_string);
        let correlation = correlation.filter(|text| text.len() <= MAX_CORRELATION).unwrap_or_else(id);
        message.set_header(CORRELATION_ID, correlation);
    }
    if message.header(CAUSATION_ID).is_none() {
        message.set_header(CAUSATION_ID, id());
    }
}
