//! A messenger for tests, which keeps the sent messages.

use std::sync::{Arc, Mutex, Weak};

use async_trait::async_trait;

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
        let messages = Arc::default();
        lock(&self.listeners).push(Arc::downgrade(&messages));
        Sent { messages, in_flight: self.in_flight.clone() }
    }
}

type View = Mutex<Vec<Message>>;

#[async_trait]
impl Messenger for Recording {
    async fn send(&self, batch: Vec<Message>) -> Result<(), Unsent> {
        lock(&self.listeners).retain(|listener| match listener.upgrade() {
            Some(messages) => {
                lock(&messages).extend(batch.iter().cloned());
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
    messages: Arc<View>,
    in_flight: InFlight,
}

impl Sent {
    /// Returns the messages, in the order they were sent.
    #[must_use]
    pub fn messages(&self) -> Vec<Message> {
        lock(&self.messages).clone()
    }

    /// Returns the topics, in the order they were sent: compare them with an array of texts.
    #[must_use]
    pub fn topics(&self) -> Vec<String> {
        lock(&self.messages).iter().map(|message| message.topic().to_string()).collect()
    }

    /// Returns the bodies of one topic as JSON, in the order they were sent.
    ///
    /// # Panics
    /// When a body is not JSON.
    #[must_use]
    pub fn json(&self, topic: &str) -> Vec<serde_json::Value> {
        let messages = lock(&self.messages);
        let of_topic = messages.iter().filter(|message| message.topic().as_str() == topic);
        of_topic.map(|message| serde_json::from_slice(message.body()).expect("the body is JSON")).collect()
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
