//! A subscription as a source.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::sync::Mutex;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::message;
use crate::message::{FailedAttempt, Settlement};
use crate::routing::record::{QueueHeader, QueueKind, QueueName};
use crate::routing::{Leased, Namespace, Pattern, RouteError, RoutedMessage, SiteRouter, Subscription};
use crate::source::{Settle, Source, SourceError, Unsettled};

/// The owner of the queues of an app. Clients have a hash.
const OWNER: &[u8] = b"app";
/// The pause after a failure.
const PAUSE: Duration = Duration::from_secs(1);

/// A subscription of an app, as a [`Source`]: each message stays in its queue until it is settled. A clone is a handle to the same
/// subscription.
///
/// - The queue has limits, over which it drops its oldest messages. The next message has their number in its header
///   [`tower-outbox-dropped`](crate::message::headers::DROPPED).
/// - A message that is retried waits in its queue. Attempts are counted anew after a restart of the process.
/// - A message that is rejected goes to the queue [`dead_letters`](Self::dead_letters), with its reasons.
/// - One subscription at a time has the queue of an identifier. The older of two gets an error, and takes the queue again.
#[derive(Clone)]
pub struct RoutingSource {
    router: SiteRouter,
    namespace: Namespace,
    name: Arc<str>,
    /// `None` for dead letters.
    pattern: Option<Pattern>,
    expiry: Option<Duration>,
    open: Arc<Mutex<Option<Arc<Subscription>>>>,
    /// Cancelled when the source is closed.
    closed: CancellationToken,
}

impl RoutingSource {
    pub(super) fn new(
        router: SiteRouter,
        namespace: Namespace,
        identifier: &str,
        pattern: Option<Pattern>,
    ) -> Self {
        let (open, closed) = (Arc::default(), CancellationToken::new());
        Self { router, namespace, name: identifier.into(), pattern, expiry: None, open, closed }
    }

    /// Sets how long the queue lives while nobody subscribes, from one minute to the
    /// [`queue_expiry`](crate::routing::RouterSettings::queue_expiry) of the router, which is the default.
    #[must_use]
    pub fn with_expiry(self, expiry: Duration) -> Self {
        Self { expiry: Some(expiry), ..self }
    }

    /// Returns the dead letters of the subscription, as a source. They never expire; they have the limits of a queue.
    #[must_use]
    pub fn dead_letters(&self) -> Self {
        Self::new(self.router.clone(), self.namespace.clone(), &self.dead_name(), None)
    }

    /// Subscribes now, so that later messages are received.
    ///
    /// # Errors
    /// [`SourceError`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves it subscribed or not.
    pub async fn subscribe(&self) -> Result<(), SourceError> {
        self.subscribed().await.map(drop).map_err(source_error)
    }

    async fn subscribed(&self) -> Result<Arc<Subscription>, RouteError> {
        let mut open = self.open.lock().await;
        if let Some(subscription) = &*open {
            return Ok(Arc::clone(subscription));
        }
        let router = &self.router;
        let subscribed = match &self.pattern {
            Some(pattern) => {
                let expiry = self.expiry.unwrap_or_else(|| router.settings().queue_expiry);
                router.subscribe(OWNER, &self.name, &self.namespace, pattern, expiry).await
            }
            None => router.open_queue(self.dead_header(self.name.to_string())).await,
        };
        let subscription = Arc::new(subscribed?);
        *open = Some(Arc::clone(&subscription));
        Ok(subscription)
    }

    async fn lease(&self, limit: usize) -> Result<(Arc<Subscription>, Vec<Leased>), RouteError> {
        let subscription = self.subscribed().await?;
        match subscription.lease(limit.max(1)).await {
            Ok(leased) => Ok((subscription, leased)),
            Err(failure) => {
                let mut open = self.open.lock().await;
                if open.as_ref().is_some_and(|current| Arc::ptr_eq(current, &subscription)) {
                    *open = None;
                }
                Err(failure)
            }
        }
    }

