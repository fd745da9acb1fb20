//! What happens to a request's queue when its outcome is known.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use http::{request, response};

use crate::in_flight::InFlight;
use crate::message::Message;
use crate::messenger::{Admission, Failure, Refused, Unsent};
use crate::queue::{MessageQueue, QueueConfig, Taken};
use crate::telemetry;

type Enrich = dyn Fn(&request::Parts, &response::Parts, &mut Message) + Send + Sync;

/// What the client gets when the messages of its successful request could not be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "settings", derive(serde::Deserialize), serde(rename_all = "lowercase"))]
pub enum OnSendFailure {
    /// The response of the handler; the messages are logged (as in PDC).
    #[default]
    Log,
    /// 503 with `Retry-After`; the messages are logged.
    Reject,
}

#[derive(Clone)]
pub(super) struct Config {
    pub(super) queue: Arc<QueueConfig>,
    pub(super) in_flight: InFlight,
    pub(super) admission: Option<Admission>,
    pub(super) on_send_failure: OnSendFailure,
    pub(super) success: fn(&response::Parts) -> bool,
    pub(super) enrich: Option<Arc<Enrich>>,
    pub(super) on_unsent: Option<Arc<dyn Fn(Unsent) + Send + Sync>>,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("max_messages", &self.queue.max_messages)
            .field("max_bytes", &self.queue.max_bytes)
            .field("on_send_failure", &self.on_send_failure)
            .finish_non_exhaustive()
    }
}

const GRPC_STATUS: http::HeaderName = http::HeaderName::from_static("grpc-status");

/// The default rule of [`MessagingLayer::with_success`](super::MessagingLayer::with_success).
pub(super) fn is_success(response: &response::Parts) -> bool {
    response.status.is_success() && response.headers.get(GRPC_STATUS).is_none_or(|status| status == "0")
}

/// The messages that are to leave, and whether the response may still be changed by how they fare.
pub(super) struct Batch {
    pub(super) messages: Vec<Message>,
    pub(super) success: bool,
}

/// The end of one request's queue: closes it exactly once, on a response or on the lack of one.
#[derive(Debug)]
pub(super) struct Flush {
    config: Arc<Config>,
    queue: MessageQueue,
    request: Option<Box<request::Parts>>,
    closed: bool,
    /// The inner future is being polled: a drop that finds it so comes from a panic.
    pub(super) polling: bool,
}

impl Flush {
    #[inline]
    pub(super) fn new(
        config: Arc<Config>,
        queue: MessageQueue,
        request: Option<Box<request::Parts>>,
    ) -> Self {
        Self { config, queue, request, closed: false, polling: false }
    }

    pub(super) fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// Closes the queue; gives what it held, if anything.
    pub(super) fn close(&mut self) -> Option<Taken> {
        self.closed = true;
        self.queue.close()
    }

    /// Decides which messages leave with this response, and completes them.
    pub(super) fn decide(&self, mut taken: Taken, response: &response::Parts) -> Batch {
        let guard = LostUnlessEnded { messages: taken.messages.len(), ended: false };
        let success = (self.config.success)(response);
        if !success {
            drop_all_but_always(&mut taken, "status");
        }
        if let (Some(enrich), Some(request)) = (&self.config.enrich, &self.request) {
            for message in &mut taken.messages {
                enrich(request, response, message);
            }
        }
        guard.end();
        Batch { messages: taken.messages, success }
    }

    /// Ends a request that has no response.
    pub(super) fn abandon(&mut self, reason: &'static str) {
        let Some(mut taken) = self.close() else { return };
        drop_all_but_always(&mut taken, reason);
        if taken.messages.is_empty() {
            return;
        }
        let send = Arc::clone(&self.config).send(taken.messages);
        // Without a runtime the future is dropped, and says what is lost.
        drop(self.config.in_flight.try_spawn(send));
    }
}

impl Drop for Flush {
    fn drop(&mut self) {
        if !self.closed {
            self.abandon(if self.polling { "panic" } else { "cancelled" });
        }
    }
}

fn drop_all_but_always(taken: &mut Taken, reason: &'static str) {
    let dropped = taken.retain_always();
    if dropped > 0 {
        telemetry::dropped(dropped, reason);
    }
}

/// How a batch fared, as far as the response cares.
pub(super) enum Fate {
    Sent,
    Unsent,
    /// The messenger refused it: answer 503 whatever the setting.
    Refused,
}

impl Config {
    /// Sends a batch to its end; what comes back is logged, counted and given to `on_unsent`.
    pub(super) fn send(
        self: Arc<Self>,
        messages: Vec<Message>,
    ) -> impl Future<Output = Fate> + Send + 'static {
        // Made here, not at the first poll: the future may be dropped before it.
        let guard = LostUnlessEnded { messages: messages.len(), ended: false };
        async move {
            let unsent = self.send_and_log(messages).await;
            guard.end();
            self.fate(unsent)
        }
    }

    async fn send_and_log(&self, messages: Vec<Message>) -> Unsent {
        let (count, begun) = (messages.len(), Instant::now());
        let unsent = self.queue.messenger.send(messages).await.err().unwrap_or_default();
        if unsent.len() < count {
            telemetry::sent(count - unsent.len(), begun.elapsed());
        }
        unsent.log();
        unsent
    }

    fn fate(&self, unsent: Unsent) -> Fate {
        if unsent.is_empty() {
            return Fate::Sent;
        }
        let refused = unsent.iter().any(|(_, failure)| is_refused(failure));
        if let Some(on_unsent) = &self.on_unsent {
            on_unsent(unsent);
        }
        if refused { Fate::Refused } else { Fate::Unsent }
    }
}

fn is_refused(failure: &Failure) -> bool {
    failure.cause().is::<Refused>()
}

/// Says that messages are gone when a hook or the messenger panics, or the runtime drops the send half-way.
struct LostUnlessEnded {
    messages: usize,
    ended: bool,
}

impl LostUnlessEnded {
    fn end(mut self) {
        self.ended = true;
    }
}

impl Drop for LostUnlessEnded {
    fn drop(&mut self) {
        if !self.ended {
            let cause = if std::thread::panicking() { "a panic" } else { "there is no runtime any more" };
            telemetry::lost(self.messages, &cause);
        }
    }
}
