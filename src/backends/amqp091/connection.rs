//! One connection to one broker: its channel, its window, and whether the broker blocks it.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::runtime::default_runtime;
use lapin::tcp::{AsyncTcpStream, RustlsConnector};
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo, SASLMechanism};
use lapin::{BasicProperties, Channel, Confirmation, ConnectionProperties, ErrorKind, Event};
use rustls::ClientConfig;
use tokio::sync::{Mutex, Semaphore, watch};
use tokio::time::{Instant, timeout_at};

use super::settings::Amqp091Settings;
use crate::backends::brokers::{BrokerUrl, Sasl};
use crate::error::BoxError;
use crate::messenger::Failure;
use crate::tls;

/// How long a peer may take to answer a farewell.
const FAREWELL: Duration = Duration::from_secs(2);

/// A connection that is open, or was. A clone is a handle to it.
#[derive(Clone)]
pub(super) struct Connection {
    connection: Arc<lapin::Connection>,
    channel: Arc<Mutex<Option<Channel>>>,
    window: Arc<Semaphore>,
    /// Held while a message is numbered and queued: lapin does these two apart.
    numbering: Arc<std::sync::Mutex<()>>,
    /// Held by a batch that may get messages returned.
    mandatory: Arc<Mutex<()>>,
    /// Why the broker takes nothing, while it does not.
    blocked: watch::Receiver<Option<String>>,
    send_timeout: Duration,
}

/// One message on its way.
#[derive(Clone)]
pub(super) struct Publish {
    pub(super) exchange: String,
    pub(super) routing_key: String,
    pub(super) mandatory: bool,
    pub(super) properties: BasicProperties,
    pub(super) body: bytes::Bytes,
}

/// Dials, authenticates and opens a connection.
pub(super) async fn open(
    settings: &Amqp091Settings,
    tls: Option<Arc<ClientConfig>>,
    url: &BrokerUrl,
) -> Result<Connection, BoxError> {
    let external = is_external(settings, url);
    let uri = uri(settings, url, external);
    let app = settings.app.as_deref().unwrap_or("tower-outbox");
    let properties = ConnectionProperties::default()
        .with_client_property("app".into(), app.as_bytes().to_vec().into())
        .with_connection_name(app.as_bytes().to_vec().into());
    let runtime = default_runtime()?;
    let dialling = runtime.clone();
    let connect = async move |uri: AMQPUri, _| {
        let (host, port) = (uri.authority.host, uri.authority.port);
        let stream =
            AsyncTcpStream::connect(&dialling, dialling.to_socket_addrs((host.clone(), port))).await?;
        match &tls {
            Some(config) if uri.scheme == AMQPScheme::AMQPS => {
                Ok(stream.into_rustls(&RustlsConnector::from(Arc::clone(config)), &host).await?)
            }
            _ => Ok(stream),
        }
    };
    let connection = lapin::Connection::connector(uri, runtime, connect, properties).await;
    let connection = connection.map_err(|error| explained(error, external))?;

    let mut events = connection.events_listener();
    let (sender, blocked) = watch::channel(None);
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            match event {
                Event::ConnectionBlocked(reason) => {
                    tracing::warn!(%reason, "the broker blocks publishers");
                    sender.send_replace(Some(reason));
                }
                Event::ConnectionUnblocked => {
                    sender.send_replace(None);
                }
                _ => {}
            }
        }
    });
    Ok(Connection {
        connection: Arc::new(connection),
        channel: Arc::default(),
        window: Arc::new(Semaphore::new(settings.window as usize)),
        numbering: Arc::default(),
        mandatory: Arc::default(),
        blocked,
        send_timeout: settings.send_timeout,
    })
}

fn is_external(settings: &Amqp091Settings, url: &BrokerUrl) -> bool {
    match settings.sasl {
        Sasl::External => true,
        Sasl::Auto => settings.certificate.is_some() && url.is_tls(),
        _ => false,
    }
}

