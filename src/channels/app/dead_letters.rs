//! The dead letters in a queue of channels, and how they are requeued.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::handle::Channels;
use super::message;
use super::settings::ChannelsSettings;
use crate::channels::embedded::EmbeddedEngine;
use crate::channels::engine::Engine;
use crate::channels::error::EngineError;
use crate::channels::info::ChannelKind;
#[cfg(feature = "nats")]
use crate::channels::jetstream::{JetstreamEngine, JetstreamEngineSettings};
use crate::channels::name::ChannelName;
use crate::channels::queue_types::{Policy, QueueDelivery, QueueMessage, Receipt, Receive, Settle, Which};
use crate::log::error::OpenError;
use crate::message::headers::{FAILURES, REASON};
use crate::source::dead_letters::{DeadLetter, DeadLetterQueue, DeadLettersError, Target};
use crate::util::error::Chain;

/// How long the engine may take to close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a message of a shared queue may take to come.
const SHARED_WAIT: Duration = Duration::from_secs(1);

/// A queue of dead letters, in this process or in the folder of an app that is stopped. Messages are taken one by one; those that are neither requeued nor
/// removed keep their position.
pub(crate) struct ChannelDeadLetters {
    engine: Arc<dyn Engine>,
    /// Whether the engine is closed with the queue.
    is_own: bool,
    name: ChannelName,
    left: u64,
    /// The last message that was there at first.
    last: u64,
    /// How long a message may take to come: other engines of shared channels may just have handed it back.
    wait: Duration,
    passed: Vec<Receipt>,
    current: Option<(Receipt, QueueDelivery)>,
}

impl ChannelDeadLetters {
    pub(crate) async fn open(
        settings: &ChannelsSettings,
        queue: String,
    ) -> Result<Box<dyn DeadLetterQueue>, DeadLettersError> {
        // Looking creates no folder, and no queue.
        let name = ChannelName::new(&queue).ok().filter(|_| settings.path.is_dir());
        let Some(name) = name else { return Err(DeadLettersError::NoQueue(queue)) };
        let engine = EmbeddedEngine::open(settings.engine()).await.map_err(|error| {
            DeadLettersError::Closed(match error {
                OpenError::InUse { path } => format!(
                    "{} is in use by a running app. Stop it first; one that serves KubeMQ clients is asked with BACKEND = \"kubemq\"",
                    path.display()
                ),
                error => Chain(&error).to_string(),
            })
        })?;
        let engine: Arc<dyn Engine> = Arc::new(engine);
        let queue = Self::look(Arc::clone(&engine), name, true).await;
        if queue.is_err() {
            engine.close(CLOSE_TIMEOUT).await;
        }
        queue
    }

    /// A queue of channels in NATS, also while apps use them.
    #[cfg(feature = "nats")]
    pub(crate) async fn in_jetstream(
        settings: JetstreamEngineSettings,
        queue: String,
    ) -> Result<Box<dyn DeadLetterQueue>, DeadLettersError> {
        let Ok(name) = ChannelName::new(&queue) else { return Err(DeadLettersError::NoQueue(queue)) };
        let opened = JetstreamEngine::open(settings).await;
        let engine = opened.map_err(|error| DeadLettersError::Closed(Chain(&error).to_string()))?;
        let engine: Arc<dyn Engine> = Arc::new(engine);
        let queue = Self::look(Arc::clone(&engine), name, true).await;
        if queue.is_err() {
            engine.close(CLOSE_TIMEOUT).await;
        }
        queue
    }

    /// A queue of channels that are open in this process, and stay open.
    pub(crate) async fn of(
        channels: &Channels,
        queue: String,
    ) -> Result<Box<dyn DeadLetterQueue>, DeadLettersError> {
        let name = ChannelName::new(&queue).map_err(|_| DeadLettersError::NoQueue(queue))?;
        Self::look(Arc::clone(channels.engine()), name, false).await
    }

