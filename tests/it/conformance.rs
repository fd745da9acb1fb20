//! The one suite every messenger passes, against its real broker.
//!
//! A new backend adds a test below with an inbox that reads what arrived, and its [`MessengerCapabilities`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tower_outbox::amqp10::{Amqp10, Amqp10Settings, RhMsg};
use tower_outbox::amqp091::{Amqp091, Amqp091Settings, Fedmsg};
use tower_outbox::background::{Background, BackgroundSettings};
use tower_outbox::dummy::Dummy;
use tower_outbox::fallback::Fallback;
use tower_outbox::message::Scalar;
use tower_outbox::testing::messenger_conformance::{self, MessengerCapabilities, Received};
use tower_outbox::testing::{Recording, Sent};
use tower_outbox::{Failure, Messenger};

use crate::mqtt::raw::{Place, from_raw};
use crate::peers::{Brokers, Peer, RabbitQueue, unique};
use crate::support::messengers::down;

/// The capabilities of a messenger whose messages arrive whole.
fn whole() -> MessengerCapabilities {
    MessengerCapabilities::default().with_arrival(true).with_any_body(true).with_headers(true)
}

/// The headers that a peer shows as JSON.
fn headers(shown: &Value) -> BTreeMap<String, Scalar> {
    let scalar = |value: &Value| match value {
        Value::Bool(value) => Some(Scalar::from(*value)),
        Value::Number(value) => value.as_i64().map(Scalar::from),
        Value::String(value) => Some(Scalar::from(value.clone())),
        _ => None,
    };
    let shown = shown.as_object().into_iter().flatten();
    shown.filter_map(|(name, value)| Some((name.clone(), scalar(value)?))).collect()
}

fn recorded(sent: Sent) -> impl AsyncFnMut(usize) -> Vec<Received> {
    let mut taken = 0;
    async move |count| {
        let from = taken;
        taken += count;
        sent.flushed().await;
        sent.messages()[from..taken].iter().map(Received::from).collect()
    }
}

fn from_peer(mut peer: Peer) -> impl AsyncFnMut(usize) -> Vec<Received> {
    async move |count| {
        let mut received = Vec::new();
        while received.len() < count {
            let event = peer.event("message").await;
            received.push(Received { body: body_of(&event), headers: headers(&event["properties"]) });
        }
        received
    }
}

/// The bytes of a body: Proton shows a data section in base64, an amqp-value string as it is.
fn body_of(event: &Value) -> Vec<u8> {
    let text = event["body"].as_str().unwrap_or_default();
    if event["body_type"] == "str" { text.as_bytes().to_vec() } else { base64(text) }
}

fn base64(text: &str) -> Vec<u8> {
    let digit = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let digits: Vec<u8> = text.bytes().filter(|c| *c != b'=').map(digit).collect();
    let bytes = digits.chunks(4).flat_map(|chunk| {
        let bits =
            chunk.iter().fold(0_u32, |bits, digit| bits << 6 | u32::from(*digit)) << (6 * (4 - chunk.len()));
        bits.to_be_bytes()[1..chunk.len()].to_vec()
    });
    bytes.collect()
}

#[tokio::test]
async fn dummy_conforms() {
    let capabilities = MessengerCapabilities::default().with_any_body(true);
    messenger_conformance::all(Arc::new(Dummy::new()), "a.b", capabilities, async |_| -> Vec<Received> {
        unreachable!()
    })
    .await;
}

#[tokio::test]
async fn recording_conforms() {
    let recording = Recording::new();
    let inbox = recorded(recording.listen());
    let capabilities = whole();
    messenger_conformance::all(Arc::new(recording), "a.b", capabilities, inbox).await;
}

#[tokio::test]
async fn background_conforms() {
    let recording = Recording::new();
    let inbox = recorded(recording.listen());
    let (background, worker) = Background::new(recording, BackgroundSettings::default());
    tokio::spawn(worker.with_graceful_shutdown(std::future::pending(), Duration::ZERO));
    let capabilities = whole();
    messenger_conformance::all(Arc::new(background), "a.b", capabilities, inbox).await;
}

