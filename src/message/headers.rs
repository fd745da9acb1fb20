//! The headers that this crate adds to messages.
//!
//! A header marked "own" counts only on a message that returns through a queue of this crate; other publishers cannot
//! set it.
//!
//! | header | value |
//! |---|---|
//! | [`KEY`] | the ordering key, for a broker without one |
//! | [`TOPIC`] | own: the topic of a message from a retry or dead-letter queue |
//! | [`QUEUE`] | own: the queue that the message was received from and returns to |
//! | [`EXPIRY`] | own: the remaining lifetime of the message, in milliseconds |
//! | [`PRIORITY`] | own: the priority of a message from a retry queue |
//! | [`ATTEMPT`] | own: the number of failed attempts |
//! | [`FAILURES`] | own: the last failed attempts, oldest first: JSON, `[{"at": "2026-11-21T06:15:24.925Z", "reason": ".."}]` |
//! | [`REASON`] | own: the reason why the message is a dead letter |
//! | [`LEFT_OUT`] | own: the names of the headers that the broker did not accept when the message was forwarded |
//! | [`DROPPED`] | the number of messages that the full store dropped before this one |
//! | [`METHOD`], [`QUERY`] | of a request with a reply address: the method, by default POST, and the query |
//! | [`CONTENT_TYPE`] | the media type of the body, for a transport without one |
//! | [`STATUS`] | of a reply: its status |
//! | [`CORRELATION_ID`] | the correlation id of the message whose handler enqueued this one, or else that message's id |
//! | [`ACK`] | the address at which the sender awaits the confirmation of the message |
//! | [`CONFIRM`] | the id of the message that this one confirms |
//! | [`REJECTED`] | beside [`CONFIRM`]: the reason why its consumer made a dead letter of it |
//! | [`CAUSATION_ID`] | the id of the message whose handler enqueued this one |

use std::time::SystemTime;

use crate::message::failed_attempt::FailedAttempt;

/// The ordering key.
pub const KEY: &str = "tower-outbox-key";
/// The topic.
pub const TOPIC: &str = "tower-outbox-topic";
/// The queue that the message was received from.
pub const QUEUE: &str = "tower-outbox-queue";
/// The remaining lifetime of the message, in milliseconds.
pub const EXPIRY: &str = "tower-outbox-expiry";
/// The priority.
pub const PRIORITY: &str = "tower-outbox-priority";
/// The number of failed attempts.
pub const ATTEMPT: &str = "tower-outbox-attempt";
/// The last failed attempts.
pub const FAILURES: &str = "tower-outbox-failures";
/// The reason why the message is a dead letter.
pub const REASON: &str = "tower-outbox-reason";
/// The names of the headers that were left out when the message was forwarded.
pub const LEFT_OUT: &str = "tower-outbox-left-out";
/// The number of messages that were dropped before this one.
pub const DROPPED: &str = "tower-outbox-dropped";
/// The method of a request.
pub const METHOD: &str = "tower-outbox-method";
/// The query of a request.
pub const QUERY: &str = "tower-outbox-query";
/// The media type of the body.
pub const CONTENT_TYPE: &str = "tower-outbox-content-type";
/// The status of a reply.
pub const STATUS: &str = "tower-outbox-status";
/// The id of the first message of a chain of messages.
pub const CORRELATION_ID: &str = "correlation_id";
/// The id of the message whose handler enqueued this one.
pub const CAUSATION_ID: &str = "causation_id";

/// The address at which the sender awaits the confirmation of the message: a topic, with `.` or `/` between its segments. The
/// name is that of mqfactory.
pub const ACK: &str = "ack";
/// The id of the message that this one confirms. The name is that of mqfactory.
pub const CONFIRM: &str = "confirm";
/// The reason why the consumer made a dead letter of the message that this one would confirm.
pub const REJECTED: &str = "rejected";

/// The headers that count only on a message that returns through a queue of this crate.
#[cfg(feature = "amqp091")]
pub(crate) const OWN: [&str; 8] = [TOPIC, QUEUE, EXPIRY, PRIORITY, ATTEMPT, FAILURES, REASON, LEFT_OUT];

/// The largest number of failed attempts that a message carries.
const KEPT: usize = 10;
/// The largest length of their reasons, in bytes.
const REASON_LEN: usize = 300;

#[derive(serde::Serialize, serde::Deserialize)]
struct FailureJson {
    #[serde(with = "rfc3339")]
    at: SystemTime,
    reason: String,
}

/// Returns the value of [`FAILURES`].
#[cfg_attr(
    not(any(feature = "_brokers", feature = "channels")),
    allow(dead_code, reason = "stores keep them otherwise")
)]
pub(crate) fn write_failures(failures: &[FailedAttempt]) -> String {
    let last = &failures[failures.len().saturating_sub(KEPT)..];
    let last: Vec<_> = last
        .iter()
        .map(|failure| FailureJson {
            at: failure.at,
            reason: start_of(&failure.reason, REASON_LEN).to_owned(),
        })
        .collect();
    serde_json::to_string(&last).unwrap_or_default()
}

/// Returns the failed attempts in the value of [`FAILURES`]; none if the value was not written by this crate.
#[cfg_attr(
    not(any(feature = "_brokers", feature = "channels")),
    allow(dead_code, reason = "stores keep them otherwise")
)]
pub(crate) fn read_failures(value: &str) -> Vec<FailedAttempt> {
    let failed: Vec<FailureJson> = serde_json::from_str(value).unwrap_or_default();
    failed.into_iter().map(|failed| FailedAttempt::new(failed.at, failed.reason.into())).collect()
}

/// Whether the property `content-encoding` of a broker names a content coding. Many publishers write the character set there.
#[cfg_attr(not(any(feature = "amqp091", feature = "amqp10")), allow(dead_code, reason = "only AMQP has it"))]
pub(crate) fn is_coding(text: &str) -> bool {
    let others = ["", "utf-8", "utf8", "ascii", "us-ascii", "iso-8859-1", "latin1", "binary", "8bit", "7bit"];
    !others.iter().any(|other| text.eq_ignore_ascii_case(other))
}

/// The largest number of headers of a received message.
pub(crate) const MOST: usize = 1_000;

/// Returns the start of a text, at most this many bytes.
pub(crate) fn start_of(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or_default()]
}

mod rfc3339 {
    use std::time::SystemTime;

    use serde::de::Error as _;
    use serde::ser::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&crate::util::rfc3339::write(*time).map_err(S::Error::custom)?)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
        crate::util::rfc3339::read(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_last_failures_travel() {
        let at = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_millis(seconds * 1_000 + 7);
        let failures: Vec<_> =
            (0..12).map(|n| FailedAttempt::new(at(n), format!("no. {n} ☃").into())).collect();
        assert_eq!(read_failures(&write_failures(&failures)), failures[2..]);
        let long = [FailedAttempt::new(at(0), "☃".repeat(1_000).into())];
        assert_eq!(read_failures(&write_failures(&long))[0].reason.len(), 300);
        let before = SystemTime::UNIX_EPOCH - Duration::from_secs(86_400);
        let of_a_wrong_clock = [FailedAttempt::new(before, "x".into())];
        assert_eq!(read_failures(&write_failures(&of_a_wrong_clock)), of_a_wrong_clock);
    }

    #[test]
    fn what_is_not_ours_is_no_failure() {
        for value in ["", "7", "[7]", r#"[{"at": "yesterday", "reason": "x"}]"#] {
            assert!(read_failures(value).is_empty());
        }
    }
}
