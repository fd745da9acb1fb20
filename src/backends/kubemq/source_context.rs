//! The facts that all parts of a source share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::{self, Connection};
use super::incoming::{Incoming, Reader};
use super::settings::KubemqSettings;
use super::subscription::KubemqSubscription;
use crate::backends::brokers::{Attempts, BrokerUrl, Dialer};
use crate::message::FailedAttempt;
use crate::messenger::Failure;

pub(super) struct SourceContext {
    pub(super) settings: KubemqSettings,
    pub(super) subscription: KubemqSubscription,
    pub(super) urls: Vec<BrokerUrl>,
    pub(super) dialer: Arc<Dialer>,
    pub(super) reader: Reader,
    attempts: Mutex<Attempts>,
    /// Cancelled when the source is closed.
    pub(super) closed: CancellationToken,
    /// Settlements under way, and messages that wait for their next attempt.
    pub(super) answers: TaskTracker,
}

impl SourceContext {
    pub(super) fn new(
        settings: KubemqSettings,
        subscription: KubemqSubscription,
        urls: Vec<BrokerUrl>,
        dialer: Dialer,
    ) -> Self {
        let reader = Reader {
            channel: subscription.channel.as_str().into(),
            topic_prefix: settings.broker.topic_prefix.clone(),
            envelope: settings.broker.envelope,
            content_type: subscription.content_type.clone(),
        };
        Self {
            settings,
            subscription,
            urls,
            dialer: Arc::new(dialer),
            reader,
            attempts: Mutex::default(),
            closed: CancellationToken::new(),
            answers: TaskTracker::new(),
        }
    }

    pub(super) fn attempts(&self) -> MutexGuard<'_, Attempts> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The queue for dead letters.
    pub(super) fn dead_letter_queue(&self) -> &str {
        self.subscription.dead_letter_queue.as_deref().unwrap_or_default()
    }

    /// Connects to one of the brokers. A failure that a person has to mend is `Rejected`.
    pub(super) async fn connect(&self) -> Result<Connection, Failure> {
        let (connection, broker) = connection::open_any(&self.settings, &self.dialer, &self.urls).await?;
        tracing::info!(channel = %self.reader.channel, %broker, "connected for receiving");
        Ok(connection)
    }

    /// The failures of a message that is given up on, this one the last; `record` is removed.
    pub(super) fn all_failures(
        &self,
        record: Option<u64>,
        incoming: &Incoming,
        reason: &str,
    ) -> Vec<FailedAttempt> {
        let mut attempts = self.attempts();
        let record = attempts.failed(record, incoming.content(), reason.into());
        let failures = attempts.last(Some(record)).to_vec();
        attempts.forget(Some(record));
        failures
    }
}
