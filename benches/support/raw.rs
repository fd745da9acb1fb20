//! The same with lapin alone: one channel, [`WINDOW`] confirms awaited at most.

use std::time::{Duration, Instant, SystemTime};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, PublisherConfirm};

use super::Event;
use super::broker::{Broker, Turn, WINDOW};

/// Makes body and properties of a message.
pub(crate) type Encode = fn(&Event) -> (Vec<u8>, BasicProperties);

/// How long a turn is.
#[derive(Clone, Copy)]
pub(crate) enum Until {
    Elapsed(Duration),
    Confirmed(u64),
}

pub(crate) struct Raw {
    connection: Connection,
    channel: Channel,
    event: Event,
    topic: &'static str,
    encode: Encode,
}

impl Raw {
    pub(crate) async fn open(broker: &Broker, encode: Encode) -> Self {
        let connection = Connection::connect(&broker.url, ConnectionProperties::default()).await;
        let connection = connection.expect("the broker opens a connection");
        let channel = connection.create_channel().await.expect("the broker opens a channel");
        let select = channel.confirm_select(ConfirmSelectOptions::default());
        select.await.expect("the broker confirms");
        Self { connection, channel, event: Event::new(), topic: broker.topic, encode }
    }

    /// One turn, in a task of its own as what the layer sends is; `in_turns`, each publish is awaited before the next
    /// begins.
    pub(crate) async fn turn(&self, in_turns: bool, until: Until) -> Turn {
        let (channel, event) = (self.channel.clone(), self.event.clone());
        let (topic, encode) = (self.topic, self.encode);
        let task = tokio::spawn(async move {
            let (begun, mut published, mut confirmed) = (Instant::now(), 0, 0);
            let mut outcomes = FuturesUnordered::new();
            loop {
                let more = match until {
                    Until::Elapsed(time) => begun.elapsed() < time,
                    Until::Confirmed(messages) => published < messages,
                };
                if more && outcomes.len() < WINDOW {
                    published += 1;
                    let mut publish = Box::pin(publish(&channel, encode(&event), topic));
                    // A publish is done when it is written; its confirm comes later.
                    let early = if in_turns { Some(publish.as_mut().await) } else { None };
                    outcomes.push(async move {
                        let confirm = match early {
                            Some(confirm) => confirm,
                            None => publish.await,
                        };
                        confirm.await
                    });
                    continue;
                }
                let Some(outcome) = outcomes.next().await else { break };
                assert!(matches!(outcome, Ok(Confirmation::Ack(None))), "{outcome:?}");
                confirmed += 1;
            }
            (confirmed, begun.elapsed().as_secs_f64())
        });
        task.await.expect("it does not panic")
    }

    pub(crate) async fn close(self) {
        self.connection.close(200, "bye".into()).await.expect("the broker closes");
    }
}

async fn publish(
    channel: &Channel,
    (body, properties): (Vec<u8>, BasicProperties),
    topic: &str,
) -> PublisherConfirm {
    let (exchange, options) = ("amq.topic".into(), BasicPublishOptions::default());
    let publish = channel.basic_publish(exchange, topic.into(), options, &body, properties);
    publish.await.expect("the channel is open")
}

/// As `Amqp091` has it.
pub(crate) fn encode(event: &Event) -> (Vec<u8>, BasicProperties) {
    let body = serde_json::to_vec(event).expect("it is JSON");
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is after 1970");
    let id = uuid::Builder::from_random_bytes(rand::random()).into_uuid().to_string();
    let properties = BasicProperties::default()
        .with_message_id(id.into())
        .with_content_type("application/json".into())
        .with_delivery_mode(2)
        .with_timestamp(now.as_secs())
        .with_headers(FieldTable::default());
    (body, properties)
}
