//! The confirmation of a message, as a message.

use std::time::Duration;

use uuid::Uuid;

use crate::message::headers::CONFIRM;
use crate::message::{Message, Scalar, Topic, id_of};

/// How long a confirmation is worth delivering: its sender has sent the message again long before.
const EXPIRY: Duration = Duration::from_secs(60 * 60);

/// The confirmation of a received message.
pub(super) fn confirmation_of(message: &Message, address: &Topic) -> Message {
    // Its sender knows an id that is no UUID as it was written.
    let written = message.header("id").and_then(Scalar::as_str).filter(|id| id_of(id) == message.id());
    confirmation(written.map_or_else(|| message.id().to_string(), str::to_owned), address)
}

/// The confirmation of the message with this id.
pub(super) fn confirmation(id: String, address: &Topic) -> Message {
    Message::empty(address.clone()).with_header(CONFIRM, id).with_expiry(EXPIRY)
}

/// The id that a message at the address `own` confirms; `None` if it is another message.
pub(super) fn confirmed_by(message: &Message, own: &Topic) -> Option<Result<Uuid, &'static str>> {
    if message.topic() != own {
        return None;
    }
    let id = match message.header(CONFIRM)? {
        Scalar::String(id) => Uuid::try_parse(id).map_err(|_| "the id that it confirms is no UUID"),
        _ => Err("the id that it confirms is no text"),
    };
    Some(id)
}
