//! A stream of answers, and the work that produces them.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;
use tokio::sync::mpsc;
use tokio::time::{Sleep, sleep_until};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::Status;

use super::access::Caller;
use super::face::Face;
use super::fault::{self, Refusal};
use super::streams::OpenStream;

type Work = Pin<Box<dyn Future<Output = Result<(), Status>> + Send>>;

/// A stream of answers. It drives the work that produces them, so the work ends where it is when the client goes away.
pub(super) struct Worked<T> {
    items: mpsc::Receiver<T>,
    work: Option<Work>,
    failed: Option<Status>,
    /// When the token of the client expires.
    expiry: Option<Pin<Box<Sleep>>>,
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
    _open: OpenStream,
}

impl<T> Worked<T> {
    /// Opens a stream of a client. `work` gets the sender of the answers, which is full at one.
    pub(super) fn new<W>(
        face: &Face,
        caller: &Caller,
        work: impl FnOnce(mpsc::Sender<T>) -> W,
    ) -> Result<Self, Refusal>
    where
        W: Future<Output = Result<(), Status>> + Send + 'static,
    {
        let open = face.open(caller)?;
        let (sender, items) = mpsc::channel(1);
        Ok(Self {
            items,
            work: Some(Box::pin(work(sender))),
            failed: None,
            expiry: caller.expiry().map(|at| Box::pin(sleep_until(at))),
            stop: Box::pin(face.stop.clone().cancelled_owned()),
            _open: open,
        })
    }

    fn end(&mut self, status: Status) {
        self.work = None;
        self.items.close();
        self.failed = Some(status);
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
            this.end(Status::unauthenticated(format!("{}the token has expired", fault::TOKEN)));
        }
        if this.work.is_some() && this.stop.as_mut().poll(cx).is_ready() {
            this.end(Status::unavailable(fault::CLOSING.to_string()));
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