fn uri(settings: &Amqp091Settings, url: &BrokerUrl, external: bool) -> AMQPUri {
    let (username, password) =
        url.credentials().map_or(("guest", "guest"), |(user, secret)| (user, secret.expose()));
    let mechanism = match (external, settings.sasl) {
        (true, _) => SASLMechanism::External,
        (false, Sasl::Anonymous) => SASLMechanism::Anonymous,
        _ => SASLMechanism::Plain,
    };
    AMQPUri {
        scheme: if url.is_tls() { AMQPScheme::AMQPS } else { AMQPScheme::AMQP },
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo { username: username.to_owned(), password: password.to_owned() },
            host: url.host().to_owned(),
            port: url.port(),
        },
        vhost: url.vhost().unwrap_or("/").to_owned(),
        query: AMQPQueryString {
            auth_mechanism: Some(mechanism),
            // Silence of twice this long ends the connection.
            heartbeat: Some(u16::try_from(settings.idle_timeout.as_secs() / 2).unwrap_or(u16::MAX).max(1)),
            ..AMQPQueryString::default()
        },
    }
}

/// The error, or what it means to the person who has to mend it.
fn explained(error: lapin::Error, external: bool) -> BoxError {
    match error.kind() {
        ErrorKind::IOError(io) => tls::explain(io).map_or_else(|| error.into(), Into::into),
        ErrorKind::ProtocolError(amqp) if amqp.get_id() == 403 && external => {
            format!("the broker refused us by SASL EXTERNAL: it knows no user for the subject of our client certificate ({})", amqp.get_message()).into()
        }
        ErrorKind::ProtocolError(amqp) if amqp.get_id() == 403 => {
            format!("the broker refused us by SASL PLAIN: check user and password in URLS ({})", amqp.get_message()).into()
        }
        _ => error.into(),
    }
}

/// What became of each message, in order.
pub(super) type Results = Vec<Result<(), Failure>>;

impl Connection {
    pub(super) fn is_closed(&self) -> bool {
        !self.connection.status().connected()
    }

    pub(super) fn blocked(&self) -> Option<String> {
        self.blocked.borrow().as_ref().map(|reason| format!("the broker blocks publishers: {reason}"))
    }

    pub(super) async fn close(&self) {
        let _ = tokio::time::timeout(FAREWELL, self.connection.close(200, "bye".into())).await;
    }

    /// A channel of its own.
    pub(super) async fn new_channel(&self) -> lapin::Result<Channel> {
        self.connection.create_channel().await
    }

    /// Publishes in order and awaits every confirm. Messages that a channel took down with another's
    /// fault are published once more, on a new channel, for as long as that gets any of them further.
    pub(super) async fn publish(&self, batch: &[Publish]) -> Results {
        let deadline = Instant::now() + self.send_timeout;
        // lapin hands a returned message to whichever is confirmed next: only alone can a batch tell whose it is.
        let _alone = if batch.iter().any(|publish| publish.mandatory) {
            let Ok(alone) = timeout_at(deadline, self.mandatory.lock()).await else {
                return batch.iter().map(|_| Err(self.overdue())).collect();
            };
            Some(alone)
        } else {
            None
        };
        let mut results = self.publish_until(batch, deadline).await;
        give_returns_to_their_owners(batch, &mut results);
        results
    }

    async fn publish_until(&self, batch: &[Publish], deadline: Instant) -> Results {
        let mut results: Results = batch.iter().map(|_| Ok(())).collect();
        let mut open: Vec<usize> = (0..batch.len()).collect();
        let mut stalled = false;
        loop {
            let failed = |failure: Failure| open.iter().map(|index| (*index, Err(failure.clone()))).collect();
            let outcomes = match timeout_at(deadline, self.channel()).await {
                Ok(Ok(channel)) => self.publish_on(&channel, batch, &open, deadline).await,
                Ok(Err(error)) => failed(Failure::transient(error)),
                Err(_) => {
                    self.give_up();
                    failed(Failure::transient("the broker opened no channel within SEND_TIMEOUT"))
                }
            };
            let failures =
                || outcomes.iter().filter_map(|(index, result)| Some((*index, result.as_ref().err()?)));
            // All go to one exchange: what is wrong with it is wrong for all.
            let refused = failures().find(|(_, failure)| failure.cause().is::<ExchangeRefused>());
            let refused = refused.map(|(_, failure)| failure.clone());
            let lost = failures().filter(|(_, failure)| failure.cause().is::<ChannelLost>());
            let mut lost: Vec<usize> = lost.map(|(index, _)| index).collect();
            for (index, result) in outcomes {
                results[index] = result;
            }
            if let Some(refused) = refused {
                lost.drain(..).for_each(|index| results[index] = Err(refused.clone()));
            }
            let stalled_before = std::mem::replace(&mut stalled, lost.len() == open.len());
            if lost.is_empty()
                || (stalled && stalled_before)
                || self.is_closed()
                || Instant::now() >= deadline
            {
                return results;
            }
            lost.sort_unstable();
            open = lost;
        }
    }

