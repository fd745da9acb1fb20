//! A stream of requests and its stream of replies, matched by the ids of the requests.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::Stream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Response, Status, Streaming};

use super::failure;
use crate::messenger::Failure;
use crate::telemetry;

/// A reply that names its request.
pub(super) trait Reply: Send + 'static {
    fn request_id(&self) -> &str;
}

/// An open stream. Dropping it cancels the stream.
pub(super) struct Link<Q, R> {
    requests: mpsc::Sender<Q>,
    pending: Arc<Pending<R>>,
    ids: AtomicU64,
    ended: CancellationToken,
    lost: CancellationToken,
    _task: AbortOnDropHandle<()>,
}

/// Handles a reply for which nobody waits.
type Stray<R> = Box<dyn Fn(R) + Send>;

struct Pending<R>(Mutex<Waiting<R>>);

struct Waiting<R> {
    calls: HashMap<u64, oneshot::Sender<R>>,
    /// Why the stream ended.
    end: Option<Failure>,
}

impl<R> Pending<R> {
    fn lock(&self) -> MutexGuard<'_, Waiting<R>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<R: Reply> Pending<R> {
    /// Hands a reply to its caller; returns it if there is none.
    fn answer(&self, reply: R) -> Result<(), R> {
        let id = reply.request_id().parse::<u64>().ok();
        match id.and_then(|id| self.lock().calls.remove(&id)) {
            Some(caller) => caller.send(reply),
            None => Err(reply),
        }
    }
}

/// A call in flight; dropping it forgets it, so that its reply is a stray one.
pub(super) struct Call<'a, R> {
    pending: &'a Pending<R>,
    pub(super) id: u64,
    reply: oneshot::Receiver<R>,
}

impl<R> Drop for Call<'_, R> {
    fn drop(&mut self) {
        self.pending.lock().calls.remove(&self.id);
    }
}

impl<Q: Send + 'static, R: Reply> Link<Q, R> {
    /// Opens the stream by `call`. A server may send nothing before its first reply, so this does not wait for it. `room` is
    /// how many requests may wait to be written.
    pub(super) fn open<F>(
        lost: CancellationToken,
        room: usize,
        call: impl FnOnce(RequestStream<Q>) -> F,
        stray: impl FnOnce(mpsc::WeakSender<Q>) -> Stray<R>,
    ) -> Self
    where
        F: Future<Output = Result<Response<Streaming<R>>, Status>> + Send + 'static,
    {
        let (requests, written) = mpsc::channel(room);
        let pending = Arc::new(Pending(Mutex::new(Waiting { calls: HashMap::new(), end: None })));
        let ended = CancellationToken::new();
        let stray = stray(requests.downgrade());
        let opening = call(RequestStream(written));
        let run = {
            let (pending, ended, lost) = (Arc::clone(&pending), ended.clone(), lost.clone());
            async move {
                let end = lost.run_until_cancelled(read(&pending, opening, stray)).await;
                let failure =
                    end.unwrap_or_else(|| Failure::transient("the connection to the broker was lost"));
                let calls = {
                    let mut waiting = pending.lock();
                    waiting.end = Some(failure);
                    std::mem::take(&mut waiting.calls)
                };
                ended.cancel();
                drop(calls);
            }
        };
        let task = AbortOnDropHandle::new(tokio::spawn(run));
        Self { requests, pending, ids: AtomicU64::new(1), ended, lost, _task: task }
    }

    /// Begins a call: its reply is awaited from now on.
    pub(super) fn begin(&self) -> Result<Call<'_, R>, Failure> {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let (caller, reply) = oneshot::channel();
        let mut waiting = self.pending.lock();
        match &waiting.end {
            Some(failure) => Err(failure.clone()),
            None => {
                waiting.calls.insert(id, caller);
                drop(waiting);
                Ok(Call { pending: &self.pending, id, reply })
            }
        }
    }

    /// Queues a request behind the earlier ones.
    pub(super) async fn write(&self, request: Q) -> Result<(), Failure> {
        self.requests.send(request).await.map_err(|_| self.end())
    }

    /// Queues a request from a place that cannot wait. If there is no room, the stream ends, so that the broker does not keep
    /// what the request would have returned.
    pub(super) fn try_write(&self, request: Q) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.requests.try_send(request) {
            self.lost.cancel();
        }
    }

    /// Waits for the reply to a call. `None` is a reply that did not come in time.
    pub(super) async fn reply(&self, call: &mut Call<'_, R>, limit: Duration) -> Result<Option<R>, Failure> {
        match timeout(limit, &mut call.reply).await {
            Ok(Ok(reply)) => Ok(Some(reply)),
            Ok(Err(_)) => Err(self.end()),
            Err(_) => Ok(None),
        }
    }

    /// Whether the stream is of no more use.
    pub(super) fn is_ended(&self) -> bool {
        self.ended.is_cancelled() || self.lost.is_cancelled()
    }

    fn end(&self) -> Failure {
        let end = self.pending.lock().end.clone();
        end.unwrap_or_else(|| Failure::transient("the connection to the broker was lost"))
    }
}

/// Reads replies until the stream ends; returns why it did.
async fn read<R: Reply>(
    pending: &Pending<R>,
    opening: impl Future<Output = Result<Response<Streaming<R>>, Status>>,
    stray: Stray<R>,
) -> Failure {
    let mut replies = match opening.await {
        Ok(replies) => replies.into_inner(),
        Err(status) => return failure::of_status(&status),
    };
    loop {
        match replies.message().await {
            Ok(Some(reply)) => {
                if let Err(reply) = pending.answer(reply) {
                    telemetry::stray_reply(reply.request_id());
                    stray(reply);
                }
            }
            Ok(None) => return Failure::transient("the broker ended the stream"),
            Err(status) => return failure::of_status(&status),
        }
    }
}

/// The requests of a link as a stream.
pub(super) struct RequestStream<Q>(mpsc::Receiver<Q>);

impl<Q> Stream for RequestStream<Q> {
    type Item = Q;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Q>> {
        self.0.poll_recv(cx)
    }
}
