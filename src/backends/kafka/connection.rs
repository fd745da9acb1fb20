//! A producer of one generation, which ends with the first message whose outcome is unknown.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use krafka::producer::{DeliveryHandle, Producer};
use krafka::{CloseOptions, Kafka as Client, KrafkaError, Record};
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::failure::{NotConfirmed, failure_of, is_silence};
use super::outgoing::Outgoing;
use super::settings::KafkaSettings;
use crate::messenger::Failure;
use crate::util::sync::lock;

/// The most bytes of a batch of records of one partition.
const BATCH_SIZE: usize = 256 << 10;
/// The least memory of a producer for records that wait.
const MEMORY: usize = 32 << 20;
/// How long a producer may take to fail what it has.
const END_TIMEOUT: Duration = Duration::from_millis(1);

/// A producer. A clone is a handle to the same one.
#[derive(Clone)]
pub(super) struct Connection(Arc<Handle>);

struct Handle {
    client: Client,
    producer: Arc<Producer>,
    /// Sends each record in a batch of its own.
    alone: OnceCell<Producer>,
    settings: Arc<KafkaSettings>,
    window: Arc<Semaphore>,
    window_size: u32,
    /// The topics that exist.
    known: std::sync::Mutex<HashSet<String>>,
    is_ended: AtomicBool,
    is_given_up: AtomicBool,
}

/// A message that was handed to the producer, or why it was not.
enum Published {
    Sent { delivery: DeliveryHandle, _place: OwnedSemaphorePermit },
    Not(Failure),
}

impl Connection {
    pub(super) async fn new(client: Client, settings: &Arc<KafkaSettings>) -> Result<Self, KrafkaError> {
        let batch_size = BATCH_SIZE.min(settings.max_message_bytes);
        let producer = producer(&client, settings, batch_size).await?;
        let window_size = settings.broker.window.min(1 << 20);
        Ok(Self(Arc::new(Handle {
            client,
            producer: Arc::new(producer),
            alone: OnceCell::new(),
            settings: Arc::clone(settings),
            window: Arc::new(Semaphore::new(window_size as usize)),
            window_size,
            known: std::sync::Mutex::default(),
            is_ended: AtomicBool::new(false),
            is_given_up: AtomicBool::new(false),
        })))
    }

    /// Publishes in order, and returns the outcome of each message.
    ///
    /// # Cancel safety
    /// If it is dropped, messages may be published without an outcome.
    pub(super) async fn publish(&self, messages: Vec<Result<Outgoing, Failure>>) -> Vec<Result<(), Failure>> {
        let missing = self.missing_topics(&messages).await;
        let mut outcomes: Vec<Result<(), Failure>> = Vec::with_capacity(messages.len());
        let mut published = VecDeque::new();
        for message in messages {
            let record = match message {
                Ok(Outgoing(record)) => match missing.iter().find(|(name, _)| *name == record.topic) {
                    None => record,
                    Some((_, failure)) => {
                        published.push_back(Published::Not(failure.clone()));
                        continue;
                    }
                },
                Err(failure) => {
                    published.push_back(Published::Not(failure));
                    continue;
                }
            };
            let place = loop {
                match Arc::clone(&self.0.window).try_acquire_owned() {
                    Ok(place) => break Some(place),
                    // The window may be full of messages of this batch.
                    Err(_) => match published.pop_front() {
                        Some(first) => outcomes.push(self.outcome_of(first).await),
                        None => break Arc::clone(&self.0.window).acquire_owned().await.ok(),
                    },
                }
            };
            published.push_back(match place {
                Some(place) => self.hand_over(record, place).await,
                None => Published::Not(closed()),
            });
        }
        for published in published {
            outcomes.push(self.outcome_of(published).await);
        }
        outcomes
    }

    /// The topics of messages that cannot be published to now. All are asked for at the same time, so that none delays another.
    async fn missing_topics(&self, messages: &[Result<Outgoing, Failure>]) -> Vec<(String, Failure)> {
        let mut unknown: Vec<&str> = Vec::new();
        {
            let known = lock(&self.0.known);
            let mut last = "";
            for Outgoing(record) in messages.iter().flatten() {
                let name = record.topic.as_str();
                if name != last && !known.contains(name) && !unknown.contains(&name) {
                    unknown.push(name);
                }
                last = name;
            }
        }
        if unknown.is_empty() || self.is_closed() {
            return Vec::new();
        }
        let asked = join_all(unknown.iter().map(|name| self.0.producer.partitions_for(name))).await;
        let mut missing = Vec::new();
        for (name, answer) in unknown.into_iter().zip(asked) {
            match answer {
                Ok(_) => drop(lock(&self.0.known).insert(name.to_owned())),
                Err(error) => missing.push((name.to_owned(), failure_of(&error))),
            }
        }
        missing
    }

