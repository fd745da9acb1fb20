//! Sending in a task of its own, which a dropped caller does not cancel.

use std::future::Future;

use tokio::sync::oneshot;

use crate::message::Message;
use crate::messenger::{Failure, Unsent};

/// Runs `send`, which returns one result for each message, in a task of its own.
///
/// # Cancel safety
/// If it is dropped, the task still runs to its end, and logs and counts the unsent messages.
pub(crate) async fn hand_over<F>(batch: Vec<Message>, send: F) -> Result<(), Unsent>
where
    F: Future<Output = Vec<Result<(), Failure>>> + Send + 'static,
{
    let (reply, answer) = oneshot::channel();
    let mut pending = PendingBatch { batch, reply: Some(reply) };
    tokio::spawn(async move {
        let results = send.await;
        pending.answer(results.into_iter());
    });
    answer.await.expect("a task answers, if only when it is dropped").into_result()
}

/// The messages of a task and the channel to its caller. Dropping it with its task returns the messages.
struct PendingBatch {
    batch: Vec<Message>,
    reply: Option<oneshot::Sender<Unsent>>,
}

impl PendingBatch {
    fn answer(&mut self, results: impl Iterator<Item = Result<(), Failure>>) {
        let Some(reply) = self.reply.take() else { return };
        let batch = std::mem::take(&mut self.batch);
        let unsent =
            batch.into_iter().zip(results).filter_map(|(message, result)| Some((message, result.err()?)));
        if let Err(unsent) = reply.send(unsent.collect()) {
            unsent.log();
        }
    }
}

impl Drop for PendingBatch {
    fn drop(&mut self) {
        self.answer(std::iter::repeat_with(|| Err(Failure::transient("its task was cancelled"))));
    }
}
