//! A small server with the quirks that were measured at the real one (KubeMQ Community 2.4.0), and faults on demand.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use futures_util::Stream;
use futures_util::stream;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::{Request, Response, Status, Streaming};
use tower_outbox::kubemq_wire::kubemq_server::{Kubemq, KubemqServer};
use tower_outbox::kubemq_wire::{self as wire, QueuesDownstreamRequestType as Kind};

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

const UNKNOWN: &str = "transaction is completed or transaction id not found";

/// The server's way with requests to send, other than to store their messages.
#[derive(Clone)]
pub enum Act {
    /// Stores them and replies.
    Store,
    /// Stores them, and replies for another request.
    WrongRequest,
    /// Stores them, and replies after a while.
    Late(Duration),
    /// Ends the stream.
    End(Status),
    /// Replies without results.
    NoResults,
}

#[derive(Default)]
struct State {
    queues: HashMap<String, Queue>,
    store: HashMap<String, Vec<wire::EventReceive>>,
    /// The position of each durable subscriber.
    durable: HashMap<(String, String), u64>,
    subscribers: Vec<(String, mpsc::UnboundedSender<Result<wire::EventReceive, Status>>)>,
    ids: u64,
    /// The requests on downstream streams: kind and items.
    pub asked: Vec<(Kind, i32)>,
    pub events: Vec<wire::Event>,
    responders: Vec<(wire::Subscribe, mpsc::UnboundedSender<Result<wire::Request, Status>>)>,
    inboxes: HashMap<String, oneshot::Sender<wire::Response>>,
}

#[derive(Default)]
struct Queue {
    messages: VecDeque<wire::QueueMessage>,
    sequence: u64,
}

/// The server. A clone is a handle to it.
#[derive(Clone)]
pub struct Imitation {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
    acts: Arc<Mutex<VecDeque<Act>>>,
    /// Replies of a stream are held back, as a reader must not rely on the head of a response.
    pub address: SocketAddr,
    token: Option<&'static str>,
    server: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl Imitation {
    pub async fn start() -> Self {
        Self::with_token(None).await
    }

    async fn bound(token: Option<&'static str>) -> (Self, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let this = Self {
            state: Arc::default(),
            changed: Arc::default(),
            acts: Arc::default(),
            address: listener.local_addr().unwrap(),
            token,
            server: Arc::default(),
        };
        (this, listener)
    }

    pub async fn with_token(token: Option<&'static str>) -> Self {
        let (this, listener) = Self::bound(token).await;
        let service = KubemqServer::new(this.clone()).max_decoding_message_size(2 << 20);
        let app = Router::new().route_service("/kubemq.kubemq/{*method}", service);
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        *this.server.lock().unwrap() = Some(server);
        this
    }

    pub fn url(&self) -> String {
        format!("kubemq://{}", self.address)
    }

    /// The answers to the next requests to send.
    pub fn then(&self, acts: impl IntoIterator<Item = Act>) {
        self.acts.lock().unwrap().extend(acts);
    }

    /// The messages that wait in a queue.
    pub fn waiting(&self, queue: &str) -> Vec<wire::QueueMessage> {
        let state = self.state.lock().unwrap();
        state.queues.get(queue).map(|queue| queue.messages.iter().cloned().collect()).unwrap_or_default()
    }

    pub fn asked(&self) -> Vec<(Kind, i32)> {
        self.state.lock().unwrap().asked.clone()
    }

    pub fn events(&self) -> Vec<wire::Event> {
        self.state.lock().unwrap().events.clone()
    }

    /// Puts a message into a queue as another client does.
    pub fn put(&self, message: wire::QueueMessage) {
        assert!(!self.store(message).is_error);
        self.changed.notify_waiters();
    }

