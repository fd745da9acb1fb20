//! The source over NATS.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::request_source::RequestSource;
use super::settings::NatsSettings;
use super::stream_source::StreamSource;
use super::subscription::{NatsSubscription, SubscriptionPattern};
use crate::backends::brokers::BrokersError;
use crate::source::{Source, SourceError, Unsettled};

/// Receives from a durable consumer of a stream, or receives requests: the source of the backend `nats`.
///
/// The first [`receive`](Source::receive) starts a task that connects to one of the servers, in a random order, and does so
/// again whenever the connection is lost. The [module](super) documents how messages are read and settled.
pub struct NatsSource(Box<dyn Source>);

impl NatsSource {
    /// Reads and checks the settings and their files. It connects with the first `receive`.
    ///
    /// # Errors
    /// [`BrokersError`] names the wrong setting or file, and the cure.
    pub fn new(settings: &NatsSettings, subscription: &NatsSubscription) -> Result<Self, BrokersError> {
        subscription.check(settings)?;
        Ok(Self(match subscription.pattern {
            SubscriptionPattern::Streams => Box::new(StreamSource::new(settings, subscription)?),
            SubscriptionPattern::Requests => Box::new(RequestSource::new(settings, subscription)?),
        }))
    }
}

#[async_trait]
impl Source for NatsSource {
    async fn receive(&self, limit: usize) -> Result<Vec<Unsettled>, SourceError> {
        self.0.receive(limit).await
    }

    async fn pause(&self) {
        self.0.pause().await;
    }

    async fn close(&self, deadline: Duration) {
        self.0.close(deadline).await;
    }

    async fn backlog(&self) -> Option<u64> {
        self.0.backlog().await
    }

    fn name(&self) -> Arc<str> {
        self.0.name()
    }
}

impl fmt::Debug for NatsSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NatsSource").field(&self.0.name()).finish()
    }
}
