//! The contract of the broker's own queues of dead letters.

use async_trait::async_trait;

use crate::source::dead_letters::DeadLetterQueue;

/// The queues in which the broker keeps the dead letters of consumers.
#[async_trait]
pub(crate) trait BrokerDeadLetters: Send + Sync {
    /// Returns the queues of dead letters, each with the queue of the consumer.
    fn queues(&self) -> Vec<(String, String)>;

    /// Opens one of them; with `looks` none of its messages will be settled. `None` if it is not there: the first dead letter creates it. An
    /// error says why there is no access.
    async fn open(&self, queue: &str, looks: bool) -> Result<Option<Box<dyn DeadLetterQueue>>, String>;
}
