//! Failures of links, sessions and messages: transient or permanent.

use fe2o3_amqp::connection::ConnectionStopReason;
use fe2o3_amqp::link::{
    DetachError, LinkStateError, ReceiverAttachError, RecvError, SendError, SenderAttachError,
    SessionStopReason,
};
use fe2o3_amqp::session::Error as SessionError;
use fe2o3_amqp_types::definitions::{self, AmqpError, ErrorCondition};
use fe2o3_amqp_types::primitives::Symbol;

use crate::messenger::Failure;

pub(super) fn attach_failure(error: SenderAttachError) -> Failure {
    match error {
        SenderAttachError::RemoteClosedWithError(error) => by_condition(&error),
        SenderAttachError::SessionStopped(reason) => stop_failure(reason),
        SenderAttachError::IncomingTargetIsNone => {
            Failure::rejected(AddressRejected("no such target".to_owned()))
        }
        error => Failure::transient(error),
    }
}

pub(super) fn attach_receiver_failure(error: ReceiverAttachError) -> Failure {
    to_read(match error {
        ReceiverAttachError::RemoteClosedWithError(error) => by_condition(&error),
        ReceiverAttachError::SessionStopped(reason) => stop_failure(reason),
        ReceiverAttachError::IncomingSourceIsNone => {
            Failure::rejected(AddressRejected("no such source".to_owned()))
        }
        ReceiverAttachError::DesiredFilterNotSupported(_) => Failure::rejected(NoSelectors),
        error => Failure::transient(LinkLost(error.to_string())),
    })
}

pub(super) fn receive_failure(error: RecvError) -> Failure {
    to_read(match error {
        RecvError::LinkStateError(LinkStateError::SessionStopped(reason)) => stop_failure(reason),
        RecvError::LinkStateError(
            LinkStateError::RemoteClosedWithError(error) | LinkStateError::RemoteDetachedWithError(error),
        ) => by_condition(&error),
        error => Failure::transient(LinkLost(error.to_string())),
    })
}

/// The same failure of an address, for a source.
fn to_read(failure: Failure) -> Failure {
    match failure.cause().downcast_ref() {
        Some(AddressRejected(why)) => Failure::rejected(SourceRejected(why.clone())),
        None => failure,
    }
}

pub(super) fn send_failure(error: SendError) -> Failure {
    match error {
        SendError::Detached(error) => detach_failure(error),
        SendError::LinkStateError(LinkStateError::SessionStopped(reason)) => stop_failure(reason),
        SendError::LinkStateError(
            LinkStateError::RemoteClosedWithError(error) | LinkStateError::RemoteDetachedWithError(error),
        ) => by_condition(&error),
        error => Failure::transient(LinkLost(error.to_string())),
    }
}

pub(super) fn detach_failure(error: DetachError) -> Failure {
    match error {
        DetachError::RemoteClosedWithError(error) | DetachError::RemoteDetachedWithError(error) => {
            by_condition(&error)
        }
        DetachError::SessionStopped(reason) => stop_failure(reason),
        error => Failure::transient(LinkLost(error.to_string())),
    }
}

pub(super) fn stop_failure(reason: SessionStopReason) -> Failure {
    match reason {
        SessionStopReason::RemoteEndedWithError(error) => ended(&error),
        SessionStopReason::ConnectionStopped(ConnectionStopReason::RemoteClosedWithError(error)) => {
            Failure::transient(ConnectionClosed(describe(&error)))
        }
        SessionStopReason::RemoteEnded => Failure::transient(SessionLost("the broker ended it".to_owned())),
        _ => Failure::transient(ConnectionGone),
    }
}

pub(super) fn session_failure(result: Result<(), SessionError>) -> Failure {
    match result {
        Err(SessionError::RemoteEndedWithError(error)) => ended(&error),
        Err(SessionError::RemoteEnded) => stop_failure(SessionStopReason::RemoteEnded),
        _ => Failure::transient(ConnectionGone),
    }
}

