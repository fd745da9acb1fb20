//! The confirmation of a message, as a message.

use std::time::Duration;

use uuid::Uuid;

use super::awaited::Answer;
use crate::message::headers::{CONFIRM, REJECTED, start_of};
use crate::message::{Message, Scalar, Topic, id_of};

/// How long a confirmation is worth delivering: its sender has sent the message again long before.
const EXPIRY: Duration = Duration::from_secs(60 * 60);

/// The longest reason of a rejection, in bytes.
const REASON_LEN: usize = 300;

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

/// The answer to a received message of which a dead letter was made, for this reason.
pub(super) fn rejection_of(message: &Message, address: &Topic, reason: &str) -> Message {
    // Protocols close the connection over some of these.
    let is_odd =
        |c: char| c.is_control() || matches!(c, '\u{FDD0}'..='\u{FDEF}') || c as u32 & 0xFFFE == 0xFFFE;
    let reason: String =
        start_of(reason, REASON_LEN).chars().map(|c| if is_odd(c) { ' ' } else { c }).collect();
    confirmation_of(message, address).with_header(REJECTED, reason)
}

/// The id of the message that one at the address `own` answers, and the answer; `None` if it is another message.
pub(super) fn confirmed_by(message: &Message, own: &Topic) -> Option<Result<(Uuid, Answer), &'static str>> {
    if message.topic() != own {
        return None;
    }
    let id = match message.header(CONFIRM)? {
        Scalar::String(id) => Uuid::try_parse(id).map_err(|_| "the id that it confirms is no UUID"),
        _ => Err("the id that it confirms is no text"),
    };
    let answer = match message.header(REJECTED) {
        None => Answer::Handled,
        Some(reason) => Answer::Rejected(start_of(&reason.to_string(), REASON_LEN).into()),
    };
    Some(id.map(|id| (id, answer)))
}
