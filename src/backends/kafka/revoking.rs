//! Partitions that are given to other processes.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use krafka::consumer::{Consumer, ConsumerRebalanceListener, OffsetAndMetadata, TopicPartition};
use tokio::time::{sleep, timeout};

use super::failure::shown;
use super::letter::Partition;
use super::source_context::SourceContext;

/// How long the handlers of messages of a partition may take to settle them before it goes to another process.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the brokers may take to commit offsets.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(5);
const COMMIT_PAUSE: Duration = Duration::from_millis(100);

/// Settles what can be settled of a partition before it goes.
pub(super) struct Revoking {
    pub(super) context: Arc<SourceContext>,
    pub(super) consumer: Arc<OnceLock<Weak<Consumer>>>,
}

impl ConsumerRebalanceListener for Revoking {
    async fn on_partitions_assigned(&self, partitions: &[TopicPartition]) {
        // Nothing of an earlier assignment counts for the new one.
        self.context.inbox.remove(&ours(partitions));
        self.context.is_assigned.store(true, Ordering::Release);
        if !partitions.is_empty() {
            tracing::debug!(source = %self.context.reader.source, count = partitions.len(), "partitions were assigned");
        }
    }

    async fn on_partitions_revoked(&self, partitions: &[TopicPartition]) {
        let (partitions, inbox) = (ours(partitions), &self.context.inbox);
        self.context.is_assigned.store(false, Ordering::Release);
        inbox.withdraw(&partitions);
        let _ = timeout(LEAVE_TIMEOUT, inbox.returned_all(&partitions)).await;
        if let Some(consumer) = self.consumer.get().and_then(Weak::upgrade) {
            // The brokers refuse a commit while the group agrees on its partitions.
            let committed = async {
                while !commit(&self.context, &consumer, Some(&partitions)).await {
                    sleep(COMMIT_PAUSE).await;
                }
            };
            let _ = timeout(COMMIT_TIMEOUT, committed).await;
        }
        inbox.remove(&partitions);
    }

    async fn on_partitions_lost(&self, partitions: &[TopicPartition]) {
        let (partitions, source) = (ours(partitions), &self.context.reader.source);
        self.context.is_assigned.store(false, Ordering::Release);
        tracing::warn!(%source, count = partitions.len(), "lost partitions; their unsettled messages come again, to the process that has them");
        self.context.inbox.remove(&partitions);
    }
}

fn ours(partitions: &[TopicPartition]) -> Vec<Partition> {
    partitions.iter().map(|partition| (partition.topic().into(), partition.partition())).collect()
}

/// Commits the positions that moved, of these partitions or of all. Returns whether none is left.
pub(super) async fn commit(context: &SourceContext, consumer: &Consumer, of: Option<&[Partition]>) -> bool {
    let _one = context.committing.lock().await;
    let positions = context.inbox.take_positions(of);
    if positions.is_empty() {
        return true;
    }
    let offsets = positions.iter().map(|((topic, partition), offset)| {
        (TopicPartition::new(topic.to_string(), *partition), OffsetAndMetadata::new(*offset))
    });
    let why = match timeout(COMMIT_TIMEOUT, consumer.commit_offsets(offsets)).await {
        Ok(Ok(())) => {
            context.uncommitted.over();
            return true;
        }
        Ok(Err(error)) => shown(&error),
        Err(_) => format!("no answer within {COMMIT_TIMEOUT:?}"),
    };
    context.inbox.not_committed(&positions);
    if let Some(line) = context.uncommitted.occurred() {
        let source = &context.reader.source;
        tracing::warn!(%source, why, times = line.times, "could not commit offsets; trying again");
    }
    false
}
