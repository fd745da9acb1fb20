//! A relay, and when it has sent how much.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tower_outbox::messenger::Capabilities;
use tower_outbox::outbox::{Outbox, RelaySettings};
use tower_outbox::store::{Counts, Store};
use tower_outbox::{BoxError, Health, Message, Messenger, Unsent, async_trait};

/// Relays `messages` that are stored through `inner`, and gives the seconds it took to come from each `step` of them to
/// the next, counted when they are confirmed; and what is left then.
pub(crate) async fn relay(
    inner: impl Messenger,
    store: Arc<dyn Store>,
    messages: u64,
    step: u64,
) -> (Vec<f64>, Counts) {
    let marks = Arc::new(Marks { sent: AtomicU64::new(0), messages, step, ..Marks::default() });
    let counting = Counting { inner, marks: Arc::clone(&marks) };
    let (outbox, relay) = Outbox::new(counting, store, RelaySettings::default());
    let done = Arc::clone(&marks);
    let mut before = Instant::now();
    let run =
        relay.with_graceful_shutdown(async move { done.done.notified().await }, Duration::from_secs(10));
    let left = tokio::spawn(run).await.expect("it does not panic");
    drop(outbox);
    let marks = marks.at.lock().unwrap_or_else(PoisonError::into_inner);
    let seconds = marks.iter().map(|&at| (at - std::mem::replace(&mut before, at)).as_secs_f64());
    (seconds.collect(), left)
}

#[derive(Default)]
struct Marks {
    sent: AtomicU64,
    messages: u64,
    step: u64,
    at: Mutex<Vec<Instant>>,
    done: Notify,
}

/// Counts what is confirmed.
struct Counting<M> {
    inner: M,
    marks: Arc<Marks>,
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<M: Messenger> Messenger for Counting<M> {
    async fn send(&self, batch: Vec<Message>) -> Result<(), Unsent> {
        let count = batch.len() as u64;
        self.inner.send(batch).await?;
        let marks = &self.marks;
        let before = marks.sent.fetch_add(count, Ordering::Relaxed);
        let sent = before + count;
        if sent / marks.step > before / marks.step {
            marks.at.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
        }
        if sent >= marks.messages && before < marks.messages {
            marks.done.notify_one();
        }
        Ok(())
    }

    fn check(&self, message: &Message) -> Result<(), BoxError> {
        self.inner.check(message)
    }

    async fn health(&self) -> Health {
        self.inner.health().await
    }

    async fn close(&self, deadline: Duration) {
        self.inner.close(deadline).await;
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
}
