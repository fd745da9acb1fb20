//! Messengers that misbehave on purpose.

use std::future::Future;
use std::sync::{Arc, Mutex};

use tokio::sync::Semaphore;
use tokio::task::yield_now;
use tokio::time::timeout;
use tower_outbox::{Failure, Message, Messenger, Recording, Sent, Unsent, async_trait};

use super::MINUTE;

pub type SendResult = Result<(), Unsent>;

/// A messenger made of a function of the batch.
pub fn fake<F, Fut>(send: F) -> Fake<F>
where
    F: Fn(Vec<Message>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = SendResult> + Send + 'static,
{
    Fake(send)
}

pub struct Fake<F>(F);

#[async_trait]
impl<F, Fut> Messenger for Fake<F>
where
    F: Fn(Vec<Message>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = SendResult> + Send + 'static,
{
    async fn send(&self, batch: Vec<Message>) -> SendResult {
        (self.0)(batch).await
    }
}

/// Hands everything back.
pub fn down(failure: Failure) -> impl Messenger {
    fake(move |batch| std::future::ready(Err(Unsent::new(batch, &failure))))
}

/// Panics at once, or after it has waited.
pub fn panicking(after_waiting: bool) -> impl Messenger {
    fake(move |_| async move {
        if after_waiting {
            yield_now().await;
        }
        panic!("the messenger panics")
    })
}

/// A recording nobody hands anything over to but us, and its view.
pub fn recording() -> (Recording, Sent) {
    let recording = Recording::new();
    let sent = recording.listen();
    (recording, sent)
}

/// A recording behind a gate: each send waits there.
pub fn held() -> (Held, Gate, Sent) {
    let (inner, sent) = recording();
    let gate = Gate::default();
    (Held { inner, gate: gate.clone() }, gate, sent)
}

pub struct Held {
    inner: Recording,
    gate: Gate,
}

#[async_trait]
impl Messenger for Held {
    async fn send(&self, batch: Vec<Message>) -> SendResult {
        self.gate.0.begun.add_permits(1);
        if let Ok(pass) = self.gate.0.open.acquire().await {
            pass.forget();
        }
        self.inner.send(batch).await
    }

    fn in_flight(&self) -> tower_outbox::InFlight {
        self.inner.in_flight()
    }
}

#[derive(Clone)]
pub struct Gate(Arc<Doors>);

struct Doors {
    begun: Semaphore,
    open: Semaphore,
}

impl Default for Gate {
    fn default() -> Self {
        Self(Arc::new(Doors { begun: Semaphore::new(0), open: Semaphore::new(0) }))
    }
}

impl Gate {
    /// Waits until one more send has come to the gate.
    pub async fn begun(&self) {
        timeout(MINUTE, self.0.begun.acquire()).await.expect("no send comes").unwrap().forget();
    }

    /// Lets this many sends pass.
    pub fn pass(&self, sends: usize) {
        self.0.open.add_permits(sends);
    }

    /// Lets every send pass.
    pub fn open(&self) {
        self.0.open.close();
    }
}

/// Topics, in the order they were written down.
#[derive(Clone, Default)]
pub struct Journal(Arc<Mutex<Vec<String>>>);

impl Journal {
    pub fn write(&self, topic: impl Into<String>) {
        self.0.lock().unwrap().push(topic.into());
    }

    pub fn read(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// Sends message by message, waiting before and after each.
pub fn slow(journal: Journal) -> impl Messenger {
    fake(move |batch: Vec<Message>| {
        let journal = journal.clone();
        async move {
            for message in batch {
                yield_now().await;
                journal.write(message.topic().to_string());
                yield_now().await;
            }
            Ok(())
        }
    })
}
