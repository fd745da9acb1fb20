//! How long it takes from stored to confirmed, beside a direct send.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tower_outbox::amqp091::{Amqp091, Amqp091Settings};
use tower_outbox::messenger::Capabilities;
use tower_outbox::outbox::{Outbox, RelaySettings};
use tower_outbox::store::Store;
use tower_outbox::{BoxError, Health, Message, Messenger, Unsent, async_trait};
use uuid::Uuid;

use super::broker::Broker;
use super::{Event, Spread};

const AT_A_TIME: [usize; 2] = [1, 16];
const SENDS: usize = 320;

/// Through `store`, which is empty, to RabbitMQ.
pub(crate) async fn latency(broker: &Broker, store: Arc<dyn Store>, rounds: usize) {
    let direct = Arc::new(amqp091(broker));
    let awaited = Awaited::default();
    let timed = Timed { inner: Arc::clone(&direct), awaited: Arc::clone(&awaited) };
    let (outbox, relay) = Outbox::new(timed, store, RelaySettings::default());
    let relay = tokio::spawn(relay.into_future());
    let outbox = Arc::new(outbox);
    for at_a_time in AT_A_TIME {
        println!(
            "latency to RabbitMQ, AMQP 0-9-1, {at_a_time} at a time, {rounds} rounds of {SENDS} sends each"
        );
        // Of each round: direct, from the end of append to the confirm, append.
        let mut medians = [Vec::new(), Vec::new(), Vec::new()];
        let (mut after_append, mut in_all) = (Vec::new(), Vec::new());
        for round in 0..=rounds {
            let mut of_round = [0.0; 3];
            for who in [round % 2, (round + 1) % 2] {
                let tasks: Vec<_> = (0..at_a_time)
                    .map(|_| {
                        let event = Event::new().bytes();
                        let messages: Vec<_> =
                            (0..SENDS / at_a_time).map(|_| message(broker, &event)).collect();
                        if who == 0 {
                            tokio::spawn(send(Arc::clone(&direct), messages))
                        } else {
                            tokio::spawn(append(Arc::clone(&outbox), Arc::clone(&awaited), messages))
                        }
                    })
                    .collect();
                let mut times = [Vec::new(), Vec::new()];
                for task in tasks {
                    for both in task.await.expect("it does not panic") {
                        times.iter_mut().zip(both).for_each(|(times, time)| times.push(time));
                    }
                }
                let [first, second] = times.map(|times| Spread::of(times).median);
                if who == 0 {
                    of_round[0] = first;
                } else {
                    (of_round[1], of_round[2]) = (second, first);
                }
            }
            broker.check_and_empty(((2 * (SENDS / at_a_time) * at_a_time) as u64, 0.0), 0);
            // The first one connects.
            if round > 0 {
                medians.iter_mut().zip(of_round).for_each(|(medians, median)| medians.push(median));
                after_append.push(of_round[1] / of_round[0]);
                in_all.push((of_round[1] + of_round[2]) / of_round[0]);
            }
        }
        let [direct, confirm, append] = medians.map(Spread::of);
        println!("  direct send         {direct:.0} µs");
        println!("  append              {append:.0} µs");
        println!("  append to confirm   {confirm:.0} µs");
        println!("  append to confirm / direct   {:.2}   target <= 1.5", Spread::of(after_append));
        println!("  both together / direct       {:.2}", Spread::of(in_all));
    }
    relay.abort();
    direct.close(Duration::from_secs(5)).await;
}

/// Microseconds of each send.
async fn send(messenger: Arc<Amqp091>, messages: Vec<Message>) -> Vec<[f64; 2]> {
    let mut times = Vec::new();
    for message in messages {
        let begun = Instant::now();
        messenger.send(vec![message]).await.expect("the broker takes it");
        times.push([micros(begun.elapsed()), 0.0]);
    }
    times
}

/// Microseconds of each append, and from there to the confirm.
async fn append<M: Messenger>(
    outbox: Arc<Outbox<M>>,
    awaited: Awaited,
    messages: Vec<Message>,
) -> Vec<[f64; 2]> {
    let mut times = Vec::new();
    for message in messages {
        let (confirmed, confirm) = oneshot::channel();
        awaited.lock().expect("nobody panics").insert(message.id(), confirmed);
        let begun = Instant::now();
        outbox.send(vec![message]).await.expect("there is room");
        let appended = Instant::now();
        let confirmed = confirm.await.expect("it is sent");
        times.push([appended - begun, confirmed.saturating_duration_since(appended)].map(micros));
    }
    times
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

type Awaited = Arc<Mutex<HashMap<Uuid, oneshot::Sender<Instant>>>>;

/// Says when each message was confirmed.
struct Timed<M> {
    inner: M,
    awaited: Awaited,
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<M: Messenger> Messenger for Timed<M> {
    async fn send(&self, batch: Vec<Message>) -> Result<(), Unsent> {
        let ids: Vec<_> = batch.iter().map(Message::id).collect();
        self.inner.send(batch).await?;
        let now = Instant::now();
        let mut awaited = self.awaited.lock().expect("nobody panics");
        for confirmed in ids.iter().filter_map(|id| awaited.remove(id)) {
            let _ = confirmed.send(now);
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

pub(crate) fn amqp091(broker: &Broker) -> Amqp091 {
    Amqp091::new(&Amqp091Settings::new([broker.url.as_str()])).expect("the settings are right")
}

pub(crate) fn message(broker: &Broker, event: &bytes::Bytes) -> Message {
    let message = Message::new(broker.topic, event.clone()).expect("the topic is one");
    message.with_content_type("application/json")
}