    fn store(&self, mut message: wire::QueueMessage) -> wire::SendQueueMessageResult {
        let id = message.message_id.clone();
        let fault = |error: &str| wire::SendQueueMessageResult {
            message_id: id.clone(),
            is_error: true,
            error: error.to_owned(),
            ..Default::default()
        };
        if message.body == "full" {
            return fault("nats: timeout");
        }
        if message.client_id.is_empty() {
            return fault("Error 101: invalid clientID value, cannot be empty");
        }
        if message.body.is_empty() && message.metadata.is_empty() {
            return fault("Error 110: invalid message, cannot be empty");
        }
        let channel = message.channel.clone();
        if channel.is_empty() || channel.ends_with('.') || channel.contains(['*', '>', ' ']) {
            return fault(
                "Error 120: invalid queue name value, cannot be empty, contains wildcards ,white spaces and end with dot",
            );
        }
        if message.policy.as_ref().is_some_and(|policy| policy.expiration_seconds > 43_200) {
            return fault(
                "Error 133: invalid expiration seconds, exceed max expiration seconds setting in kubemq config",
            );
        }
        message.attributes = Some(wire::QueueMessageAttributes { receive_count: 0, ..Default::default() });
        if let Some(policy) = &mut message.policy
            && policy.max_receive_count == 0
        {
            policy.max_receive_count = 1024;
        }
        self.append(message);
        wire::SendQueueMessageResult { message_id: id, sent_at: 1, ..Default::default() }
    }

    fn append(&self, mut message: wire::QueueMessage) {
        let mut state = self.state.lock().unwrap();
        let queue = state.queues.entry(message.channel.clone()).or_default();
        queue.sequence += 1;
        let attributes = message.attributes.get_or_insert_default();
        attributes.sequence = queue.sequence;
        attributes.timestamp = 1_795_241_637_097_026_852;
        queue.messages.push_back(message);
    }

    /// Puts unsettled messages back to their place.
    fn give_back(&self, messages: Vec<wire::QueueMessage>) {
        for message in messages {
            let mut state = self.state.lock().unwrap();
            let queue = &mut state.queues.entry(message.channel.clone()).or_default().messages;
            let sequence = |message: &wire::QueueMessage| message.attributes.as_ref().unwrap().sequence;
            let at = queue.iter().position(|other| sequence(other) > sequence(&message));
            queue.insert(at.unwrap_or(queue.len()), message);
        }
        self.changed.notify_waiters();
    }

    fn failed(&self, mut message: wire::QueueMessage) {
        message.attributes.get_or_insert_default().receive_count += 1;
        let count = message.attributes.as_ref().unwrap().receive_count;
        match message.policy.clone() {
            Some(policy) if policy.max_receive_count > 0 && count >= policy.max_receive_count => {
                if !policy.max_receive_queue.is_empty() {
                    message.channel = policy.max_receive_queue;
                    message.policy = None;
                    self.append(message);
                }
            }
            _ => self.append(message),
        }
    }

    async fn get(&self, request: &wire::QueuesDownstreamRequest) -> Vec<wire::QueueMessage> {
        let wait = Duration::from_millis(u64::try_from(request.wait_timeout).unwrap_or(0).max(1_000));
        let (until, most) = (Instant::now() + wait, usize::try_from(request.max_items).unwrap());
        let mut taken = Held { server: self.clone(), messages: Vec::new() };
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let mut state = self.state.lock().unwrap();
                let queue = &mut state.queues.entry(request.channel.clone()).or_default().messages;
                let count = queue.len().min(most - taken.messages.len());
                taken.messages.extend(queue.drain(..count));
            }
            // It waits for all of them.
            if taken.messages.len() == most || timeout_at(until, changed).await.is_err() {
                return std::mem::take(&mut taken.messages);
            }
        }
    }

    fn next_id(&self) -> String {
        let mut state = self.state.lock().unwrap();
        state.ids += 1;
        format!("tx-{}", state.ids)
    }

    fn authorized<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let sent = request.metadata().get("authorization").map(|value| value.to_str().unwrap());
        match self.token {
            Some(token) if sent != Some(token) => Err(Status::unauthenticated("invalid token")),
            _ => Ok(()),
        }
    }
}

/// Messages that go back when the stream is cancelled.
struct Held {
    server: Imitation,
    messages: Vec<wire::QueueMessage>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.server.give_back(std::mem::take(&mut self.messages));
    }
}

fn replies<T: Send + 'static>(receiver: mpsc::UnboundedReceiver<Result<T, Status>>) -> Replies<T> {
    Box::pin(stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|it| (it, receiver))
    }))
}

#[tonic::async_trait]
impl Kubemq for Imitation {
    async fn ping(&self, request: Request<wire::Empty>) -> Result<Response<wire::PingResult>, Status> {
        self.authorized(&request)?;
        Ok(Response::new(wire::PingResult { version: "2.4.0".to_owned(), ..Default::default() }))
    }

    type QueuesUpstreamStream = Replies<wire::QueuesUpstreamResponse>;

