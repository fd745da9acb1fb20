//! Sending behind the response: a bounded buffer and the worker that empties it.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::message::Message;
use crate::messenger::in_flight::{InFlight, InFlightToken};
use crate::messenger::{Admission, Capabilities, Failure, Health, Messenger, Overloaded, Unsent};
use crate::store::admission::room_for;
use crate::telemetry;
use crate::util::backoff::Backoff;
use crate::util::caught::caught;
use crate::util::error::BoxError;

/// How many messages the worker hands to the inner messenger at once.
const BATCH: usize = 500;

/// What [`Background`] does when its buffer has no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "settings", derive(serde::Deserialize), serde(rename_all = "lowercase"))]
pub enum WhenFull {
    /// The response waits for room.
    #[default]
    Wait,
    /// The request is answered 503, before its handler runs ([`Admission`]); and after it, whatever
    /// [`OnSendFailure`](crate::layer::OnSendFailure) says, when it has enqueued more than one message and they do not fit.
    Refuse,
}

/// The bounds of [`Background`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "settings", derive(serde::Deserialize), serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct BackgroundSettings {
    /// How many messages may wait; 10,000 by default, at least 1.
    pub max_messages: u32,
    /// How many bytes may wait; 64 MiB by default. A batch larger than this alone counts as this much.
    #[cfg_attr(feature = "settings", serde(deserialize_with = "crate::util::units::size_u32"))]
    pub max_bytes: u32,
    /// What happens when there is no room; [`WhenFull::Wait`] by default.
    #[cfg_attr(feature = "settings", serde(deserialize_with = "crate::util::units::word"))]
    pub when_full: WhenFull,
}

impl Default for BackgroundSettings {
    fn default() -> Self {
        Self { max_messages: 10_000, max_bytes: 64 << 20, when_full: WhenFull::default() }
    }
}

impl BackgroundSettings {
    /// Sets [`max_messages`](Self::max_messages).
    #[must_use]
    pub fn with_max_messages(mut self, max_messages: u32) -> Self {
        self.max_messages = max_messages;
        self
    }

    /// Sets [`max_bytes`](Self::max_bytes).
    #[must_use]
    pub fn with_max_bytes(mut self, max_bytes: u32) -> Self {
        self.max_bytes = max_bytes;
        self
    }

    /// Sets [`when_full`](Self::when_full).
    #[must_use]
    pub fn with_when_full(mut self, when_full: WhenFull) -> Self {
        self.when_full = when_full;
        self
    }
}

/// Takes messages over at once and sends them behind the response, while the process lives.
///
/// `Ok` from its `send` means *taken over*. Memory is bounded; when it is full, `send` waits or
/// refuses. Transient failures are tried again with backoff, in order, until they pass or the
/// worker shuts down; rejected messages are logged and counted, and so are those that the inner messenger panics
/// over. A crash loses what is waiting.
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
    room: Arc<Room>,
    in_flight: InFlight,
    settings: BackgroundSettings,
}

/// Empties the buffer of a [`Background`]: see [`with_graceful_shutdown`](Self::with_graceful_shutdown).
pub struct BackgroundWorker<M> {
    inner: Arc<M>,
    batches: mpsc::UnboundedReceiver<Batch>,
    room: Arc<Room>,
}

struct Room {
    messages: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    size: (u32, u32),
    admission: Admission,
}

impl Room {
    fn new(size: (u32, u32)) -> Arc<Self> {
        let semaphore = |size: u32| Arc::new(Semaphore::new(size as usize));
        let admission = Admission::default();
        let room = Self { messages: semaphore(size.0), bytes: semaphore(size.1), size, admission };
        room.admission.set_free(room.free());
        Arc::new(room)
    }

    /// For how many messages there is room.
    fn free(&self) -> u64 {
        let free = (self.messages.available_permits() as u64, self.bytes.available_permits() as u64);
        let (messages, bytes) = (u64::from(self.size.0), u64::from(self.size.1));
        let held = (messages.saturating_sub(free.0), bytes.saturating_sub(free.1));
        if free.1 == 0 { 0 } else { room_for(free.0, free.1, held) }
    }

