//! The channels of an app.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::events::ChannelEvents;
use super::queue::ChannelQueue;
use super::sender::{ChannelMessenger, SendPattern};
use super::stream::ChannelStream;
use crate::channels::calls::{ChannelRequester, RequestSource};
use crate::channels::embedded::{EmbeddedEngine, EmbeddedEngineSettings};
use crate::channels::engine::Engine;
#[cfg(feature = "nats")]
use crate::channels::jetstream::{JetstreamEngine, JetstreamEngineSettings, JetstreamError};
use crate::channels::name::{ChannelName, NameError, Pattern};
use crate::channels::requests::Requests;
use crate::client::Client;
use crate::log::error::OpenError;

/// The channels of an app, on an [`Engine`]. A clone is a handle to the same channels.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use tower_outbox::channels::Channels;
/// use tower_outbox::source::Source;
/// use tower_outbox::{Message, Messenger};
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("channels");
/// let channels = Channels::open(path).await?;
/// let orders = channels.queue("orders")?;
/// orders.send(vec![Message::new("order.created", "{}")?]).await?;
/// for order in orders.receive(10).await? {
///     order.ack().await?;
/// }
/// # Ok::<(), tower_outbox::BoxError>(())
/// # }).unwrap();
/// ```
#[derive(Clone)]
pub struct Channels(Arc<dyn Engine>);

impl Channels {
    /// Opens the channels in a folder, or creates it, with the limits of [`EmbeddedEngineSettings::new`].
    ///
    /// # Errors
    /// A file or folder cannot be used, or another process has the folder open.
    ///
    /// # Cancel safety
    /// Dropping the future closes the channels again.
    pub async fn open(path: impl Into<PathBuf>) -> Result<Self, OpenError> {
        Self::open_with(EmbeddedEngineSettings::new(path)).await
    }

    /// Opens the channels in a folder with these settings.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    ///
    /// # Cancel safety
    /// As [`open`](Self::open).
    pub async fn open_with(settings: EmbeddedEngineSettings) -> Result<Self, OpenError> {
        EmbeddedEngine::open(settings).await.map(|engine| Self::new(Arc::new(engine)))
    }

    /// Connects to channels in NATS with JetStream, which several processes share.
    ///
    /// # Errors
    /// [`JetstreamError`]: a setting is wrong, no server can be reached, or it is older than NATS 2.12.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection again.
    #[cfg(feature = "nats")]
    #[cfg_attr(docsrs, doc(cfg(feature = "nats")))]
    pub async fn jetstream(settings: JetstreamEngineSettings) -> Result<Self, JetstreamError> {
        JetstreamEngine::open(settings).await.map(|engine| Self::new(Arc::new(engine)))
    }

    /// The channels of any engine.
    #[must_use]
    pub fn new(engine: Arc<dyn Engine>) -> Self {
        Self(engine)
    }

    /// Returns the engine, for all that it can do.
    #[must_use]
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.0
    }

    /// Returns a queue: a messenger that sends to it, and a source that receives from it.
    ///
    /// # Errors
    /// [`NameError`].
    pub fn queue(&self, name: impl AsRef<str>) -> Result<ChannelQueue, NameError> {
        Ok(ChannelQueue::new(Arc::clone(&self.0), ChannelName::new(name)?))
    }

    /// Returns a stream: a messenger that appends to it, and a source that reads from it.
    ///
    /// # Errors
    /// [`NameError`].
    pub fn stream(&self, name: impl AsRef<str>) -> Result<ChannelStream, NameError> {
        Ok(ChannelStream::new(Arc::clone(&self.0), ChannelName::new(name)?))
    }

    /// Returns the events of the channels that match a pattern, as a source. [`messenger`](Self::messenger) publishes events.
    ///
    /// # Errors
    /// [`NameError`].
    pub fn events(&self, pattern: impl AsRef<str>) -> Result<ChannelEvents, NameError> {
        Ok(ChannelEvents::new(Arc::clone(&self.0), Pattern::new(pattern)?))
    }

    /// Returns the requests of the channels that match a pattern, as a source: its consumer replies to them.
    ///
    /// # Errors
    /// [`NameError`].
    pub fn requests(&self, pattern: impl AsRef<str>) -> Result<RequestSource, NameError> {
        Ok(RequestSource::new(self.requests_of_engine(), Pattern::new(pattern)?))
    }

    /// Returns a client, which sends requests to a channel.
    ///
    /// # Errors
    /// [`NameError`].
    pub fn client(&self, name: impl AsRef<str>) -> Result<Client, NameError> {
        self.requester(name).map(Client::new)
    }

    pub(super) fn requester(&self, name: impl AsRef<str>) -> Result<ChannelRequester, NameError> {
        Ok(ChannelRequester::new(self.requests_of_engine(), ChannelName::new(name)?))
    }

    fn requests_of_engine(&self) -> Arc<dyn Requests> {
        Arc::<dyn Engine>::clone(&self.0)
    }

    /// Returns a messenger that sends each message to the channel that is named by its topic.
    #[must_use]
    pub fn messenger(&self, pattern: SendPattern) -> ChannelMessenger {
        ChannelMessenger::new(Arc::clone(&self.0), pattern, None)
    }

    /// Closes the channels within about `deadline`, for all handles.
    pub async fn close(&self, deadline: Duration) {
        self.0.close(deadline).await;
    }
}

impl fmt::Debug for Channels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channels").finish_non_exhaustive()
    }
}
