//! Sending requests: the response topic and the correlation data of MQTT 5.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use rand::seq::SliceRandom;
use rumqttc::mqttbytes::v5::Packet;
use rumqttc::{AsyncClient, Event, EventLoop, Publish, QoS, SubscribeFilterInput, SubscribeReasonCode};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::client::{self, Client, Receiving};
use super::connection::{self, Connection};
use super::failure::{Lost, TooLarge, Unroutable, end_failure};
use super::gate::Intake;
use super::outgoing::{LARGEST, Outgoing};
use super::replies;
use super::settings::{MqttSettings, MqttVersion};
use crate::backends::brokers::{BrokerUrl, BrokersError, Dialer};
use crate::message::Message;
use crate::message::headers::EXPIRY;
use crate::messenger::Failure;
use crate::reply::{Reply, RequestError, Requester};
use crate::telemetry;
use crate::util::error::Chain;
use crate::util::sync::lock;

/// Sends requests to the topics of their messages, over kept connections to one of the brokers, and awaits their replies at a topic of
/// its own below `REPLY_TOPIC`.
pub struct MqttRequester {
    settings: MqttSettings,
    urls: Vec<BrokerUrl>,
    dialer: Arc<Dialer>,
    caller: tokio::sync::Mutex<Option<Arc<Caller>>>,
}

impl MqttRequester {
    /// Reads and checks the settings and their files. It connects with the first request.
    ///
    /// # Errors
    /// [`BrokersError`] names the wrong setting or file, and the cure.
    pub fn new(settings: &MqttSettings) -> Result<Self, BrokersError> {
        let (urls, tls) = settings.check()?;
        if settings.version == MqttVersion::V3 {
            return Err(BrokersError::setting("VERSION", "is \"3.1.1\", which has no requests: use MQTT 5"));
        }
        // The broker says whether anybody subscribes.
        let settings = MqttSettings { qos: 1, mandatory: true, ..settings.clone() };
        let (dialer, caller) = (Arc::new(Dialer::new(tls)), tokio::sync::Mutex::default());
        Ok(Self { settings, urls, dialer, caller })
    }

    /// The kept connections, or new ones. Callers that come while one connects wait for it.
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
impl Requester for MqttRequester {
    async fn request(&self, request: Message) -> Result<Reply, RequestError> {
        let mut outgoing = Outgoing::new(&self.settings, &request).map_err(RequestError::rejected)?;
        let unavailable = |failure: Failure| RequestError::unavailable(Chain(failure.cause()).to_string());
        let caller = self.caller().await.map_err(unavailable)?;
        if let Some(wait) = request.expiry() {
            // MQTT counts whole seconds.
            let age = SystemTime::now().duration_since(request.time()).unwrap_or_default();
            let left = wait.saturating_sub(age).as_millis().max(1);
            outgoing.properties.user_properties.push((EXPIRY.to_owned(), left.to_string()));
        }
        caller.call(outgoing).await
    }
}

impl fmt::Debug for MqttRequester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MqttRequester").field("urls", &self.urls).finish_non_exhaustive()
    }
}

type Waiting = Arc<Mutex<HashMap<Bytes, oneshot::Sender<Publish>>>>;

/// The connections for requests and for replies, and the requests that wait.
struct Caller {
    publisher: Connection,
    reply_topic: String,
    waiting: Waiting,
    lost: CancellationToken,
    /// The event loop ends with its last handle.
    _requests: AsyncClient,
    _receiving: AbortOnDropHandle<()>,
}

