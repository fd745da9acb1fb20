//! The link of a site to the designated router of a namespace: its uplink is an outbox.
//!
//! A message leaves the queue of the uplink when the designated router has stored it. The patterns of all local subscribers
//! are subscribed there while the link is up, and what comes is confirmed when it is stored here.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::stream::{Stream, StreamExt};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::convert::{self, code};
use crate::routing::{Leased, LinkInfo, Namespace, Pattern, RouteError, SiteRouter, Subscription};
use crate::util::backoff::Backoff;
use crate::util::error::{BoxError, Chain};
use crate::util::sync::lock;
use crate::wavemq_wire as wire;
use crate::wavemq_wire::wavemq_peering_client::WavemqPeeringClient;

/// The largest number of messages in one call, and about the largest size of a call in bytes.
const BATCH: usize = 256;
const BATCH_BYTES: usize = 1 << 20;
/// How long a call may take.
const CALL: Duration = Duration::from_secs(30);
/// How long other subscriptions are awaited before their patterns are subscribed together.
const SETTLE_DOWN: Duration = Duration::from_millis(50);
/// The longest time until a change of the patterns is found.
const LOOK: Duration = Duration::from_secs(1);
/// The largest message on the wire in bytes.
pub(super) const LARGEST: usize = 20 << 20;

type Client = WavemqPeeringClient<Channel>;

/// The link to the designated router of a namespace.
#[derive(Debug)]
pub(super) struct Link {
    router: SiteRouter,
    namespace: Namespace,
    endpoint: Endpoint,
    /// The connection, while the link is up.
    client: Mutex<Option<Client>>,
    is_up: AtomicBool,
    /// Why the link was lost the last time.
    last_failure: Mutex<Option<String>>,
    came_up: Notify,
}

impl Link {
    pub(super) fn new(router: SiteRouter, namespace: Namespace, endpoint: Endpoint) -> Arc<Self> {
        Arc::new(Self {
            router,
            namespace,
            endpoint,
            client: Mutex::new(None),
            is_up: AtomicBool::new(false),
            last_failure: Mutex::default(),
            came_up: Notify::new(),
        })
    }

    pub(super) fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    pub(super) fn is_up(&self) -> bool {
        self.is_up.load(Ordering::Acquire)
    }

    pub(super) fn info(&self) -> LinkInfo {
        let mut info = LinkInfo::new(self.namespace.clone(), self.endpoint.uri().to_string(), self.is_up());
        info.last_failure = lock(&self.last_failure).clone();
        info
    }

    /// Hands the messages of `upstream` over, and runs until it is dropped.
    pub(super) async fn run(self: Arc<Self>, upstream: Subscription) {
        let backoff = Backoff::with_max(Duration::from_secs(5));
        let mut failures = 0;
        loop {
            let failure = self.connect_and_work(&upstream).await;
            if self.is_up.swap(false, Ordering::AcqRel) {
                failures = 0;
            }
            *lock(&self.client) = None;
            self.router.count_peer_error();
            let delay = backoff.delay(failures);
            failures = failures.saturating_add(1);
            let (address, error) = (self.endpoint.uri(), Chain(&*failure).to_string());
            drop(failure);
            *lock(&self.last_failure) = Some(error.clone());
            tracing::warn!(%address, namespace = %self.namespace, error, ?delay, "lost the designated router; messages wait, retrying");
            sleep(delay).await;
        }
    }

    /// Works until the link fails; returns why.
    async fn connect_and_work(&self, upstream: &Subscription) -> BoxError {
        let channel = match self.endpoint.connect().await {
            Ok(channel) => channel,
            Err(error) => return error.into(),
        };
        let client = WavemqPeeringClient::new(channel)
            .max_decoding_message_size(LARGEST)
            .max_encoding_message_size(LARGEST);
        // Messages that were in flight when the link failed go first.
        upstream.restart();
        tokio::select! {
            failure = self.mirror(client.clone()) => failure,
            failure = self.publish(client, upstream) => failure,
        }
    }

    /// Hands messages over, in order.
    async fn publish(&self, mut client: Client, upstream: &Subscription) -> BoxError {
        // A router that refuses the subscription refuses the messages too, and they have to wait.
        while !self.is_up() {
            self.came_up.notified().await;
        }
        loop {
            let leased = match upstream.lease(BATCH).await {
                Ok(leased) => leased,
                Err(failure) => return failure.into(),
            };
            let mut leased = leased.into_iter().peekable();
            while leased.peek().is_some() {
                let (mut batch, mut bytes) = (Vec::new(), 0);
                while let Some(next) =
                    leased.next_if(|next| batch.is_empty() || bytes + next.message.size() <= BATCH_BYTES)
                {
                    bytes += next.message.size();
                    batch.push(next);
                }
                if let Err(failure) = self.hand_over(&mut client, upstream, batch).await {
                    return failure;
                }
            }
        }
    }

