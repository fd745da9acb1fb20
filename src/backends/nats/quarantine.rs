//! Messages whose bytes the client library cannot read: it ends the connection over one, again at each delivery.

use std::str;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;

use async_nats::header::HeaderName;
use async_nats::{Subject, jetstream};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::json;

use super::ack_subject::AckSubject;
use super::inbox::Letter;
use super::incoming::{DeadLetter, Raw};
use super::link::SourceLink;
use super::settle::{TERM, publish_dead};
use super::source_context::SourceContext;
use crate::util::error::{BoxError, Chain};
use crate::util::rfc3339;

/// The most messages, and bytes of them, that are looked at after one lost connection.
const LOOKED_AT: (u32, usize) = (10_000, 64 << 20);

/// Looks for unreadable messages after a lost connection, and makes them dead letters.
#[derive(Debug, Default)]
pub(super) struct Quarantine {
    /// The place in the stream where the next look begins.
    next: AtomicU64,
    has_found: AtomicBool,
}

impl Quarantine {
    /// Whether messages were found since the last call.
    pub(super) fn take_found(&self) -> bool {
        self.has_found.swap(false, Ordering::AcqRel)
    }

    /// Looks at the messages that are delivered and not settled. A part of them is left for the next time if they are many.
    pub(super) async fn look(&self, context: &SourceContext, link: &SourceLink) {
        if let Err(error) = self.try_look(context, link).await {
            tracing::warn!(source = %context.reader.source, error = %Chain(error.as_ref()), "failed to look for unreadable messages; doing so after the next lost connection");
        }
    }

    async fn try_look(&self, context: &SourceContext, link: &SourceLink) -> Result<(), BoxError> {
        let jetstream = &link.connection.generation().context;
        let (stream, durable) = (&context.subscription.stream, &context.subscription.durable);
        let consumer = jetstream.get_stream_no_info(stream).await?.consumer_info(durable).await?;
        if consumer.num_ack_pending == 0 {
            return Ok(());
        }
        let filter = match (&*consumer.config.filter_subject, &*consumer.config.filter_subjects) {
            ("", [only]) => only,
            ("", _) => ">",
            (only, _) => only,
        };
        let last = consumer.delivered.stream_sequence;
        let first = consumer.ack_floor.stream_sequence + 1;
        let mut next = self.next.load(Ordering::Acquire).max(first);
        let (mut count, mut bytes) = LOOKED_AT;
        while next <= last && count > 0 && bytes > 0 {
            let Some(stored) =
                Stored::next(jetstream, stream, filter, next).await?.filter(|it| it.seq <= last)
            else {
                next = last + 1;
                break;
            };
            next = stored.seq + 1;
            (count, bytes) = (count - 1, bytes.saturating_sub(stored.data.len()));
            if let Some(fault) = stored.fault().filter(|_| context.inbox.reply(stored.seq).is_none()) {
                self.end(context, link, &stored, &fault).await?;
            }
        }
        self.next.store(if next > last { 0 } else { next }, Ordering::Release);
        Ok(())
    }

    /// Makes a message a dead letter, whose attempts nobody knows.
    async fn end(
        &self,
        context: &SourceContext,
        link: &SourceLink,
        stored: &Stored,
        fault: &str,
    ) -> Result<(), BoxError> {
        self.has_found.store(true, Ordering::Release);
        let (subscription, sequence) = (&context.subscription, stored.seq);
        let time = rfc3339::read(&stored.time).unwrap_or(SystemTime::UNIX_EPOCH);
        let ack = AckSubject { delivered: 1, sequence, stored: time };
        let payload = STANDARD.decode(&stored.data)?;
        let letter = Letter {
            raw: Raw { subject: stored.subject.clone(), headers: None, payload: payload.into() },
            ack,
        };
        let subject = subscription.dead_letters();
        let reason = format!("the message cannot be read: {fault}");
        tracing::warn!(source = %context.reader.source, sequence, reason, "a message that ends connections becomes a dead letter");
        let dead = DeadLetter { subject: &subject, attempt: 1, failures: &[], reason: &reason };
        publish_dead(context, &letter, &dead).await.map_err(|failure| Chain(failure.cause()).to_string())?;
        let reply = ack.subject_of(&subscription.stream, &subscription.durable);
        link.connection
            .settle(&Subject::from(reply), TERM)
            .await
            .map_err(|failure| Chain(failure.cause()).to_string())?;
        Ok(())
    }
}