    /// Takes room, if there is some beside what is reserved for other requests.
    fn try_take(&self, messages: u32, bytes: u32) -> Option<Permits> {
        self.admission.take_over(self.admission.own(), |gate| {
            if !gate.fits(messages.into(), self.messages.available_permits() as u64) {
                return None;
            }
            let messages = Arc::clone(&self.messages).try_acquire_many_owned(messages).ok()?;
            let bytes = Arc::clone(&self.bytes).try_acquire_many_owned(bytes).ok()?;
            gate.free = self.free();
            Some((messages, bytes))
        })
    }
}

type Permits = (OwnedSemaphorePermit, OwnedSemaphorePermit);

/// Room that is taken until this is dropped.
struct Place {
    permits: Option<Permits>,
    room: Arc<Room>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.permits = None;
        self.room.admission.take_over(None, |gate| gate.free = self.room.free());
    }
}

/// What one `send` handed over; the buffer has its room back when it is dropped.
struct Batch {
    messages: Vec<Message>,
    _place: Place,
    _in_flight: InFlightToken,
}

impl Drop for Batch {
    fn drop(&mut self) {
        if !self.messages.is_empty() {
            telemetry::lost(self.messages.len(), &"the background worker was dropped");
        }
    }
}

impl<M: Messenger> Background<M> {
    /// A buffer before `inner`, and the worker that empties it.
    pub fn new(inner: M, mut settings: BackgroundSettings) -> (Self, BackgroundWorker<M>) {
        // A batch must count for something, or a buffer of size zero would have no bound.
        settings.max_messages = settings.max_messages.max(1);
        settings.max_bytes = settings.max_bytes.max(1);
        let inner = Arc::new(inner);
        let (sender, receiver) = mpsc::unbounded_channel();
        let room = Room::new((settings.max_messages, settings.max_bytes));
        let worker =
            BackgroundWorker { inner: Arc::clone(&inner), batches: receiver, room: Arc::clone(&room) };
        let in_flight = inner.capabilities().in_flight.unwrap_or_default();
        (Self { inner, batches: sender, room, in_flight, settings }, worker)
    }

    async fn room(&self, batch: &[Message]) -> Result<Place, Failure> {
        let messages = u32::try_from(batch.len()).unwrap_or(u32::MAX).min(self.settings.max_messages);
        let bytes: usize = batch.iter().map(Message::size).sum();
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.settings.max_bytes);
        let room = &self.room;
        let full = || Failure::transient(Overloaded::new("the background buffer is full; try again later"));
        let permits = match self.settings.when_full {
            WhenFull::Refuse if !room.messages.is_closed() => {
                room.try_take(messages, bytes).ok_or_else(full)?
            }
            _ => {
                let stopped = |_| Failure::transient("the background worker has stopped");
                (
                    Arc::clone(&room.messages).acquire_many_owned(messages).await.map_err(stopped)?,
                    Arc::clone(&room.bytes).acquire_many_owned(bytes).await.map_err(stopped)?,
                )
            }
        };
        Ok(Place { permits: Some(permits), room: Arc::clone(room) })
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
        let place = match self.room(&batch).await {
            Ok(place) => place,
            Err(failure) => return Err(Unsent::new(batch, &failure)),
        };
        let batch = Batch { messages: batch, _place: place, _in_flight: self.in_flight.token() };
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
            capabilities.admission = Some(self.room.admission.clone());
        }
        capabilities.in_flight = Some(self.in_flight.clone());
        capabilities
    }
}

impl<M> fmt::Debug for BackgroundWorker<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackgroundWorker").field("waiting", &self.batches.len()).finish_non_exhaustive()
    }
}

impl<M: Messenger> BackgroundWorker<M> {
    /// Sends buffered messages until `signal`, then the rest for at most `deadline` more.
    ///
    /// Returns the messages that are left. Each is also logged and counted as unsent.
    ///
    /// # Cancel safety
    /// Dropping the future loses the buffered messages; the loss is logged and counted.
    pub async fn with_graceful_shutdown(
        mut self,
        signal: impl Future<Output = ()>,
        deadline: Duration,
    ) -> Vec<Message> {
        let room = Arc::clone(&self.room);
        let stopping = CancellationToken::new();
        let mut pending = Pending::default();
        {
            let work = self.work_on(&mut pending, &stopping);
            tokio::pin!(work);
            tokio::select! {
                () = &mut work => {}
                () = signal => {
                    room.messages.close();
                    room.bytes.close();
                    stopping.cancel();
                    let _ = tokio::time::timeout(deadline, work).await;
                }
            }
        }
        self.batches.close();
        while let Ok(batch) = self.batches.try_recv() {
            pending.push(batch);
        }
        pending.give_up()
    }