    async fn look(
        engine: Arc<dyn Engine>,
        name: ChannelName,
        is_own: bool,
    ) -> Result<Box<dyn DeadLetterQueue>, DeadLettersError> {
        let info = engine.info(ChannelKind::Queue, &name).await.map_err(fault)?;
        let Some(info) = info else { return Err(DeadLettersError::NoQueue(name.to_string())) };
        let is_shared = engine.capabilities().is_shared;
        // A shared engine also counts as held what was just handed back.
        let held = if is_shared { 0 } else { info.held };
        let left = info.messages.saturating_sub(info.delayed + held);
        let wait = if is_shared { SHARED_WAIT } else { Duration::ZERO };
        let last = info.last_sequence;
        Ok(Box::new(Self { engine, is_own, name, left, last, wait, passed: Vec::new(), current: None }))
    }

    fn view(&self, delivery: &QueueDelivery) -> DeadLetter {
        let QueueDelivery { content, sequence, time, .. } = delivery;
        let message = message::read(content, &self.name, *sequence, *time);
        let failures = message::failures(content);
        DeadLetter {
            message: message.map_err(|error| Chain(error.as_ref()).to_string()),
            reason: content.tag(REASON).map(str::to_owned),
            attempts: u32::try_from(failures.len()).unwrap_or(u32::MAX),
            failures,
            headers: content.tags.iter().cloned().collect::<BTreeMap<_, _>>(),
        }
    }

    async fn settle(&mut self, settle: impl FnOnce(QueueDelivery) -> Settle) -> Result<(), DeadLettersError> {
        let Some((receipt, delivery)) = self.current.take() else {
            return Err(DeadLettersError::Broker("no dead letter was taken".into()));
        };
        self.passed.push(receipt);
        let which = Which::Sequences(vec![delivery.sequence]);
        self.engine.settle(receipt, which, settle(delivery)).await.map(drop).map_err(fault)
    }
}

impl ChannelDeadLetters {
    fn release(&mut self) {
        self.passed.extend(self.current.take().map(|(receipt, _)| receipt));
        self.passed.drain(..).for_each(|receipt| self.engine.release(receipt));
    }
}

/// Without a close the messages return too: the engine may stay open.
impl Drop for ChannelDeadLetters {
    fn drop(&mut self) {
        self.release();
    }
}

#[async_trait]
impl DeadLetterQueue for ChannelDeadLetters {
    fn left(&self) -> Option<u64> {
        Some(self.left)
    }

    fn caution(&self) -> Option<String> {
        None
    }

    async fn next(&mut self) -> Result<Option<DeadLetter>, DeadLettersError> {
        self.passed.extend(self.current.take().map(|(receipt, _)| receipt));
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        let receive = Receive { visibility: None, wait: self.wait, ..Receive::default() };
        let mut received = self.engine.receive(&self.name, receive).await.map_err(fault)?;
        let Some(delivery) = received.messages.pop() else { return Ok(None) };
        if delivery.sequence > self.last {
            self.passed.push(received.receipt);
            return Ok(None);
        }
        let view = self.view(&delivery);
        self.current = Some((received.receipt, delivery));
        Ok(Some(view))
    }

    /// The queue that gave up on it, which the engine keeps and no sender can write.
    fn target(&self, _: &[String]) -> Result<Target, DeadLettersError> {
        let from = self.current.as_ref().and_then(|(_, delivery)| delivery.rerouted_from.as_ref());
        from.map(|from| self.named(from.as_str())).ok_or(DeadLettersError::NoTarget)
    }

    fn named(&self, to: &str) -> Target {
        Target::Queue { queue: to.to_owned() }
    }

    async fn requeue(&mut self, target: Target) -> Result<(), DeadLettersError> {
        let to = match &target {
            Target::Queue { queue } => ChannelName::new(queue).map_err(|error| error.to_string()),
            _ => Err("channels have queues only: give --to".to_owned()),
        };
        let to = to.map_err(|reason| DeadLettersError::NotTaken { target, reason })?;
        self.settle(|QueueDelivery { mut content, .. }| {
            content.tags.retain(|(name, _)| name != FAILURES && name != REASON);
            let message = Box::new(QueueMessage { content, policy: Policy::default() });
            Settle::Replace { to, message, rerouted_from: None, receives: 0 }
        })
        .await
    }

    async fn remove(&mut self) -> Result<(), DeadLettersError> {
        self.settle(|_| Settle::Ack).await
    }

    async fn close(mut self: Box<Self>) {
        self.release();
        if self.is_own {
            self.engine.close(CLOSE_TIMEOUT).await;
        }
    }
}

fn fault(error: EngineError) -> DeadLettersError {
    DeadLettersError::Broker(error.into())
}
