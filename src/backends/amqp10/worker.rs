//! The task behind a source: finds a broker, attaches the link, and does so again when it is lost.

use std::sync::Arc;
use std::time::Duration;

use fe2o3_amqp::Receiver;
use fe2o3_amqp::link::receiver::CreditMode;
use fe2o3_amqp::session::SessionHandle;
use fe2o3_amqp_types::definitions::SenderSettleMode;
use fe2o3_amqp_types::messaging::{Outcome, Source, TerminusDurability, TerminusExpiryPolicy};
use fe2o3_amqp_types::primitives::{Symbol, Value};
use rand::seq::SliceRandom;
use serde_amqp::described::Described;
use serde_amqp::descriptor::Descriptor;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::attempts::Attempts;
use super::connection::{self, Connection};
use super::failure::{
    ConnectionClosed, ConnectionGone, LinkLost, NameTaken, NoSelectors, attach_receiver_failure,
};
use super::inbox::Inbox;
use super::reading::Reader;
use super::receiving::{Demand, End, Link, Served};
use super::settings::Amqp10Settings;
use super::subscription::Amqp10Subscription;
use crate::backends::brokers::{BrokerUrl, Dialer};
use crate::messenger::Failure;
use crate::util::backoff::Backoff;
use crate::util::error::Chain;

/// The filter every broker with JMS selectors knows (AMQP filter registry).
const SELECTOR: &str = "apache.org:selector-filter:string";
/// The least pause when a person has to mend something.
const TROUBLE_PAUSE: Duration = Duration::from_secs(1);
/// A link that lived as long was no failure.
const LIVED: Duration = Duration::from_secs(5);
/// How long a connection may take to close.
const FAREWELL: Duration = Duration::from_secs(3);

/// What a source was made of.
pub(super) struct Setup {
    pub(super) settings: Amqp10Settings,
    pub(super) urls: Vec<BrokerUrl>,
    pub(super) dialer: Dialer,
    pub(super) subscription: Amqp10Subscription,
    pub(super) reader: Reader,
}

/// Keeps the inbox filled while messages are wanted.
pub(super) struct Worker {
    pub(super) setup: Arc<Setup>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) demand: watch::Receiver<Demand>,
}

impl Worker {
    /// Runs until the source is closed or dropped.
    pub(super) async fn run(mut self) {
        let mut attempts = Attempts::default();
        let mut failures = 0;
        loop {
            let demand = *self.demand.borrow_and_update();
            if demand == Demand::Close || self.demand.has_changed().is_err() {
                return;
            }
            if demand == Demand::Pause {
                let _ = self.demand.changed().await;
                continue;
            }
            let failure = match self.setup.attach(&mut self.demand).await {
                Ok((connection, session, receiver)) => {
                    self.inbox.set_trouble(None);
                    let begun = Instant::now();
                    let end = self.serve(&mut attempts, Arc::clone(&connection), session, receiver).await;
                    // What came over it can no more be answered, and comes again.
                    drop(self.inbox.take_all());
                    attempts.give_all_back();
                    let _ = timeout(FAREWELL, connection.close()).await;
                    if begun.elapsed() > LIVED {
                        failures = 0;
                    }
                    match end {
                        End::Lost(failure) => {
                            tracing::warn!(address = %self.setup.reader.address, %failure, "receiving was interrupted");
                            failure
                        }
                        End::Paused | End::Closed => continue,
                    }
                }
                Err(failure) => failure,
            };
            let mut pause = Backoff::default().delay(failures);
            failures = failures.saturating_add(1);
            if !failure.is_transient() {
                pause = pause.max(TROUBLE_PAUSE);
                self.inbox.set_trouble(Some(failure));
            }
            tokio::select! {
                () = sleep(pause) => {}
                _ = self.demand.changed() => {}
            }
        }
    }

    async fn serve(
        &mut self,
        attempts: &mut Attempts,
        connection: Arc<Connection>,
        session: SessionHandle<()>,
        receiver: Receiver,
    ) -> End {
        let Setup { reader, subscription, .. } = &*self.setup;
        let served = Served {
            reader,
            inbox: &self.inbox,
            attempts,
            demand: &mut self.demand,
            credit: subscription.credit,
            prefetch_bytes: subscription.prefetch_bytes,
            dead_letter_address: subscription.dead_letter_address.as_deref(),
            durable: subscription.durable.is_some(),
        };
        Link::new(served, connection, session, receiver).serve().await
    }
}

impl Setup {
    /// Attaches the link at one of the brokers, tried in a random order; else gives what went wrong, at best
    /// what can be mended.
    async fn attach(
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
                    return Ok(attached);
                }
                Err(failure) => {
                    tracing::warn!(broker = %url, %failure, "cannot receive there");
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
            opened = timeout(settings.connection_timeout, opening) => opened,
            _ = demand.changed() => return Err(lost("it is not wanted any more".to_owned())),
        };
        let connection = match opened {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) if connection::is_to_mend(&error) => {
                return Err(Failure::rejected(format!("{url}: {}", Chain(error.as_ref()))));
            }
            Ok(Err(error)) => return Err(Failure::transient(error)),
            Err(_) => return Err(lost(format!("no connection within {:?}", settings.connection_timeout))),
        };
        // Not broken off: a link that is dropped is closed, and its durable subscription with it.
        match self.attach_on(&connection).await {
            Ok((session, receiver)) => Ok((Arc::new(connection), session, receiver)),
            Err(failure) => {
                let _ = timeout(FAREWELL, connection.close()).await;
                // ActiveMQ says so after it has opened the connection.
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
        let attached = timeout(settings.send_timeout, lifeline.while_alive(attaching)).await;
        let failure = match attached {
            Ok(attached) => match attached? {
                // RabbitMQ, at least up to 4.0, takes any filter, and heeds none.
                Ok(receiver) if subscription.selector.is_some() && is_rabbitmq(&receiver) => {
                    let _ = timeout(FAREWELL, receiver.close()).await;
                    Failure::rejected(NoSelectors)
                }
                Ok(receiver) => return Ok((session, receiver)),
                Err(error) => attach_receiver_failure(error),
            },
            Err(_) => {
                let why = format!("no answer to attach within {:?}", settings.send_timeout);
                Failure::transient(LinkLost(why))
            }
        };
        let _ = timeout(FAREWELL, session.end()).await;
        // Whoever owns the connection is about to say why it was lost.
        Err(match failure.cause().is::<ConnectionGone>() {
            true => timeout(FAREWELL, lifeline.lost()).await.unwrap_or(failure),
            false => failure,
        })
    }

    fn source(&self) -> Source {
        let mut source = Source::builder().address(self.subscription.address.as_str());
        if self.subscription.durable.is_some() {
            source =
                source.durable(TerminusDurability::UnsettledState).expiry_policy(TerminusExpiryPolicy::Never);
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

/// RabbitMQ's name is only in the open frame, which the client library keeps to itself; its links are known by the outcome
/// of a delivery nobody answers, in 3.10 and 4.0.
fn is_rabbitmq(receiver: &Receiver) -> bool {
    let outcome = receiver.source().as_ref().and_then(|source| source.default_outcome.as_ref());
    matches!(outcome, Some(Outcome::Released(_)))
}
