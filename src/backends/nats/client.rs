//! One connection of the client library, which never reconnects by itself.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use async_nats::jetstream::{Context, ContextBuilder};
use async_nats::{Client, ConnectOptions, Event, ReconnectToServer, ServerAddr, ServerError};
use rand::seq::SliceRandom;
use rustls::ClientConfig;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::failure::{
    Lost, NoConnection, denied_subject, ends_connection, is_subscription_denied, open_failure,
};
use super::settings::{NatsSettings, read};
use crate::backends::brokers::BrokerUrl;
use crate::message::headers::start_of;
use crate::messenger::Failure;
use crate::util::sync::lock;

/// An address at which no server answers: the only one after the first connection.
const NOWHERE: &str = "nats://127.0.0.1:0";
/// The most subjects that are known as denied.
const DENIED: usize = 10_000;

/// A connection. After a lost one the client library would connect again, and send what it still has: messages that were given
/// back meanwhile. So each connection has a client of its own, which ends with it; all that was in flight fails at once.
pub(super) struct Generation {
    pub(super) client: Client,
    pub(super) context: Context,
    pub(super) events: Arc<Events>,
}

/// The events of a connection.
#[derive(Default)]
pub(super) struct Events {
    pub(super) ended: CancellationToken,
    failure: OnceLock<Failure>,
    last_error: Mutex<Option<String>>,
    denied: Mutex<HashSet<String>>,
    denial: Notify,
    not_subscribed: OnceLock<String>,
}

pub(super) async fn open(
    settings: &NatsSettings,
    tls: Option<&Arc<ClientConfig>>,
    url: &BrokerUrl,
) -> Result<Generation, Failure> {
    let broker = &settings.broker;
    let address = |text: &str| {
        text.parse::<ServerAddr>().map_err(|error| Failure::rejected(NoConnection(error.to_string())))
    };
    let scheme = if url.is_tls() { "tls" } else { "nats" };
    let server = match url.host() {
        host if host.contains(':') => format!("{scheme}://[{host}]:{}", url.port()),
        host => format!("{scheme}://{host}:{}", url.port()),
    };
    let (server, nowhere) = (address(&server)?, address(NOWHERE)?);
    let events = Arc::<Events>::default();
    let seen = Arc::clone(&events);
    let (first, addresses) = (AtomicBool::new(true), vec![server.clone(), nowhere.clone()]);
    let mut options = ConnectOptions::new()
        .name(&settings.client_name)
        .connection_timeout(broker.connection_timeout())
        .request_timeout(Some(broker.send_timeout()))
        // The third ping without an answer ends a connection.
        .ping_interval(broker.idle_timeout / 3)
        .client_capacity(usize::try_from(broker.window).unwrap_or(usize::MAX).clamp(64, 1 << 16) + 2_048)
        .ignore_discovered_servers()
        .max_reconnects(1)
        .reconnect_to_server_callback(move |_, _| {
            let addr = if first.swap(false, Ordering::AcqRel) { server.clone() } else { nowhere.clone() };
            std::future::ready(Some(ReconnectToServer { addr, delay: Some(std::time::Duration::ZERO) }))
        })
        .event_callback(move |event| {
            seen.occurred(event);
            std::future::ready(())
        });
    if let Some((user, password)) = url.credentials() {
        options = options.user_and_password(user.to_owned(), password.expose().to_owned());
    }
    if let Some(token) = settings.token() {
        options = options.token(token.to_owned());
    }
    if let Some(file) = &settings.nkey_file {
        let seed = read("NKEY_FILE", file).map_err(Failure::rejected)?;
        options = options.nkey(seed.expose().trim().to_owned());
    }
    if let Some(file) = &settings.credentials_file {
        let text = read("CREDENTIALS_FILE", file).map_err(Failure::rejected)?;
        options = options.credentials(text.expose()).map_err(|_| {
            Failure::rejected("CREDENTIALS_FILE is not a credentials file: it has no JWT and seed of an nkey")
        })?;
    }
    if let Some(tls) = tls {
        options = options.tls_client_config((**tls).clone());
    }
    let client = options.connect(addresses).await.map_err(|error| open_failure(&error))?;
    let context = ContextBuilder::new()
        .api_prefix(settings.api_prefix())
        .timeout(broker.send_timeout())
        .build(client.clone());
    Ok(Generation { client, context, events })
}

