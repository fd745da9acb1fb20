//! The parts of a source, and how they become a link at one of the brokers.

use std::sync::Arc;
use std::time::Duration;

use fe2o3_amqp::Receiver;
use fe2o3_amqp::link::receiver::CreditMode;
use fe2o3_amqp::session::SessionHandle;
use fe2o3_amqp_types::definitions::SenderSettleMode;
use fe2o3_amqp_types::messaging::{
    DistributionMode, Outcome, Source, TerminusDurability, TerminusExpiryPolicy,
};
use fe2o3_amqp_types::primitives::{Symbol, Value};
use rand::seq::SliceRandom;
use serde_amqp::described::Described;
use serde_amqp::descriptor::Descriptor;
use tokio::sync::watch;
use tokio::time::timeout;

use super::connection::{self, Connection};
use super::failure::{
    ConnectionClosed, ConnectionGone, LinkLost, NameTaken, NoSelectors, attach_receiver_failure,
};
use super::incoming::Reader;
use super::settings::Amqp10Settings;
use super::subscription::Amqp10Subscription;
use crate::backends::brokers::{BrokerUrl, Demand, Dialer};
use crate::messenger::Failure;
use crate::util::error::Chain;
use crate::util::repeated::Repeated;

/// The filter every broker with JMS selectors knows (AMQP filter registry).
const SELECTOR: &str = "apache.org:selector-filter:string";
/// How long a connection may take to close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// The parts of a source: its settings, checked.
pub(super) struct SourceContext {
    pub(super) settings: Amqp10Settings,
    pub(super) urls: Vec<BrokerUrl>,
    pub(super) dialer: Dialer,
    pub(super) subscription: Amqp10Subscription,
    pub(super) reader: Reader,
    /// The log lines about failed attempts.
    pub(super) unreachable: Repeated,
}

impl SourceContext {
    /// Attaches the link at one of the brokers, tried in a random order. The error is a permanent one if there is
    /// any.
    pub(super) async fn attach(
        &self,
        demand: &mut watch::Receiver<Demand>,
    ) -> Result<(Arc<Connection>, SessionHandle<()>, Receiver), Failure> {
        let mut order: Vec<_> = self.urls.iter().collect();
        order.shuffle(&mut rand::rng());
        let mut worst = None;
        for url in order {
            match self.attach_at(url, demand).await {
                Ok(attached) => {
                    tracing::info!(broker = %url, address = %self.reader.address, "receiving");
                    self.unreachable.over();
                    return Ok(attached);
                }
                Err(failure) => {
                    if let Some(line) = self.unreachable.occurred() {
                        let next =
                            if self.urls.len() > 1 { "; trying the next broker" } else { "; retrying" };
                        tracing::warn!(broker = %url, %failure, times = line.times, "failed to attach the source link{next}");
                    }
                    worst = worst.filter(|worst: &Failure| !worst.is_transient()).or(Some(failure));
                }
            }
        }
        Err(worst.unwrap_or_else(|| Failure::transient(LinkLost("there are no brokers".to_owned()))))
    }

    async fn attach_at(
        &self,
        url: &BrokerUrl,
        demand: &mut watch::Receiver<Demand>,
    ) -> Result<(Arc<Connection>, SessionHandle<()>, Receiver), Failure> {
        let Self { settings, dialer, subscription, .. } = self;
        let lost = |why: String| Failure::transient(LinkLost(why));
        let opening = connection::open(settings, dialer, url, subscription.durable.as_deref());
        let opened = tokio::select! {
            opened = timeout(settings.broker.connection_timeout(), opening) => opened,
            _ = demand.changed() => return Err(lost("the source is paused or closed".to_owned())),
        };
        let connection = match opened {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) if connection::is_to_mend(&error) => {
                return Err(Failure::rejected(format!("{url}: {}", Chain(error.as_ref()))));
            }
            Ok(Err(error)) => return Err(Failure::transient(error)),
            Err(_) => {
                return Err(lost(format!("no connection within {:?}", settings.broker.connection_timeout())));
            }
        };
        // Not cancelled: a dropped link is closed, and its durable subscription with it.
        match self.attach_on(&connection).await {
            Ok((session, receiver)) => Ok((Arc::new(connection), session, receiver)),
            Err(failure) => {
                let _ = timeout(CLOSE_TIMEOUT, connection.close()).await;
                // ActiveMQ reports a taken name after it has opened the connection.
                Err(match failure.cause().downcast_ref() {
                    Some(closed @ ConnectionClosed(_)) if subscription.durable.is_some() => {
                        Failure::rejected(NameTaken(closed.to_string()))
                    }
                    _ => failure,
                })
            }
        }
    }

    async fn attach_on(&self, connection: &Connection) -> Result<(SessionHandle<()>, Receiver), Failure> {
        let Self { settings, subscription, .. } = self;
        let mut session = connection.begin_session().await?;
        let name = || format!("tower-outbox-{}", subscription.address);
        let attaching = Receiver::builder()
            .name(subscription.durable.clone().unwrap_or_else(name))
            .source(self.source())
            .sender_settle_mode(SenderSettleMode::Unsettled)
            .credit_mode(CreditMode::Manual)
            .attach(&mut session);
        let lifeline = connection.lifeline();
        let attached = timeout(settings.broker.send_timeout(), lifeline.while_alive(attaching)).await;
        let failure = match attached {
            Ok(attached) => match attached? {
                // RabbitMQ, at least up to 4.0, accepts every filter and ignores it.
                Ok(receiver) if subscription.selector.is_some() && is_rabbitmq(&receiver) => {
                    let _ = timeout(CLOSE_TIMEOUT, receiver.close()).await;
                    Failure::rejected(NoSelectors)
                }
                Ok(receiver) => return Ok((session, receiver)),
                Err(error) => attach_receiver_failure(error),
            },
            Err(_) => {
                let why = format!("no answer to attach within {:?}", settings.broker.send_timeout());
                Failure::transient(LinkLost(why))
            }
        };
        let _ = timeout(CLOSE_TIMEOUT, session.end()).await;
        // The task of the connection reports the reason for its loss.
        Err(match failure.cause().is::<ConnectionGone>() {
            true => timeout(CLOSE_TIMEOUT, lifeline.lost()).await.unwrap_or(failure),
            false => failure,
        })
    }

    fn source(&self) -> Source {
        let mut source = Source::builder().address(self.subscription.address.as_str());
        if self.subscription.durable.is_some() {
            source =
                source.durable(TerminusDurability::UnsettledState).expiry_policy(TerminusExpiryPolicy::Never);
        }
        if self.subscription.browses {
            source = source.distribution_mode(DistributionMode::Copy);
        }
        if let Some(selector) = &self.subscription.selector {
            let filter = Described {
                descriptor: Descriptor::Name(Symbol::from(SELECTOR)),
                value: Value::String(selector.clone()),
            };
            source = source.add_to_filter(SELECTOR, filter);
        }
        source.build()
    }
}

/// The name RabbitMQ is only in the open frame, which the client library hides. Its links, in 3.10 and 4.0, are recognised by
/// the default outcome of a delivery.
fn is_rabbitmq(receiver: &Receiver) -> bool {
    let outcome = receiver.source().as_ref().and_then(|source| source.default_outcome.as_ref());
    matches!(outcome, Some(Outcome::Released(_)))
}