/// A message as JetStream's API returns it: as JSON, which any bytes fit in.
#[derive(Deserialize)]
struct Stored {
    subject: String,
    seq: u64,
    #[serde(default)]
    data: String,
    #[serde(default)]
    hdrs: String,
    time: String,
}

#[derive(Deserialize)]
struct Answer {
    message: Stored,
}

impl Stored {
    /// The first message from this place on; none if there is none.
    async fn next(
        context: &jetstream::Context,
        stream: &str,
        filter: &str,
        from: u64,
    ) -> Result<Option<Self>, BoxError> {
        let request = json!({"seq": from, "next_by_subj": filter});
        let asked = context.request(format!("STREAM.MSG.GET.{stream}"), &request).await?;
        match asked {
            jetstream::response::Response::Ok(Answer { message }) => Ok(Some(message)),
            jetstream::response::Response::Err { error } if error.code() == 404 => Ok(None),
            jetstream::response::Response::Err { error } => Err(error.into()),
        }
    }

    /// Why the client library cannot read it.
    fn fault(&self) -> Option<Arc<str>> {
        if self.subject.contains(|c: char| c.is_whitespace() || c == char::REPLACEMENT_CHARACTER) {
            return Some(format!("its subject {:?} has a blank, or is no UTF-8", self.subject).into());
        }
        let headers = STANDARD.decode(&self.hdrs).ok()?;
        fault_of_headers(&headers).map(Into::into)
    }
}

fn fault_of_headers(headers: &[u8]) -> Option<String> {
    if headers.is_empty() {
        return None;
    }
    let Ok(text) = str::from_utf8(headers) else {
        return Some("its headers are no UTF-8".to_owned());
    };
    let mut lines = text.lines();
    let Some(status) = lines.next().and_then(|line| line.strip_prefix("NATS/1.0")) else {
        return Some("its headers do not begin with NATS/1.0".to_owned());
    };
    let code = status.trim().split(' ').next().unwrap_or_default();
    if !code.is_empty() && code.parse::<async_nats::StatusCode>().is_err() {
        return Some(format!("{code:?} in its headers is no status"));
    }
    for line in lines.filter(|line| !line.is_empty()) {
        if line.contains('\r') {
            return Some("its headers have a carriage return within a line".to_owned());
        }
        if line.starts_with(char::is_whitespace) {
            continue;
        }
        let name = line.split_once(':').and_then(|(name, _)| name.parse::<HeaderName>().ok());
        if name.is_none() {
            return Some("a line of its headers does not begin with a name and a colon".to_owned());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_end_a_connection_are_found() {
        for good in [
            "",
            "NATS/1.0\r\n\r\n",
            "NATS/1.0 503\r\n\r\n",
            "NATS/1.0\r\na: b\r\n c\r\nd:\r\n\r\n",
            "NATS/1.0\na:b",
        ] {
            assert_eq!(fault_of_headers(good.as_bytes()), None, "{good:?}");
        }
        for bad in [
            &b"NATS/1.0\r\na: \xff\r\n\r\n"[..],
            b"HTTP/1.1\r\n\r\n",
            b"NATS/1.0 x\r\n\r\n",
            b"NATS/1.0\r\nno colon\r\n\r\n",
            b"NATS/1.0\r\n\x01: x\r\n\r\n",
            b"NATS/1.0\r\na: b\rc\r\n\r\n",
            b"\r\n",
        ] {
            assert!(fault_of_headers(bad).is_some(), "{bad:?}");
        }
        for (subject, is_good) in [("a.b", true), ("a.\u{a0}b", false), ("a.\u{fffd}", false)] {
            let stored = Stored {
                subject: subject.to_owned(),
                seq: 1,
                data: String::new(),
                hdrs: String::new(),
                time: String::new(),
            };
            assert_eq!(stored.fault().is_none(), is_good, "{subject:?}");
        }
    }
}
