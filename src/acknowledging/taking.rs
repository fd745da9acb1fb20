//! The source that takes confirmations out of the messages of a consumer.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::confirmations::Confirmations;
use crate::source::{Source, SourceError, Unsettled};

/// A source without the confirmations that come to the address of [`Confirmations`]: these are handed on and acknowledged.
///
/// For a queue that holds both messages and confirmations, such as [`StoreQueue`](crate::store_queue::StoreQueue), and for a
/// consumer whose topics include the address.
#[derive(Debug)]
pub struct Taking<S> {
    inner: S,
    confirmations: Confirmations,
}

impl<S: Source> Taking<S> {
    /// Takes confirmations out of `inner`. From now on messages are sent without a proof that confirmations come back.
    pub fn new(inner: S, confirmations: &Confirmations) -> Self {
        confirmations.open();
        Self::beside_the_worker(inner, confirmations)
    }

    /// The same beside [`Confirmations::receive`], which proves it.
    pub fn beside_the_worker(inner: S, confirmations: &Confirmations) -> Self {
        Self { inner, confirmations: confirmations.clone() }
    }
}

#[async_trait]
impl<S: Source> Source for Taking<S> {
    async fn receive(&self, limit: usize) -> Result<Vec<Unsettled>, SourceError> {
        loop {
            let (mut rest, mut taken) = (Vec::new(), Vec::new());
            for unsettled in self.inner.receive(limit).await? {
                match self.confirmations.take(unsettled) {
                    Ok(confirmation) => taken.push(confirmation),
                    Err(other) => rest.push(other),
                }
            }
            if !taken.is_empty() {
                // Not here: a dropped future would hand back the rest.
                tokio::spawn(async move {
                    for confirmation in taken {
                        let _ = confirmation.ack().await;
                    }
                });
            }
            if !rest.is_empty() {
                return Ok(rest);
            }
        }
    }

    async fn pause(&self) {
        self.inner.pause().await;
    }

    async fn close(&self, deadline: Duration) {
        self.inner.close(deadline).await;
    }

    async fn backlog(&self) -> Option<u64> {
        self.inner.backlog().await
    }

    fn name(&self) -> Arc<str> {
        self.inner.name()
    }
}