    async fn channel(&self) -> lapin::Result<Channel> {
        let mut kept = self.channel.lock().await;
        if let Some(channel) = kept.as_ref().filter(|channel| channel.status().connected()) {
            return Ok(channel.clone());
        }
        let channel = self.new_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        *kept = Some(channel.clone());
        Ok(channel)
    }

    async fn publish_on(
        &self,
        channel: &Channel,
        batch: &[Publish],
        open: &[usize],
        deadline: Instant,
    ) -> Vec<(usize, Result<(), Failure>)> {
        let mut done = Vec::with_capacity(open.len());
        let mut confirms = FuturesUnordered::new();
        let mut left = open.iter().copied();
        let overdue = 'publish: {
            for index in left.by_ref() {
                let publish = &batch[index];
                let permit = loop {
                    tokio::select! {
                        biased;
                        Some(outcome) = confirms.next() => done.push(outcome),
                        permit = self.room() => break permit,
                        () = tokio::time::sleep_until(deadline) => {
                            done.push((index, Err(self.overdue())));
                            break 'publish true;
                        }
                    }
                };
                let mut sent = pin!(channel.basic_publish(
                    publish.exchange.as_str().into(),
                    publish.routing_key.as_str().into(),
                    BasicPublishOptions { mandatory: publish.mandatory, ..BasicPublishOptions::default() },
                    &publish.body,
                    publish.properties.clone(),
                ));
                // The first poll numbers the message and queues it. Two threads that do so at once would mix the
                // numbers up, and with them whose confirm is whose.
                let mut queued = false;
                let sent = poll_fn(|cx| {
                    if queued {
                        return sent.as_mut().poll(cx);
                    }
                    queued = true;
                    let _turn = self.numbering.lock().unwrap_or_else(PoisonError::into_inner);
                    sent.as_mut().poll(cx)
                });
                match timeout_at(deadline, sent).await {
                    Ok(Ok(confirm)) => confirms.push(async move {
                        let outcome = outcome(confirm.await, &publish.routing_key);
                        drop(permit);
                        (index, outcome)
                    }),
                    Ok(Err(error)) => done.push((index, Err(failure(&error, &publish.routing_key)))),
                    Err(_) => {
                        done.push((index, Err(self.overdue())));
                        break 'publish true;
                    }
                }
            }
            loop {
                match timeout_at(deadline, confirms.next()).await {
                    Ok(Some(outcome)) => done.push(outcome),
                    Ok(None) => break 'publish false,
                    Err(_) => break 'publish true,
                }
            }
        };
        if overdue {
            let settled: std::collections::HashSet<usize> = done.iter().map(|(index, _)| *index).collect();
            let unsettled = open.iter().filter(|index| !settled.contains(index));
            let failure = self.overdue();
            done.extend(unsettled.map(|index| (*index, Err(failure.clone()))).collect::<Vec<_>>());
            if self.blocked().is_none() {
                self.give_up();
            }
        }
        done
    }

    /// A place in the window, while the broker takes messages.
    async fn room(&self) -> Option<tokio::sync::OwnedSemaphorePermit> {
        let _ = self.blocked.clone().wait_for(Option::is_none).await;
        Arc::clone(&self.window).acquire_owned().await.ok()
    }

    /// Ends the connection: a broker that neither answers nor says why is of no more use.
    fn give_up(&self) {
        let connection = Arc::clone(&self.connection);
        tokio::spawn(async move { drop(connection.close(320, "no answer in time".into()).await) });
    }

    fn overdue(&self) -> Failure {
        match self.blocked() {
            Some(reason) => Failure::transient(reason),
            None => Failure::transient("the broker gave no confirm within SEND_TIMEOUT"),
        }
    }
}