    /// Servers in Go send the head of the response with the first reply.
    async fn queues_upstream(
        &self,
        request: Request<Streaming<wire::QueuesUpstreamRequest>>,
    ) -> Result<Response<Self::QueuesUpstreamStream>, Status> {
        self.authorized(&request)?;
        let mut requests = request.into_inner();
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut next = requests.message().await?;
        let (first, is_first) = oneshot::channel::<()>();
        let mut first = Some(first);
        let server = self.clone();
        tokio::spawn(async move {
            while let Some(request) = next {
                let act = server.acts.lock().unwrap().pop_front().unwrap_or(Act::Store);
                let (server, replies) = (server.clone(), sender.clone());
                let signal = first.take();
                // The requests of a stream are handled side by side.
                tokio::spawn(async move {
                    let mut reply = wire::QueuesUpstreamResponse {
                        ref_request_id: request.request_id,
                        ..Default::default()
                    };
                    if let Act::End(status) = act {
                        drop(replies.send(Err(status)));
                        return drop(signal);
                    }
                    reply.results =
                        request.messages.into_iter().map(|message| server.store(message)).collect();
                    server.changed.notify_waiters();
                    match act {
                        Act::WrongRequest => reply.ref_request_id = "999999".to_owned(),
                        Act::NoResults => reply.results.clear(),
                        Act::Late(late) => sleep(late).await,
                        _ => {}
                    }
                    let _ = replies.send(Ok(reply));
                    drop(signal);
                });
                next = match requests.message().await {
                    Ok(next) => next,
                    Err(status) => return drop(sender.send(Err(status))),
                };
            }
            // A half-closed stream stays open.
            std::future::pending::<()>().await;
        });
        let _ = is_first.await;
        Ok(Response::new(replies(receiver)))
    }

    type QueuesDownstreamStream = Replies<wire::QueuesDownstreamResponse>;

