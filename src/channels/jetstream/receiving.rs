//! One receive from a queue.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::error::Fault;
use super::held::Held;
use super::in_use::QueueInUse;
use super::message::{delivery, headers, new_word, visible};
use super::opening::CONSUMER;
use super::parts::EngineParts;
use super::pull::{LONGEST, Pulled, Puller};
use super::wire::{self, POLICY, QueuePolicy};
use crate::channels::content::MOST_BYTES;
use crate::channels::error::EngineError;
use crate::channels::info::ChannelKind;
use crate::channels::queue_types::{QueueDelivery, Receipt, Receive, Received};
use crate::telemetry;
use crate::util::in_order::join_in_order;
use crate::util::sync::lock;

/// The most messages of one receive or peek.
pub(super) const MOST: usize = 10_000;
/// The longest wait of one receive.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// The pause before messages are requested again that no server could deliver.
const PAUSE: Duration = Duration::from_millis(100);
/// Lets the server deliver a message again in a second.
const LATER: &[u8] = br#"-NAK {"delay": 1000000000}"#;

/// The place of a message that was delivered again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Again {
    Stored,
    /// Another engine has stored it among the delayed messages.
    Delayed,
    Missing,
}

/// A receive. It runs in a task of its own: when nobody waits for it any more, messages may be on their way, which are handed back.
pub(super) struct Taking {
    shared: Arc<EngineParts>,
    place: Arc<QueueInUse>,
    receive: Receive,
    receipt: u64,
    cancel: CancellationToken,
}

/// The messages of a receive. Dropping it hands them back.
pub(super) struct TakenNow {
    shared: Arc<EngineParts>,
    place: Arc<QueueInUse>,
    receipt: u64,
    messages: Vec<QueueDelivery>,
    /// The messages that were acknowledged before they got to the receiver.
    acknowledged: Vec<Held>,
    is_kept: bool,
}

impl TakenNow {
    pub(super) fn keep(mut self) -> Received {
        self.is_kept = true;
        for message in &self.messages {
            self.place.count_out(message.content.size());
        }
        let expired = self.place.expired.swap(0, Ordering::Relaxed);
        Received::new(Receipt(self.receipt), std::mem::take(&mut self.messages), expired)
    }
}

impl Drop for TakenNow {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        self.shared.release(self.receipt);
        let (acknowledged, messages) =
            (std::mem::take(&mut self.acknowledged), std::mem::take(&mut self.messages));
        if acknowledged.is_empty() {
            return;
        }
        let (shared, place) = (Arc::clone(&self.shared), Arc::clone(&self.place));
        place.returning.begin();
        self.shared.spawn(async move {
            let back = acknowledged.into_iter().zip(messages);
            join_in_order(back.map(|(held, message)| shared.send_again(&place, held, message))).await;
            place.returning.end();
        });
    }
}

impl Taking {
    pub(super) fn new(
        shared: Arc<EngineParts>,
        place: Arc<QueueInUse>,
        receive: Receive,
        receipt: u64,
        cancel: CancellationToken,
    ) -> Self {
        Self { shared, place, receive, receipt, cancel }
    }

    pub(super) async fn run(self) -> Result<TakenNow, EngineError> {
        let Self { shared, place, receipt, .. } = &self;
        let (messages, acknowledged) = (Vec::new(), Vec::new());
        let (shared, place) = (Arc::clone(shared), Arc::clone(place));
        let mut now = TakenNow { shared, place, receipt: *receipt, messages, acknowledged, is_kept: false };
        let taken = self.take(&mut now.messages).await;
        let shared = &self.shared;
        if shared.closing.is_cancelled() {
            return Err(EngineError::Closed);
        }
        taken?;
        now.messages.sort_by_key(|message| message.sequence);
        if self.receive.auto_ack && !now.messages.is_empty() && !self.cancel.is_cancelled() {
            now.acknowledged = self.acknowledge().await?;
        }
        Ok(now)
    }

