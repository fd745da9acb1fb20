//! The parts of a source that its task and its settlements share.

use std::sync::Arc;
use std::time::Duration;

use rand::seq::SliceRandom;
use rustls::ClientConfig;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::client::{self, Generation};
use super::connection::Connection;
use super::inbox::Inbox;
use super::incoming::Reader;
use super::link::{Pulls, SourceLink};
use super::settings::{NatsSettings, Pattern};
use super::setup::{self, Limits};
use super::subscription::NatsSubscription;
use super::windows::Windows;
use crate::backends::brokers::{BrokerUrl, Demand};
use crate::messenger::Failure;

pub(super) struct SourceContext {
    pub(super) settings: Arc<NatsSettings>,
    pub(super) urls: Vec<BrokerUrl>,
    pub(super) tls: Option<Arc<ClientConfig>>,
    pub(super) subscription: NatsSubscription,
    pub(super) reader: Reader,
    pub(super) inbox: Arc<Inbox>,
    /// The connection, over which messages of earlier ones can be settled too.
    pub(super) link: watch::Sender<Option<Arc<SourceLink>>>,
    pub(super) settlements: TaskTracker,
}

impl SourceContext {
    /// Connects to one of the servers, tried in a random order. The error is a permanent one if there is any.
    pub(super) async fn open(
        &self,
        demand: &mut watch::Receiver<Demand>,
    ) -> Result<(Arc<SourceLink>, Pulls), Failure> {
        let mut order: Vec<_> = self.urls.iter().collect();
        order.shuffle(&mut rand::rng());
        let mut worst = None;
        for url in order {
            let opened = tokio::select! {
                opened = self.open_at(url) => opened,
                _ = demand.wait_for(|demand| *demand == Demand::Close) => {
                    return Err(Failure::transient("the source is closed"));
                }
            };
            match opened {
                Ok(opened) => {
                    tracing::info!(broker = %url, source = %self.reader.source, "receiving");
                    return Ok(opened);
                }
                Err(failure) => {
                    tracing::warn!(broker = %url, %failure, "failed to start receiving; trying the next broker");
                    worst = worst.filter(|worst: &Failure| !worst.is_transient()).or(Some(failure));
                }
            }
        }
        Err(worst.unwrap_or_else(|| Failure::transient("there are no brokers")))
    }

    async fn open_at(&self, url: &BrokerUrl) -> Result<(Arc<SourceLink>, Pulls), Failure> {
        let Self { settings, subscription, .. } = self;
        let limit = settings.broker.connection_timeout();
        let opening = client::open(settings, self.tls.as_ref(), url);
        let generation = timeout(limit, opening)
            .await
            .unwrap_or_else(|_| Err(Failure::transient(format!("no connection within {limit:?}"))))?;
        let limits = setup::prepare(&generation.context, settings, subscription).await?;
        let pulls = self.pulls(&generation, limits).await?;
        let settings = (**settings).clone().with_pattern(Pattern::Streams);
        let connection = Connection::new(generation, &settings, Windows::new(Duration::ZERO)).await?;
        Ok((Arc::new(SourceLink { connection, limits }), pulls))
    }

    /// Begins to request messages over a connection.
    pub(super) async fn pulls(&self, generation: &Generation, limits: Limits) -> Result<Pulls, Failure> {
        let NatsSubscription { stream, durable, .. } = &self.subscription;
        let subject = format!("{}.CONSUMER.MSG.NEXT.{stream}.{durable}", self.settings.api_prefix());
        Pulls::subscribe(generation, subject, limits).await
    }

    /// The connection, for which it waits as long as a confirm may take.
    pub(super) async fn link(&self) -> Option<Arc<SourceLink>> {
        let is_open = |link: &Option<Arc<SourceLink>>| link.as_ref().is_some_and(|link| !link.is_over());
        let kept = self.link.borrow().clone();
        if is_open(&kept) {
            return kept;
        }
        if self.settlements.is_closed() && kept.is_none() {
            return None;
        }
        // Seldom, and large.
        Box::pin(async {
            let mut link = self.link.subscribe();
            let found = timeout(self.settings.broker.send_timeout(), link.wait_for(is_open)).await;
            found.ok()?.ok().and_then(|link| link.clone())
        })
        .await
    }
}