impl Caller {
    async fn open(settings: &MqttSettings, dialer: &Arc<Dialer>, url: &BrokerUrl) -> Result<Self, Failure> {
        let client_id = format!("{}-{:016x}", settings.client_id, rand::random::<u64>());
        let reply_topic = format!("{}{}{client_id}", settings.reply_topic, settings.separator);
        let intake = Arc::new(Intake::new(usize::MAX, usize::MAX));
        // Each reply has its caller here, or is dropped.
        intake.discard();
        let receiving = Receiving {
            client_id: &client_id,
            session_expiry: 0,
            clean_start: true,
            maximum: u16::MAX,
            largest: LARGEST,
            intake: Arc::clone(&intake),
        };
        let Client { requests, events, .. } =
            client::open_receiver(settings, dialer, url, &receiving).await?;
        let (waiting, lost_token) = (Waiting::default(), CancellationToken::new());
        let ended = lost_token.clone().drop_guard();
        let receive = receive(events, intake, Arc::clone(&waiting));
        let receiving = AbortOnDropHandle::new(tokio::spawn(async move {
            let failure = receive.await;
            tracing::warn!(%failure, "lost the connection for replies; the next request connects");
            drop(ended);
        }));
        let filter = SubscribeFilterInput::new(reply_topic.clone(), QoS::AtMostOnce);
        let notice = requests
            .try_subscribe_many_tracked([filter])
            .map_err(|error| Failure::rejected(error.to_string()))?;
        let answer = notice.wait_async().await.map_err(|error| lost(error.to_string()))?;
        if let Some(code) =
            answer.return_codes.iter().find(|code| !matches!(code, SubscribeReasonCode::Success(_)))
        {
            return Err(Failure::rejected(format!(
                "the broker refuses the subscription to {reply_topic:?} ({code:?}): check REPLY_TOPIC and the permissions of this client"
            )));
        }
        let publisher = connection::open(settings, dialer, url).await?;
        Ok(Self {
            publisher,
            reply_topic,
            waiting,
            lost: lost_token,
            _requests: requests,
            _receiving: receiving,
        })
    }

    fn is_over(&self) -> bool {
        self.lost.is_cancelled() || self.publisher.is_closed()
    }

    async fn call(&self, mut outgoing: Outgoing) -> Result<Reply, RequestError> {
        // A responder knows the data of its own requests, and must not guess that of another one.
        let correlation = Bytes::from(format!("{:032x}", rand::random::<u128>()));
        outgoing.properties.response_topic = Some(self.reply_topic.clone());
        outgoing.properties.correlation_data = Some(correlation.clone());
        let (size, limit) = (outgoing.size(), self.publisher.largest());
        if size > limit as usize {
            return Err(RequestError::rejected(TooLarge { size, limit }));
        }
        let (sender, receiver) = oneshot::channel();
        lock(&self.waiting).insert(correlation.clone(), sender);
        let _slot = SlotGuard { waiting: &self.waiting, correlation };
        let gone = || RequestError::unavailable("the connection to the broker was lost");
        let sent = async {
            match self.publisher.publish([Ok(outgoing)]).await.pop() {
                Some(Err(failure)) => error(&failure),
                // Its reply ends the wait.
                _ => std::future::pending().await,
            }
        };
        let reply = tokio::select! {
            biased;
            reply = receiver => reply.map_err(|_| gone())?,
            error = sent => return Err(error),
            () = self.lost.cancelled() => return Err(gone()),
        };
        replies::decode(&reply).map_err(RequestError::bad_reply)
    }
}

fn error(failure: &Failure) -> RequestError {
    if failure.cause().is::<Unroutable>() {
        return RequestError::NoResponder;
    }
    let text = Chain(failure.cause()).to_string();
    match failure.is_transient() {
        true => RequestError::unavailable(text),
        false => RequestError::rejected(text),
    }
}

/// Gives replies to their callers until the connection ends.
async fn receive(mut events: EventLoop, intake: Arc<Intake>, waiting: Waiting) -> Failure {
    loop {
        match events.poll().await {
            Ok(Event::Incoming(Packet::Publish(publish))) => {
                intake.arrived();
                let properties = publish.properties.as_ref();
                let correlation = properties.and_then(|it| it.correlation_data.clone()).unwrap_or_default();
                match lock(&waiting).remove(&correlation) {
                    Some(caller) => drop(caller.send(publish)),
                    None => telemetry::stray_reply(&String::from_utf8_lossy(&correlation)),
                }
            }
            Ok(_) => {}
            Err(error) => return end_failure(&error),
        }
    }
}

fn lost(why: String) -> Failure {
    Failure::transient(Lost(why))
}

/// The entry of a request among those that wait, removed also when its caller goes away.
struct SlotGuard<'a> {
    waiting: &'a Waiting,
    correlation: Bytes,
}

impl Drop for SlotGuard<'_> {
    fn drop(&mut self) {
        lock(self.waiting).remove(&self.correlation);
    }
}
