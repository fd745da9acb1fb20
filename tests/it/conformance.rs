//! The one suite every messenger passes, against its real bus.
//!
//! A new backend adds a test below with an [`Inbox`] that reads what arrived, and its [`Capabilities`].

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tower_outbox::amqp10::{Amqp10, Amqp10Settings, RhMsg};
use tower_outbox::amqp091::{Amqp091, Amqp091Settings, Fedmsg};
use tower_outbox::background::{Background, BackgroundSettings};
use tower_outbox::dummy::Dummy;
use tower_outbox::fallback::Fallback;
use tower_outbox::testing::{Recording, Sent};
use tower_outbox::{Failure, Health, Message, Messenger};

use crate::peers::{Brokers, Peer, RabbitQueue, unique};
use crate::support::messengers::down;

/// What a messenger can do beyond the contract.
struct Capabilities {
    /// Messages can be seen to arrive.
    arrival: bool,
    /// Bodies may be anything, not only JSON objects.
    any_body: bool,
    /// Headers arrive beside the body.
    headers: bool,
    /// After `close`, sends fail.
    closes: bool,
}

/// The receiving end: gives what arrived, in order, once `count` messages have.
type Inbox<'a> = Box<dyn FnMut(usize) -> Pin<Box<dyn Future<Output = Vec<Received>> + 'a>> + 'a>;

#[derive(Debug)]
struct Received {
    body: Vec<u8>,
    headers: Value,
}

impl Received {
    fn seq(&self) -> u64 {
        serde_json::from_slice::<Value>(&self.body).unwrap()["seq"].as_u64().unwrap()
    }
}

async fn conforms(
    messenger: Arc<dyn Messenger>,
    topic: &str,
    capabilities: Capabilities,
    mut inbox: Inbox<'_>,
) {
    let message = |seq: u64| Message::json(topic.to_owned(), &json!({"seq": seq})).unwrap();

    messenger.send(Vec::new()).await.expect("an empty batch is sent");
    assert_eq!(messenger.health().await, Health::Up);

    messenger.send((0..300).map(message).collect()).await.expect("a batch is sent");
    if capabilities.arrival {
        let seqs: Vec<_> = inbox(300).await.iter().map(Received::seq).collect();
        assert_eq!(seqs, (0..300).collect::<Vec<_>>(), "order within a batch");
    }

    let sends: Vec<_> = (0..50)
        .map(|n| {
            let (messenger, batch) = (Arc::clone(&messenger), vec![message(2 * n), message(2 * n + 1)]);
            tokio::spawn(async move { messenger.send(batch).await })
        })
        .collect();
    for send in sends {
        send.await.unwrap().expect("concurrent batches are sent");
    }
    if capabilities.arrival {
        let seqs: Vec<_> = inbox(100).await.iter().map(Received::seq).collect();
        for pair in 0..50 {
            let at = |seq| seqs.iter().position(|found| *found == seq).unwrap();
            assert!(at(2 * pair) < at(2 * pair + 1), "order within each of the batches");
        }
    }

    let mut sent = Message::json(topic.to_owned(), &json!({"seq": 0, "text": "größe ☃ 🦀\n\"\\"})).unwrap();
    for (name, value) in [("text", "größe"), ("empty", "")] {
        sent.set_header(name, value);
    }
    sent.set_header("number", -7);
    sent.set_header("yes", true);
    let large = Message::json(topic.to_owned(), &json!({"seq": 1, "text": "ü".repeat(1 << 19)})).unwrap();
    messenger.check(&sent).unwrap();
    messenger.send(vec![sent.clone(), large.clone()]).await.expect("unicode and 1 MiB are sent");
    if capabilities.arrival {
        let received = inbox(2).await;
        assert!(received[0].body == *sent.body(), "unicode");
        assert!(received[1].body == *large.body(), "1 MiB");
        if capabilities.headers {
            for (name, value) in
                [("text", json!("größe")), ("empty", json!("")), ("number", json!(-7)), ("yes", json!(true))]
            {
                assert_eq!(received[0].headers[name], value, "header {name}");
            }
        }
    }
    if capabilities.any_body {
        let bodies: [&[u8]; 3] = [b"", b"\x00\xff\xfe", b"plain"];
        let batch = bodies.map(|body| Message::new(topic.to_owned(), body.to_vec()).unwrap());
        messenger.send(batch.to_vec()).await.expect("any bytes are sent");
        if capabilities.arrival {
            assert_eq!(
                inbox(3).await.iter().map(|received| received.body.clone()).collect::<Vec<_>>(),
                bodies
            );
        }
    }

    // A dropped send leaves its messages all sent, in order and once, or not at all; the messenger stays of use.
    const DROPPED: u64 = 6;
    for round in 0..DROPPED {
        let mut send = messenger.send((0..10).map(|seq| message(round * 100 + seq)).collect());
        for _ in 0..round {
            if futures_util::poll!(&mut send).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(send);
        messenger.send(vec![message(round * 100 + 99)]).await.expect("a send after a dropped one");
    }
    if capabilities.arrival {
        let mut seqs: Vec<u64> = Vec::new();
        let of_round = |seqs: &[u64], round| -> Vec<u64> {
            seqs.iter().filter(|seq| *seq / 100 == round && *seq % 100 != 99).map(|seq| seq % 100).collect()
        };
        // What was handed over goes on to its end, beside what is sent after it.
        let ended = |seqs: &[u64]| {
            let after = seqs.iter().filter(|seq| *seq % 100 == 99).count() as u64;
            after == DROPPED && (0..DROPPED).all(|round| matches!(of_round(seqs, round).len(), 0 | 10))
        };
        while !ended(&seqs) {
            seqs.extend(inbox(1).await.iter().map(Received::seq));
        }
        for round in 0..DROPPED {
            let found = of_round(&seqs, round);
            assert!(
                found.is_empty() || found == (0..10).collect::<Vec<_>>(),
                "dropped after {round} polls: {found:?}"
            );
        }
    }

    messenger.close(Duration::from_secs(5)).await;
    if capabilities.closes {
        let unsent = messenger.send(vec![message(0)]).await.expect_err("closed");
        assert!(unsent.iter().all(|(_, failure)| failure.is_transient()));
    }
}

fn recorded(sent: Sent) -> Inbox<'static> {
    let mut taken = 0;
    Box::new(move |count| {
        let (sent, from) = (sent.clone(), taken);
        taken += count;
        Box::pin(async move {
            sent.flushed().await;
            let messages = sent.messages();
            let received = messages[from..from + count].iter().map(|message| Received {
                body: message.body().to_vec(),
                headers: message.headers().map(|(name, value)| (name.to_owned(), json_of(value))).collect(),
            });
            received.collect()
        })
    })
}

