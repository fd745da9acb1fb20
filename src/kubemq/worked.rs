//! A stream of answers, and the work that produces them.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;
use tokio::sync::mpsc;
use tokio::time::{Sleep, sleep_until};
use tonic::Status;

use super::access::Caller;
use super::fault;
use super::streams::OpenStream;

type Work = Pin<Box<dyn Future<Output = Result<(), Status>> + Send>>;

/// A stream of answers. It drives the work that produces them, so the work ends where it is when the client goes away.
pub(super) struct Worked<T> {
    items: mpsc::Receiver<T>,
    work: Option<Work>,
    failed: Option<Status>,
    /// When the token of the client expires.
    expiry: Option<Pin<Box<Sleep>>>,
    _open: OpenStream,
}

impl<T> Worked<T> {
    /// Makes the sender of the answers, which is full at one, and gives it to the work.
    pub(super) fn new<W>(caller: &Caller, open: OpenStream, work: impl FnOnce(mpsc::Sender<T>) -> W) -> Self
    where
        W: Future<Output = Result<(), Status>> + Send + 'static,
    {
        let (sender, items) = mpsc::channel(1);
        Self {
            items,
            work: Some(Box::pin(work(sender))),
            failed: None,
            expiry: caller.expiry().map(|at| Box::pin(sleep_until(at))),
            _open: open,
        }
    }
}

impl<T: Unpin> Stream for Worked<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if let Some(expiry) = &mut this.expiry
            && expiry.as_mut().poll(cx).is_ready()
        {
            this.expiry = None;
            this.work = None;
            this.items.close();
            this.failed = Some(Status::unauthenticated(format!("{}the token has expired", fault::TOKEN)));
        }
        if let Some(work) = &mut this.work
            && let Poll::Ready(done) = work.as_mut().poll(cx)
        {
            this.work = None;
            this.failed = done.err();
        }
        match this.items.poll_recv(cx) {
            Poll::Ready(Some(item)) => Poll::Ready(Some(Ok(item))),
            Poll::Ready(None) if this.work.is_none() => Poll::Ready(this.failed.take().map(Err)),
            // The work has dropped its sender, and goes on.
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

impl<T> fmt::Debug for Worked<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worked").finish_non_exhaustive()
    }
}
