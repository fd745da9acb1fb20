//! The router of an app, as a messenger.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::last_values::{LastValues, Upstream};
use super::link_info::LinkInfo;
use super::message;
use super::source::RoutingSource;
use crate::log::error::OpenError;
use crate::message::Message;
use crate::messenger::{Failure, Health, Messenger, Unsent};
use crate::routing::{Namespace, Pattern, RouteError, RouterSettings, SiteRouter};
use crate::util::error::BoxError;

/// The router of an app, for one namespace: a [`Messenger`] that publishes, [`subscription`](Self::subscription)s to receive, and
/// [`query`](Self::query) for last values. A clone is a handle to the same router.
///
/// The topic `floor1.temperature` is the URI `floor1/temperature`. `Ok` from `send` means that the router has stored the message for
/// each of its subscribers, and for the designated router if there is one: the app goes on while its uplink is down. A message
/// that nobody subscribes to is gone, unless [`persist`](super::persist) marks it as a last value. The router delays no messages, and
/// keeps no expiry: its queues have limits instead, over which they drop the oldest messages.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use tower_outbox::routing::{Namespace, Pattern, Routing};
/// use tower_outbox::source::Source;
/// use tower_outbox::{Message, Messenger};
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("router");
/// let routing = Routing::open(path, Namespace::named("site")?).await?;
/// let display = routing.subscription("display", Pattern::new("floor1/*")?);
/// display.subscribe().await?;
/// routing.send(vec![Message::json("floor1.temperature", &21.5)?]).await?;
/// for value in display.receive(10).await? {
///     value.ack().await?;
/// }
/// # Ok::<(), tower_outbox::BoxError>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct Routing {
    router: SiteRouter,
    namespace: Namespace,
    upstream: Option<Arc<dyn Upstream>>,
}

impl Routing {
    /// Opens a router in a folder, or creates it, with the limits of [`RouterSettings::new`]. It has no uplink:
    /// `Wavemq::routing` (feature `wavemq`) is one that has.
    ///
    /// # Errors
    /// A file or folder cannot be used, or another process has the folder open.
    ///
    /// # Cancel safety
    /// Dropping the future closes the router again.
    pub async fn open(path: impl Into<PathBuf>, namespace: Namespace) -> Result<Self, OpenError> {
        SiteRouter::open(RouterSettings::new(path)).await.map(|router| Self::new(router, namespace))
    }

    /// Uses a router that is open.
    #[must_use]
    pub fn new(router: SiteRouter, namespace: Namespace) -> Self {
        Self { router, namespace, upstream: None }
    }

    /// Sets where last values are read that another router keeps.
    #[must_use]
    pub fn with_upstream(self, upstream: Arc<dyn Upstream>) -> Self {
        Self { upstream: Some(upstream), ..self }
    }

    /// Returns the router, for all that it can do.
    #[must_use]
    pub fn router(&self) -> &SiteRouter {
        &self.router
    }

    /// Returns the namespace.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Returns the links to designated routers; none without an uplink.
    #[must_use]
    pub fn links(&self) -> Vec<LinkInfo> {
        self.upstream.as_ref().map(|upstream| upstream.links()).unwrap_or_default()
    }

    /// Returns the messages of the URIs that a pattern means, as a source. Its queue is there from the first receive or
    /// [`subscribe`](RoutingSource::subscribe) on; the same identifier resumes it.
    #[must_use]
    pub fn subscription(&self, identifier: impl AsRef<str>, pattern: Pattern) -> RoutingSource {
        RoutingSource::new(self.router.clone(), self.namespace.clone(), identifier.as_ref(), Some(pattern))
    }

    /// Reads the last values of the URIs that a pattern means, at the router that keeps them.
    ///
    /// # Errors
    /// [`RouteError::LinkDown`] while the designated router cannot be reached, [`RouteError::Upstream`] if it refuses.
    ///
    /// # Cancel safety
    /// Dropping the future has no effect.
    pub async fn query(&self, pattern: &Pattern) -> Result<LastValues, RouteError> {
        if let Some(upstream) = &self.upstream
            && let Some(values) = upstream.query(&self.namespace, pattern).await?
        {
            return Ok(LastValues::there(values));
        }
        Ok(LastValues::here(self.router.query(&self.namespace, pattern)))
    }
}

#[async_trait]
impl Messenger for Routing {
    async fn send(&self, batch: Vec<Message>) -> Result<(), Unsent> {
        let (mut routed, mut failures) = (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
        for message in &batch {
            let written = message::write(message, &self.namespace);
            failures.push(written.map(|message| routed.push(message)).err().map(Failure::rejected));
        }
        let mut published = self.router.publish_all(routed).await.into_iter();
        for failure in failures.iter_mut().filter(|failure| failure.is_none()) {
            *failure = match published.next().unwrap_or(Err(RouteError::Closed)) {
                Ok(()) => None,
                Err(error @ (RouteError::Storage(_) | RouteError::Closed)) => Some(Failure::transient(error)),
                Err(error) => Some(Failure::rejected(error)),
            };
        }
        let unsent = batch.into_iter().zip(failures);
        unsent.filter_map(|(message, failure)| Some((message, failure?))).collect::<Unsent>().into_result()
    }

    fn check(&self, message: &Message) -> Result<(), BoxError> {
        if message.delay().is_some() {
            return Err(
                "the router delays no messages: send it without a delay, or with DELIVERY = \"durable\""
                    .into(),
            );
        }
        message::write(message, &self.namespace).map(drop)
    }

    async fn health(&self) -> Health {
        match self.router.is_closed() {
            true => Health::Down { reason: RouteError::Closed.to_string() },
            false => Health::Up,
        }
    }

    /// Writes everything, and closes the router, for all handles.
    async fn close(&self, deadline: Duration) {
        let _ = tokio::time::timeout(deadline, self.router.close()).await;
    }
}
