//! How a message looks on the wire, whatever the protocol: its topic, headers, content type and body.

use std::borrow::Cow;

use crate::error::BoxError;
use crate::message::Message;

/// The shape of messages on a bus.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "settings", derive(serde::Deserialize), serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum Envelope {
    /// As it is.
    #[default]
    Plain,
}

impl Envelope {
    /// What is sent of a message.
    pub(crate) fn seal<'a>(&self, message: &'a Message) -> Result<Cow<'a, Message>, BoxError> {
        match self {
            Self::Plain => Ok(Cow::Borrowed(message)),
        }
    }

    /// The message in what was received.
    pub(crate) fn open(&self, message: Message) -> Result<Message, BoxError> {
        match self {
            Self::Plain => Ok(message),
        }
    }
}