    fn give(&self, subscription: &Arc<Subscription>, leased: Leased) -> Unsettled {
        let Leased { seq, attempts, redelivered, mut failures, message: routed } = leased;
        if self.pattern.is_none() {
            failures = [message::failures(&routed), failures].concat();
        }
        let read = message::read(&routed);
        let out = Out {
            source: self.clone(),
            subscription: Arc::clone(subscription),
            seq,
            routed,
            failures: failures.clone(),
        };
        match read {
            Ok(message) => {
                let attempt = attempts.saturating_add(1);
                Unsettled::new(message, attempt, redelivered, Arc::clone(&self.name), failures, out)
            }
            Err(reason) => Unsettled::poison(reason.to_string(), out),
        }
    }

    fn dead_name(&self) -> String {
        format!("{}.dead", self.name)
    }

    /// The queue of dead letters, into which no URI leads.
    fn dead_header(&self, identifier: String) -> QueueHeader {
        QueueHeader {
            name: QueueName { kind: QueueKind::Dead, owner: OWNER.to_vec(), identifier },
            namespace: self.namespace.clone(),
            patterns: Vec::new(),
            only_from: None,
            not_from: None,
            expiry: None,
            limits: self.router.settings().subscription_limits,
        }
    }
}

impl fmt::Debug for RoutingSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, pattern, .. } = self;
        f.debug_struct("RoutingSource")
            .field("identifier", name)
            .field("pattern", pattern)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Source for RoutingSource {
    async fn receive(&self, limit: usize) -> Result<Vec<Unsettled>, SourceError> {
        let receiving = async {
            match self.lease(limit).await {
                Ok((subscription, leased)) => {
                    Ok(leased.into_iter().map(|leased| self.give(&subscription, leased)).collect())
                }
                Err(RouteError::Closed) => Err(SourceError::Closed),
                Err(failure) => {
                    sleep(PAUSE).await;
                    Err(source_error(failure))
                }
            }
        };
        tokio::select! {
            biased;
            () = self.closed.cancelled() => Err(SourceError::Closed),
            received = receiving => received,
        }
    }

    /// Ends the subscription. Its queue stays, and is resumed by its identifier.
    async fn close(&self, _: Duration) {
        self.closed.cancel();
        *self.open.lock().await = None;
    }

    fn name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }
}

/// A message that is to be settled.
struct Out {
    source: RoutingSource,
    subscription: Arc<Subscription>,
    seq: u64,
    routed: RoutedMessage,
    failures: Vec<FailedAttempt>,
}

#[async_trait]
impl Settle for Out {
    async fn settle(self: Box<Self>, settlement: Settlement) -> Result<(), SourceError> {
        let Self { source, subscription, seq, routed, mut failures } = *self;
        match settlement {
            Settlement::Ack | Settlement::Discard => subscription.ack(&[seq]),
            Settlement::Release => subscription.release(&[seq]),
            Settlement::Retry { after, reason } => subscription.retry(seq, after, reason),
            Settlement::Reject { reason } => {
                // If the future is dropped or fails, the message is delivered again.
                let _returned = Returned { subscription: &subscription, seq };
                failures.push(FailedAttempt::new(SystemTime::now(), reason));
                let header = source.dead_header(source.dead_name());
                let letter = message::dead_letter(routed, &failures);
                source.router.dead_letter(letter, header).await.map_err(source_error)?;
                subscription.ack(&[seq]);
            }
        }
        Ok(())
    }

    fn is_stale(&self) -> bool {
        !self.subscription.is_current()
    }
}

/// Hands a message out again when it is dropped.
struct Returned<'a> {
    subscription: &'a Subscription,
    seq: u64,
}

impl Drop for Returned<'_> {
    fn drop(&mut self) {
        self.subscription.release(&[self.seq]);
    }
}

fn source_error(failure: RouteError) -> SourceError {
    match failure {
        RouteError::Closed => SourceError::Closed,
        failure => SourceError::unavailable(failure),
    }
}
