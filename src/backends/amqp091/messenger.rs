//! The two messengers over AMQP 0-9-1.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rustls::ClientConfig;

use super::connection::{self, Connection, Publish};
use super::envelope::{Envelope, Plain};
use super::error::Amqp091Error;
use super::fedora::Fedora;
use super::fedora_config;
use super::settings::Amqp091Settings;
use crate::backends::brokers::{self, BrokerUrl, Connector, Failover, Sasl, prefixed};
use crate::error::BoxError;
use crate::message::Message;
use crate::messenger::{Health, Messenger, Unsent};
use crate::tls::{self, TlsSettings};
use crate::topic::Topic;

/// Any AMQP 0-9-1 broker: the backend `amqp091`.
///
/// A message goes to an exchange with its topic as routing key: message-id, content-type, timestamp, its headers,
/// persistent unless the settings say otherwise. See the [module](super) for what is confirmed.
pub struct Amqp091(Transport<Plain>);

/// Fedora Messaging: the backend `fedmsg`.
///
/// A message is a JSON object that `fedora-messaging consume` accepts without a word: schema, severity, `sent-at`,
/// and the filter headers of [`FedoraMessage`](super::FedoraMessage). See the [module](super) for what is confirmed.
pub struct Fedmsg(Transport<Fedora>);

macro_rules! messenger {
    ($name:ident) => {
        impl $name {
            /// Reads and checks everything the settings name. No connection is made before the first message.
            ///
            /// # Errors
            /// [`Amqp091Error`] says which setting or file is wrong, and what to do.
            pub fn new(settings: &Amqp091Settings) -> Result<Self, Amqp091Error> {
                Transport::new(settings).map(Self)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).field("urls", &self.0.urls).finish_non_exhaustive()
            }
        }

        #[async_trait]
        impl Messenger for $name {
            async fn send(&self, batch: Vec<Message>) -> Result<(), Unsent> {
                self.0.failover.send(batch).await
            }

            fn check(&self, message: &Message) -> Result<(), BoxError> {
                self.0.check(message)
            }

            async fn health(&self) -> Health {
                self.0.failover.health().await
            }

            async fn close(&self, deadline: Duration) -> Vec<Message> {
                self.0.failover.close(deadline).await;
                // Everything taken over is handed back by the `send` that took it.
                Vec::new()
            }
        }
    };
}

messenger!(Amqp091);
messenger!(Fedmsg);

struct Transport<E: Envelope> {
    failover: Failover<LapinConnector<E>>,
    settings: Arc<Amqp091Settings>,
    urls: Vec<BrokerUrl>,
}

impl<E: Envelope> Transport<E> {
    fn new(settings: &Amqp091Settings) -> Result<Self, Amqp091Error> {
        let settings = Arc::new(fedora_config::fill(settings)?);
        let urls = check_settings(&settings)?;
        let tls = urls.iter().any(BrokerUrl::is_tls).then(|| {
            tls::client_config(&TlsSettings {
                certificate: settings.certificate.as_deref(),
                private_key: settings.private_key.as_deref(),
                cacert: settings.cacert.as_deref(),
                dangerous_accept_any_host_name: settings.dangerous_accept_any_host_name,
            })
        });
        let connector =
            LapinConnector { settings: Arc::clone(&settings), tls: tls.transpose()?, envelope: PhantomData };
        let failover = Failover::new(connector, urls.clone(), settings.connection_timeout);
        Ok(Self { failover, settings, urls })
    }

    fn check(&self, message: &Message) -> Result<(), BoxError> {
        if message.delay().is_some() {
            return Err("AMQP 0-9-1 brokers do not hold messages back: send without a delay".into());
        }
        if prefixed(self.settings.topic_prefix.as_deref(), message.topic()).len() > Topic::MAX_LEN {
            return Err(format!("prefix and topic together are longer than {} bytes", Topic::MAX_LEN).into());
        }
        E::check(message)
    }
}

