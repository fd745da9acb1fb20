//! A queue that the checks send to and receive from.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use crate::message::Message;
use crate::messenger::Messenger;
use crate::source::{Source, Unsettled};
use crate::testing::support::stores::STUCK;

/// Long enough to show that no message comes.
const SILENCE: Duration = Duration::from_millis(300);

type DeadLetters = Box<dyn Fn() -> Pin<Box<dyn Future<Output = Vec<Dead>> + Send>> + Send + Sync>;

/// The abilities of a source beyond the contract; none by default.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct SourceCapabilities {
    /// A delivery has the failures of its earlier attempts.
    pub history: bool,
    /// The source knows whether a message is delivered for the first time.
    pub redelivered: bool,
}

impl SourceCapabilities {
    /// Sets whether a delivery has the failures of its earlier attempts.
    #[must_use]
    pub fn with_history(self, history: bool) -> Self {
        Self { history, ..self }
    }

    /// Sets whether the source knows that a message is delivered for the first time.
    #[must_use]
    pub fn with_redelivered(self, redelivered: bool) -> Self {
        Self { redelivered, ..self }
    }
}

/// A dead letter.
#[derive(Clone, Debug)]
pub struct Dead {
    /// The id of the message.
    pub id: Uuid,
    /// Why each attempt failed, oldest first; the last is why the message was given up on.
    pub reasons: Vec<String>,
}

/// An empty queue, with a messenger that sends to it and the source under test.
pub struct SourceHarness {
    /// Sends to the queue.
    pub messenger: Arc<dyn Messenger>,
    /// The source under test.
    pub source: Arc<dyn Source>,
    /// The topic of the messages that the queue receives.
    pub topic: String,
    /// The abilities of the source.
    pub capabilities: SourceCapabilities,
    dead_letters: DeadLetters,
    _kept: Box<dyn Any + Send + Sync>,
}

impl SourceHarness {
    /// A harness for this queue. `dead_letters` returns every dead letter there is.
    pub fn new<F, Fut>(
        messenger: Arc<dyn Messenger>,
        source: Arc<dyn Source>,
        topic: impl Into<String>,
        dead_letters: F,
    ) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Vec<Dead>> + Send + 'static,
    {
        Self {
            messenger,
            source,
            topic: topic.into(),
            capabilities: SourceCapabilities::default(),
            dead_letters: Box::new(move || Box::pin(dead_letters())),
            _kept: Box::new(()),
        }
    }

    /// Sets what the source can do.
    #[must_use]
    pub fn with_capabilities(self, capabilities: SourceCapabilities) -> Self {
        Self { capabilities, ..self }
    }

    /// Keeps a value, such as a folder or a connection, until the harness is dropped.
    #[must_use]
    pub fn with_kept(self, value: impl Any + Send + Sync) -> Self {
        Self { _kept: Box::new(value), ..self }
    }

    /// Returns a message with a number as its body.
    pub fn message(&self, n: u64) -> Message {
        self.message_with(&json!({"n": n}))
    }

    /// Returns a message with this JSON body.
    pub fn message_with(&self, body: &serde_json::Value) -> Message {
        Message::json(self.topic.clone(), body).unwrap()
    }

    /// Sends so many messages.
    pub async fn send(&self, count: u64) -> Vec<Message> {
        let messages: Vec<_> = (0..count).map(|n| self.message(n)).collect();
        self.messenger.send(messages.clone()).await.expect("the messages are sent");
        messages
    }

    /// Receives so many messages.
    pub async fn receive(&self, count: usize) -> Vec<Unsettled> {
        let mut received = Vec::new();
        while received.len() < count {
            let more = timeout(STUCK, self.source.receive(count - received.len())).await;
            received.extend(more.expect("no message comes").expect("messages are received"));
        }
        received
    }

    /// Receives one message.
    pub async fn receive_one(&self) -> Unsettled {
        self.receive(1).await.remove(0)
    }

    /// Checks that no message comes.
    pub async fn assert_empty(&self) {
        if let Ok(more) = timeout(SILENCE, self.source.receive(10)).await {
            panic!("a message comes: {more:?}");
        }
    }

    /// Waits until there are so many dead letters, and returns them.
    pub async fn dead(&self, count: usize) -> Vec<Dead> {
        let found = async {
            loop {
                let dead = (self.dead_letters)().await;
                if dead.len() >= count {
                    return dead;
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        let dead = timeout(STUCK, found).await.expect("no dead letter comes");
        assert_eq!(dead.len(), count, "dead letters");
        dead
    }
}

impl fmt::Debug for SourceHarness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { topic, capabilities, .. } = self;
        f.debug_struct("SourceHarness")
            .field("topic", topic)
            .field("capabilities", capabilities)
            .finish_non_exhaustive()
    }
}

/// Returns the id of a received message.
#[doc(hidden)]
pub fn id(delivery: &Unsettled) -> Uuid {
    delivery.view().expect("it can be read").message().id()
}

#[doc(hidden)]
pub fn ids_of(deliveries: &[Unsettled]) -> Vec<Uuid> {
    deliveries.iter().map(id).collect()
}

#[doc(hidden)]
pub fn ids(messages: &[Message]) -> Vec<Uuid> {
    messages.iter().map(Message::id).collect()
}
