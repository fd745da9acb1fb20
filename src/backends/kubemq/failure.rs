//! Why a broker did not take a message, or ended a call.

use tonic::{Code, Status};

use crate::backends::brokers::ConnectionEnded;
use crate::message::headers::start_of;
use crate::messenger::Failure;

/// The longest text of a broker that is shown, in bytes.
const SHOWN: usize = 500;

/// The failure of one message of a batch. `Error 1NN` is a fault of the message.
pub(super) fn of_result(error: &str) -> Failure {
    let text = format!("the broker did not take it: {}", start_of(error.trim(), SHOWN));
    match is_of_message(error) {
        true => Failure::rejected(text),
        false => Failure::transient(text),
    }
}

/// Whether a text is one of the faults of a message or request: `Error 110: ..`, as against a fault of the server.
pub(super) fn is_of_message(error: &str) -> bool {
    let code = error.trim_start().strip_prefix("Error 1").and_then(|rest| rest.split_once(':'));
    code.is_some_and(|(code, _)| code.len() == 2 && code.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The failure of a call that ended with this status.
pub(super) fn of_status(status: &Status) -> Failure {
    let text = describe(status);
    match status.code() {
        _ if is_of_message(status.message()) => Failure::transient(ConnectionEnded(text)),
        // The broker read the message, and ended the call over it.
        Code::InvalidArgument | Code::PermissionDenied | Code::FailedPrecondition => {
            Failure::transient(ConnectionEnded(text))
        }
        _ if is_over_size(status) => Failure::transient(ConnectionEnded(text)),
        _ => Failure::transient(text),
    }
}

/// Whether a person has to mend it.
pub(super) fn is_permanent(status: &Status) -> bool {
    is_of_message(status.message())
        || status.message().contains("already registered")
        || matches!(
            status.code(),
            Code::Unauthenticated
                | Code::PermissionDenied
                | Code::Unimplemented
                | Code::InvalidArgument
                | Code::OutOfRange
        )
}

/// Whether the message of a call is larger than the broker takes.
pub(super) fn is_over_size(status: &Status) -> bool {
    match status.code() {
        Code::OutOfRange => true,
        Code::ResourceExhausted => status.message().contains("larger than max"),
        _ => false,
    }
}

/// The failure of a subscription: `Rejected` if a person has to mend it.
pub(super) fn of_subscription(status: &Status) -> Failure {
    if status.message().contains("already registered") {
        let text = start_of(status.message(), SHOWN);
        return Failure::rejected(format!(
            "another subscriber uses this CLIENT_ID: give each process its own ({text})"
        ));
    }
    let text = describe(status);
    if is_permanent(status) { Failure::rejected(text) } else { Failure::transient(text) }
}

/// The text of a status, with the cure where it is known.
pub(super) fn describe(status: &Status) -> String {
    let (code, text) = (status.code(), start_of(status.message(), SHOWN));
    match code {
        Code::Unauthenticated => {
            format!("the broker rejected the client: check TOKEN and CERTIFICATE ({text})")
        }
        Code::PermissionDenied => format!("the broker denied the permission for this channel ({text})"),
        Code::Unimplemented => format!("the server is not KubeMQ, or too old: it lacks a call ({text})"),
        Code::Unavailable | Code::Cancelled => format!("the connection to the broker was lost ({text})"),
        _ => format!("the broker ended the call with {code:?} ({text})"),
    }
}
