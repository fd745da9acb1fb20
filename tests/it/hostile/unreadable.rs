//! Messages of an AMQP 0-9-1 publisher that cannot be read.

mod raw;

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use lapin::options::{QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Connection, ConnectionProperties};
use tokio::time::timeout;
use tower_outbox::amqp10::{Amqp10, Amqp10Settings};
use tower_outbox::amqp091::{Amqp091Settings, Amqp091Source, Amqp091Subscription};
use tower_outbox::envelope::Envelope;
use tower_outbox::source::{Source, Unsettled};
use tower_outbox::{Consumer, Messenger};

use self::raw::{RawPublisher, long, short};
use crate::amqp091::receiving::{Queue, body, table, text as header_text};
use crate::peers::{Brokers, unique};
use crate::support::stores::STUCK;

const CONTENT_TYPE: u16 = 1 << 15;
const HEADERS: u16 = 1 << 13;
const CORRELATION_ID: u16 = 1 << 10;
const MESSAGE_ID: u16 = 1 << 7;

/// A queue that gets what is published to the fanout exchange of its name, and its dead letters.
struct Hostile {
    publisher: RawPublisher,
    source: Amqp091Source,
    dead: Amqp091Source,
    name: String,
    _connection: Connection,
}

impl Hostile {
    async fn new() -> Self {
        let brokers = Brokers::running();
        let (url, name) = (brokers.get("RABBIT1_AMQP"), unique("unreadable"));
        let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let options = lapin::options::ExchangeDeclareOptions { auto_delete: true, ..Default::default() };
        let fanout = lapin::ExchangeKind::Fanout;
        channel.exchange_declare(name.as_str().into(), fanout, options, FieldTable::default()).await.unwrap();
        for queue in [name.clone(), format!("{name}.dead")] {
            let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
            channel.queue_declare(queue.as_str().into(), options, FieldTable::default()).await.unwrap();
        }
        let (options, table) = (QueueBindOptions::default(), FieldTable::default());
        channel
            .queue_bind(name.as_str().into(), name.as_str().into(), "".into(), options, table)
            .await
            .unwrap();
        let settings = Amqp091Settings::new([url]);
        let source = |queue: &str| Amqp091Source::new(&settings, &Amqp091Subscription::new(queue)).unwrap();
        Self {
            publisher: RawPublisher::connect(url).await,
            source: source(&name),
            dead: source(&format!("{name}.dead")),
            name,
            _connection: connection,
        }
    }

    async fn publish(&mut self, routing_key: &[u8], flags: u16, properties: &[u8], body: &[u8]) {
        let Self { publisher, name, .. } = self;
        publisher.publish(name, routing_key, flags, properties, body).await;
    }

    /// Publishes it, and a message behind it that can be read: it is one dead letter, the other is handled. Gives what
    /// comes of the dead letters, and its reason.
    async fn becomes_a_dead_letter(
        &mut self,
        routing_key: &[u8],
        flags: u16,
        properties: &[u8],
    ) -> (Unsettled, String) {
        self.publish(routing_key, flags, properties, b"the body").await;
        self.publish(b"good", 0, b"", b"read").await;
        let bad = one(&self.source).await;
        let reason = bad.view().expect_err("it cannot be read").to_string();
        bad.reject(reason.clone()).await.unwrap();
        let good = one(&self.source).await;
        assert_eq!(&good.view().unwrap().message().body()[..], b"read");
        good.ack().await.unwrap();
        let dead = one(&self.dead).await;
        let view = dead.view().expect("a dead letter can be read");
        assert_eq!(&view.message().body()[..], b"the body");
        assert_eq!(view.message().header("tower-outbox-reason").unwrap().to_string(), reason);
        (dead, reason)
    }
}

async fn one(source: &Amqp091Source) -> Unsettled {
    timeout(STUCK, source.receive(1)).await.expect("nothing comes").unwrap().remove(0)
}

