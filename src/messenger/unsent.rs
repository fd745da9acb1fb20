//! The messages of a batch that were not confirmed.

use std::fmt;

use super::failure::Failure;
use crate::message::Message;
use crate::telemetry;
use crate::util::error::debug_as_display;

/// The messages of a batch that were not confirmed, in their order, each with its [`Failure`].
#[derive(Default)]
pub struct Unsent(Vec<(Message, Failure)>);

impl Unsent {
    /// All of `messages`, with one failure.
    #[must_use]
    pub fn new(messages: Vec<Message>, failure: &Failure) -> Self {
        messages.into_iter().map(|message| (message, failure.clone())).collect()
    }

    /// Returns how many messages came back.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no message came back.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the messages with their failures.
    pub fn iter(&self) -> std::slice::Iter<'_, (Message, Failure)> {
        self.0.iter()
    }

    /// Splits it into the transient and the rejected messages, both in order.
    #[must_use]
    pub fn split(self) -> (Self, Self) {
        let (transient, rejected) = self.0.into_iter().partition(|(_, failure)| failure.is_transient());
        (Self(transient), Self(rejected))
    }

    /// Returns the messages alone.
    #[must_use]
    pub fn into_messages(self) -> Vec<Message> {
        self.0.into_iter().map(|(message, _)| message).collect()
    }

    /// Logs and counts each message as unsent.
    pub(crate) fn log(&self) {
        for (message, failure) in self {
            telemetry::unsent(message, failure.kind(), failure.cause());
        }
    }

    /// Returns `Ok` when no message came back.
    ///
    /// # Errors
    /// Itself, when at least one did.
    pub fn into_result(self) -> Result<(), Self> {
        if self.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl Extend<(Message, Failure)> for Unsent {
    fn extend<I: IntoIterator<Item = (Message, Failure)>>(&mut self, unsent: I) {
        self.0.extend(unsent);
    }
}

impl FromIterator<(Message, Failure)> for Unsent {
    fn from_iter<I: IntoIterator<Item = (Message, Failure)>>(unsent: I) -> Self {
        Self(unsent.into_iter().collect())
    }
}

impl IntoIterator for Unsent {
    type Item = (Message, Failure);
    type IntoIter = std::vec::IntoIter<(Message, Failure)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Unsent {
    type Item = &'a (Message, Failure);
    type IntoIter = std::slice::Iter<'a, (Message, Failure)>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Unsent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.first() {
            None => f.write_str("no message is unsent"),
            Some((_, failure)) => write!(f, "{} message(s) unsent; the first is {failure}", self.len()),
        }
    }
}

debug_as_display!(Unsent);

impl std::error::Error for Unsent {}
