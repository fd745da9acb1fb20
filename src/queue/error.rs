//! Why a handler gets no queue, or cannot enqueue.

use std::sync::Once;

use axum_core::response::{IntoResponse, Response};
use http::StatusCode;

use crate::message::MessageError;
use crate::message::topic::TopicError;
use crate::util::error::{BoxError, Chain, debug_as_display};

/// The rejection of the [`MessageQueue`](super::MessageQueue) extractor; answers 500. The first one of a process is logged.
#[derive(thiserror::Error)]
#[error(
    "no MessageQueue in the request: add tower_outbox::MessagingLayer around this route, as .layer(bus.layer())"
)]
#[non_exhaustive]
pub struct MissingMessagingLayer;

debug_as_display!(MissingMessagingLayer);

impl IntoResponse for MissingMessagingLayer {
    fn into_response(self) -> Response {
        static LOGGED: Once = Once::new();
        LOGGED.call_once(|| tracing::error!(error = %self, "answered 500: a handler takes a MessageQueue"));
        (StatusCode::INTERNAL_SERVER_ERROR, self.to_string()).into_response()
    }
}

/// Why a message was not enqueued. As a response it is a 500 whose body does not give the details.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum EnqueueError {
    /// The response is decided; the message could never be sent.
    #[error("the queue is closed: the response is already decided; enqueue before the handler returns")]
    Closed,
    /// The request has enqueued as many messages as it may.
    #[error("a request may enqueue {limit} messages; raise it with MessagingLayer::with_max_messages")]
    TooManyMessages {
        /// The limit.
        limit: usize,
    },
    /// The messages of the request are as large as they may be.
    #[error("the messages of a request may hold {limit} bytes; raise it with MessagingLayer::with_max_bytes")]
    TooManyBytes {
        /// The limit, in bytes.
        limit: usize,
    },
    /// The message is invalid.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The messenger can never send this message.
    #[error("the message can never be sent")]
    Rejected(#[source] BoxError),
}

debug_as_display!(EnqueueError);

impl From<TopicError> for EnqueueError {
    fn from(error: TopicError) -> Self {
        Self::Message(error.into())
    }
}

impl IntoResponse for EnqueueError {
    fn into_response(self) -> Response {
        tracing::error!(error = %Chain(&self), "message not enqueued");
        (StatusCode::INTERNAL_SERVER_ERROR, "an event of this request could not be enqueued").into_response()
    }
}
