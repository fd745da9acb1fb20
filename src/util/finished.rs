//! A future that runs to its end, also when its caller drops it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;

/// Runs in its caller, and in a task of its own from the moment when the caller drops it. The end of the runtime ends it.
pub(crate) struct Finished<T: Send + 'static> {
    future: Option<Pin<Box<dyn Future<Output = T> + Send>>>,
    /// Gets the output that no caller takes.
    untaken: fn(T),
}

impl<T: Send + 'static> Finished<T> {
    pub(crate) fn new(future: impl Future<Output = T> + Send + 'static, untaken: fn(T)) -> Self {
        Self { future: Some(Box::pin(future)), untaken }
    }
}

impl<T: Send + 'static> Future for Finished<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        // One that panics is not polled again.
        let mut future = self.future.take().expect("it is not polled after its end");
        let polled = future.as_mut().poll(cx);
        if polled.is_pending() {
            self.future = Some(future);
        }
        polled
    }
}

impl<T: Send + 'static> Drop for Finished<T> {
    fn drop(&mut self) {
        if let (Some(rest), Ok(runtime)) = (self.future.take(), Handle::try_current()) {
            let untaken = self.untaken;
            runtime.spawn(async move { untaken(rest.await) });
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn a_dropped_future_goes_on() {
        let (go, going) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let mut finished = Finished::new(
            async move {
                let begun = going.await;
                end.send(begun).unwrap();
            },
            drop,
        );
        assert!((&mut finished).now_or_never().is_none());
        drop(finished);
        go.send(7).unwrap();
        assert_eq!(ended.await.unwrap(), Ok(7));
    }

    #[tokio::test]
    async fn one_that_ends_in_its_caller_needs_no_task() {
        assert_eq!(Finished::new(async { 7 }, drop).await, 7);
    }
}