#[tokio::test]
async fn fallback_conforms() {
    for first_fails in [false, true] {
        let recording = Recording::new();
        let inbox = recorded(recording.listen());
        let failing = down(Failure::transient("down"));
        let fallback: Arc<dyn Messenger> = match first_fails {
            true => Arc::new(Fallback::new(failing, recording)),
            false => Arc::new(Fallback::new(recording, failing)),
        };
        let capabilities = whole();
        messenger_conformance::all(fallback, "a.b", capabilities, inbox).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn amqp10_conforms_on_rabbitmq() {
    let brokers = Brokers::running();
    let topic = unique("conformance");
    let queue = RabbitQueue::declare(&brokers, "RABBIT1_AMQP", &topic).await;
    let (peer, _ready) = brokers
        .start("receive.py", &[brokers.get("RABBIT1_AMQP"), &queue.address(), "--timeout", "30"])
        .await;
    let mut settings = Amqp10Settings::new([brokers.get("RABBIT1_AMQP")]);
    settings.address = Some("/topic/{topic}".to_owned());
    let capabilities = whole().with_closes(true);
    messenger_conformance::all(
        Arc::new(Amqp10::new(&settings).unwrap()),
        &topic,
        capabilities,
        from_peer(peer),
    )
    .await;
    queue.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn rhmsg_conforms_on_activemq() {
    let brokers = Brokers::running();
    if brokers.without_activemq("rhmsg_conforms_on_activemq") {
        return;
    }
    let name = unique("conformance");
    let address = format!("Consumer.{name}.VirtualTopic.eng.{name}.>");
    let (peer, _ready) =
        brokers.start("receive.py", &[brokers.get("ACTIVEMQ_AMQP"), &address, "--timeout", "30"]).await;
    let mut settings = Amqp10Settings::new([brokers.get("ACTIVEMQ_AMQP")]);
    settings.broker.topic_prefix = Some(format!("VirtualTopic.eng.{name}"));
    let capabilities = whole().with_any_body(false).with_closes(true);
    messenger_conformance::all(
        Arc::new(RhMsg::new(&settings).unwrap()),
        "a.b",
        capabilities,
        from_peer(peer),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn mqtt_conforms() {
    let brokers = Brokers::running();
    let place = Place::new(&brokers);
    let inbox = from_raw(place.raw().await);
    let capabilities = whole().with_closes(true);
    messenger_conformance::all(Arc::new(place.messenger()), &place.topic, capabilities, inbox).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn nats_conforms() {
    let place = crate::nats::raw::Place::new().await;
    let inbox = place.inbox().await;
    let capabilities = whole().with_closes(true);
    messenger_conformance::all(Arc::new(place.messenger()), &place.topic, capabilities, inbox).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn nats_events_conform() {
    let place = crate::nats::raw::Place::without_stream().await;
    let inbox = place.inbox().await;
    let settings = place.settings().with_pattern(tower_outbox::nats::Pattern::Events);
    let messenger = tower_outbox::nats::Nats::new(&settings).unwrap();
    messenger_conformance::all(Arc::new(messenger), &place.topic, whole().with_closes(true), inbox).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn kafka_conforms() {
    let place = crate::kafka::raw::Place::new().await;
    let inbox = place.inbox().await;
    let settings = place.settings().with_max_message_bytes(2 << 20);
    let messenger = tower_outbox::kafka::Kafka::new(&settings).unwrap();
    messenger_conformance::all(Arc::new(messenger), &place.topic, whole().with_closes(true), inbox).await;
}

/// All messages that arrived in a queue of RabbitMQ.
fn from_queue(
    brokers: &Brokers,
    node: &str,
    queue: &RabbitQueue<'_>,
) -> impl AsyncFnMut(usize) -> Vec<Received> {
    let mut waiting = std::collections::VecDeque::new();
    async move |count| {
        while waiting.len() < count {
            waiting.extend(brokers.python("rabbit.py", &[brokers.get(node), "drain", queue.name()]).await);
        }
        let received = waiting.drain(..count).map(|message: Value| Received {
            body: message["body"].as_str().unwrap_or_default().as_bytes().to_vec(),
            headers: headers(&message["headers"]),
        });
        received.collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn amqp091_conforms() {
    let brokers = Brokers::running();
    let topic = unique("conformance");
    let queue = RabbitQueue::declare(&brokers, "RABBIT1_AMQP", &topic).await;
    let messenger = Amqp091::new(&Amqp091Settings::new([brokers.get("RABBIT1_AMQP")])).unwrap();
    let capabilities = whole().with_any_body(false).with_closes(true);
    messenger_conformance::all(
        Arc::new(messenger),
        &topic,
        capabilities,
        from_queue(&brokers, "RABBIT1_AMQP", &queue),
    )
    .await;
    queue.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn fedmsg_conforms() {
    let brokers = Brokers::running();
    let topic = unique("conformance");
    let queue = RabbitQueue::declare(&brokers, "RABBIT1_AMQP", &topic).await;
    let messenger = Fedmsg::new(&Amqp091Settings::new([brokers.get("RABBIT1_AMQP")])).unwrap();
    let capabilities = whole().with_any_body(false).with_closes(true);
    messenger_conformance::all(
        Arc::new(messenger),
        &topic,
        capabilities,
        from_queue(&brokers, "RABBIT1_AMQP", &queue),
    )
    .await;
    queue.drain().await;
}