    async fn queues_downstream(
        &self,
        request: Request<Streaming<wire::QueuesDownstreamRequest>>,
    ) -> Result<Response<Self::QueuesDownstreamStream>, Status> {
        self.authorized(&request)?;
        let mut requests = request.into_inner();
        let (sender, receiver) = mpsc::unbounded_channel();
        let server = self.clone();
        let work = async move {
            let mut transactions: BTreeMap<String, Held> = BTreeMap::new();
            let mut known: Vec<String> = Vec::new();
            // One after the other.
            while let Ok(Some(request)) = requests.message().await {
                let kind = Kind::try_from(request.request_type_data).unwrap();
                server.state.lock().unwrap().asked.push((kind, request.max_items));
                let mut reply = wire::QueuesDownstreamResponse {
                    ref_request_id: request.request_id.clone(),
                    request_type_data: request.request_type_data,
                    transaction_id: request.ref_transaction_id.clone(),
                    ..Default::default()
                };
                let id = request.ref_transaction_id.clone();
                let mut fault = |text: &str| {
                    reply.is_error = true;
                    reply.error = text.to_owned();
                };
                match kind {
                    Kind::Get if request.channel.contains('*') => {
                        fault("Error 120: invalid queue name value")
                    }
                    Kind::Get => {
                        let mut got = server.get(&request).await;
                        for message in &mut got {
                            let attributes = message.attributes.get_or_insert_default();
                            attributes.receive_count = attributes.receive_count.max(0);
                        }
                        let id = server.next_id();
                        reply.transaction_id = id.clone();
                        reply.messages = got.clone();
                        for message in &mut reply.messages {
                            message.attributes.as_mut().unwrap().receive_count += 1;
                        }
                        known.push(id.clone());
                        if !got.is_empty() {
                            transactions.insert(id, Held { server: server.clone(), messages: got });
                        }
                    }
                    _ if !known.contains(&id) => fault(UNKNOWN),
                    Kind::CloseByClient => drop(transactions.remove(&id)),
                    Kind::ActiveOffsets => match transactions.get(&id) {
                        Some(held) => {
                            let sequence = |message: &wire::QueueMessage| {
                                message.attributes.as_ref().unwrap().sequence as i64
                            };
                            reply.active_offsets = held.messages.iter().map(sequence).collect();
                        }
                        None => fault("cannot get active offsets with closed response "),
                    },
                    Kind::AckAll | Kind::NAckAll | Kind::ReQueueAll => match transactions.remove(&id) {
                        None => fault("cannot ack messages with closed response "),
                        Some(mut held) => {
                            for mut message in std::mem::take(&mut held.messages) {
                                match kind {
                                    Kind::NAckAll => server.failed(message),
                                    Kind::ReQueueAll => {
                                        message.channel = request.re_queue_channel.clone();
                                        server.append(message);
                                    }
                                    _ => {}
                                }
                            }
                            server.changed.notify_waiters();
                        }
                    },
                    other => panic!("{other:?} is not used"),
                }
                let is_answered = reply.is_error || matches!(kind, Kind::Get | Kind::ActiveOffsets);
                if is_answered && sender.send(Ok(reply)).is_err() {
                    return;
                }
            }
        };
        // The work ends with the stream.
        let work = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(work));
        Ok(Response::new(Box::pin(Ending { replies: replies(receiver), _work: work })))
    }

    async fn send_queue_message(
        &self,
        request: Request<wire::QueueMessage>,
    ) -> Result<Response<wire::SendQueueMessageResult>, Status> {
        self.authorized(&request)?;
        let result = self.store(request.into_inner());
        self.changed.notify_waiters();
        Ok(Response::new(result))
    }

    type SendEventsStreamStream = Replies<wire::Result>;

    async fn send_events_stream(
        &self,
        request: Request<Streaming<wire::Event>>,
    ) -> Result<Response<Self::SendEventsStreamStream>, Status> {
        let mut events = request.into_inner();
        let (sender, receiver) = mpsc::unbounded_channel();
        let server = self.clone();
        tokio::spawn(async move {
            while let Ok(Some(event)) = events.message().await {
                let mut result =
                    wire::Result { event_id: event.event_id.clone(), sent: true, ..Default::default() };
                if event.body == "full" {
                    (result.sent, result.error) = (false, "nats: timeout".to_owned());
                } else {
                    server.publish(event.clone());
                }
                if event.store || !result.sent {
                    let _ = sender.send(Ok(result));
                }
            }
        });
        Ok(Response::new(replies(receiver)))
    }

    type SubscribeToEventsStream = Replies<wire::EventReceive>;

    async fn subscribe_to_events(
        &self,
        request: Request<wire::Subscribe>,
    ) -> Result<Response<Self::SubscribeToEventsStream>, Status> {
        let request = request.into_inner();
        if request.client_id.is_empty() {
            return Err(Status::internal("Error 101: invalid clientID value, cannot be empty"));
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut state = self.state.lock().unwrap();
        if request.subscribe_type_data == wire::subscribe::SubscribeType::EventsStore as i32 {
            let stored = state.store.entry(request.channel.clone()).or_default().clone();
            let durable = (request.channel.clone(), request.client_id.clone());
            let from = match request.events_store_type_data {
                _ if state.durable.contains_key(&durable) => state.durable[&durable] + 1,
                1 => stored.len() as u64 + 1,
                2 => 1,
                3 => stored.len() as u64,
                _ => u64::try_from(request.events_store_type_value).unwrap(),
            };
            for event in stored.iter().filter(|event| event.sequence >= from) {
                let _ = sender.send(Ok(event.clone()));
            }
            // Counted as delivered once they are sent.
            state.durable.insert(durable, stored.len() as u64);
        }
        state.subscribers.push((request.channel, sender));
        Ok(Response::new(replies(receiver)))
    }

    async fn send_event(&self, _: Request<wire::Event>) -> Result<Response<wire::Result>, Status> {
        Err(Status::unimplemented("the imitation has no such call"))
    }

    type SubscribeToRequestsStream = Replies<wire::Request>;

    async fn subscribe_to_requests(
        &self,
        request: Request<wire::Subscribe>,
    ) -> Result<Response<Self::SubscribeToRequestsStream>, Status> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.state.lock().unwrap().responders.push((request.into_inner(), sender));
        Ok(Response::new(replies(receiver)))
    }

    /// The first response wins. A command's loses its body and metadata.
    async fn send_request(
        &self,
        request: Request<wire::Request>,
    ) -> Result<Response<wire::Response>, Status> {
        let mut request = request.into_inner();
        if request.body.is_empty() && request.metadata.is_empty() {
            return Err(Status::internal("Error 115: invalid request, cannot be empty"));
        }
        let inbox = format!("_INBOX.{}", self.next_id());
        let (reply, replied) = oneshot::channel();
        request.reply_channel.clone_from(&inbox);
        {
            let mut state = self.state.lock().unwrap();
            state.inboxes.insert(inbox.clone(), reply);
            // A query never reaches a subscriber of commands.
            let kind = request.request_type_data + 2;
            let mut groups = std::collections::HashSet::new();
            let turn = usize::try_from(state.ids).unwrap() % state.responders.len().max(1);
            state.responders.retain(|(_, sender)| !sender.is_closed());
            let count = state.responders.len();
            for at in 0..count {
                let (subscribed, sender) = &state.responders[(at + turn) % count];
                let is_new = subscribed.group.is_empty() || groups.insert(subscribed.group.clone());
                if subscribed.subscribe_type_data == kind
                    && matches(&subscribed.channel, &request.channel)
                    && is_new
                {
                    let _ = sender.send(Ok(request.clone()));
                }
            }
        }
        let wait = Duration::from_millis(u64::try_from(request.timeout).unwrap());
        let replied = tokio::time::timeout(wait, replied).await;
        self.state.lock().unwrap().inboxes.remove(&inbox);
        match replied {
            Ok(Ok(response)) if request.request_type_data == 1 => Ok(Response::new(wire::Response {
                body: Default::default(),
                metadata: String::new(),
                ..response
            })),
            Ok(Ok(response)) => Ok(Response::new(response)),
            _ => Err(Status::internal("Error 301: timeout for request message")),
        }
    }

    /// An unknown reply channel is accepted in silence.
    async fn send_response(
        &self,
        response: Request<wire::Response>,
    ) -> Result<Response<wire::Empty>, Status> {
        let response = response.into_inner();
        let inbox = self.state.lock().unwrap().inboxes.remove(&response.reply_channel);
        if let Some(inbox) = inbox {
            let _ = inbox.send(response);
        }
        Ok(Response::new(wire::Empty {}))
    }

    async fn send_queue_messages_batch(
        &self,
        _: Request<wire::QueueMessagesBatchRequest>,
    ) -> Result<Response<wire::QueueMessagesBatchResponse>, Status> {
        Err(Status::unimplemented("the imitation has no such call"))
    }

    async fn receive_queue_messages(
        &self,
        _: Request<wire::ReceiveQueueMessagesRequest>,
    ) -> Result<Response<wire::ReceiveQueueMessagesResponse>, Status> {
        Err(Status::unimplemented("the imitation has no such call"))
    }

    type StreamQueueMessageStream = Replies<wire::StreamQueueMessagesResponse>;

    async fn stream_queue_message(
        &self,
        _: Request<Streaming<wire::StreamQueueMessagesRequest>>,
    ) -> Result<Response<Self::StreamQueueMessageStream>, Status> {
        Err(Status::unimplemented("the imitation has no such call"))
    }

    async fn ack_all_queue_messages(
        &self,
        _: Request<wire::AckAllQueueMessagesRequest>,
    ) -> Result<Response<wire::AckAllQueueMessagesResponse>, Status> {
        Err(Status::unimplemented("the imitation has no such call"))
    }
}

