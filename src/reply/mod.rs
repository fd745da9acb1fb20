//! The contract of request and reply: a message is the request, a response is its reply.

mod error;
pub(crate) mod headers;
mod reply_to;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::Response;

pub use self::error::RequestError;
pub use self::reply_to::ReplyTo;
use crate::message::Message;

/// A reply: status, headers and body.
pub type Reply = Response<Bytes>;

/// Sends requests and waits for their replies: the transport below a [`Client`](crate::client::Client).
///
/// The other side is a [`Source`](crate::source::Source) that gives a message its [`ReplyTo`].
///
/// # Contract
/// - **One reply.** The first reply to a request is returned. Later ones are dropped and counted.
/// - **Replies do not mix**, however many requests are sent at a time.
/// - **A request has a deadline**: its [`expiry`](Message::expiry), which is always set. The transport passes it on, so that no responder
///   handles a request whose caller no longer waits. It needs no timer: the caller drops the future at the deadline.
/// - **Bounded**: a request whose caller has gone takes no memory of the transport for long.
#[async_trait]
pub trait Requester: Send + Sync + 'static {
    /// Sends a request, and waits for its reply.
    ///
    /// # Errors
    /// [`RequestError`]; [`RequestError::Rejected`], before it is sent, for a request that can never be sent. A reply with an error status is
    /// no error.
    ///
    /// # Cancel safety
    /// Dropping the future gives the request up. A responder may handle it nevertheless; its reply is dropped.
    async fn request(&self, request: Message) -> Result<Reply, RequestError>;
}

#[async_trait]
impl<R: Requester + ?Sized> Requester for Arc<R> {
    async fn request(&self, request: Message) -> Result<Reply, RequestError> {
        (**self).request(request).await
    }
}
