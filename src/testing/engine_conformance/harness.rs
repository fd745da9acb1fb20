//! An engine that the checks use.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::channels::{
    ChannelName, Content, Engine, EngineError, Policy, QueueDelivery, QueueMessage, Receipt, Receive,
    Received, Sent, StreamMessage, StreamSubscription, Subscribe,
};
use crate::testing::support::stores::STUCK;

/// An engine without channels.
pub struct EngineHarness {
    /// The engine under test.
    pub engine: Arc<dyn Engine>,
    pub(super) latency: Duration,
    _kept: Box<dyn Any + Send + Sync>,
}

impl EngineHarness {
    /// A harness for this engine.
    #[must_use]
    pub fn new(engine: Arc<dyn Engine>) -> Self {
        Self { engine, latency: Duration::from_micros(300), _kept: Box::new(()) }
    }

    /// Sets about how long a receive takes; 300 µs by default. A check drops receives after this time.
    #[must_use]
    pub fn with_latency(self, latency: Duration) -> Self {
        Self { latency, ..self }
    }

    /// Keeps a value, such as a folder, until the harness is dropped.
    #[must_use]
    pub fn with_kept(self, value: impl Any + Send + Sync) -> Self {
        Self { _kept: Box::new(value), ..self }
    }

    /// Sends messages with these bodies and this policy to the queue `q`.
    pub(super) async fn send_with(&self, bodies: &[&str], policy: &Policy) -> Vec<Sent> {
        let messages = bodies
            .iter()
            .map(|body| (name("q"), QueueMessage { content: content(body), policy: policy.clone() }))
            .collect();
        self.engine.send(messages).await.into_iter().map(Result::unwrap).collect()
    }

    pub(super) async fn send(&self, bodies: &[&str]) -> Vec<Sent> {
        self.send_with(bodies, &Policy::default()).await
    }

    /// Receives from a queue, and waits for the first message.
    pub(super) async fn receive_from(&self, queue: &str, receive: Receive) -> Received {
        let receive = Receive { wait: STUCK, ..receive };
        self.engine.receive(&name(queue), receive).await.unwrap()
    }

    /// Receives up to this many messages from the queue `q`.
    pub(super) async fn receive(&self, max: usize) -> Received {
        self.receive_from("q", Receive { max, ..Receive::default() }).await
    }

    /// Receives one message.
    pub(super) async fn receive_one(&self) -> (Receipt, QueueDelivery) {
        let mut received = self.receive(1).await;
        (received.receipt, received.messages.remove(0))
    }

    /// Returns the bodies in a queue, without waiting.
    pub(super) async fn peek(&self, queue: &str) -> Vec<String> {
        let peeked = self.engine.peek(&name(queue), 100, Duration::ZERO).await.unwrap();
        bodies(&peeked.messages)
    }

    pub(super) async fn append(&self, texts: &[&str]) -> Vec<u64> {
        let messages = texts.iter().map(|body| (name("s"), content(body))).collect();
        self.engine.append(messages).await.into_iter().map(|appended| appended.unwrap().sequence).collect()
    }

    pub(super) async fn subscribe(&self, subscribe: Subscribe) -> Box<dyn StreamSubscription> {
        self.engine.subscribe_stream(&name("s"), subscribe).await.unwrap()
    }
}

impl fmt::Debug for EngineHarness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineHarness").finish_non_exhaustive()
    }
}

pub(super) fn name(name: &str) -> ChannelName {
    ChannelName::new(name).unwrap()
}

pub(super) fn content(body: &str) -> Content {
    Content {
        id: format!("id-{body}"),
        client: "suite".to_owned(),
        body: body.to_owned().into(),
        ..Content::default()
    }
}

pub(super) fn text(content: &Content) -> String {
    String::from_utf8(content.body.to_vec()).unwrap()
}

pub(super) fn bodies(messages: &[QueueDelivery]) -> Vec<String> {
    messages.iter().map(|message| text(&message.content)).collect()
}

/// Receives this many messages of a stream.
pub(super) async fn next(subscription: &dyn StreamSubscription, count: usize) -> Vec<StreamMessage> {
    let mut messages = Vec::new();
    while messages.len() < count {
        let more = timeout(STUCK, subscription.receive(count - messages.len())).await;
        messages.extend(more.expect("no message comes").unwrap());
    }
    messages
}

/// Receives this many messages of a stream, acknowledges them, and returns their sequences.
pub(super) async fn next_acked(subscription: &dyn StreamSubscription, count: usize) -> Vec<u64> {
    let mut sequences = Vec::new();
    while sequences.len() < count {
        for message in next(subscription, (count - sequences.len()).min(500)).await {
            subscription.ack_soon(message.sequence);
            sequences.push(message.sequence);
        }
    }
    subscription.ack(sequences[count - 1]).await.unwrap();
    sequences
}

/// Checks that no message of a stream comes.
pub(super) async fn assert_silent(subscription: &dyn StreamSubscription) {
    if let Ok(more) = timeout(Duration::from_millis(200), subscription.receive(10)).await {
        panic!("a message comes: {more:?}");
    }
}

/// The errors of one kind, as a test of it.
pub(super) fn is_unknown<T: fmt::Debug>(result: &Result<T, EngineError>) -> bool {
    matches!(result, Err(EngineError::UnknownReceipt(_)))
}