impl Imitation {
    /// Publishes an event; `dropped` is whether slow subscribers miss it.
    fn publish(&self, event: wire::Event) {
        let mut state = self.state.lock().unwrap();
        state.events.push(event.clone());
        let mut received = wire::EventReceive {
            event_id: event.event_id,
            channel: event.channel.clone(),
            metadata: event.metadata,
            body: event.body,
            tags: event.tags,
            timestamp: 1_795_241_637_097_026_852,
            sequence: 0,
        };
        if event.store {
            let stored = state.store.entry(event.channel.clone()).or_default();
            received.sequence = stored.len() as u64 + 1;
            stored.push(received.clone());
            let sequence = received.sequence;
            for ((channel, _), position) in &mut state.durable {
                if *channel == event.channel {
                    *position = sequence;
                }
            }
        }
        // The slow-consumer quirk: the event is dropped for those who are subscribed.
        if received.body == "dropped" {
            return;
        }
        state.subscribers.retain(|(channel, sender)| {
            !(matches(channel, &event.channel) && sender.send(Ok(received.clone())).is_err())
        });
    }
}

fn matches(pattern: &str, channel: &str) -> bool {
    pattern == channel || pattern.strip_suffix('>').is_some_and(|start| channel.starts_with(start))
}

/// Replies, and the work behind them.
struct Ending<T> {
    replies: Replies<T>,
    _work: tokio_util::task::AbortOnDropHandle<()>,
}

impl<T> Stream for Ending<T> {
    type Item = Result<T, Status>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.replies.as_mut().poll_next(cx)
    }
}
