//! The router of a site.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};

use super::command::Command;
use super::committer::Committer;
use super::counters::{Counters, RouterCounts};
use super::error::RouteError;
use super::message::RoutedMessage;
use super::namespace::Namespace;
use super::pattern::Pattern;
use super::queue_info::QueueInfo;
use super::record::{QueueHeader, QueueKind, QueueName};
use super::router_folder;
use super::router_shared::{RouterShared, WAITING};
use super::seal::{Seal, SealError};
use super::settings::RouterSettings;
use super::subscription::{Subscription, Values};
use crate::log::error::OpenError;
use crate::telemetry;
use crate::util::sync::lock;

/// The shortest expiry of a queue.
const SHORTEST_EXPIRY: Duration = Duration::from_secs(60);

/// The router of a site: it puts each published message into the queues of its subscribers, and keeps last values.
///
/// `Ok` from [`publish`](Self::publish) means that the message is on the disk (unless
/// [`flush_interval`](RouterSettings::flush_interval) is set). All queues share one log, so that a message is written once,
/// however many subscribers it has. A clone is a handle to the same router.
#[derive(Clone, Debug)]
pub struct SiteRouter(Arc<RouterShared>);

impl SiteRouter {
    /// Opens the router in the folder of the settings, or creates it.
    ///
    /// # Errors
    /// A file or folder cannot be used, or another process has the folder open.
    pub async fn open(settings: RouterSettings) -> Result<Self, OpenError> {
        Self::open_with(settings, None).await
    }