/// When an operator closes a connection, RabbitMQ 3.10 ends its sessions like this, and leaves the connection open.
fn ended(error: &definitions::Error) -> Failure {
    match &error.condition {
        ErrorCondition::AmqpError(AmqpError::InternalError) => {
            Failure::transient(SessionLost(describe(error)))
        }
        _ => by_condition(error),
    }
}

/// Permanent if the address or the permission for it is at fault, else transient.
pub(super) fn by_condition(error: &definitions::Error) -> Failure {
    use AmqpError::{
        InvalidField, NotAllowed, NotFound, NotImplemented, PreconditionFailed, UnauthorizedAccess,
    };
    match &error.condition {
        ErrorCondition::AmqpError(
            InvalidField | NotAllowed | NotFound | NotImplemented | PreconditionFailed | UnauthorizedAccess,
        ) => Failure::rejected(AddressRejected(describe(error))),
        _ => Failure::transient(LinkLost(describe(error))),
    }
}

/// `amqp:not-found: no exchange 'nosuch'`.
pub(super) fn describe(error: &definitions::Error) -> String {
    let condition = match &error.condition {
        ErrorCondition::AmqpError(condition) => Symbol::from(condition).0,
        condition => format!("{condition:?}"),
    };
    match &error.description {
        Some(description) => format!("{condition}: {description}"),
        None => condition,
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the link was lost: {0}")]
pub(super) struct LinkLost(pub(super) String);

/// The broker closed the connection with a reason.
#[derive(Debug, thiserror::Error)]
#[error("the broker closed the connection ({0})")]
pub(super) struct ConnectionClosed(pub(super) String);

/// The broker ended the session because of an internal error: the connection is not used again.
#[derive(Debug, thiserror::Error)]
#[error("the session was lost: {0}")]
pub(super) struct SessionLost(pub(super) String);

/// The session was lost with its connection; the task of the connection reports the reason.
#[derive(Debug, thiserror::Error)]
#[error("the connection was lost")]
pub(super) struct ConnectionGone;

#[derive(Debug, thiserror::Error)]
#[error("the broker gave no outcome within SEND_TIMEOUT")]
pub(super) struct NoOutcome;

#[derive(Debug, thiserror::Error)]
#[error("the broker gave no credit to send within SEND_TIMEOUT")]
pub(super) struct NoCredit;

#[derive(Debug, thiserror::Error)]
#[error("the broker rejected it{}", .0.as_ref().map(|why| format!(" ({why})")).unwrap_or_default())]
pub(super) struct RejectedByBroker(pub(super) Option<String>);

/// RabbitMQ 4 says so when no queue takes the message.
#[derive(Debug, thiserror::Error)]
#[error("the broker released it")]
pub(super) struct ReleasedByBroker;

#[derive(Debug, thiserror::Error)]
#[error(
    "the broker rejects the address ({0}): check ADDRESS, TOPIC_PREFIX and the write permissions of this client"
)]
pub(super) struct AddressRejected(pub(super) String);

#[derive(Debug, thiserror::Error)]
#[error("the broker rejects the source address ({0}): check ADDRESS and the read permissions of this client")]
pub(super) struct SourceRejected(pub(super) String);

#[derive(Debug, thiserror::Error)]
#[error(
    "the broker makes no dynamic node for replies ({0}): RabbitMQ 3.10 and 4.0 know none, so send requests over the backend amqp091 there"
)]
pub(super) struct NoDynamicNode(pub(super) String);

#[derive(Debug, thiserror::Error)]
#[error("{0}: if that is about the client's name, another process uses the one in DURABLE")]
pub(super) struct NameTaken(pub(super) String);

#[derive(Debug, thiserror::Error)]
#[error("the broker does not know selectors, and would send everything: leave SELECTOR out")]
pub(super) struct NoSelectors;

#[derive(Debug, thiserror::Error)]
#[error("the link was lost while settling or granting credit: {0}")]
pub(super) struct NotSettled(pub(super) String);
