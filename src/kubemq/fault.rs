//! The codes and texts of the real server, and our own refusals.

use std::fmt;

use tonic::Status;

use crate::channels::{EngineError, NameError};

/// A code of the real server with its text. SDKs and apps compare these texts, so their slips stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault(u16, &'static str);

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error {}: {}", self.0, self.1)
    }
}

pub(super) const CLIENT_ID: Fault = Fault(101, "invalid clientID value, cannot be empty");
pub(super) const CHANNEL: Fault = Fault(102, "invalid channel value, cannot be empty");
pub(super) const WILDCARD: Fault = Fault(107, "invalid channel value, no wildcards are allowed");
pub(super) const WHITE_SPACE: Fault = Fault(108, "invalid channel value, no white spaces are allowed");
pub(super) const TIMEOUT: Fault = Fault(109, "invalid set timeout value, cannot be 0 or negative");
pub(super) const EMPTY_MESSAGE: Fault = Fault(110, "invalid message, cannot be empty");
pub(super) const START_TYPE: Fault = Fault(111, "invalid subscription type, cannot be undefined or 0");
pub(super) const START_SEQUENCE: Fault =
    Fault(112, "invalid subscription type start at sequence value, cannot by 0 or negative");
pub(super) const START_TIME: Fault =
    Fault(113, "invalid subscription type start at time value, cannot by 0 or negative");
pub(super) const START_DELTA: Fault =
    Fault(114, "invalid subscription type start at time delta value, cannot by 0 or negative");
pub(super) const EMPTY_REQUEST: Fault = Fault(115, "invalid request, cannot be empty");
pub(super) const CACHE_TTL: Fault = Fault(116, "invalid cache ttl value, cannot be 0 or negative");
pub(super) const REQUEST_ID: Fault = Fault(117, "invalid request id, cannot be empty");
pub(super) const NOT_A_STORE: Fault =
    Fault(118, "event store parameters were set but subscribe type is not event store");
pub(super) const TRAILING_DOT: Fault = Fault(119, "invalid channel value, cannot end with `.`");
pub(super) const QUEUE_NAME: Fault = Fault(
    120,
    "invalid queue name value, cannot be empty, contains wildcards ,white spaces and end with dot",
);
pub(super) const MAX_MESSAGES: Fault =
    Fault(122, "max messages should be between 1 and max message setting in kubemq config  ");
pub(super) const NOT_ACKED: Fault = Fault(123, "cannot ack the current message");
pub(super) const NOTHING_TO_ACK: Fault = Fault(124, "no active message to ack");
pub(super) const ACK_SEQUENCE: Fault = Fault(125, "ack sequence cannot be 0 or negative");
pub(super) const NOTHING_TO_SEND: Fault = Fault(126, "no active message to send");
pub(super) const VISIBILITY: Fault =
    Fault(127, "invalid visibility time, cannot be negative or exceed setting in kubemq config");
pub(super) const ALREADY_ACTIVE: Fault = Fault(128, "subscription to queue is already active");
pub(super) const VISIBILITY_EXPIRED: Fault = Fault(129, "current visibility timer expired");
pub(super) const NOT_SENT: Fault = Fault(130, "error during send message to queue");
pub(super) const INVALID_MESSAGE: Fault = Fault(131, "invalid queue message");
pub(super) const STREAM_REQUEST: Fault = Fault(132, "invalid stream queue messages request type");
pub(super) const EXPIRATION: Fault =
    Fault(133, "invalid expiration seconds, exceed max expiration seconds setting in kubemq config");
pub(super) const RECEIVE_COUNT: Fault = Fault(
    134,
    "invalid max received count, cannot be negative or exceed max receive count setting in kubemq config",
);
pub(super) const DELAY: Fault =
    Fault(135, "invalid delay seconds, exceed max delay seconds setting in kubemq config");
pub(super) const WAIT: Fault = Fault(
    136,
    "invalid wait timeout, value cannot be negative or exceed max wait timeout seconds setting in kubemq config",
);
pub(super) const NOTHING_TO_REJECT: Fault = Fault(137, "no active message to reject");
pub(super) const NO_MESSAGE: Fault = Fault(138, "no new message in queue, wait time expired");
pub(super) const REQUEST_TYPE: Fault = Fault(206, "invalid request type");
pub(super) const SUBSCRIBE_TYPE: Fault = Fault(207, "invalid subscribe type");
pub(super) const NO_ANSWER: Fault = Fault(301, "timeout for request message");
pub(super) const CLOSING: Fault = Fault(409, "server is in shutdown mode");
pub(super) const DENIED: Fault = Fault(412, "access denied to resource");
pub(super) const TOKEN: Fault = Fault(421, "authentication verification failed, ");

/// Texts without a code. The blanks at their ends are the real server's.
pub(super) const NO_MESSAGES: &str = "no messages to send";
pub(super) const EMPTY_BATCH: &str = "empty messages batch";
pub(super) const UNKNOWN_TRANSACTION: &str = "transaction is completed or transaction id not found";
pub(super) const UNKNOWN_REQUEST: &str = "request unknown";
pub(super) const NO_DESTINATION: &str = "cannot requeue messages with empty channel destination ";
pub(super) const OFFSETS_CLOSED: &str = "cannot get active offsets with closed response ";
pub(super) const CLIENT_IN_USE: &str = "stan: clientID already registered";

/// Why a request was refused.
#[derive(Debug)]
pub(super) enum Refusal {
    /// A rule of the real server.
    Fault(Fault),
    /// A rule of ours, or of the real server without a code.
    Text(String),
    /// A limit that bounds what one client may take; the same request may succeed later.
    Limit(String),
    /// The engine refused it, or failed.
    Engine(EngineError),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault(fault) => fault.fmt(f),
            Self::Text(text) | Self::Limit(text) => f.write_str(text),
            Self::Engine(EngineError::Closed) => CLOSING.fmt(f),
            Self::Engine(EngineError::InUse { .. }) => f.write_str(CLIENT_IN_USE),
            Self::Engine(EngineError::NoAnswer { .. } | EngineError::NoResponder(_)) => NO_ANSWER.fmt(f),
            Self::Engine(error) => error.fmt(f),
        }
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<EngineError> for Refusal {
    fn from(error: EngineError) -> Self {
        if matches!(error, EngineError::Unavailable(_)) {
            tracing::error!(error = ?error, "failed to serve a request of a KubeMQ client; the client gets an error");
        }
        Self::Engine(error)
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let text = refusal.to_string();
        match refusal {
            Refusal::Fault(DENIED) => Self::permission_denied(text),
            Refusal::Limit(_) | Refusal::Engine(EngineError::Full { .. }) => Self::resource_exhausted(text),
            // SDKs reconnect then.
            Refusal::Engine(EngineError::Closed) => Self::unavailable(text),
            _ => Self::internal(text),
        }
    }
}

/// The rule that a channel's name breaks, outside of queues.
pub(super) fn of_name(error: NameError) -> Refusal {
    match error {
        NameError::Empty => CHANNEL.into(),
        NameError::Wildcard => WILDCARD.into(),
        NameError::Blank => WHITE_SPACE.into(),
        NameError::TrailingDot => TRAILING_DOT.into(),
        _ => Refusal::Text(error.to_string()),
    }
}