    async fn take(&self, messages: &mut Vec<QueueDelivery>) -> Result<(), EngineError> {
        let Self { shared, place, receive, cancel, .. } = self;
        place.returning.done().await;
        let deadline = Instant::now() + receive.wait.min(LONGEST_WAIT);
        let max = receive.max.clamp(1, MOST);
        let stop = cancel;
        let (mut puller, mut bytes, mut failing) = (None, 0, None::<Instant>);
        let mut wait = None;
        let taken = loop {
            // First what is there, until there is nothing more; then one message to wait for.
            let batch = if wait.is_some() { 1 } else { max - messages.len() };
            let pulled = match self.pull(&mut puller, batch, wait, stop).await {
                Ok(pulled) => pulled,
                Err(fault) => {
                    let since = *failing.get_or_insert_with(Instant::now);
                    let is_lasting = since.elapsed() >= shared.settings.broker.send_timeout();
                    if !messages.is_empty() {
                        break Ok(());
                    }
                    if !fault.is_transient() || is_lasting {
                        break Err(fault.of_channel(&format_args!("queue {}", place.name), place.limits()));
                    }
                    if let Err(error) = self.find_again().await {
                        break Err(error);
                    }
                    if stop.is_cancelled() || Instant::now() >= deadline {
                        break Ok(());
                    }
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            failing = None;
            let has_more = !pulled.is_empty();
            self.hold(pulled, messages, &mut bytes).await;
            if messages.len() >= max || bytes >= MOST_BYTES || stop.is_cancelled() {
                break Ok(());
            }
            if has_more {
                wait = None;
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || !messages.is_empty() && !receive.until_full {
                break Ok(());
            }
            wait = Some(left.min(LONGEST));
        };
        if let Some(puller) = puller.and_then(|puller| place.keep_puller(puller)) {
            let rest = puller.stop(&shared.connection).await;
            self.hold(rest, messages, &mut bytes).await;
        }
        // More than was asked for.
        for message in messages.drain(max.min(messages.len())..) {
            shared.release_one(self.receipt, message.sequence);
        }
        taken
    }

    /// Looks whether the queue was deleted while its messages were waited for.
    async fn find_again(&self) -> Result<(), EngineError> {
        let Self { shared, place, .. } = self;
        shared.check(ChannelKind::Queue, &place.name, &place.created).await?;
        match shared.known_queue(&place.name) {
            Some(known) if known.number == place.number => Ok(()),
            _ => Err(EngineError::unavailable("the queue was deleted while it was received from")),
        }
    }

    async fn pull(
        &self,
        puller: &mut Option<Puller>,
        batch: usize,
        wait: Option<Duration>,
        stop: &CancellationToken,
    ) -> Result<Vec<Pulled>, Fault> {
        let Self { shared, place, .. } = self;
        if puller.is_none() {
            *puller = match place.idle_puller(&shared.connection) {
                Some(puller) => Some(puller),
                None => Some(Puller::open(&shared.connection, &place.stream, CONSUMER).await?),
            };
        }
        let Some(used) = puller else { return Ok(Vec::new()) };
        let mut pulled = used.pull(&shared.connection, batch, wait, stop).await;
        if !used.is_clean()
            && let Some(used) = puller.take()
        {
            // Its messages could come at any time.
            let rest = used.stop(&shared.connection).await;
            match &mut pulled {
                Ok(pulled) => pulled.extend(rest),
                Err(_) => pulled = Ok(rest),
            }
        }
        pulled
    }

    /// Holds what was delivered, but what has expired, is held already or was settled by an engine that is gone.
    async fn hold(&self, pulled: Vec<Pulled>, messages: &mut Vec<QueueDelivery>, bytes: &mut u64) {
        let Self { shared, place, receive, receipt, .. } = self;
        let read = |one: Pulled| {
            let policy: QueuePolicy = wire::read(one.message.headers.as_ref(), POLICY);
            (one, policy)
        };
        let pulled: Vec<(Pulled, QueuePolicy)> = pulled.into_iter().map(read).collect();
        let again = pulled.iter().map(async |(one, _)| match one.delivered {
            ..=1 => Again::Stored,
            _ => self.again(one).await,
        });
        let again: Vec<Again> = join_in_order(again).await;
        let mut gone = Vec::new();
        for ((one, policy), again) in pulled.into_iter().zip(again) {
            if again == Again::Missing {
                // A leader that was just elected may not know it yet. One that is gone does not come again.
                shared.settle_soon(one.reply, LATER).await;
                continue;
            }
            let (sequence, is_settled) = (place.sequence(one.sequence), again == Again::Delayed);
            if is_settled || policy.has_expired() && !lock(&shared.taken).is_held(place, sequence) {
                if !is_settled {
                    place.expired.fetch_add(1, Ordering::Relaxed);
                    telemetry::channel_expired(place.name.as_str());
                }
                gone.push((one.sequence, one.reply));
                continue;
            }
            let held = Held::new(sequence, one.last_word().to_owned(), one.reply.clone(), policy.clone());
            // Acknowledged at once, so that no visibility can run out before.
            let visibility = receive.visibility.filter(|_| !receive.auto_ack);
            if !lock(&shared.taken).hold(place, *receipt, held, visibility) {
                continue;
            }
            let content = wire::read_content(one.message.headers.as_ref(), one.message.payload);
            *bytes += content.body.len() as u64;
            let mut message = delivery(content, &policy, sequence, one.time);
            message.redelivered |= one.delivered > 1;
            messages.push(message);
        }
        if receive.visibility.is_some() {
            shared.due.notify_one();
        }
        if !gone.is_empty() {
            let (shared, place) = (Arc::clone(shared), Arc::clone(place));
            self.shared.spawn(async move {
                let gone =
                    gone.iter().map(|(sequence, reply)| shared.remove(&place.stream, *sequence, reply));
                // The others come again.
                join_in_order(gone).await;
            });
        }
    }

    /// Looks for a message that the server delivered again since it heard nothing for a while: another engine may have settled it meanwhile.
    async fn again(&self, one: &Pulled) -> Again {
        let Self { shared, place, .. } = self;
        let (stored, delayed) = tokio::join!(
            shared.raw(&place.stream, json!({"seq": one.sequence})),
            shared.is_delayed(&place.word, one.last_word()),
        );
        match (stored, delayed) {
            (_, Ok(true)) => Again::Delayed,
            (Ok(None), _) => Again::Missing,
            _ => Again::Stored,
        }
    }

    /// Acknowledges all that the receipt holds.
    async fn acknowledge(&self) -> Result<Vec<Held>, EngineError> {
        let Self { shared, place, receipt, .. } = self;
        let settling =
            lock(&shared.taken).begin(Receipt(*receipt), crate::channels::queue_types::Which::All)?;
        let removed = shared.remove_each(place, &settling.messages).await;
        let (mut acknowledged, mut failed) = (Vec::new(), None);
        for (held, acked) in settling.messages.iter().zip(removed) {
            match acked {
                Ok(()) => {
                    lock(&shared.taken).settled(place, *receipt, held.sequence);
                    acknowledged.push(held.clone());
                }
                Err(fault) => {
                    lock(&shared.taken).unsettled(place, held.sequence);
                    failed = Some(fault);
                }
            }
        }
        match failed {
            // A part may be gone: it is better received than lost.
            Some(fault) if acknowledged.is_empty() => {
                Err(fault.of_channel(&format_args!("queue {}", place.name), place.limits()))
            }
            _ => Ok(acknowledged),
        }
    }
}

impl EngineParts {
    /// Whether a message waits in the stream of delayed ones.
    pub(super) async fn is_delayed(&self, word: &str, message: &str) -> Result<bool, Fault> {
        let subject = self.subject(&format!("delayed.{word}.{message}"));
        Ok(self.raw(&self.delayed(), json!({"last_by_subj": subject})).await?.is_some())
    }

    /// Hands one message of a receipt back.
    fn release_one(self: &Arc<Self>, receipt: u64, sequence: u64) {
        let which = crate::channels::queue_types::Which::Sequences(vec![sequence]);
        let Ok(settling) = lock(&self.taken).begin(Receipt(receipt), which) else { return };
        settling.place.returning.begin();
        let shared = Arc::clone(self);
        self.spawn(async move {
            shared.hand_back(settling.messages.iter().map(|held| &held.reply)).await;
            lock(&shared.taken).settled(&settling.place, receipt, sequence);
            settling.place.returning.end();
        });
    }

    /// Sends a message again that was acknowledged and did not get to its receiver.
    async fn send_again(&self, place: &QueueInUse, held: Held, message: QueueDelivery) {
        let written = headers(&message.content, &held.policy);
        let stored = match written {
            Ok(headers) => {
                let headers = visible(headers, &new_word(), &held.policy);
                self.store_in_queue(&place.name, &held.word, headers, message.content.body).await
            }
            Err(error) => Err(error.into()),
        };
        if let Err(fault) = stored {
            let error = fault.of_channel(&format_args!("queue {}", place.name), place.limits());
            tracing::error!(queue = %place.name, %error, "a message that was acknowledged by its receive did not get to the consumer, and is lost");
        }
    }
}
