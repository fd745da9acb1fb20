//! Sends requests to a channel.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::time::Instant;

use super::wire;
use crate::channels::error::EngineError;
use crate::channels::name::ChannelName;
use crate::channels::request_types::{Request, RequestKind};
use crate::channels::requests::Requests;
use crate::message::Message;
use crate::reply::{Reply, RequestError, Requester};
use crate::util::deadline::FOR_EVER;

/// Sends requests to a channel, as queries, for a [`Client`](crate::client::Client). A clone is a handle to the same channel.
#[derive(Clone)]
pub struct ChannelRequester {
    engine: Arc<dyn Requests>,
    channel: ChannelName,
}

impl ChannelRequester {
    /// A requester for this channel.
    #[must_use]
    pub fn new(engine: Arc<dyn Requests>, channel: ChannelName) -> Self {
        Self { engine, channel }
    }
}

#[async_trait]
impl Requester for ChannelRequester {
    async fn request(&self, request: Message) -> Result<Reply, RequestError> {
        let timeout = request.expiry().unwrap_or(FOR_EVER);
        let begun = Instant::now();
        let request = Request { kind: RequestKind::Query, content: wire::content(&request), timeout };
        match self.engine.request(&self.channel, request).await {
            Ok(answered) => wire::reply(answered.reply).map_err(RequestError::bad_reply),
            Err(EngineError::NoResponder(_)) => Err(RequestError::NoResponder),
            Err(EngineError::NoAnswer { .. }) if begun.elapsed() < timeout => {
                Err(RequestError::unavailable("every responder gave the request up"))
            }
            Err(EngineError::NoAnswer { .. }) => Err(RequestError::NoReply(timeout)),
            Err(error) if error.is_transient() => Err(RequestError::unavailable(error)),
            Err(error) => Err(RequestError::rejected(error)),
        }
    }
}

impl fmt::Debug for ChannelRequester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelRequester").field("channel", &self.channel).finish_non_exhaustive()
    }
}
