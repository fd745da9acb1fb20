//! The default messenger, which logs messages and sends none.

use async_trait::async_trait;

use crate::message::Message;
use crate::messenger::{Messenger, Unsent};
use crate::reply::{Reply, RequestError, Requester};

/// Logs one line for each message at info, and its body at debug. Nobody replies to its requests. The backend `dummy`, and the default.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dummy;

impl Dummy {
    /// Makes a dummy.
    #[must_use]
    pub fn new() -> Self {
        Self
    }
}

#[async_trait]
impl Messenger for Dummy {
    async fn send(&self, batch: Vec<Message>) -> Result<(), Unsent> {
        for message in &batch {
            tracing::info!(id = %message.id(), topic = %message.topic(), bytes = message.body().len(), "dummy backend dropped the message");
            tracing::debug!(id = %message.id(), body = %String::from_utf8_lossy(message.body()), "message body");
        }
        Ok(())
    }
}

#[async_trait]
impl Requester for Dummy {
    async fn request(&self, _: Message) -> Result<Reply, RequestError> {
        Err(RequestError::NoResponder)
    }
}
