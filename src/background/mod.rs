//! Sending after the response: a bounded buffer, and the worker that empties it.

mod permits;
mod settings;
mod worker;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;

use self::permits::{Permit, Permits};
pub use self::settings::{BackgroundSettings, WhenFull};
pub use self::worker::BackgroundWorker;
use self::worker::Batch;
use crate::message::Message;
use crate::messenger::in_flight::InFlight;
use crate::messenger::{Capabilities, Failure, Health, Messenger, Overloaded, Stage, Unsent};
use crate::util::error::BoxError;
use crate::util::repeated::Repeated;

/// Buffers messages and sends them after the response, while the process lives.
///
/// `Ok` from its `send` means that the messages are in the buffer. The buffer is bounded; when it is full, `send` waits or
/// fails. Transient failures are retried with backoff, in order, until they succeed or the worker shuts down. Rejected
/// messages are logged and counted, and so are messages that make the inner messenger panic. A crash loses the buffered
/// messages.
///
/// It comes with a [`BackgroundWorker`], which the caller spawns:
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use std::time::Duration;
/// use tower_outbox::background::{Background, BackgroundSettings};
/// use tower_outbox::dummy::Dummy;
/// use tower_outbox::MessagingLayer;
///
/// let (background, worker) = Background::new(Dummy::new(), BackgroundSettings::default());
/// let layer = MessagingLayer::new(background);
/// let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
/// let worker = tokio::spawn(worker.with_graceful_shutdown(async { drop(stopped.await) }, Duration::from_secs(10)));
/// // .. serve ..
/// stop.send(()).unwrap();
/// let left = worker.await.unwrap();
/// assert!(left.is_empty());
/// # });
/// ```
pub struct Background<M> {
    inner: Arc<M>,
    batches: mpsc::UnboundedSender<Batch>,
    permits: Arc<Permits>,
    in_flight: InFlight,
    settings: BackgroundSettings,
}

impl<M: Messenger> Background<M> {
    /// A buffer in front of `inner`, and the worker that empties it.
    pub fn new(inner: M, mut settings: BackgroundSettings) -> (Self, BackgroundWorker<M>) {
        // A buffer of size zero would have no bound, since its batches would count for nothing.
        settings.max_messages = settings.max_messages.max(1);
        settings.max_bytes = settings.max_bytes.max(1);
        let inner = Arc::new(inner);
        let (sender, receiver) = mpsc::unbounded_channel();
        let permits = Permits::new((settings.max_messages, settings.max_bytes));
        let Capabilities { in_flight, backend, .. } = inner.capabilities();
        let worker = BackgroundWorker {
            inner: Arc::clone(&inner),
            batches: receiver,
            permits: Arc::clone(&permits),
            backend,
            retries: Repeated::default(),
        };
        let in_flight = in_flight.unwrap_or_default();
        (Self { inner, batches: sender, permits, in_flight, settings }, worker)
    }

    async fn acquire(&self, batch: &[Message]) -> Result<Permit, Failure> {
        let messages = u32::try_from(batch.len()).unwrap_or(u32::MAX).min(self.settings.max_messages);
        let bytes: usize = batch.iter().map(Message::size).sum();
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.settings.max_bytes);
        let full = || Failure::transient(Overloaded::new("the background buffer is full; try again later"));
        match self.settings.when_full {
            WhenFull::Refuse if !self.permits.is_closed() => {
                self.permits.try_acquire(messages, bytes).ok_or_else(full)
            }
            _ => self.permits.acquire(messages, bytes).await,
        }
    }
}

impl<M> fmt::Debug for Background<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Background").field("settings", &self.settings).finish_non_exhaustive()
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<M: Messenger> Messenger for Background<M> {
    async fn send(&self, batch: Vec<Message>) -> Result<(), Unsent> {
        let permit = match self.acquire(&batch).await {
            Ok(permit) => permit,
            Err(failure) => return Err(Unsent::new(batch, &failure)),
        };
        let batch = Batch { messages: batch, _permit: permit, _in_flight: self.in_flight.token() };
        self.batches.send(batch).map_err(|mpsc::error::SendError(mut batch)| {
            let messages = std::mem::take(&mut batch.messages);
            Unsent::new(messages, &Failure::transient("the background worker has stopped"))
        })
    }

    fn check(&self, message: &Message) -> Result<(), BoxError> {
        self.inner.check(message)
    }

    async fn health(&self) -> Health {
        if self.batches.is_closed() {
            return Health::Down { reason: "the background worker has stopped".to_owned() };
        }
        self.inner.health().await
    }

    async fn close(&self, deadline: Duration) {
        self.inner.close(deadline).await;
    }

    /// The inner messenger's, with the messages in the buffer as in flight; and with its own admission when it refuses,
    /// since an inner messenger that is full fills the buffer. Messages stored by a transaction bypass the buffer.
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = self.inner.capabilities();
        if self.settings.when_full == WhenFull::Refuse {
            capabilities.admission = Some(self.permits.admission.clone());
        }
        capabilities.in_flight = Some(self.in_flight.clone());
        capabilities.stage = Stage::Buffered;
        capabilities
    }
}
