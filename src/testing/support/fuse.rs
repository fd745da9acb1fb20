//! Dropping a future at each of its await points.

use std::future::{Future, poll_fn};
use std::task::Poll;

use tokio::task::yield_now;

/// Polls a future `polls` times, once a turn of the scheduler whether it was woken or not, then drops it.
pub async fn fuse<F: Future>(polls: usize, future: F) -> Option<F::Output> {
    let mut future = Box::pin(future);
    for _ in 0..polls {
        let polled = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await;
        if let Poll::Ready(output) = polled {
            return Some(output);
        }
        yield_now().await;
    }
    None
}

/// Polls a future `polls` times, whenever it is woken, then drops it.
pub async fn fuse_woken<F: Future>(polls: usize, future: F) -> Option<F::Output> {
    let (mut future, mut left) = (Box::pin(future), polls);
    poll_fn(|cx| {
        if left > 0 {
            left -= 1;
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
        }
        if left == 0 { Poll::Ready(None) } else { Poll::Pending }
    })
    .await
}
