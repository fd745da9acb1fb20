//! Messages whose bytes the client library cannot read: it ends the connection over one, again at each delivery.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_nats::{Subject, jetstream};
use serde_json::json;

use super::ack_subject::AckSubject;
use super::inbox::Letter;
use super::incoming::{DeadLetter, Raw};
use super::link::SourceLink;
use super::settle::{TERM, publish_dead};
use super::source_context::SourceContext;
use crate::backends::brokers::{Stored, StoredAnswer};
use crate::util::error::{BoxError, Chain};

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
                next_stored(jetstream, stream, filter, next).await?.filter(|it| it.sequence <= last)
            else {
                next = last + 1;
                break;
            };
            next = stored.sequence + 1;
            let payload = stored.payload()?;
            (count, bytes) = (count - 1, bytes.saturating_sub(payload.len()));
            if let Some(fault) = stored.fault().filter(|_| context.inbox.reply(stored.sequence).is_none()) {
                self.end(context, link, &stored, payload, &fault).await?;
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
        payload: Vec<u8>,
        fault: &str,
    ) -> Result<(), BoxError> {
        self.has_found.store(true, Ordering::Release);
        let (subscription, sequence) = (&context.subscription, stored.sequence);
        let ack = AckSubject { delivered: 1, sequence, stored: stored.time() };
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

/// The first message from this place on; none if there is none.
async fn next_stored(
    context: &jetstream::Context,
    stream: &str,
    filter: &str,
    from: u64,
) -> Result<Option<Stored>, BoxError> {
    let request = json!({"seq": from, "next_by_subj": filter});
    let asked = context.request(format!("STREAM.MSG.GET.{stream}"), &request).await?;
    match asked {
        jetstream::response::Response::Ok(StoredAnswer { message }) => Ok(Some(message)),
        jetstream::response::Response::Err { error } if error.code() == 404 => Ok(None),
        jetstream::response::Response::Err { error } => Err(error.into()),
    }
}
