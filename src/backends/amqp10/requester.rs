//! Sending requests: a dynamic node for their replies.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use fe2o3_amqp::Receiver;
use fe2o3_amqp::link::RecvError;
use fe2o3_amqp::session::SessionHandle;
use fe2o3_amqp_types::messaging::{Batch, Data, MessageId, Released, Source};
use rand::seq::SliceRandom;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::connection::{self, Connection};
use super::failure::{
    LinkLost, NoDynamicNode, NotSettled, ReleasedByBroker, SourceRejected, attach_receiver_failure,
    receive_failure,
};
use super::original::{Original, joined};
use super::outgoing::{self, Plain, Shape};
use super::replies;
use super::settings::Amqp10Settings;
use crate::backends::brokers::{BrokerUrl, BrokersError, Dialer};
use crate::message::Message;
use crate::messenger::Failure;
use crate::reply::{Reply, RequestError, Requester};
use crate::telemetry;
use crate::util::error::Chain;
use crate::util::sync::lock;

/// Sends requests to the addresses of their messages, over one kept connection to one of the brokers. Their replies come to a node that
/// the broker makes for this connection, and deletes with it.
///
/// The broker must know dynamic nodes. ActiveMQ does; RabbitMQ 3.10 and 4.0 do not: use the requester of AMQP 0-9-1 there.
pub struct Amqp10Requester {
    settings: Amqp10Settings,
    urls: Vec<BrokerUrl>,
    dialer: Dialer,
    caller: tokio::sync::Mutex<Option<Arc<Caller>>>,
}

impl Amqp10Requester {
    /// Reads and checks the settings and their files. It connects with the first request.
    ///
    /// # Errors
    /// [`BrokersError`] names the wrong setting or file, and the cure.
    pub fn new(settings: &Amqp10Settings) -> Result<Self, BrokersError> {
        let (urls, tls) = settings.check(Plain::WRAPS)?;
        // A request is of no use after a restart of the broker: its reply could reach nobody.
        let settings = Amqp10Settings { durable: Some(false), ..settings.clone() };
        Ok(Self { settings, urls, dialer: Dialer::new(tls), caller: tokio::sync::Mutex::default() })
    }

    /// The kept connection, or a new one. Callers that come while one connects wait for it.
    async fn caller(&self) -> Result<Arc<Caller>, Failure> {
        let mut kept = self.caller.lock().await;
        if let Some(caller) = kept.as_ref().filter(|caller| !caller.is_over()) {
            return Ok(Arc::clone(caller));
        }
        *kept = None;
        let mut order: Vec<_> = self.urls.iter().collect();
        order.shuffle(&mut rand::rng());
        let (mut worst, limit) = (None, self.settings.broker.connection_timeout());
        for url in order {
            // Seldom, and large.
            let opened = Box::pin(timeout(limit, Caller::open(&self.settings, &self.dialer, url))).await;
            match opened.unwrap_or_else(|_| Err(lost(format!("no connection within {limit:?}")))) {
                Ok(caller) => {
                    tracing::info!(broker = %url, "connected for requests");
                    return Ok(Arc::clone(kept.insert(Arc::new(caller))));
                }
                Err(failure) => {
                    tracing::warn!(broker = %url, %failure, "failed to connect for requests; trying the next broker");
                    worst = worst.filter(|worst: &Failure| !worst.is_transient()).or(Some(failure));
                }
            }
        }
        Err(worst.unwrap_or_else(|| lost("there are no brokers".to_owned())))
    }
}

#[async_trait]
impl Requester for Amqp10Requester {
    async fn request(&self, request: Message) -> Result<Reply, RequestError> {
        let (address, mut encoded) =
            outgoing::addressed::<Plain>(&self.settings, &request).map_err(RequestError::rejected)?;
        let caller = self.caller().await.map_err(|failure| request_error(&failure))?;
        // A responder knows the id of its own requests, and must not guess that of another one.
        let correlation_id = format!("{:032x}", rand::random::<u128>());
        let properties = encoded.properties.get_or_insert_default();
        properties.reply_to = Some(caller.address.clone());
        properties.correlation_id = Some(MessageId::String(correlation_id.clone()));
        let (sender, receiver) = oneshot::channel();
        lock(&caller.waiting).insert(correlation_id.clone(), sender);
        let _slot = SlotGuard { waiting: &caller.waiting, correlation_id };
        let gone = || RequestError::unavailable("the connection to the broker was lost");
        let sent = async {
            match caller.connection.batch(false).deliver(address, encoded).await {
                Err(failure) => request_error(&failure),
                // Its reply ends the wait.
                Ok(()) => std::future::pending().await,
            }
        };
        let reply = tokio::select! {
            biased;
            reply = receiver => reply.map_err(|_| gone())?,
            error = sent => return Err(error),
            () = caller.lost.cancelled() => return Err(gone()),
        };
        replies::decode(&reply).map_err(RequestError::bad_reply)
    }
}

