//! Futures that begin in their order.

use futures_util::future::join_all;
use tokio::task::unconstrained;

/// Completes with all outputs. The futures run at once, and each begins after the one before it.
///
/// `join_all` alone does not keep the order: tokio ends the turn of a task after 128 operations, and then wakes the last future that waits
/// first.
pub(crate) async fn join_in_order<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    unconstrained(join_all(futures)).await
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn more_futures_than_fit_into_a_turn_begin_in_their_order() {
        let (begun, free) = (Mutex::new(Vec::new()), Semaphore::new(1_000));
        let begin = async |n| {
            let _place = free.acquire().await;
            begun.lock().unwrap().push(n);
        };
        join_in_order((0..1_000).map(begin)).await;
        let begun = begun.into_inner().unwrap();
        assert!(begun.is_sorted(), "{begun:?}");
    }
}
