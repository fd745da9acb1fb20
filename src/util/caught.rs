//! Panics of the app's code, as values.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

/// Returns the result of the function, or `None` if it panics.
pub(crate) fn called<T>(function: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(function)).ok()
}

/// Runs a task, and restarts it after a delay when it panics.
#[cfg(feature = "_sql")]
pub(crate) async fn again<F: Future>(task: &'static str, mut work: impl FnMut() -> F) -> F::Output {
    let mut ended = 0;
    loop {
        if let Some(output) = caught(async { work().await }).await {
            return output;
        }
        let delay = crate::util::backoff::Backoff::default().delay(ended);
        ended = ended.saturating_add(1);
        tracing::error!(task, ?delay, "a task of the outbox panicked; restarting it after a delay");
        tokio::time::sleep(delay).await;
    }
}

/// Returns the output of the future, or `None` if it panics.
///
/// No `async fn`, which would hold the future twice.
pub(crate) fn caught<F: Future>(future: F) -> Caught<F> {
    Caught { future }
}

pin_project! {
    pub(crate) struct Caught<F> {
        #[pin]
        future: F,
    }
}

impl<F: Future> Future for Caught<F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let future = self.project().future;
        match catch_unwind(AssertUnwindSafe(|| future.poll(cx))) {
            Ok(poll) => poll.map(Some),
            Err(_panic) => Poll::Ready(None),
        }
    }
}