    /// Opens the router, with what signs and verifies its messages.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn open_with(settings: RouterSettings, seal: Option<Arc<dyn Seal>>) -> Result<Self, OpenError> {
        let path = settings.path.clone();
        let opened = tokio::task::spawn_blocking(move || router_folder::open(&path)).await;
        let (id, log, state) =
            opened.map_err(|error| OpenError::io("read", &settings.path)(error.into()))??;
        let (commands, received) = mpsc::channel(4_096);
        let shared = Arc::new(RouterShared {
            id,
            settings,
            seal,
            state: Mutex::new(state),
            log,
            counters: Counters::default(),
            commands,
            room: Arc::new(Semaphore::new(WAITING as usize)),
            next_subscriber: AtomicU64::new(1),
            subscriptions_changed: Notify::new(),
        });
        tokio::spawn(Committer::new(&shared).run(received));
        Ok(Self(shared))
    }

    /// Returns the id of the router, which stays over restarts.
    #[must_use]
    pub fn id(&self) -> &Arc<str> {
        &self.0.id
    }

    /// Returns the settings.
    #[must_use]
    pub fn settings(&self) -> &RouterSettings {
        &self.0.settings
    }

    /// Publishes a message at this router: it becomes the origin.
    ///
    /// # Errors
    /// The message is not stored: [`RouteError::Storage`], [`RouteError::TooLarge`], [`RouteError::Closed`].
    ///
    /// # Cancel safety
    /// Dropping the future publishes the message or not.
    pub async fn publish(&self, message: RoutedMessage) -> Result<(), RouteError> {
        self.publish_all(vec![message]).await.pop().unwrap_or(Err(RouteError::Closed))
    }

    /// Publishes messages in their order, with one write; returns the result of each.
    ///
    /// # Cancel safety
    /// Dropping the future publishes all of the messages or none.
    pub async fn publish_all(&self, messages: Vec<RoutedMessage>) -> Vec<Result<(), RouteError>> {
        self.0.counters.published.add(messages.len());
        let own = |message: RoutedMessage| {
            let mut message = RoutedMessage {
                origin: Arc::clone(&self.0.id),
                signature: Bytes::new(),
                timestamps: Vec::new(),
                drops: Vec::new(),
                ..message
            };
            if let Some(seal) = &self.0.seal {
                message.signature = seal.sign(&message);
            }
            message
        };
        self.0.write(messages.into_iter().map(own).collect(), None).await
    }

    /// Routes messages that another router published, in their order; returns the result of each. A message whose signature does
    /// not fit is dropped and counted: [`RouteError::Forged`].
    ///
    /// # Cancel safety
    /// Dropping the future routes all of the messages or none.
    pub async fn forward(&self, messages: Vec<RoutedMessage>) -> Vec<Result<(), RouteError>> {
        let Some(seal) = &self.0.seal else { return self.0.write(messages, None).await };
        let (mut good, mut refused) =
            (Vec::with_capacity(messages.len()), Vec::with_capacity(messages.len()));
        let mut unavailable = None;
        for message in messages {
            // A message that is to come again keeps back those behind it, so that the order stays.
            if unavailable.is_none() {
                match seal.verify(&message).await {
                    Ok(()) => {
                        good.push(message);
                        refused.push(None);
                        continue;
                    }
                    Err(SealError::Forged(reason)) => {
                        self.0.counters.forged.add(1);
                        telemetry::routing_dropped("forged", 1);
                        tracing::error!(uri = %message.uri, origin = %message.origin, reason, "dropped a message of another router");
                        refused.push(Some(RouteError::Forged(reason.into())));
                        continue;
                    }
                    Err(SealError::Unavailable(error)) => {
                        unavailable = Some(format!("its signature cannot be verified now: {error}").into());
                    }
                }
            }
            refused.push(unavailable.clone().map(RouteError::Storage));
        }
        let mut written = self.0.write(good, None).await.into_iter();
        let result = |failure: Option<_>| match failure {
            Some(failure) => Err(failure),
            None => written.next().unwrap_or(Err(RouteError::Closed)),
        };
        refused.into_iter().map(result).collect()
    }

    /// Opens the queue of a subscriber, or resumes the one of the same owner and identifier. A former subscription to the
    /// queue ends. An empty identifier makes a queue that nobody can resume. `expiry` is at least one minute and at most
    /// [`queue_expiry`](RouterSettings::queue_expiry).
    ///
    /// # Errors
    /// [`RouteError::SubscriptionFailed`] if there are too many queues, [`RouteError::Storage`], [`RouteError::Closed`].
    ///
    /// # Cancel safety
    /// Dropping the future may leave an empty queue, which expires.
    pub async fn subscribe(
        &self,
        owner: &[u8],
        identifier: &str,
        namespace: &Namespace,
        pattern: &Pattern,
        expiry: Duration,
    ) -> Result<Subscription, RouteError> {
        let identifier = match identifier {
            "" => uuid::Uuid::from_u128(rand::random()).to_string(),
            given => given.to_owned(),
        };
        self.open_queue(QueueHeader {
            name: QueueName { kind: QueueKind::Subscriber, owner: owner.to_vec(), identifier },
            namespace: namespace.clone(),
            patterns: vec![pattern.clone()],
            only_from: None,
            not_from: None,
            expiry: Some(expiry.max(SHORTEST_EXPIRY).min(self.0.settings.queue_expiry)),
            limits: self.0.settings.subscription_limits,
        })
        .await
    }

    /// Opens the queue of the messages of a namespace for its designated router. It never expires.
    ///
    /// # Errors
    /// As [`subscribe`](Self::subscribe).
    ///
    /// # Cancel safety
    /// As [`subscribe`](Self::subscribe).
    pub async fn subscribe_upstream(&self, namespace: &Namespace) -> Result<Subscription, RouteError> {
        self.open_queue(QueueHeader {
            name: QueueName {
                kind: QueueKind::Upstream,
                owner: namespace.as_bytes().to_vec(),
                identifier: String::new(),
            },
            namespace: namespace.clone(),
            patterns: vec![Pattern::all()],
            only_from: Some(self.0.id.to_string()),
            not_from: None,
            expiry: None,
            limits: self.0.settings.trunk_limits,
        })
        .await
    }

    /// Opens the queue of the messages for another router: those of these patterns that it did not publish itself.
    ///
    /// # Errors
    /// As [`subscribe`](Self::subscribe).
    ///
    /// # Cancel safety
    /// As [`subscribe`](Self::subscribe).
    pub async fn subscribe_peer(
        &self,
        owner: &[u8],
        router: &str,
        namespace: &Namespace,
        patterns: Vec<Pattern>,
    ) -> Result<Subscription, RouteError> {
        self.open_queue(QueueHeader {
            name: peer_name(owner, router, namespace),
            namespace: namespace.clone(),
            patterns,
            only_from: None,
            not_from: Some(router.to_owned()),
            expiry: Some(self.0.settings.queue_expiry),
            limits: self.0.settings.trunk_limits,
        })
        .await
    }

    pub(super) async fn open_queue(&self, header: QueueHeader) -> Result<Subscription, RouteError> {
        let subscriber = self.0.next_subscriber.fetch_add(1, Ordering::Relaxed);
        let id = self.ask(|reply| Command::Subscribe { header, subscriber, reply }).await??;
        Ok(Subscription::new(Arc::clone(&self.0), id, subscriber))
    }

    /// Puts a message into this queue only, which is made if it is not there.
    pub(super) async fn dead_letter(
        &self,
        message: RoutedMessage,
        header: QueueHeader,
    ) -> Result<(), RouteError> {
        let there = lock(&self.0.state).named(&header.name);
        let queue = match there {
            Some(queue) => queue,
            None => self.open_queue(header).await?.queue(),
        };
        self.0.write(vec![message], Some(queue)).await.pop().unwrap_or(Err(RouteError::Closed))
    }

    /// Removes the queue of a subscriber with its messages; returns whether there was one.
    ///
    /// # Errors
    /// [`RouteError::Storage`], [`RouteError::Closed`].
    pub async fn unsubscribe(&self, owner: &[u8], identifier: &str) -> Result<bool, RouteError> {
        let name = QueueName {
            kind: QueueKind::Subscriber,
            owner: owner.to_vec(),
            identifier: identifier.to_owned(),
        };
        self.remove(&name).await
    }

    /// Removes the queue of the messages for another router; returns whether there was one.
    ///
    /// # Errors
    /// As [`unsubscribe`](Self::unsubscribe).
    pub async fn unsubscribe_peer(
        &self,
        owner: &[u8],
        router: &str,
        namespace: &Namespace,
    ) -> Result<bool, RouteError> {
        self.remove(&peer_name(owner, router, namespace)).await
    }

    async fn remove(&self, name: &QueueName) -> Result<bool, RouteError> {
        let Some(queue) = lock(&self.0.state).named(name) else { return Ok(false) };
        self.ask(|reply| Command::Remove { queue, reply: Some(reply) }).await??;
        Ok(true)
    }

    /// Waits until the subscriptions of this router change.
    ///
    /// # Cancel safety
    /// A change is missed only while no future of this method exists.
    pub async fn subscriptions_changed(&self) {
        self.0.subscriptions_changed.notified().await;
    }

    /// Returns the patterns of the subscribers in a namespace, each once.
    #[must_use]
    pub fn patterns(&self, namespace: &Namespace) -> Vec<Pattern> {
        self.patterns_of(QueueKind::Subscriber, namespace)
    }

    /// Returns the patterns that other routers have subscribed in a namespace for their subscribers, each once.
    #[must_use]
    pub fn peer_patterns(&self, namespace: &Namespace) -> Vec<Pattern> {
        self.patterns_of(QueueKind::Peer, namespace)
    }

    fn patterns_of(&self, kind: QueueKind, namespace: &Namespace) -> Vec<Pattern> {
        let state = lock(&self.0.state);
        let headers = state.queues().map(|(_, queue)| queue.header());
        let meant = headers.filter(|it| it.name.kind == kind && it.namespace == *namespace);
        let mut patterns: Vec<_> = meant.flat_map(|header| header.patterns.iter().cloned()).collect();
        patterns.sort();
        patterns.dedup();
        patterns
    }

    /// Reads the last values of the URIs that a pattern means, of those that are kept at this router.
    #[must_use]
    pub fn query(&self, namespace: &Namespace, pattern: &Pattern) -> Values {
        let seqs = lock(&self.0.state).values(namespace, pattern);
        Values::new(Arc::clone(&self.0), seqs)
    }

    /// Returns what the router has done, and what it has now.
    #[must_use]
    pub fn counts(&self) -> RouterCounts {
        let mut counts = self.0.counters.read();
        let state = lock(&self.0.state);
        for (_, queue) in state.queues() {
            counts.queues += 1;
            counts.subscribers += u64::from(queue.has_subscriber());
            counts.queued += queue.len() as u64;
        }
        counts.queued_bytes = state.stored().1;
        counts
    }

    /// Returns the queues, in no particular order.
    #[must_use]
    pub fn queues(&self) -> Vec<QueueInfo> {
        lock(&self.0.state).queues().map(|(_, queue)| queue.info()).collect()
    }

    /// Counts messages that the designated router has confirmed.
    #[cfg(feature = "wavemq")]
    pub(crate) fn count_upstream(&self, messages: usize) {
        self.0.counters.upstream.add(messages);
    }

    /// Counts messages that came from the designated router.
    #[cfg(feature = "wavemq")]
    pub(crate) fn count_downstream(&self, messages: usize) {
        self.0.counters.downstream.add(messages);
    }

    /// Counts messages that the designated router refuses for good.
    #[cfg(feature = "wavemq")]
    pub(crate) fn count_refused(&self, messages: usize) {
        self.0.counters.refused.add(messages);
        telemetry::routing_dropped("refused", messages);
    }

    /// Counts a failure of a link.
    #[cfg(feature = "wavemq")]
    pub(crate) fn count_peer_error(&self) {
        self.0.counters.peer_errors.add(1);
    }

    /// Whether the router is closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.commands.is_closed()
    }

    /// Writes everything, and closes the router. Later calls fail with [`RouteError::Closed`].
    pub async fn close(&self) {
        let _ = self.ask(|reply| Command::Close { reply }).await;
        let log = self.0.log.clone();
        let _ = tokio::task::spawn_blocking(move || log.close()).await;
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, RouteError> {
        let (reply, answer) = oneshot::channel();
        self.0.commands.send(command(reply)).await.map_err(|_| RouteError::Closed)?;
        answer.await.map_err(|_| RouteError::Closed)
    }
}

fn peer_name(owner: &[u8], router: &str, namespace: &Namespace) -> QueueName {
    QueueName { kind: QueueKind::Peer, owner: owner.to_vec(), identifier: format!("{namespace} {router}") }
}