    /// Works, and begins again when that panics.
    async fn work_on(&mut self, pending: &mut Pending, stopping: &CancellationToken) {
        let mut ended = 0;
        while caught(self.work(pending, stopping)).await.is_none() {
            let delay = Backoff::default().delay(ended);
            ended = ended.saturating_add(1);
            tracing::error!(?delay, "the background worker panicked: it is started again");
            tokio::time::sleep(delay).await;
        }
    }

    /// Sends until nothing can come any more. Whenever this is dropped, `pending` holds what is not confirmed.
    async fn work(&mut self, pending: &mut Pending, stopping: &CancellationToken) {
        let backoff = Backoff::default();
        let mut attempt = 0;
        loop {
            if pending.is_empty() {
                tokio::select! {
                    biased;
                    batch = self.batches.recv() => match batch {
                        Some(batch) => pending.push(batch),
                        None => return,
                    },
                    () = stopping.cancelled() => return,
                }
            }
            while pending.messages < BATCH
                && let Ok(batch) = self.batches.try_recv()
            {
                pending.push(batch);
            }
            match self.send(pending).await {
                Ok(()) => attempt = 0,
                Err(cause) => {
                    let delay = backoff.delay(attempt);
                    attempt = attempt.saturating_add(1);
                    telemetry::retried(pending.messages, &cause);
                    tokio::time::sleep(delay).await;
                }
            }
        }
    }

    /// Sends all that is pending; keeps what is worth another try.
    async fn send(&self, pending: &mut Pending) -> Result<(), Failure> {
        // The messages stay in `pending` while they are out, so that a dropped future leaves them there.
        let batch = pending.out();
        let Some(result) = caught(async { self.inner.send(batch).await }).await else {
            pending.blame();
            return Ok(());
        };
        let (transient, rejected) = result.err().unwrap_or_default().split();
        rejected.log();
        let failure = transient.iter().next().map(|(_, failure)| failure.clone());
        pending.keep(&transient.iter().map(|(message, _)| message.id()).collect());
        failure.map_or(Ok(()), Err)
    }
}

/// The batches taken from the buffer and not yet confirmed, oldest first.
#[derive(Default)]
struct Pending {
    batches: VecDeque<Batch>,
    messages: usize,
    /// Batches go out one by one, to find the one the messenger panics over.
    one_by_one: bool,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    fn push(&mut self, batch: Batch) {
        self.messages += batch.messages.len();
        self.batches.push_back(batch);
    }

    /// How many batches go out together.
    fn together(&self) -> usize {
        if self.one_by_one { 1 } else { self.batches.len() }
    }

    fn out(&self) -> Vec<Message> {
        let batches = self.batches.iter().take(self.together());
        batches.flat_map(|batch| &batch.messages).cloned().collect()
    }

    /// Keeps these messages of those that went out, in their order, and gives back the room of batches that are done.
    fn keep(&mut self, unsent: &HashSet<Uuid>) {
        let together = self.together();
        for batch in self.batches.iter_mut().take(together) {
            batch.messages.retain(|message| unsent.contains(&message.id()));
        }
        self.batches.retain(|batch| !batch.messages.is_empty());
        self.messages = self.batches.iter().map(|batch| batch.messages.len()).sum();
        self.one_by_one &= !self.is_empty();
    }

    /// The messenger panicked: gives the batch up that it was over, once it is known which.
    fn blame(&mut self) {
        if self.together() > 1 {
            self.one_by_one = true;
        } else if let Some(mut batch) = self.batches.pop_front() {
            let messages = std::mem::take(&mut batch.messages).len();
            self.messages -= messages;
            telemetry::lost(messages, &"the messenger panicked");
            self.one_by_one &= !self.is_empty();
        }
    }

    fn give_up(mut self) -> Vec<Message> {
        let left: Vec<Message> =
            self.batches.drain(..).flat_map(|mut batch| std::mem::take(&mut batch.messages)).collect();
        let failure = Failure::transient("the process shut down before the bus confirmed it");
        Unsent::new(left.clone(), &failure).log();
        left
    }
}
