//! Panics of the app's code, as values.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

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
pub(crate) async fn caught<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Some),
        Err(_panic) => Poll::Ready(None),
    })
    .await
}