fn check_settings(settings: &Amqp091Settings) -> Result<Vec<BrokerUrl>, Amqp091Error> {
    let fault = |key, problem: &str| Err(Amqp091Error::Setting { key, problem: problem.to_owned() });
    if settings.urls.is_empty() {
        return Err(Amqp091Error::NoUrls);
    }
    let urls =
        settings.urls.iter().map(|url| BrokerUrl::parse_with_vhost(url)).collect::<Result<Vec<_>, _>>()?;
    if settings.window == 0 {
        return fault("WINDOW", "is 0: nothing could be sent; write 1 or more");
    }
    if settings.connection_timeout.is_zero() || settings.send_timeout.is_zero() {
        return fault(
            "CONNECTION_TIMEOUT",
            "or SEND_TIMEOUT is 0: no broker is that quick; write seconds, such as 60",
        );
    }
    if settings.idle_timeout < Duration::from_secs(2) {
        return fault(
            "IDLE_TIMEOUT",
            "is below 2 s: heartbeats are whole seconds, two to a time-out; write \"30s\"",
        );
    }
    if settings.exchange.as_deref().is_some_and(|exchange| exchange.len() > Topic::MAX_LEN) {
        return fault("EXCHANGE", "is longer than 255 bytes");
    }
    if let Some(prefix) = settings.topic_prefix.as_deref().map(|prefix| prefix.trim_matches('.'))
        && !prefix.is_empty()
        && let Err(error) = Topic::new(prefix.to_owned())
    {
        return Err(Amqp091Error::Setting {
            key: "TOPIC_PREFIX",
            problem: format!("does not begin a topic: {error}"),
        });
    }
    let tls = urls.iter().any(BrokerUrl::is_tls);
    match settings.sasl {
        Sasl::External if settings.certificate.is_none() || !tls => {
            fault("SASL", "external needs CERTIFICATE and amqps:// in URLS")
        }
        Sasl::Plain if urls.iter().any(|url| url.credentials().is_none()) => {
            fault("SASL", "plain needs a user and password in each of URLS: amqps://user:password@host")
        }
        _ => Ok(urls),
    }
}

struct LapinConnector<E> {
    settings: Arc<Amqp091Settings>,
    tls: Option<Arc<ClientConfig>>,
    envelope: PhantomData<E>,
}

#[async_trait]
impl<E: Envelope> Connector for LapinConnector<E> {
    type Connection = EnvelopeConnection<E>;

    async fn connect(&self, broker: &BrokerUrl) -> Result<Self::Connection, BoxError> {
        let connection = connection::open(&self.settings, self.tls.clone(), broker).await?;
        Ok(EnvelopeConnection { connection, settings: Arc::clone(&self.settings), envelope: PhantomData })
    }
}

/// A connection that knows how messages look on it.
struct EnvelopeConnection<E> {
    connection: Connection,
    settings: Arc<Amqp091Settings>,
    envelope: PhantomData<E>,
}

impl<E: Envelope> EnvelopeConnection<E> {
    fn encode(&self, message: &Message) -> Publish {
        Publish {
            exchange: self.settings.exchange.clone().unwrap_or_else(|| "amq.topic".to_owned()),
            routing_key: prefixed(self.settings.topic_prefix.as_deref(), message.topic()),
            mandatory: self.settings.mandatory,
            properties: E::encode(&self.settings, message),
            body: message.body().clone(),
        }
    }
}

#[async_trait]
impl<E: Envelope> brokers::Connection for EnvelopeConnection<E> {
    /// Publishes in a task of its own: dropped half-way, the batch goes on to its end.
    async fn send(&self, batch: Vec<Message>) -> Result<(), Unsent> {
        let publishes: Vec<_> = batch.iter().map(|message| self.encode(message)).collect();
        let connection = self.connection.clone();
        brokers::hand_over(batch, async move { connection.publish(&publishes).await }).await
    }

    fn is_closed(&self) -> bool {
        self.connection.is_closed()
    }

    fn blocked(&self) -> Option<String> {
        self.connection.blocked()
    }

    async fn close(&self) {
        self.connection.close().await;
    }
}
