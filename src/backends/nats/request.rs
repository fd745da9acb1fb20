//! One request, as it arrived.

use std::time::{Duration, SystemTime};

use async_nats::{HeaderName, Message, Subject};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::ack_subject::AckSubject;
use super::incoming::Raw;
use super::replies;
use crate::message::FailedAttempt;
use crate::message::headers::EXPIRY;
use crate::util::deadline::after;

const EXPIRY_NAME: HeaderName = HeaderName::from_static(EXPIRY);

/// A request that arrived.
pub(super) struct Request {
    pub(super) raw: Raw,
    /// It stands for the place in a stream, which a request has not.
    pub(super) place: AckSubject,
    pub(super) reply_to: Option<Subject>,
    pub(super) deadline: Option<Instant>,
    pub(super) failures: Vec<FailedAttempt>,
    pub(super) redelivered: bool,
    _places: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

impl Request {
    /// A request that arrived now. A reply address is used only if one of the filters allows it.
    pub(super) fn new(
        message: Message,
        allowed: &[String],
        places: (OwnedSemaphorePermit, OwnedSemaphorePermit),
    ) -> Self {
        let Message { subject, headers, payload, reply, .. } = message;
        let expiry = headers.as_ref().and_then(|headers| headers.get(EXPIRY_NAME)?.as_str().parse().ok());
        let deadline = expiry.map(|millis| after(Instant::now(), Duration::from_millis(millis)));
        Self {
            raw: Raw { subject: subject.to_string(), headers, payload },
            place: AckSubject { delivered: 1, sequence: rand::random(), stored: SystemTime::now() },
            reply_to: reply.filter(|reply| replies::is_allowed(reply, allowed)),
            deadline,
            failures: Vec::new(),
            redelivered: false,
            _places: places,
        }
    }
}
