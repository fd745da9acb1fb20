//! The settlement of one request. NATS delivers it once.

use std::sync::{Arc, Weak};
use std::time::SystemTime;

use async_trait::async_trait;
use tokio::time::{Instant, sleep};

use super::request::Request;
use super::request_context::RequestContext;
use crate::message::{FailedAttempt, Settlement};
use crate::reply::{Reply, ReplyTo};
use crate::source::{Settle, SourceError, Unsettled};
use crate::util::deadline::after;

/// The request as the application receives it.
pub(super) fn unsettled(request: Request, context: &Arc<RequestContext>) -> Unsettled {
    let reader = &context.reader;
    let read = reader.read(&request.raw, request.place);
    let attempt = u32::try_from(request.failures.len()).map_or(u32::MAX, |failed| failed.saturating_add(1));
    let (failures, redelivered) = (request.failures.clone(), request.redelivered);
    let reply_to = request.reply_to.as_deref().map(ReplyTo::new);
    let reply_to = match (reply_to, request.deadline) {
        (Some(reply_to), Some(deadline)) => Some(reply_to.with_deadline(deadline)),
        (reply_to, _) => reply_to,
    };
    let settler = RequestSettler { request, context: Arc::downgrade(context) };
    match read {
        Ok(message) => {
            let source = Arc::clone(&reader.source);
            let is_event = reader.settings.broker.envelope.is_event();
            let unsettled =
                Unsettled::new(message, attempt, redelivered, source, failures, settler).with_event(is_event);
            match reply_to {
                Some(reply_to) => unsettled.with_reply_to(reply_to),
                None => unsettled,
            }
        }
        Err(reason) => Unsettled::poison(reason, settler),
    }
}

/// The handle to reply to a request, and to settle it.
struct RequestSettler {
    request: Request,
    context: Weak<RequestContext>,
}

#[async_trait]
impl Settle for RequestSettler {
    async fn settle(self: Box<Self>, settlement: Settlement) -> Result<(), SourceError> {
        let Self { mut request, context } = *self;
        let Some(context) = context.upgrade() else { return Ok(()) };
        request.redelivered = true;
        match settlement {
            Settlement::Ack | Settlement::Discard => {}
            Settlement::Release if context.closed.is_cancelled() => {
                // Seldom, and large.
                Box::pin(context.refuse(request.reply_to.as_ref(), "the responder stops")).await;
            }
            Settlement::Release => context.push_front(request),
            Settlement::Retry { after: wait, reason } => {
                request.failures.push(FailedAttempt::new(SystemTime::now(), reason));
                if request.deadline.is_some_and(|deadline| after(Instant::now(), wait) >= deadline) {
                    return Ok(());
                }
                tokio::spawn(async move {
                    tokio::select! {
                        () = sleep(wait) => context.push_front(request),
                        () = context.closed.cancelled() => {
                            context.refuse(request.reply_to.as_ref(), "the responder stops").await;
                        }
                    }
                });
            }
            Settlement::Reject { reason } => {
                tracing::warn!(source = %context.reader.source, subject = request.raw.subject, %reason, "rejected a message that no stream stores; it is dropped");
            }
        }
        Ok(())
    }

    async fn reply(&mut self, reply: Reply) -> Result<(), SourceError> {
        let (Some(reply_to), Some(context)) = (&self.request.reply_to, self.context.upgrade()) else {
            return Err(SourceError::Closed);
        };
        context.reply(reply_to, reply).await
    }
}
