//! Configuration files, and messages of other routers.

use prost::Message;

use super::config::WavemqConfig;
use super::convert;
use crate::wavemq_wire as wire;

pub(crate) fn config(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match WavemqConfig::parse(&text) {
        Ok(config) => drop(config.settings()),
        Err(error) => assert!(error.len() <= 8 * text.len() + 4_096),
    }
}

/// A message is written again as it was read.
pub(crate) fn message(data: &[u8]) {
    let Ok(read) = wire::Message::decode(data) else { return };
    let Ok(message) = convert::message(read) else { return };
    crate::routing::fuzzing::app(&message);
    let again = convert::message(convert::wire_message(message.clone()));
    assert!(again.is_ok_and(|again| again == message));
}