    /// Hands one batch over. A message that is refused for good is dropped and counted.
    async fn hand_over(
        &self,
        client: &mut Client,
        upstream: &Subscription,
        mut batch: Vec<Leased>,
    ) -> Result<(), BoxError> {
        while !batch.is_empty() {
            let msg = batch.iter().map(|leased| convert::wire_message(leased.message.clone())).collect();
            let answered = timeout(CALL, client.peer_publish(wire::PeerPublishParams { msg })).await;
            let answer = answered.map_err(|_| "it does not answer")??.into_inner();
            let taken = usize::try_from(answer.taken).unwrap_or_default().min(batch.len());
            let rest = batch.split_off(taken);
            upstream.ack(&batch.iter().map(|leased| leased.seq).collect::<Vec<_>>());
            self.router.count_upstream(batch.len());
            batch = rest;
            match (answer.error, batch.first()) {
                (_, None) => {}
                (Some(error), Some(first)) if error.code == code::UPSTREAM_ERROR => {
                    let uri = &first.message.uri;
                    tracing::error!(%uri, error = error.message, "the designated router refused a message; it is dropped");
                    upstream.ack(&[first.seq]);
                    self.router.count_refused(1);
                    batch.remove(0);
                }
                (Some(error), _) => return Err(error.message.into()),
                (None, _) => return Err("it took only a part of the messages".into()),
            }
        }
        Ok(())
    }

    /// Subscribes what local subscribers want, and puts what comes into their queues.
    async fn mirror(&self, mut client: Client) -> BoxError {
        loop {
            let patterns = self.router.patterns(&self.namespace);
            let tbs = wire::PeerSubscriptionTbs {
                namespace: self.namespace.as_bytes().to_vec().into(),
                uri: patterns.iter().map(|pattern| pattern.as_str().to_owned()).collect(),
                router_id: self.router.id().to_string(),
                ..wire::PeerSubscriptionTbs::default()
            };
            let subscribing = client.peer_subscribe(wire::PeerSubscribeParams { tbs: Some(tbs) });
            let messages = match timeout(CALL, subscribing).await {
                Ok(Ok(messages)) => messages.into_inner(),
                Ok(Err(status)) => return status.into(),
                Err(_) => return "it does not answer".into(),
            };
            let mut messages = messages.ready_chunks(BATCH);
            let mut changed = std::pin::pin!(self.other_patterns(&patterns));
            loop {
                tokio::select! {
                    chunk = messages.next() => {
                        let Some(chunk) = chunk else { return "it ended the subscription".into() };
                        if let Err(failure) = self.accept(&mut client, chunk).await {
                            return failure;
                        }
                    }
                    () = changed.as_mut() => break,
                }
            }
        }
    }

    /// Waits until local subscribers want others than these patterns.
    async fn other_patterns(&self, patterns: &[Pattern]) {
        loop {
            tokio::select! {
                () = self.router.subscriptions_changed() => {}
                // A change between two waits is found late, but found.
                () = sleep(LOOK) => {}
            }
            if self.router.patterns(&self.namespace) != patterns {
                return sleep(SETTLE_DOWN).await;
            }
        }
    }

    /// Stores messages, and confirms them.
    async fn accept(
        &self,
        client: &mut Client,
        chunk: Vec<Result<wire::PeerMessage, Status>>,
    ) -> Result<(), BoxError> {
        let (mut messages, mut sequence, mut failure) = (Vec::new(), Vec::new(), None);
        for item in chunk {
            match item {
                Ok(wire::PeerMessage { error: Some(error), .. }) => {
                    failure = Some(BoxError::from(error.message))
                }
                Ok(wire::PeerMessage { message: None, .. }) => self.came_up(client),
                Ok(wire::PeerMessage { message: Some(message), sequence: number, .. }) => {
                    match convert::message(message) {
                        Ok(message) => messages.push(message),
                        Err(fault) => tracing::error!(
                            fault,
                            "the designated router sent an invalid message; it is dropped"
                        ),
                    }
                    sequence.push(number);
                }
                Err(status) => failure = Some(status.into()),
            }
        }
        let count = messages.len();
        let stored = self.router.forward(messages).await;
        for failed in stored.into_iter().filter_map(Result::err) {
            match failed {
                RouteError::TooLarge { .. } | RouteError::Forged(_) => {
                    tracing::error!(%failed, "the designated router sent a message; it is dropped")
                }
                // It comes again.
                failed => return Err(failed.into()),
            }
        }
        self.router.count_downstream(count);
        if !sequence.is_empty() {
            let settle = wire::PeerSettleParams {
                namespace: self.namespace.as_bytes().to_vec().into(),
                router_id: self.router.id().to_string(),
                sequence,
            };
            timeout(CALL, client.peer_settle(settle)).await.map_err(|_| "it does not answer")??;
        }
        failure.map_or(Ok(()), Err)
    }

    fn came_up(&self, client: &Client) {
        if !self.is_up.swap(true, Ordering::AcqRel) {
            *lock(&self.client) = Some(client.clone());
            self.came_up.notify_one();
            tracing::info!(address = %self.endpoint.uri(), namespace = %self.namespace, "connected to the designated router");
        }
    }

    /// Reads last values at the designated router.
    pub(super) async fn query(
        &self,
        namespace: &Namespace,
        pattern: &Pattern,
    ) -> Result<impl Stream<Item = Result<wire::QueryMessage, Status>> + Send + 'static, RouteError> {
        let mut client = lock(&self.client).clone().ok_or(RouteError::LinkDown)?;
        let params = wire::PeerQueryParams {
            namespace: namespace.as_bytes().to_vec().into(),
            uri: pattern.as_str().to_owned(),
            ..wire::PeerQueryParams::default()
        };
        match timeout(CALL, client.peer_query_request(params)).await {
            Ok(Ok(values)) => Ok(values.into_inner()),
            Ok(Err(status)) if status.code() == Code::Unavailable => Err(RouteError::LinkDown),
            Ok(Err(status)) => Err(RouteError::Upstream(status.message().into())),
            Err(_) => Err(RouteError::LinkDown),
        }
    }
}