fn outcome(confirmation: lapin::Result<Confirmation>, routing_key: &str) -> Result<(), Failure> {
    match confirmation {
        Ok(Confirmation::Ack(None)) => Ok(()),
        Ok(Confirmation::Ack(Some(returned)) | Confirmation::Nack(Some(returned))) => {
            let (code, text) = (returned.reply_code, returned.reply_text);
            let id = returned.delivery.properties.message_id().as_ref().map(ToString::to_string);
            Err(Failure::rejected(Returned {
                id,
                why: format!("{code} {text}"),
                routing_key: routing_key.to_owned(),
            }))
        }
        Ok(Confirmation::Nack(None)) => Err(Failure::transient(
            "the broker did not take it (basic.nack): a queue is full, or it failed inside",
        )),
        Ok(Confirmation::NotRequested) => Err(Failure::transient("the broker does not confirm")),
        Err(error) => Err(failure(&error, routing_key)),
    }
}

/// A channel closed over a fault takes every message on it down; only those at fault are rejected.
fn failure(error: &lapin::Error, routing_key: &str) -> Failure {
    let ErrorKind::ProtocolError(amqp) = error.kind() else {
        return match error.kind() {
            ErrorKind::InvalidChannelState(..) => Failure::transient(ChannelLost(error.to_string())),
            _ => Failure::transient(error.clone()),
        };
    };
    use AMQPSoftError::{ACCESSREFUSED, NOTFOUND, PRECONDITIONFAILED};
    let text = amqp.get_message();
    match amqp.kind() {
        AMQPErrorKind::Soft(ACCESSREFUSED | NOTFOUND | PRECONDITIONFAILED) => {
            // RabbitMQ's topic authorisation names the one routing key it refuses.
            let of_one_topic = text.as_str().contains("to topic '");
            if !of_one_topic {
                Failure::rejected(ExchangeRefused(text.to_string()))
            } else if text.as_str().contains(&format!("'{routing_key}'")) {
                Failure::rejected(format!(
                    "the broker refuses it ({text}): check what this client may write to"
                ))
            } else {
                Failure::transient(ChannelLost(text.to_string()))
            }
        }
        AMQPErrorKind::Soft(_) => Failure::transient(ChannelLost(text.to_string())),
        AMQPErrorKind::Hard(_) => Failure::transient(error.clone()),
    }
}

/// Moves what was returned from those it was handed to, to those whose ids it has.
fn give_returns_to_their_owners(batch: &[Publish], results: &mut Results) {
    let mut returned = Vec::new();
    for (index, result) in results.iter_mut().enumerate() {
        if let Err(failure) = result
            && let Some(Returned { id, why, .. }) = failure.cause().downcast_ref::<Returned>()
        {
            returned.push((index, id.clone(), why.clone()));
            *result = Ok(());
        }
    }
    for (handed_to, id, why) in returned {
        let is_owner = |index: &usize| {
            let own = batch[*index].properties.message_id().as_ref().map(ToString::to_string);
            id.is_some() && own == id && results[*index].is_ok()
        };
        let index = (0..batch.len()).find(is_owner).unwrap_or(handed_to);
        let routing_key = batch[index].routing_key.clone();
        results[index] = Err(Failure::rejected(Returned { id, why, routing_key }));
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the broker returned it ({why}): no queue is bound for {routing_key:?}")]
struct Returned {
    id: Option<String>,
    why: String,
    routing_key: String,
}

#[derive(Debug, thiserror::Error)]
#[error("the channel was lost: {0}")]
struct ChannelLost(String);

#[derive(Debug, thiserror::Error)]
#[error("the broker refuses it ({0}): check EXCHANGE and what this client may write to")]
struct ExchangeRefused(String);