fn text(value: &[u8]) -> Vec<u8> {
    [b"S", &long(value)[..]].concat()
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn strings_that_are_no_utf8_make_one_dead_letter() {
    let mut hostile = Hostile::new().await;
    let good = long(&[&short(b"good")[..], &text(b"kept")].concat());
    let bad_name = long(&[&short(b"good")[..], &text(b"kept"), &short(b"\xff\xfe"), &text(b"x")].concat());
    for (routing_key, flags, properties, reason) in [
        (
            &b"a"[..],
            CONTENT_TYPE | HEADERS,
            [short(b"\xff\xfe"), good.clone()].concat(),
            "its content type is not UTF-8",
        ),
        (b"a", HEADERS, bad_name, "the name of a header is not UTF-8"),
        (
            b"a",
            HEADERS | CORRELATION_ID,
            [good.clone(), short(b"\xff")].concat(),
            "its correlation id is not UTF-8",
        ),
        (b"a", HEADERS | MESSAGE_ID, [good.clone(), short(b"\xff")].concat(), "its message id is not UTF-8"),
        (b"a\xff\xfe", HEADERS, good.clone(), "its routing key is not UTF-8"),
    ] {
        let (dead, found) = hostile.becomes_a_dead_letter(routing_key, flags, &properties).await;
        assert_eq!(found, reason);
        assert_eq!(dead.view().unwrap().message().header("good").unwrap().as_str(), Some("kept"), "{reason}");
        dead.ack().await.unwrap();
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn headers_without_number_make_one_dead_letter() {
    let mut hostile = Hostile::new().await;
    let mut table = Vec::new();
    for n in 0_u16..25_000 {
        let digit = |n: u16| b'a' + (n % 30) as u8;
        table.extend([3, digit(n), digit(n / 30), digit(n / 900), b'V']);
    }
    hostile.publish(b"many", HEADERS, &long(&table), b"the body").await;
    let large = [&short(b"large")[..], &text(&[b'x'; 70_000])].concat();
    hostile.publish(b"large", HEADERS, &long(&large), b"the body").await;
    hostile.publish(b"good", 0, b"", b"read").await;
    let (handled, mut good) = tokio::sync::mpsc::unbounded_channel();
    let router = axum::Router::new().fallback(async move |request: http::Request<axum::body::Body>| {
        let _ = handled.send(request.uri().path().to_owned());
    });
    let Hostile { source, dead, .. } = hostile;
    let run = Consumer::new(source, router).with_graceful_shutdown(std::future::pending(), STUCK);
    let reasons = async {
        assert_eq!(timeout(STUCK, good.recv()).await.expect("nothing is handled").unwrap(), "/good");
        let mut reasons = Vec::new();
        while reasons.len() < 2 {
            let letter = one(&dead).await;
            reasons.push(match letter.view() {
                Ok(view) => view.message().header("tower-outbox-reason").unwrap().to_string(),
                Err(reason) => reason.to_string(),
            });
            letter.ack().await.unwrap();
        }
        reasons.sort();
        reasons
    };
    let reasons = tokio::select! {
        reasons = reasons => reasons,
        _ = run => unreachable!("it runs until it is told to stop"),
    };
    assert_eq!(reasons, ["it has more than 1,000 headers", "its headers are larger than 65536 bytes"]);
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn large_bodies_are_bounded_in_bytes_and_come_in_order() {
    const ROOM: usize = 1_000_000;
    let Hostile { mut publisher, name, _connection, .. } = Hostile::new().await;
    let sizes = [[400_000; 8].as_slice(), &[2_000_000], &[300_000; 3]].concat();
    let bodies = sizes.iter().enumerate().map(|(n, size)| vec![b'x'; size + n]).collect::<Vec<_>>();
    for body in &bodies {
        publisher.publish(&name, b"large", 0, b"", body).await;
    }
    let settings = Amqp091Settings::new([Brokers::running().get("RABBIT1_AMQP")]);
    let subscription = Amqp091Subscription::new(&name).with_prefetch_bytes(ROOM);
    let source = Amqp091Source::new(&settings, &subscription).unwrap();
    let len = |delivery: &Unsettled| delivery.view().unwrap().message().body().len();
    let (mut here, mut seen) = (VecDeque::new(), Vec::new());
    // How many of them find room beside each other, up to each.
    for together in [[2; 7].as_slice(), &[1, 1], &[3, 2, 1]].concat() {
        while here.len() < together && seen.len() + here.len() < bodies.len() {
            here.extend(timeout(STUCK, source.receive(100)).await.expect("nothing comes").unwrap());
            let held: usize = here.iter().map(len).sum();
            assert!(here.len() == 1 || held <= ROOM, "{} with {held} bytes", here.len());
        }
        let first = here.pop_front().unwrap();
        seen.push(len(&first));
        first.ack().await.unwrap();
    }
    assert_eq!(seen, bodies.iter().map(Vec::len).collect::<Vec<_>>());
}

/// A quorum queue without a limit puts there what is handed back.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn large_bodies_that_come_again_at_the_end_of_a_queue_do_not_stop_it() {
    let brokers = Brokers::running();
    let queue = Queue::new(&brokers).await;
    queue.declare(&queue.name, table([("x-queue-type", header_text("quorum"))])).await;
    let sizes = [[600_000; 4].as_slice(), &[300; 100]].concat();
    for size in &sizes {
        queue.publish("", &queue.name, BasicProperties::default(), &vec![b'x'; *size]).await;
    }
    queue.until_ready(&queue.name, 104).await;
    let subscription = queue.subscription().with_prefetch(4).with_prefetch_bytes(1_000_000);
    let source = Amqp091Source::new(&queue.settings(), &subscription).unwrap();
    let handle = async {
        let mut seen = Vec::new();
        while seen.len() < sizes.len() {
            for delivery in source.receive(1).await.unwrap() {
                seen.push(delivery.view().unwrap().message().body().len());
                delivery.ack().await.unwrap();
            }
        }
        seen
    };
    let mut seen = timeout(STUCK, handle).await.expect("all are handled");
    seen.sort_unstable_by(|a, b| b.cmp(a));
    assert_eq!(seen, sizes);
    queue.delete(&queue.name).await;
}

/// A quorum queue counts that, as it counts a handler that ended its process.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn what_had_no_room_was_not_tried() {
    let brokers = Brokers::running();
    let queue = Queue::new(&brokers).await;
    let limit = ("x-delivery-limit", AMQPValue::LongInt(3));
    queue.declare(&queue.name, table([("x-queue-type", header_text("quorum")), limit])).await;
    for _ in 0..10 {
        queue.publish("", &queue.name, BasicProperties::default(), &[b'x'; 600_000]).await;
    }
    queue.until_ready(&queue.name, 10).await;
    let subscription = queue.subscription().with_prefetch_bytes(1_000_000);
    let source = Amqp091Source::new(&queue.settings(), &subscription).unwrap();
    for _ in 0..10 {
        let delivery = one(&source).await;
        assert_eq!(delivery.view().unwrap().attempt(), 1);
        delivery.ack().await.unwrap();
    }
    queue.delete(&queue.name).await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_header_nested_5000_deep_makes_one_dead_letter() {
    let mut hostile = Hostile::new().await;
    for (kind, name) in [(b'A', &b""[..]), (b'F', b"\x01a")] {
        let mut value = [&[kind][..], &long(b"")].concat();
        for _ in 1..5_000 {
            value = [&[kind][..], &long(&[name, &value].concat())].concat();
        }
        let table = [&short(b"good")[..], &text(b"kept"), &short(b"deep"), &value].concat();
        let (dead, reason) = hostile.becomes_a_dead_letter(b"a", HEADERS, &long(&table)).await;
        assert_eq!(reason, "the header \"deep\" is nested deeper than 64 levels");
        assert_eq!(dead.view().unwrap().message().header("good").unwrap().as_str(), Some("kept"));
        dead.ack().await.unwrap();
    }
}

/// A message larger than a frame is one dead letter without its properties, and the next one is handled.
async fn what_is_larger_than_a_frame_is_a_dead_letter(queue: &Queue, source: &Amqp091Source) {
    let large = one(source).await;
    let reason = large.view().expect_err("it cannot be read").to_string();
    assert_eq!(reason, "its properties are larger than a frame may be");
    large.reject(reason).await.unwrap();
    let good = one(source).await;
    assert_eq!(body(&good), "good");
    good.ack().await.unwrap();
    assert_eq!(queue.take(&queue.dead()).await.data, b"large");
}

/// RabbitMQ adds to the headers of what expires or is rejected, and sends frames of whatever size that makes.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn headers_that_outgrow_a_frame_on_their_way_make_one_dead_letter() {
    let brokers = Brokers::running();
    let queue = Queue::new(&brokers).await;
    let source = queue.source(&queue.subscription()).await;
    let before = format!("{}.before", queue.name);
    let arguments = table([
        ("x-message-ttl", AMQPValue::LongInt(1)),
        ("x-expires", AMQPValue::LongInt(60_000)),
        ("x-dead-letter-exchange", header_text("")),
        ("x-dead-letter-routing-key", header_text(&queue.name)),
    ]);
    queue.declare(&before, arguments).await;
    let headers = table([("large", header_text(&"x".repeat(131_000)))]);
    queue.publish("", &before, BasicProperties::default().with_headers(headers), b"large").await;
    queue.publish("", &before, BasicProperties::default(), b"good").await;
    what_is_larger_than_a_frame_is_a_dead_letter(&queue, &source).await;
}

/// A frame of AMQP 1.0 need not hold all headers of a message.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn headers_that_fit_another_protocol_alone_make_one_dead_letter() {
    let brokers = Brokers::running();
    let queue = Queue::new(&brokers).await;
    let source = queue.source(&queue.subscription()).await;
    let mut settings = Amqp10Settings::new([brokers.get("RABBIT1_AMQP")]);
    settings.address = Some(format!("/amq/queue/{}", queue.name));
    let large = queue.message("large").with_header("large", "x".repeat(3_000_000));
    Amqp10::new(&settings).unwrap().send(vec![large, queue.message("good")]).await.unwrap();
    what_is_larger_than_a_frame_is_a_dead_letter(&queue, &source).await;
}

/// Clients write it with a sign, though AMQP 0-9-1 has none.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_time_before_1970_is_read() {
    let brokers = Brokers::running();
    let queue = Queue::new(&brokers).await;
    let source = queue.source(&queue.subscription()).await;
    let properties = BasicProperties::default().with_timestamp((-14_182_940_i64) as u64);
    queue.publish("amq.topic", &queue.topic, properties, b"landing").await;
    let delivery = one(&source).await;
    let landing = SystemTime::UNIX_EPOCH - Duration::from_secs(14_182_940);
    assert_eq!(delivery.view().unwrap().message().time(), landing);
    delivery.ack().await.unwrap();

    let mut settings = queue.settings();
    settings.broker.envelope = Envelope::CloudEvents;
    source.close(STUCK).await;
    let source = Amqp091Source::new(&settings, &queue.subscription()).unwrap();
    let mut event = table([
        ("cloudEvents:specversion", header_text("1.0")),
        ("cloudEvents:id", header_text("1")),
        ("cloudEvents:source", header_text("/s")),
        ("cloudEvents:type", header_text("a.b")),
    ]);
    event.insert("cloudEvents:time".into(), AMQPValue::LongLongInt(-14_182_940));
    queue
        .publish("amq.topic", &queue.topic, BasicProperties::default().with_headers(event), b"landing")
        .await;
    let delivery = one(&source).await;
    assert_eq!(delivery.view().unwrap().message().time(), landing);
    delivery.ack().await.unwrap();
}