    async fn hand_over(&self, record: Record, place: OwnedSemaphorePermit) -> Published {
        if self.is_closed() {
            return Published::Not(closed());
        }
        match self.0.producer.enqueue(record).await {
            Ok(delivery) => Published::Sent { delivery, _place: place },
            Err(error) => Published::Not(self.failed(&error).await),
        }
    }

    async fn outcome_of(&self, published: Published) -> Result<(), Failure> {
        match published {
            Published::Sent { delivery, .. } => match delivery.await {
                Ok(_) => Ok(()),
                Err(error) => Err(self.failed(&error).await),
            },
            Published::Not(failure) => Err(failure),
        }
    }

    /// Publishes each message in a batch of its own, so that a refusal is about it.
    pub(super) async fn publish_alone(
        &self,
        messages: Vec<Result<Outgoing, Failure>>,
    ) -> Vec<Result<(), Failure>> {
        let mut outcomes = Vec::with_capacity(messages.len());
        for message in messages {
            outcomes.push(match message {
                Ok(_) if self.is_closed() => Err(closed()),
                Ok(Outgoing(record)) => match self.send_alone(record).await {
                    Ok(()) => Ok(()),
                    Err(error) => Err(self.failed(&error).await),
                },
                Err(failure) => Err(failure),
            });
        }
        outcomes
    }

    async fn send_alone(&self, record: Record) -> Result<(), KrafkaError> {
        let Handle { alone, client, settings, .. } = &*self.0;
        let alone = alone.get_or_try_init(|| producer(client, settings, 1)).await?;
        alone.send(record).await.map(drop)
    }

    /// The failure of a message. With an unknown outcome the producer ends, as later messages must not overtake it.
    async fn failed(&self, error: &KrafkaError) -> Failure {
        let failure = failure_of(error);
        if failure.is_transient() {
            self.end(is_silence(error)).await;
        }
        failure
    }

    /// Ends it: what waits in the producer fails, and is not sent any more.
    async fn end(&self, is_silent: bool) {
        if is_silent {
            self.0.is_given_up.store(true, Ordering::Release);
        }
        if !self.0.is_ended.swap(true, Ordering::AcqRel) {
            let options = CloseOptions::new().timeout(END_TIMEOUT);
            let _ = self.0.producer.close_with(options).await;
            if let Some(alone) = self.0.alone.get() {
                let _ = alone.close_with(options).await;
            }
        }
    }

    /// Publishes one message.
    pub(super) async fn publish_one(&self, message: Outgoing) -> Result<(), Failure> {
        self.publish(vec![Ok(message)]).await.pop().unwrap_or(Ok(()))
    }

    pub(super) fn is_closed(&self) -> bool {
        self.0.is_ended.load(Ordering::Acquire)
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.0.is_given_up.load(Ordering::Acquire)
    }

    /// Closes it after what is outstanding has ended.
    pub(super) async fn close(&self) {
        let outstanding = self.0.window.acquire_many(self.0.window_size);
        let _ = timeout(self.0.settings.broker.send_timeout(), outstanding).await;
        self.end(false).await;
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if *self.is_ended.get_mut() {
            return;
        }
        // A producer that is dropped sends what it has.
        let producers = (Arc::clone(&self.producer), self.alone.take());
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let options = CloseOptions::new().timeout(END_TIMEOUT);
                let _ = producers.0.close_with(options).await;
                if let Some(alone) = producers.1 {
                    let _ = alone.close_with(options).await;
                }
            });
        }
    }
}

fn closed() -> Failure {
    Failure::transient(NotConfirmed("the connection was ended".to_owned()))
}

async fn producer(
    client: &Client,
    settings: &KafkaSettings,
    batch_size: usize,
) -> Result<Producer, KrafkaError> {
    client
        .producer()
        .idempotent(true)
        // Messages that come while a batch is on its way make the next one.
        .linger(Duration::ZERO)
        .batch_size(batch_size)
        .compression(settings.compression.codec())
        .buffer_memory(MEMORY.max(settings.max_message_bytes.saturating_mul(2)))
        .delivery_timeout(settings.broker.send_timeout())
        .max_block(settings.topic_timeout())
        .metrics_push(false)
        .build()
        .await
}
