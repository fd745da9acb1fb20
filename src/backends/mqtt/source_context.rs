//! The parts of a source, and how they become a session at one of the brokers.

use std::sync::Arc;

use rand::seq::SliceRandom;
use rumqttc::{EventLoop, QoS, RetainForwardRule, SubscribeFilterInput, SubscribeReasonCode};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::client::{self, Client, Receiving};
use super::failure::Lost;
use super::gate::Intake;
use super::inbox::Inbox;
use super::incoming::Reader;
use super::one_cluster::separate;
use super::outgoing::LARGEST;
use super::session::Session;
use super::settings::MqttSettings;
use super::subscription::MqttSubscription;
use crate::backends::brokers::{BrokerUrl, Demand, Dialer};
use crate::messenger::Failure;
use crate::util::repeated::Repeated;

/// The most retries that wait here unacknowledged, beside the prefetched messages.
const WAITING: u16 = 1_000;

/// The parts of a source that its task and its settlements share.
pub(super) struct SourceContext {
    pub(super) settings: Arc<MqttSettings>,
    pub(super) urls: Vec<BrokerUrl>,
    pub(super) dialer: Arc<Dialer>,
    pub(super) subscription: MqttSubscription,
    pub(super) filters: Vec<String>,
    pub(super) client_id: String,
    pub(super) reader: Reader,
    pub(super) inbox: Inbox,
    /// The log lines about lost and failed connections.
    pub(super) unreachable: Repeated,
    /// The settlements that publish dead letters.
    pub(super) settlements: TaskTracker,
}

/// A session, its event loop, and the outcome of its subscription.
pub(super) struct Opened {
    pub(super) session: Arc<Session>,
    pub(super) events: EventLoop,
    pub(super) subscribed: Subscribed,
}

/// Completes with the outcome of the subscription.
pub(super) type Subscribed = futures_util::future::BoxFuture<'static, Result<(), Failure>>;

impl SourceContext {
    /// Connects to one of the brokers, tried in a random order. The error is a permanent one if there is any.
    pub(super) async fn open(
        &self,
        demand: &mut watch::Receiver<Demand>,
        is_first: bool,
    ) -> Result<Opened, Failure> {
        let mut order: Vec<_> = self.urls.iter().collect();
        order.shuffle(&mut rand::rng());
        let mut worst = None;
        for url in order {
            let opened = tokio::select! {
                opened = self.open_at(url, is_first) => opened,
                _ = demand.changed() => return Err(lost("the source is paused or closed")),
            };
            match opened {
                Ok(opened) => {
                    tracing::info!(broker = %url, source = %self.reader.source, "receiving");
                    return Ok(opened);
                }
                Err(failure) => {
                    if let Some(line) = self.unreachable.occurred() {
                        let next =
                            if self.urls.len() > 1 { "; trying the next broker" } else { "; retrying" };
                        tracing::warn!(broker = %url, %failure, times = line.times, "failed to connect for receiving{next}");
                    }
                    worst = worst.filter(|worst: &Failure| !worst.is_transient()).or(Some(failure));
                }
            }
        }
        Err(worst.unwrap_or_else(|| lost("there are no brokers")))
    }

    async fn open_at(&self, url: &BrokerUrl, is_first: bool) -> Result<Opened, Failure> {
        let Self { settings, subscription, .. } = self;
        let intake = Arc::new(Intake::new(subscription.prefetch.into(), subscription.prefetch_bytes));
        let receiving = Receiving {
            client_id: &self.client_id,
            session_expiry: u32::try_from(subscription.session_expiry.as_secs()).unwrap_or(u32::MAX),
            clean_start: subscription.clean_start && is_first,
            maximum: subscription.prefetch.saturating_add(WAITING),
            largest: u32::try_from(subscription.prefetch_bytes).unwrap_or(u32::MAX).min(LARGEST),
            intake: Arc::clone(&intake),
        };
        let limit = settings.broker.connection_timeout();
        let opening = client::open_receiver(settings, &self.dialer, url, &receiving);
        let opened = timeout(limit, opening).await;
        let Client { requests, events, is_resumed, .. } =
            opened.unwrap_or_else(|_| Err(lost(&format!("no connection within {limit:?}"))))?;
        if !is_first && !is_resumed && !subscription.session_expiry.is_zero() {
            tracing::warn!(broker = %url, source = %self.reader.source, "the broker kept no session of this client: messages of the time without a connection may be lost");
        }
        let session = Session::new(requests, intake, url.clone(), Arc::clone(&self.dialer), settings);
        let notice = session
            .subscribe(self.subscribe_filters())
            .ok_or_else(|| Failure::rejected(NotSubscribed("a topic filter is not valid".to_owned())))?;
        let send_timeout = settings.broker.send_timeout();
        let subscribed = async move {
            match timeout(send_timeout, notice.wait_async()).await {
                Ok(Ok(answer)) => {
                    let refused = answer
                        .return_codes
                        .iter()
                        .find(|code| !matches!(code, SubscribeReasonCode::Success(_)));
                    refused.map_or(Ok(()), |code| Err(Failure::rejected(NotSubscribed(format!("{code:?}")))))
                }
                Ok(Err(error)) => Err(lost(&error.to_string())),
                Err(_) => Err(lost(&format!("no answer to the subscription within {send_timeout:?}"))),
            }
        };
        Ok(Opened { session: Arc::new(session), events, subscribed: Box::pin(subscribed) })
    }

    /// Warns if the brokers do not share the session of the source.
    pub(super) async fn check_cluster(self: Arc<Self>) {
        let source = &self.reader.source;
        match separate(&self.settings, &self.dialer, &self.urls).await {
            Some([one, other]) => tracing::warn!(
                %source, %one, %other,
                "two brokers of URLS are no cluster: messages at one of them wait until the source connects there; leave one out, \
                 or run a process for each"
            ),
            None => tracing::debug!(%source, "found no separate brokers in URLS"),
        }
    }

    /// The topic filters with their options.
    pub(super) fn subscribe_filters(&self) -> impl Iterator<Item = SubscribeFilterInput> {
        let qos = if self.subscription.qos == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce };
        // Kept values come once, not after each reconnect.
        let rule = RetainForwardRule::OnNewSubscribe;
        self.filters.iter().map(move |filter| {
            SubscribeFilterInput::new(filter.clone(), qos).retain_forward_rule(rule.clone())
        })
    }
}

fn lost(why: &str) -> Failure {
    Failure::transient(Lost(why.to_owned()))
}

#[derive(Debug, thiserror::Error)]
#[error(
    "the broker refused the subscription ({0}): check TOPICS, GROUP and the permission of this client to read"
)]
struct NotSubscribed(String);
