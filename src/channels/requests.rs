//! The contract of requests.

use async_trait::async_trait;

use super::error::EngineError;
use super::name::{ChannelName, Pattern};
use super::request_types::{Answered, Request, RequestKind, RequestSubscription};

/// Requests: each goes to the responders there are now, to one member of each group; the first answer wins.
///
/// Commands and queries on channels of one name are separate.
#[async_trait]
pub trait Requests: Send + Sync + 'static {
    /// Sends a request and waits for its answer, at most [`Request::timeout`].
    ///
    /// # Errors
    /// [`EngineError::NoResponder`] at once when nobody has subscribed; [`EngineError::NoAnswer`] when the time is over, or
    /// when every responder has dropped the request.
    ///
    /// # Cancel safety
    /// Dropping the future gives the answer up; a responder may handle the request nevertheless.
    async fn request(&self, channel: &ChannelName, request: Request) -> Result<Answered, EngineError>;

    /// Subscribes to the requests of the channels that match a pattern. With a group, each request goes to one of its
    /// members. `buffer` requests, at most 65,536 and 0 for the engine's setting, wait for the responder; more are not
    /// delivered to it.
    ///
    /// # Errors
    /// [`EngineError`].
    ///
    /// # Cancel safety
    /// It may be dropped at any time.
    async fn subscribe_requests(
        &self,
        kind: RequestKind,
        pattern: &Pattern,
        group: Option<&str>,
        buffer: usize,
    ) -> Result<RequestSubscription, EngineError>;
}
