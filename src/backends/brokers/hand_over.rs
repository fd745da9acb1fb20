//! Sending that goes on when its caller is dropped.

use std::future::Future;

use crate::message::Message;
use crate::messenger::{Failure, Unsent};
use crate::util::caught::caught;
use crate::util::finished::Finished;

/// Runs `send`, which returns one result for each message.
///
/// # Cancel safety
/// If it is dropped, `send` still runs to its end, in a task, and the unsent messages are logged and counted.
pub(crate) async fn hand_over<F>(batch: Vec<Message>, send: F) -> Result<(), Unsent>
where
    F: Future<Output = Vec<Result<(), Failure>>> + Send + 'static,
{
    let mut pending = PendingBatch(batch);
    let sent = async move {
        match caught(send).await {
            Some(results) => pending.unsent(results.into_iter()),
            None => pending.unsent(std::iter::repeat_with(|| Err(Failure::transient("sending panicked")))),
        }
    };
    Finished::new(sent, |unsent| unsent.log()).await.into_result()
}

/// The messages that are being sent. Dropping it before their end, as the end of the runtime does, logs and counts them.
struct PendingBatch(Vec<Message>);

impl PendingBatch {
    fn unsent(&mut self, results: impl Iterator<Item = Result<(), Failure>>) -> Unsent {
        let batch = std::mem::take(&mut self.0);
        batch
            .into_iter()
            .zip(results)
            .filter_map(|(message, result)| Some((message, result.err()?)))
            .collect()
    }
}

impl Drop for PendingBatch {
    fn drop(&mut self) {
        let cancelled = || Err(Failure::transient("its task was cancelled"));
        self.unsent(std::iter::repeat_with(cancelled)).log();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::sync::oneshot;

    use super::*;

    fn batch() -> Vec<Message> {
        ["a", "b"].map(|topic| Message::new(topic, "x").expect("a topic")).into()
    }

    #[tokio::test]
    async fn each_message_has_its_own_result() {
        let results = vec![Ok(()), Err(Failure::rejected("no"))];
        let unsent = hand_over(batch(), async { results }).await.unwrap_err();
        assert_eq!(unsent.iter().map(|(message, _)| message.topic().as_str()).collect::<Vec<_>>(), ["b"]);
    }

    #[tokio::test]
    async fn messages_whose_sending_panics_come_back() {
        let unsent = hand_over(batch(), async { panic!("of a driver") }).await.unwrap_err();
        assert!(unsent.len() == 2 && unsent.iter().all(|(_, failure)| failure.is_transient()));
    }

    #[tokio::test]
    async fn a_dropped_caller_stops_no_sending() {
        let (go, going) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let mut sending = Box::pin(hand_over(batch(), async move {
            let _ = end.send(going.await);
            vec![Ok(()), Ok(())]
        }));
        assert!((&mut sending).now_or_never().is_none());
        drop(sending);
        go.send(7).unwrap();
        assert_eq!(ended.await.unwrap(), Ok(7));
    }
}
