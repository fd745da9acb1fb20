//! A messenger for tests, which keeps the sent messages.

use std::sync::{Arc, Mutex, Weak};

use async_trait::async_trait;
use tokio::sync::Notify;

use crate::message::Message;
use crate::messenger::in_flight::InFlight;
use crate::messenger::{Capabilities, Messenger, Unsent};
use crate::util::sync::lock;

/// Records the sent messages, for tests: call [`listen`](Self::listen) first, then act, then read [`Sent`].
///
/// A clone is a handle to the same recording.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use tower_outbox::testing::Recording;
/// use tower_outbox::{Message, Messenger};
///
/// let recording = Recording::new();
/// let sent = recording.listen();
/// recording.send(vec![Message::json("user.created", "jo").unwrap()]).await.unwrap();
/// assert_eq!(sent.topics(), ["user.created"]);
/// # });
/// ```
#[derive(Clone, Debug, Default)]
pub struct Recording {
    listeners: Arc<Mutex<Vec<Weak<View>>>>,
    in_flight: InFlight,
}

impl Recording {
    /// Makes a recording without listeners.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts to listen: the result holds the messages that are sent from now on.
    #[must_use]
    pub fn listen(&self) -> Sent {
        let view = Arc::default();
        lock(&self.listeners).push(Arc::downgrade(&view));
        Sent { view, in_flight: self.in_flight.clone() }
    }
}

#[derive(Debug, Default)]
struct View {
    messages: Mutex<Vec<Message>>,
    changed: Notify,
}

#[async_trait]
impl Messenger for Recording {
    async fn send(&self, batch: Vec<Message>) -> Result<(), Unsent> {
        lock(&self.listeners).retain(|listener| match listener.upgrade() {
            Some(view) => {
                lock(&view.messages).extend(batch.iter().cloned());
                view.changed.notify_waiters();
                true
            }
            None => false,
        });
        Ok(())
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default().with_in_flight(self.in_flight.clone())
    }
}

/// The messages sent to a [`Recording`] since [`listen`](Recording::listen).
#[derive(Clone, Debug)]
pub struct Sent {
    view: Arc<View>,
    in_flight: InFlight,
}

impl Sent {
    /// Returns the messages, in the order they were sent.
    #[must_use]
    pub fn messages(&self) -> Vec<Message> {
        lock(&self.view.messages).clone()
    }

    /// Returns the topics, in the order they were sent: compare them with an array of texts.
    #[must_use]
    pub fn topics(&self) -> Vec<String> {
        lock(&self.view.messages).iter().map(|message| message.topic().to_string()).collect()
    }

    /// Returns the bodies of one topic as JSON, in the order they were sent.
    ///
    /// # Panics
    /// When a body is not JSON.
    #[must_use]
    pub fn json(&self, topic: &str) -> Vec<serde_json::Value> {
        let messages = lock(&self.view.messages);
        let of_topic = messages.iter().filter(|message| message.topic().as_str() == topic);
        of_topic.map(|message| serde_json::from_slice(message.body()).expect("the body is JSON")).collect()
    }

    /// Waits until a message of this topic is recorded, and returns the first one: for messages that leave after the response, through
    /// an outbox or a [`Background`](crate::background::Background). It waits without a limit: put a timeout around it.
    ///
    /// # Cancel safety
    /// It may be dropped at any time.
    pub async fn wait_for(&self, topic: &str) -> Message {
        self.wait_until(|messages| messages.iter().find(|message| message.topic().as_str() == topic).cloned())
            .await
    }

    /// Waits until this many messages are recorded, of whatever topic, and returns all. It waits without a limit: put a timeout around it.
    ///
    /// # Cancel safety
    /// It may be dropped at any time.
    pub async fn wait_for_count(&self, count: usize) -> Vec<Message> {
        self.wait_until(|messages| (messages.len() >= count).then(|| messages.to_vec())).await
    }

    async fn wait_until<T>(&self, found: impl Fn(&[Message]) -> Option<T>) -> T {
        loop {
            let changed = self.view.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(found) = found(&lock(&self.view.messages)) {
                return found;
            }
            changed.await;
        }
    }

    /// Waits until no message is in flight to the recording, neither of a client that has gone nor in a
    /// [`Background`](crate::background::Background). Then all messages are recorded.
    ///
    /// # Cancel safety
    /// It may be dropped at any time.
    pub async fn flushed(&self) {
        self.in_flight.wait_idle().await;
    }
}