impl fmt::Debug for Amqp10Requester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Amqp10Requester").field("urls", &self.urls).finish_non_exhaustive()
    }
}

fn request_error(failure: &Failure) -> RequestError {
    if failure.cause().is::<ReleasedByBroker>() {
        return RequestError::NoResponder;
    }
    let text = Chain(failure.cause()).to_string();
    match failure.is_transient() {
        true => RequestError::unavailable(text),
        false => RequestError::rejected(text),
    }
}

fn lost(why: String) -> Failure {
    Failure::transient(LinkLost(why))
}

type Waiting = Arc<Mutex<HashMap<String, oneshot::Sender<Original>>>>;

/// One connection, its node for replies, and the requests that wait.
struct Caller {
    connection: Arc<Connection>,
    /// The address that the broker gave the node.
    address: String,
    waiting: Waiting,
    lost: CancellationToken,
    _receiving: AbortOnDropHandle<()>,
}

impl Caller {
    async fn open(settings: &Amqp10Settings, dialer: &Dialer, url: &BrokerUrl) -> Result<Self, Failure> {
        let opened = connection::open(settings, dialer, url, None).await;
        let connection = opened.map_err(|error| match connection::is_to_mend(&error) {
            true => Failure::rejected(format!("{url}: {}", Chain(error.as_ref()))),
            false => Failure::transient(error),
        })?;
        let (session, receiver, address) = attach(&connection).await?;
        let (connection, waiting) = (Arc::new(connection), Waiting::default());
        let lost = CancellationToken::new();
        let ended = lost.clone().drop_guard();
        let replies = Replies {
            connection: Arc::clone(&connection),
            _session: session,
            receiver,
            waiting: Arc::clone(&waiting),
        };
        let receiving = AbortOnDropHandle::new(tokio::spawn(async move {
            let failure = replies.run().await;
            tracing::warn!(%failure, "lost the link for replies; the next request connects");
            drop(ended);
        }));
        Ok(Self { connection, address, waiting, lost, _receiving: receiving })
    }

    fn is_over(&self) -> bool {
        self.lost.is_cancelled() || self.connection.is_closed()
    }
}

/// Attaches a link to a new node of the broker.
async fn attach(connection: &Connection) -> Result<(SessionHandle<()>, Receiver, String), Failure> {
    let mut session = connection.begin_session().await?;
    let source = Source::builder().dynamic(true).build();
    let attaching = Receiver::builder()
        .name("tower-outbox-replies")
        .source(source)
        .auto_accept(true)
        .attach(&mut session);
    let attached = connection.lifeline().while_alive(attaching).await?;
    let receiver = attached.map_err(|error| {
        let failure = attach_receiver_failure(error);
        match failure.cause().downcast_ref::<SourceRejected>() {
            Some(SourceRejected(why)) => Failure::rejected(NoDynamicNode(why.clone())),
            None => failure,
        }
    })?;
    let address = receiver.source().as_ref().and_then(|source| source.address.clone());
    let address =
        address.ok_or_else(|| Failure::rejected(NoDynamicNode("it gives the node no address".to_owned())))?;
    Ok((session, receiver, address))
}

/// The link over which replies come.
struct Replies {
    connection: Arc<Connection>,
    /// It ends with its handle.
    _session: SessionHandle<()>,
    receiver: Receiver,
    waiting: Waiting,
}

impl Replies {
    /// Gives replies to their callers until the link is lost.
    async fn run(mut self) -> Failure {
        let held = self.connection.held();
        loop {
            let received = tokio::select! {
                biased;
                failure = self.connection.lifeline().lost() => return failure,
                // The guard packs every message as data.
                received = self.receiver.recv::<Batch<Data>>() => received,
            };
            match received {
                Ok(delivery) => {
                    let bytes = joined(delivery.into_message().body.into_iter());
                    let size = bytes.len();
                    self.replied(&bytes);
                    held.subtract(size);
                }
                // Its sender aborted it.
                Err(RecvError::MessageDecode(dropped)) => {
                    if let Err(error) = self.receiver.dispose(dropped.info, Released {}).await {
                        return Failure::transient(NotSettled(error.to_string()));
                    }
                }
                Err(error) => return receive_failure(error),
            }
        }
    }

    /// Hands a reply to its caller.
    fn replied(&self, received: &[u8]) {
        let Ok(reply) = Original::read(received) else {
            return telemetry::stray_reply("(a message that cannot be read)");
        };
        let id = replies::correlation(&reply).unwrap_or_default();
        match lock(&self.waiting).remove(id) {
            Some(caller) => drop(caller.send(reply)),
            None => telemetry::stray_reply(id),
        }
    }
}

/// The entry of a request among those that wait, removed also when its caller goes away.
struct SlotGuard<'a> {
    waiting: &'a Waiting,
    correlation_id: String,
}

impl Drop for SlotGuard<'_> {
    fn drop(&mut self) {
        lock(self.waiting).remove(&self.correlation_id);
    }
}