/// Connects to one of the servers, tried in a random order. The error is a permanent one if there is any.
pub(super) async fn open_any<'a>(
    settings: &NatsSettings,
    tls: Option<&Arc<ClientConfig>>,
    urls: &'a [BrokerUrl],
) -> Result<(Generation, &'a BrokerUrl), Failure> {
    let mut order: Vec<_> = urls.iter().collect();
    order.shuffle(&mut rand::rng());
    let (mut worst, limit) = (None, settings.broker.connection_timeout());
    for url in order {
        let opened = timeout(limit, open(settings, tls, url)).await;
        match opened.unwrap_or_else(|_| Err(Failure::transient(format!("no connection within {limit:?}")))) {
            Ok(generation) => return Ok((generation, url)),
            Err(failure) => {
                tracing::warn!(broker = %url, %failure, "failed to connect; trying the next broker");
                worst = worst.filter(|worst: &Failure| !worst.is_transient()).or(Some(failure));
            }
        }
    }
    Err(worst.unwrap_or_else(|| Failure::transient("there are no brokers")))
}

impl Events {
    fn occurred(&self, event: Event) {
        match event {
            Event::ServerError(error) => {
                let text = match error {
                    ServerError::Other(text) => text,
                    other => other.to_string(),
                };
                if let Some(subject) = denied_subject(&text) {
                    let mut denied = lock(&self.denied);
                    if denied.len() < DENIED {
                        denied.insert(subject.to_owned());
                    }
                    drop(denied);
                    self.denial.notify_one();
                    return;
                }
                if is_subscription_denied(&text) {
                    let _ = self.not_subscribed.set(start_of(&text, 300).to_owned());
                    self.end();
                    return;
                }
                if let Some(failure) = ends_connection(&text) {
                    let _ = self.failure.set(failure);
                }
                *lock(&self.last_error) = Some(start_of(&text, 300).to_owned());
            }
            Event::Disconnected | Event::Closed => self.end(),
            _ => {}
        }
    }

    /// Ends it, for the reason that is known, or that it was lost.
    pub(super) fn end(&self) {
        let why = lock(&self.last_error).clone();
        let why = why.unwrap_or_else(|| "the server closed it, or was silent for IDLE_TIMEOUT".to_owned());
        let _ = self.failure.set(Failure::transient(Lost(why)));
        self.ended.cancel();
    }

    /// Why it ended.
    pub(super) fn failure(&self) -> Failure {
        let closed = || Failure::transient(Lost("it was closed".to_owned()));
        self.failure.get().cloned().unwrap_or_else(closed)
    }

    /// Why a source cannot go on: the end of the connection, or a subscription that the server denies.
    pub(super) fn failure_of_source(&self) -> Failure {
        match self.not_subscribed.get() {
            Some(why) => Failure::rejected(format!("{why}: check the permissions of this client")),
            None => self.failure(),
        }
    }

    pub(super) fn is_denied(&self, subject: &str) -> bool {
        lock(&self.denied).contains(subject)
    }

    /// Completes when the server denies to publish to a subject, also if it did so since the last call.
    pub(super) async fn denial(&self) {
        self.denial.notified().await;
    }
}

impl Generation {
    /// Ends the connection for this reason. What the client library holds may still be written while the server is silent.
    pub(super) fn end(&self, failure: Failure) {
        let _ = self.events.failure.set(failure);
        self.events.ended.cancel();
        let client = self.client.clone();
        // It takes a place in the queue of the client, which may be full.
        tokio::spawn(async move {
            let _ = client.force_reconnect().await;
        });
    }

    /// Closes it after all that was handed over is written.
    pub(super) async fn close(&self) {
        if self.client.drain().await.is_ok() {
            self.events.ended.cancelled().await;
        }
    }
}
