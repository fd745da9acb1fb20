//! Failures of connections and messages: transient or permanent.

use std::error::Error;
use std::io;

use async_nats::jetstream::{self, ErrorCode};
use async_nats::{ConnectError, ConnectErrorKind};

use crate::backends::brokers::ConnectionEnded;
use crate::message::headers::start_of;
use crate::messenger::Failure;
use crate::tls;
use crate::util::error::Chain;

/// Why no connection was made.
pub(super) fn open_failure(error: &ConnectError) -> Failure {
    let mut cause = Error::source(error);
    while let Some(inner) = cause {
        if let Some(explained) = inner.downcast_ref::<io::Error>().and_then(tls::explain) {
            return Failure::rejected(explained);
        }
        cause = inner.source();
    }
    match error.kind() {
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
            Failure::rejected(Unauthorized)
        }
        ConnectErrorKind::Tls | ConnectErrorKind::ServerParse => {
            Failure::rejected(NoConnection(Chain(error).to_string()))
        }
        _ => Failure::transient(NoConnection(Chain(error).to_string())),
    }
}

/// The failure of what is in flight when the server wrote this error, if it ends the connection over a message.
pub(super) fn ends_connection(error: &str) -> Option<Failure> {
    let text = error.to_ascii_lowercase();
    let is_about_a_message = ["maximum payload", "maximum control line", "parser error", "unknown protocol"]
        .iter()
        .any(|start| text.contains(start));
    is_about_a_message.then(|| Failure::transient(ConnectionEnded(start_of(error, 300).to_owned())))
}

/// Whether a server said that this client may not subscribe to a subject.
pub(super) fn is_subscription_denied(error: &str) -> bool {
    error.to_ascii_lowercase().contains("permissions violation for subscription to")
}

/// The subject that this client may not publish to, in the error of a server.
pub(super) fn denied_subject(error: &str) -> Option<&str> {
    const START: &str = "permissions violation for publish to \"";
    let at = error.to_ascii_lowercase().find(START)? + START.len();
    error.get(at..)?.rsplit_once('"').map(|(subject, _)| subject)
}

/// The outcome of a message that JetStream did not store.
pub(super) fn refused(error: &jetstream::Error) -> Failure {
    let cure = match error.error_code() {
        ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM => "shorten it, or raise max_msg_size of the stream",
        ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM => "shorten its headers",
        ErrorCode::STREAM_NOT_MATCH => {
            "EXPECTED_STREAM names another stream than the one that takes its subject"
        }
        ErrorCode::MESSAGE_TTL_DISABLED => "set allow_msg_ttl of the stream, or send it without an expiry",
        ErrorCode::MESSAGE_SCHEDULES_DISABLED => {
            "set allow_msg_schedules of the stream that takes DELAY_SUBJECT, or send it without a delay"
        }
        ErrorCode::MESSAGE_SCHEDULES_TARGET_INVALID => {
            "the stream that takes DELAY_SUBJECT must take its subject too"
        }
        ErrorCode::MESSAGE_TTL_INVALID
        | ErrorCode::MESSAGE_SCHEDULES_PATTERN_INVALID
        | ErrorCode::MESSAGE_SCHEDULES_TTL_INVALID
        | ErrorCode::MESSAGE_SCHEDULES_ROLLUP_INVALID => "change its delay or expiry",
        ErrorCode::STREAM_SEALED => "the stream is sealed: create another one",
        _ => return Failure::transient(NotStored(start_of(&error.to_string(), 300).to_owned())),
    };
    Failure::rejected(RejectedByServer { why: start_of(&error.to_string(), 300).to_owned(), cure })
}

#[derive(Debug, thiserror::Error)]
#[error(
    "the server refused the connection (authorization violation): check user and password in URLS, TOKEN, NKEY_FILE or CREDENTIALS_FILE"
)]
struct Unauthorized;

#[derive(Debug, thiserror::Error)]
#[error("no connection: {0}")]
pub(super) struct NoConnection(pub(super) String);

#[derive(Debug, thiserror::Error)]
#[error("the connection was lost: {0}")]
pub(super) struct Lost(pub(super) String);

#[derive(Debug, thiserror::Error)]
#[error("the server gave no confirm within SEND_TIMEOUT")]
pub(super) struct NoOutcome;

#[derive(Debug, thiserror::Error)]
#[error("the answer of the server is no confirm of JetStream: another program may answer at its subject")]
pub(super) struct Unreadable;

#[derive(Debug, thiserror::Error)]
#[error("no stream takes the subject {0:?}: create one with this subject, or set PATTERN = \"events\"")]
pub(super) struct NoStream(pub(super) String);

#[derive(Debug, thiserror::Error)]
#[error("JetStream does not answer for {0:?}: it is not enabled, or the stream has no leader now")]
pub(super) struct NoLeader(pub(super) String);

#[derive(Debug, thiserror::Error)]
#[error("this client may not publish to {0:?}: check its permissions")]
pub(super) struct Denied(pub(super) String);

#[derive(Debug, thiserror::Error)]
#[error("the stream did not store it ({0})")]
struct NotStored(String);

#[derive(Debug, thiserror::Error)]
#[error("the server rejects it ({why}): {cure}")]
struct RejectedByServer {
    why: String,
    cure: &'static str,
}

#[derive(Debug, thiserror::Error)]
#[error(
    "it has {size} bytes with its headers, and the server takes {limit} (max_payload): shorten the message"
)]
pub(super) struct TooLarge {
    pub(super) size: usize,
    pub(super) limit: usize,
}

#[derive(Debug, thiserror::Error)]
#[error("{what} need NATS {least}, and the server is {version}: upgrade it, or send the message without")]
pub(super) struct TooOld {
    pub(super) what: &'static str,
    pub(super) least: &'static str,
    pub(super) version: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denied_subject_is_read_whole() {
        let error = "Permissions Violation for Publish to \"closed.\"x\"";
        assert_eq!(denied_subject(error), Some("closed.\"x"));
        assert_eq!(denied_subject("Permissions Violation for Subscription to \"a\""), None);
        assert_eq!(denied_subject("Stale Connection"), None);
    }
}
