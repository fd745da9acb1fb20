//! The types of requests.

use std::any::Any;
use std::fmt;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::capacity::Capacity;
use super::content::Content;
use super::name::ChannelName;
use crate::util::error::debug_as_display;

/// Whether a request asks for an action or for data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RequestKind {
    /// It is answered with success or failure.
    Command,
    /// It is answered with data.
    Query,
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Whether it asks for an action or for data.
    pub kind: RequestKind,
    /// Its content.
    pub content: Content,
    /// How long to wait for the answer.
    pub timeout: Duration,
}

/// The answer to a request. The engine passes all of it on.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Reply {
    /// The name of the responder; may be empty.
    pub client: String,
    /// Whether the request was carried out.
    pub executed: bool,
    /// Why it was not; may be empty.
    pub error: String,
    /// A text beside the body; may be empty.
    pub metadata: String,
    /// The body.
    pub body: Bytes,
    /// Names and values, in the order of the responder.
    pub tags: Vec<(String, String)>,
}

/// Shows the length of the body instead of the body, which must not get into logs.
impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply")
            .field("client", &self.client)
            .field("executed", &self.executed)
            .field("body_len", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// An answer, as the requester gets it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Answered {
    /// The answer.
    pub reply: Reply,
    /// When it arrived.
    pub time: SystemTime,
}

impl Answered {
    /// For implementors of an engine.
    #[must_use]
    pub fn new(reply: Reply, time: SystemTime) -> Self {
        Self { reply, time }
    }
}

/// A request, as a responder gets it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Incoming {
    /// The channel of the request.
    pub channel: ChannelName,
    /// Whether it asks for an action or for data.
    pub kind: RequestKind,
    /// Its content.
    pub content: Content,
    /// The time that the requester allowed.
    pub timeout: Duration,
    /// When the requester stops waiting. A request past its deadline need not be handled.
    pub deadline: Instant,
    /// Where the answer goes.
    pub responder: Responder,
}

impl Incoming {
    /// For implementors of an engine.
    #[must_use]
    pub fn new(channel: ChannelName, request: Request, deadline: Instant, responder: Responder) -> Self {
        let Request { kind, content, timeout } = request;
        Self { channel, kind, content, timeout, deadline, responder }
    }
}

/// Where the answer to one request goes. A clone is a handle to the same request; the first answer wins.
///
/// Dropping all handles of all responders without an answer lets the requester know at once, where the engine can.
#[derive(Clone)]
pub struct Responder(mpsc::Sender<Reply>);

impl Responder {
    /// For implementors of an engine: the sender of a channel with one place, from which the engine takes one answer.
    #[must_use]
    pub fn new(answer: mpsc::Sender<Reply>) -> Self {
        Self(answer)
    }

    /// Answers the request.
    ///
    /// # Errors
    /// [`LateAnswer`] when the requester has stopped waiting, or has got another answer.
    pub fn answer(&self, reply: Reply) -> Result<(), LateAnswer> {
        self.0.try_send(reply).map_err(|_| LateAnswer)
    }

    /// Whether an answer would be late.
    #[must_use]
    pub fn is_late(&self) -> bool {
        self.0.is_closed() || self.0.capacity() == 0
    }
}

impl fmt::Debug for Responder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Responder").field("is_late", &self.is_late()).finish()
    }
}

/// The requester has stopped waiting, or has got another answer.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer is late: the requester has stopped waiting, or has got another answer")]
#[non_exhaustive]
pub struct LateAnswer;

debug_as_display!(LateAnswer);

/// A subscription to requests. Dropping it ends it.
pub struct RequestSubscription {
    requests: mpsc::Receiver<Incoming>,
    capacity: Option<Capacity>,
    _guard: Box<dyn Any + Send + Sync>,
}

impl RequestSubscription {
    /// For implementors of an engine: the requests, and a value that is dropped with the subscription.
    #[must_use]
    pub fn new(requests: mpsc::Receiver<Incoming>, guard: impl Any + Send + Sync) -> Self {
        Self { requests, capacity: None, _guard: Box::new(guard) }
    }

    /// Sets the room that a received request frees.
    pub(super) fn with_capacity(mut self, capacity: Capacity) -> Self {
        self.capacity = Some(capacity);
        self
    }

    /// Waits for the next request; `None` once the engine is closed.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Incoming> {
        let incoming = self.requests.recv().await?;
        if let Some(capacity) = &self.capacity {
            capacity.free(incoming.content.size());
        }
        Some(incoming)
    }
}

impl fmt::Debug for RequestSubscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestSubscription").finish_non_exhaustive()
    }
}