fn json_of(value: &tower_outbox::message::Scalar) -> Value {
    use tower_outbox::message::Scalar;
    match value {
        Scalar::Bool(value) => json!(value),
        Scalar::Int(value) => json!(value),
        Scalar::Float(value) => json!(value),
        Scalar::String(value) => json!(value),
        _ => Value::Null,
    }
}

fn from_peer(peer: Peer) -> Inbox<'static> {
    let peer = Arc::new(tokio::sync::Mutex::new(peer));
    Box::new(move |count| {
        let peer = Arc::clone(&peer);
        Box::pin(async move {
            let (mut peer, mut received) = (peer.lock().await, Vec::new());
            while received.len() < count {
                let event = peer.event("message").await;
                received.push(Received { body: body_of(&event), headers: event["properties"].clone() });
            }
            received
        })
    })
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
    let capabilities = Capabilities { arrival: false, any_body: true, headers: false, closes: false };
    conforms(Arc::new(Dummy::new()), "a.b", capabilities, Box::new(|_| unreachable!())).await;
}

#[tokio::test]
async fn recording_conforms() {
    let recording = Recording::new();
    let inbox = recorded(recording.listen());
    let capabilities = Capabilities { arrival: true, any_body: true, headers: true, closes: false };
    conforms(Arc::new(recording), "a.b", capabilities, inbox).await;
}

#[tokio::test]
async fn background_conforms() {
    let recording = Recording::new();
    let inbox = recorded(recording.listen());
    let (background, worker) = Background::new(recording, BackgroundSettings::default());
    tokio::spawn(worker.with_graceful_shutdown(std::future::pending(), Duration::ZERO));
    let capabilities = Capabilities { arrival: true, any_body: true, headers: true, closes: false };
    conforms(Arc::new(background), "a.b", capabilities, inbox).await;
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
        let capabilities = Capabilities { arrival: true, any_body: true, headers: true, closes: false };
        conforms(fallback, "a.b", capabilities, inbox).await;
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
    let capabilities = Capabilities { arrival: true, any_body: true, headers: true, closes: true };
    conforms(Arc::new(Amqp10::new(&settings).unwrap()), &topic, capabilities, from_peer(peer)).await;
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
    let capabilities = Capabilities { arrival: true, any_body: false, headers: true, closes: true };
    conforms(Arc::new(RhMsg::new(&settings).unwrap()), "a.b", capabilities, from_peer(peer)).await;
}

/// What came to a queue of RabbitMQ, in whole each time it is asked for.
fn from_queue<'a>(brokers: &'a Brokers, node: &'a str, queue: &'a RabbitQueue<'_>) -> Inbox<'a> {
    let waiting = Arc::new(tokio::sync::Mutex::new(std::collections::VecDeque::new()));
    Box::new(move |count| {
        let waiting = Arc::clone(&waiting);
        Box::pin(async move {
            let mut waiting = waiting.lock().await;
            while waiting.len() < count {
                waiting
                    .extend(brokers.python("rabbit.py", &[brokers.get(node), "drain", queue.name()]).await);
            }
            let received = waiting.drain(..count).map(|message: Value| Received {
                body: message["body"].as_str().unwrap_or_default().as_bytes().to_vec(),
                headers: message["headers"].clone(),
            });
            received.collect()
        })
    })
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn amqp091_conforms() {
    let brokers = Brokers::running();
    let topic = unique("conformance");
    let queue = RabbitQueue::declare(&brokers, "RABBIT1_AMQP", &topic).await;
    let messenger = Amqp091::new(&Amqp091Settings::new([brokers.get("RABBIT1_AMQP")])).unwrap();
    let capabilities = Capabilities { arrival: true, any_body: false, headers: true, closes: true };
    conforms(Arc::new(messenger), &topic, capabilities, from_queue(&brokers, "RABBIT1_AMQP", &queue)).await;
    queue.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn fedmsg_conforms() {
    let brokers = Brokers::running();
    let topic = unique("conformance");
    let queue = RabbitQueue::declare(&brokers, "RABBIT1_AMQP", &topic).await;
    let messenger = Fedmsg::new(&Amqp091Settings::new([brokers.get("RABBIT1_AMQP")])).unwrap();
    let capabilities = Capabilities { arrival: true, any_body: false, headers: true, closes: true };
    conforms(Arc::new(messenger), &topic, capabilities, from_queue(&brokers, "RABBIT1_AMQP", &queue)).await;
    queue.drain().await;
}
