//! A messenger that sends to channels.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use serde::Deserialize;

use super::message;
use crate::channels::engine::Engine;
use crate::channels::error::EngineError;
use crate::channels::name::ChannelName;
use crate::channels::queue_types::{Policy, QueueMessage};
use crate::message::Message;
use crate::messenger::{Failure, Health, Messenger, Unsent};
use crate::util::error::{BoxError, Chain};

/// The pattern by which messages are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SendPattern {
    /// To a queue (default). `Ok` means stored.
    #[default]
    Queue,
    /// To a stream. `Ok` means stored.
    Stream,
    /// As an event. `Ok` means that the subscribers there are now can receive it; without subscribers it is gone.
    Events,
}

/// Sends messages to one channel, or each to the channel that is named by its topic. A clone is a handle to the same channels.
///
/// A delay and an expiry count in queues; streams and events refuse a delay when the message is enqueued.
#[derive(Clone)]
pub struct ChannelMessenger {
    engine: Arc<dyn Engine>,
    pattern: SendPattern,
    channel: Option<ChannelName>,
}

impl ChannelMessenger {
    pub(super) fn new(engine: Arc<dyn Engine>, pattern: SendPattern, channel: Option<ChannelName>) -> Self {
        Self { engine, pattern, channel }
    }

    /// Sends all messages to this channel.
    #[must_use]
    pub fn with_channel(self, channel: ChannelName) -> Self {
        Self { channel: Some(channel), ..self }
    }

    fn channel(&self, message: &Message) -> Result<ChannelName, EngineError> {
        match &self.channel {
            Some(channel) => Ok(channel.clone()),
            None => Ok(ChannelName::new(message.topic().as_str())?),
        }
    }
}

impl fmt::Debug for ChannelMessenger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pattern, channel, .. } = self;
        f.debug_struct("ChannelMessenger")
            .field("pattern", pattern)
            .field("channel", channel)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Messenger for ChannelMessenger {
    async fn send(&self, batch: Vec<Message>) -> Result<(), Unsent> {
        let mut encoded = Vec::with_capacity(batch.len());
        let mut failures: Vec<Option<Failure>> = vec![None; batch.len()];
        for (at, message) in batch.iter().enumerate() {
            let written = self.channel(message).map_err(BoxError::from);
            match written.and_then(|channel| Ok((channel, message::write(message)?))) {
                Ok((channel, content)) => encoded.push((at, channel, content)),
                Err(error) => failures[at] = Some(Failure::rejected(error)),
            }
        }
        let places: Vec<usize> = encoded.iter().map(|(at, ..)| *at).collect();
        let results: Vec<Result<(), EngineError>> = match self.pattern {
            SendPattern::Queue => {
                let messages = encoded.into_iter().map(|(at, channel, content)| {
                    (channel, QueueMessage { content, policy: policy(&batch[at]) })
                });
                let sent = self.engine.send(messages.collect()).await;
                sent.into_iter().map(|sent| sent.map(drop)).collect()
            }
            SendPattern::Stream => {
                let messages = encoded.into_iter().map(|(_, channel, content)| (channel, content));
                let appended = self.engine.append(messages.collect()).await;
                appended.into_iter().map(|appended| appended.map(drop)).collect()
            }
            SendPattern::Events => {
                let mut results = Vec::with_capacity(encoded.len());
                for (_, channel, content) in encoded {
                    results.push(self.engine.publish(&channel, content).await);
                }
                results
            }
        };
        for (at, result) in places.into_iter().zip(results) {
            failures[at] = result.err().map(|error| {
                if error.is_transient() { Failure::transient(error) } else { Failure::rejected(error) }
            });
        }
        let unsent = batch.into_iter().zip(failures);
        unsent.filter_map(|(message, failure)| Some((message, failure?))).collect::<Unsent>().into_result()
    }

    fn check(&self, message: &Message) -> Result<(), BoxError> {
        self.channel(message)?;
        if message.delay().is_some() && self.pattern != SendPattern::Queue {
            return Err("only queues delay messages: send it without a delay".into());
        }
        message::write(message).map(drop)
    }

    async fn health(&self) -> Health {
        match self.engine.health().await {
            Ok(()) => Health::Up,
            Err(error) => Health::Down { reason: Chain(&error).to_string() },
        }
    }

    /// Closes the channels, for all handles.
    async fn close(&self, deadline: Duration) {
        self.engine.close(deadline).await;
    }
}

/// How a message is delivered by a queue.
fn policy(message: &Message) -> Policy {
    let age = SystemTime::now().duration_since(message.time()).unwrap_or_default();
    let delay = message.delay().unwrap_or_default();
    // A message that has expired by now still gets a moment, since no expiry is no limit.
    let left = |expiry: Duration| expiry.saturating_sub(age + delay).max(Duration::from_nanos(1));
    Policy { expiry: message.expiry().map_or(Duration::ZERO, left), delay, ..Policy::default() }
}
