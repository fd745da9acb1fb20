//! Failures of connections and messages: transient or permanent.

use std::error::Error;
use std::io;

use krafka::KrafkaError;
use krafka::error::ErrorCode;

use crate::message::headers::start_of;
use crate::messenger::Failure;
use crate::tls;
use crate::util::error::Chain;

/// The most bytes of a text of the client library in an error.
const MOST: usize = 300;

/// Why there is no connection.
pub(super) fn open_failure(error: &KrafkaError) -> Failure {
    let mut cause = Error::source(error);
    while let Some(inner) = cause {
        let explained = inner.downcast_ref::<io::Error>().and_then(tls::explain);
        if let Some(explained) = explained.or_else(|| explain_tls(inner)) {
            return Failure::rejected(explained);
        }
        cause = inner.source();
    }
    let text = Chain(error).to_string();
    // The client library keeps only the text of some errors.
    for (part, cure) in [
        ("CertificateRequired", "the broker requires a client certificate: set CERTIFICATE"),
        (
            "UnknownIssuer",
            "the broker's certificate is not signed by a CA we trust: set CACERT to the CA that signed it",
        ),
    ] {
        if text.contains(part) {
            return Failure::rejected(cure);
        }
    }
    match error {
        KrafkaError::Auth { .. } => Failure::rejected(Unauthorized(start_of(&text, MOST).to_owned())),
        KrafkaError::Config { .. } => Failure::rejected(NoConnection(text)),
        _ => Failure::transient(NoConnection(text)),
    }
}

fn explain_tls(error: &(dyn Error + 'static)) -> Option<String> {
    let error = error.downcast_ref::<rustls::Error>()?;
    tls::explain(&io::Error::other(error.clone()))
}

/// Why a message was not confirmed. A transient failure says that it may be stored, or that it was not sent.
pub(super) fn failure_of(error: &KrafkaError) -> Failure {
    let why = shown(error);
    let KrafkaError::Broker { code, .. } = error else { return Failure::transient(NotConfirmed(why)) };
    let of_batch = |cure| Failure::rejected(BatchRefused { why: why.clone(), cure });
    match code {
        ErrorCode::MessageTooLarge | ErrorCode::RecordListTooLarge => {
            of_batch("shorten it, or raise max.message.bytes of the topic")
        }
        ErrorCode::InvalidTimestamp => of_batch(
            "its time is too far from now: change message.timestamp.before.max.ms and message.timestamp.after.max.ms of the topic",
        ),
        ErrorCode::InvalidRecord => {
            of_batch("give it what the topic asks for, such as a key in a compacted one")
        }
        ErrorCode::UnknownTopicOrPartition => Failure::rejected(NoTopic(why)),
        ErrorCode::TopicAuthorizationFailed => Failure::rejected(Denied(why)),
        ErrorCode::InvalidTopic | ErrorCode::PolicyViolation => {
            Failure::rejected(Refused { why, cure: "change its topic, or the rules of the cluster" })
        }
        _ => Failure::transient(NotConfirmed(why)),
    }
}

/// Whether the brokers were silent, in place of a lost connection.
pub(super) fn is_silence(error: &KrafkaError) -> bool {
    matches!(error, KrafkaError::DeliveryTimeout { message, .. } if !message.contains("network error"))
}

/// A batch of records that the client library cannot read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Damage {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) fault: String,
}

/// The place and the fault of a batch that the client library cannot read, which it names in the text of its error.
pub(super) fn undecodable(error: &KrafkaError) -> Option<Damage> {
    let KrafkaError::Protocol { message, .. } = error else { return None };
    let place = message.strip_prefix("undecodable record batch at ")?;
    let (place, rest) = place.split_once(" offset ")?;
    let (topic, partition) = place.rsplit_once('-')?;
    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let fault = rest.split_once("Underlying error: ").map_or(rest, |(_, fault)| fault);
    Some(Damage {
        topic: topic.to_owned(),
        partition: partition.parse().ok()?,
        offset: rest[..digits].parse().ok()?,
        fault: start_of(fault, MOST).to_owned(),
    })
}

/// An error of the client library in one line.
pub(super) fn shown(error: &KrafkaError) -> String {
    start_of(&Chain(error).to_string(), MOST).to_owned()
}

#[derive(Debug, thiserror::Error)]
#[error(
    "the cluster refused the connection ({0}): check user and password in URLS, SASL_MECHANISM and CERTIFICATE"
)]
struct Unauthorized(String);

#[derive(Debug, thiserror::Error)]
#[error("no connection: {0}")]
pub(super) struct NoConnection(pub(super) String);

#[derive(Debug, thiserror::Error)]
#[error("the cluster did not confirm it within SEND_TIMEOUT ({0})")]
pub(super) struct NotConfirmed(pub(super) String);

#[derive(Debug, thiserror::Error)]
#[error(
    "its topic is missing ({0}): create it, or set auto.create.topics.enable of the brokers and AUTO_CREATE_TOPICS"
)]
struct NoTopic(String);

#[derive(Debug, thiserror::Error)]
#[error("this client may not write to its topic ({0}): check its permissions")]
struct Denied(String);

#[derive(Debug, thiserror::Error)]
#[error("the brokers refuse it ({why}): {cure}")]
struct Refused {
    why: String,
    cure: &'static str,
}

/// The brokers refused the batch of records that a message was in: it may be the fault of another one.
#[derive(Debug, thiserror::Error)]
#[error("the brokers refuse it ({why}): {cure}")]
pub(super) struct BatchRefused {
    why: String,
    cure: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refusal_is_permanent() {
        let broker = |code| KrafkaError::broker(code, "x");
        for code in [ErrorCode::MessageTooLarge, ErrorCode::InvalidRecord, ErrorCode::InvalidTimestamp] {
            let failure = failure_of(&broker(code));
            assert!(!failure.is_transient() && failure.cause().is::<BatchRefused>(), "{failure}");
        }
        for code in [ErrorCode::TopicAuthorizationFailed, ErrorCode::UnknownTopicOrPartition] {
            let failure = failure_of(&broker(code));
            assert!(!failure.is_transient() && !failure.cause().is::<BatchRefused>(), "{failure}");
        }
        for error in [
            broker(ErrorCode::ClusterAuthorizationFailed),
            KrafkaError::fenced("x"),
            KrafkaError::closed("x"),
            KrafkaError::timeout("x"),
            KrafkaError::delivery_timeout(false, "x"),
        ] {
            assert!(failure_of(&error).is_transient(), "{error}");
        }
    }

    #[test]
    fn the_place_of_an_unreadable_record_is_read() {
        let error = |text: &str| KrafkaError::protocol_kind(krafka::ProtocolErrorKind::Malformed, text);
        let found = error(
            "undecodable record batch at a-b.c-7 offset 42; the partition cannot advance past it. Underlying error: CRC mismatch",
        );
        let fault = "CRC mismatch".to_owned();
        assert_eq!(
            undecodable(&found),
            Some(Damage { topic: "a-b.c".to_owned(), partition: 7, offset: 42, fault })
        );
        assert_eq!(undecodable(&error("undecodable record batch at x")), None);
        assert_eq!(undecodable(&KrafkaError::closed("x")), None);
    }

    #[test]
    fn a_lost_connection_is_no_silence() {
        let timed_out = |text: &str| is_silence(&KrafkaError::delivery_timeout(true, text));
        let lost = KrafkaError::network(io::Error::from(io::ErrorKind::ConnectionReset));
        assert!(!timed_out(&format!("x; last error: {lost}")));
        assert!(timed_out("not acknowledged within delivery_timeout after 1 attempt(s)"));
    }
}
