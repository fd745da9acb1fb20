//! The two messengers over AMQP 1.0.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::connection::{self, Connection};
use super::envelope::{self, Envelope, Plain};
use super::error::Amqp10Error;
use super::rhmsg::Rhmsg;
use super::settings::Amqp10Settings;
use crate::backends::brokers::{self, BrokerUrl, Connector, Dialer, Failover, Sasl, prefixed};
use crate::error::BoxError;
use crate::message::Message;
use crate::messenger::{Failure, Health, Messenger, Unsent};
use crate::tls::{self, TlsSettings};
use crate::topic::Topic;

/// Any AMQP 1.0 broker: the backend `amqp10`.
///
/// A message is a data section with message-id, subject (the topic), content-type, creation-time, group-id
/// (the key) and its headers as application properties; durable unless the settings say otherwise.
/// See the [module](super) for outcomes.
pub struct Amqp10(Transport<Plain>);

/// AMQP 1.0 as python-rhmsg speaks it: the backend `rhmsg`.
///
/// A message is a JSON object as an amqp-value string, its scalars repeated as application properties, sent to
/// `topic://<prefix>.<topic>`; not durable unless the settings say so. See the [module](super) for outcomes.
pub struct RhMsg(Transport<Rhmsg>);

macro_rules! messenger {
    ($name:ident) => {
        impl $name {
            /// Reads and checks everything the settings name. No connection is made before the first message.
            ///
            /// # Errors
            /// [`Amqp10Error`] says which setting or file is wrong, and what to do.
            pub fn new(settings: &Amqp10Settings) -> Result<Self, Amqp10Error> {
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

messenger!(Amqp10);
messenger!(RhMsg);

struct Transport<E: Envelope> {
    failover: Failover<AmqpConnector<E>>,
    settings: Arc<Amqp10Settings>,
    urls: Vec<BrokerUrl>,
}

impl<E: Envelope> Transport<E> {
    fn new(settings: &Amqp10Settings) -> Result<Self, Amqp10Error> {
        let urls = check_settings(settings)?;
        for url in urls.iter().filter(|url| url.credentials().is_some() && !url.is_tls()) {
            tracing::warn!(broker = %url, "the password goes over the network unencrypted: use amqps://");
        }
        let tls = urls.iter().any(BrokerUrl::is_tls).then(|| {
            tls::client_config(&TlsSettings {
                certificate: settings.certificate.as_deref(),
                private_key: settings.private_key.as_deref(),
                cacert: settings.cacert.as_deref(),
                dangerous_accept_any_host_name: settings.dangerous_accept_any_host_name,
            })
        });
        let dialer = Dialer::new(tls.transpose()?);
        let settings = Arc::new(settings.clone());
        let connector = AmqpConnector { settings: Arc::clone(&settings), dialer, envelope: PhantomData };
        let failover = Failover::new(connector, urls.clone(), settings.connection_timeout);
        Ok(Self { failover, settings, urls })
    }

    fn check(&self, message: &Message) -> Result<(), BoxError> {
        if message.delay().is_some() {
            return Err("AMQP 1.0 brokers do not hold messages back: send without a delay".into());
        }
        if prefixed(self.settings.topic_prefix.as_deref(), message.topic()).len() > Topic::MAX_LEN {
            return Err(format!("prefix and topic together are longer than {} bytes", Topic::MAX_LEN).into());
        }
        E::check(message)
    }
}

fn check_settings(settings: &Amqp10Settings) -> Result<Vec<BrokerUrl>, Amqp10Error> {
    let fault = |key, problem: &str| Err(Amqp10Error::Setting { key, problem: problem.to_owned() });
    if settings.urls.is_empty() {
        return Err(Amqp10Error::NoUrls);
    }
    let urls = settings.urls.iter().map(|url| BrokerUrl::parse(url)).collect::<Result<Vec<_>, _>>()?;
    if settings.window == 0 {
        return fault("WINDOW", "is 0: nothing could be sent; write 1 or more");
    }
    if settings.priority > 9 {
        return fault("PRIORITY", "is above 9, the highest of AMQP");
    }
    if settings.connection_timeout.is_zero() || settings.send_timeout.is_zero() {
        return fault(
            "CONNECTION_TIMEOUT",
            "or SEND_TIMEOUT is 0: no broker is that quick; write seconds, such as 60",
        );
    }
    if settings.idle_timeout < Duration::from_secs(1) {
        return fault("IDLE_TIMEOUT", "is below 1 s: brokers refuse that; write \"30s\"");
    }
    if let Some(prefix) = settings.topic_prefix.as_deref().map(|prefix| prefix.trim_matches('.'))
        && !prefix.is_empty()
        && let Err(error) = Topic::new(prefix.to_owned())
    {
        return Err(Amqp10Error::Setting {
            key: "TOPIC_PREFIX",
            problem: format!("does not begin a topic: {error}"),
        });
    }
    if settings.address.as_deref().is_some_and(|address| address.replace("{topic}", "").contains(['{', '}']))
    {
        return fault("ADDRESS", "knows only {topic}, as in \"topic://{topic}\"");
    }
    let tls = urls.iter().any(BrokerUrl::is_tls);
    match settings.sasl {
        Sasl::External if settings.certificate.is_none() || !tls => {
            fault("SASL", "external needs CERTIFICATE and amqps:// in URLS")
        }
        Sasl::Plain if urls.iter().any(|url| url.credentials().is_none()) => {
            fault("SASL", "plain needs a user and password in each of URLS: amqps://user:password@host")
        }
        _ if !tls && (settings.certificate.is_some() || settings.cacert.is_some()) => {
            fault("CERTIFICATE", "or CACERT is set, but no URL begins with amqps://: they would not be used")
        }
        _ => Ok(urls),
    }
}

struct AmqpConnector<E> {
    settings: Arc<Amqp10Settings>,
    dialer: Dialer,
    envelope: PhantomData<E>,
}

#[async_trait]
impl<E: Envelope> Connector for AmqpConnector<E> {
    type Connection = EnvelopeConnection<E>;

    async fn connect(&self, broker: &BrokerUrl) -> Result<Self::Connection, BoxError> {
        let connection = connection::open(&self.settings, &self.dialer, broker).await?;
        Ok(EnvelopeConnection { connection, settings: Arc::clone(&self.settings), envelope: PhantomData })
    }
}

/// A connection that knows how messages look on it.
struct EnvelopeConnection<E> {
    connection: Connection,
    settings: Arc<Amqp10Settings>,
    envelope: PhantomData<E>,
}

impl<E: Envelope> EnvelopeConnection<E> {
    async fn hand_over(
        &self,
        batch: &mut connection::Batch<'_>,
        message: &Message,
    ) -> Result<connection::Answer, Failure> {
        let durable = self.settings.durable.unwrap_or(E::DURABLE);
        let header = envelope::header(&self.settings, durable, message);
        let encoded = E::encode(header, message).map_err(Failure::rejected)?;
        let address = envelope::address(&self.settings, E::ADDRESS, message.topic());
        batch.send(address, encoded).await
    }
}

#[async_trait]
impl<E: Envelope> brokers::Connection for EnvelopeConnection<E> {
    /// Hands the batch over in order, then gathers the answers. Dropped half-way, what was handed over
    /// goes on to its end and the rest is not sent.
    async fn send(&self, batch: Vec<Message>) -> Result<(), Unsent> {
        let mut handed = self.connection.batch(batch.len() > 1);
        let mut answers = Vec::with_capacity(batch.len());
        for message in batch {
            let answer = self.hand_over(&mut handed, &message).await;
            answers.push((message, answer));
        }
        let mut unsent = Unsent::default();
        for (message, answer) in answers {
            let result = match answer {
                Ok(answer) => answer.await.unwrap_or_else(|_| Err(Failure::transient("the runtime stopped"))),
                Err(failure) => Err(failure),
            };
            if let Err(failure) = result {
                unsent.extend([(message, failure)]);
            }
        }
        unsent.into_result()
    }

    fn is_closed(&self) -> bool {
        self.connection.is_closed()
    }

    async fn close(&self) {
        self.connection.close().await;
    }
}
