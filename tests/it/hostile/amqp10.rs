//! AMQP 1.0: what strangers send harms only itself.

mod memory;
pub(super) mod raw_broker;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use fe2o3_amqp_types::messaging::DeliveryState;
use tokio::time::timeout;
use tower_outbox::amqp10::{Amqp10, Amqp10Settings, Amqp10Source, Amqp10Subscription};
use tower_outbox::amqp091::{Amqp091, Amqp091Settings, Amqp091Source, Amqp091Subscription};
use tower_outbox::source::{Source, Unsettled};
use tower_outbox::{Message, Messenger};

use self::raw_broker::{RawBroker, frame, transfers};
use crate::peers::{Brokers, RabbitQueue, numbered, unique};

const LONG: Duration = Duration::from_secs(20);

async fn next(source: &Amqp10Source) -> Unsettled {
    timeout(LONG, source.receive(1)).await.expect("a message in time").unwrap().remove(0)
}

async fn send(settings: &Amqp10Settings, address: &str, message: Message) {
    let mut settings = settings.clone();
    settings.address = Some(address.to_owned());
    let messenger = Amqp10::new(&settings).unwrap();
    messenger.send(vec![message]).await.unwrap();
    messenger.close(LONG).await;
}

/// `depth` lists in each other.
fn lists(depth: usize) -> Vec<u8> {
    compounds(depth, 0xd0, &[])
}

/// `depth` maps in each other.
fn maps(depth: usize) -> Vec<u8> {
    compounds(depth, 0xd1, b"\xa1\x01k")
}

fn compounds(depth: usize, code: u8, key: &[u8]) -> Vec<u8> {
    let count = if key.is_empty() { 1_u32 } else { 2 };
    (0..depth).fold(vec![0x40], |inner, _| {
        let size = ((key.len() + inner.len()) as u32 + 4).to_be_bytes();
        [&[code][..], &size, &count.to_be_bytes(), key, &inner].concat()
    })
}

/// `depth` described values in each other.
fn described(depth: usize) -> Vec<u8> {
    [&b"\x00\x53\x01".repeat(depth)[..], b"\x40"].concat()
}

/// A map of one entry.
fn pair(key: &[u8], value: &[u8]) -> Vec<u8> {
    let inner = [key, value].concat();
    [&[0xd1][..], &(inner.len() as u32 + 4).to_be_bytes(), &2_u32.to_be_bytes(), &inner].concat()
}

fn section(code: u8, value: &[u8]) -> Vec<u8> {
    [&[0, 0x53, code], value].concat()
}

fn data(body: &[u8]) -> Vec<u8> {
    section(0x75, &[&[0xb0][..], &(body.len() as u32).to_be_bytes(), body].concat())
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_body_of_values_in_each_other_is_one_dead_letter_and_the_next_is_handled() {
    // ActiveMQ ends the connection of whoever sends it such a body.
    let brokers = Brokers::running();
    let queue = RabbitQueue::declare(&brokers, "RABBIT1_AMQP", &unique("nested")).await;
    let dead = RabbitQueue::declare(&brokers, "RABBIT1_AMQP", &unique("nested-dead")).await;
    let settings = Amqp10Settings::new([brokers.get("RABBIT1_AMQP")]);
    brokers.python("proton_send.py", &[brokers.get("RABBIT1_AMQP"), &queue.address(), "nested"]).await;
    send(&settings, &queue.address(), Message::new("good", "good").unwrap()).await;
    let subscription = Amqp10Subscription::new(queue.address()).with_dead_letter_address(dead.address());
    let source = Amqp10Source::new(&settings, &subscription).unwrap();
    for _ in 0..3 {
        let delivery = next(&source).await;
        let reason = delivery.view().unwrap_err().to_string();
        assert!(reason.contains("more than 64 deep"), "{reason}");
        delivery.reject(reason).await.unwrap();
    }
    let delivery = next(&source).await;
    assert_eq!(&delivery.view().unwrap().message().body()[..], b"good");
    delivery.ack().await.unwrap();
    source.close(LONG).await;

    let letters = Amqp10Source::new(&settings, &Amqp10Subscription::new(dead.address())).unwrap();
    for _ in 0..3 {
        let letter = next(&letters).await;
        let size = letter.view().unwrap().message().body().len();
        assert!(size > 15_000, "it is kept whole, not {size} bytes");
        letter.ack().await.unwrap();
    }
    letters.close(LONG).await;
}

#[tokio::test]
async fn whatever_a_message_is_made_of_it_harms_only_itself() {
    let annotation = |value: &[u8]| pair(b"\xa3\x03x-a", value);
    let many: Vec<u8> = (0..100_000_u32)
        .flat_map(|n| [&b"\xa1\x04"[..], format!("{n:04x}").as_bytes()[..4].as_ref(), b"\x40"].concat())
        .collect();
    let many =
        [&[0xd1][..], &(many.len() as u32 + 4).to_be_bytes(), &200_000_u32.to_be_bytes(), &many].concat();
    let bad: Vec<(&str, Vec<u8>)> = vec![
        ("lists", section(0x77, &lists(5_000))),
        ("maps", section(0x77, &maps(5_000))),
        ("described values", section(0x77, &described(5_000))),
        ("delivery annotations", [section(0x71, &annotation(&lists(5_000))), data(b"x")].concat()),
        ("message annotations", [section(0x72, &annotation(&maps(5_000))), data(b"x")].concat()),
        (
            "application properties",
            [section(0x74, &pair(b"\xa1\x01k", &described(5_000))), data(b"x")].concat(),
        ),
        ("footer", [data(b"x"), section(0x78, &annotation(&lists(5_000)))].concat()),
        ("sequence", section(0x76, &lists(5_000))),
        ("properties", [section(0x73, &lists(5_000)), data(b"x")].concat()),
        ("sections out of order", [data(b"x"), section(0x73, &[0x45])].concat()),
        ("a section twice", [section(0x73, &[0x45]), section(0x73, &[0x45]), data(b"x")].concat()),
        ("two bodies", [section(0x77, &[0x40]), data(b"x")].concat()),
        ("a truncated value", section(0x77, b"\xa1\xffx")),
        ("a truncated data section", b"\x00\x53\x75\xb0\xff\xff\xff\xffx".to_vec()),
        ("a list8 of many", section(0x77, b"\xc0\x01\xff")),
        ("a list32 of billions", section(0x77, b"\xd0\0\0\0\x04\xff\xff\xff\xff")),
        ("a map32 of billions", section(0x74, b"\xd1\0\0\0\x04\xff\xff\xff\xfe")),
        ("an array32 of billions", section(0x77, b"\xf0\0\0\0\x05\xff\xff\xff\xff\x40")),
        ("an array of maps", section(0x77, b"\xe0\x06\x01\xc1\x03\x02\x40\x40")),
        ("a text that is none", section(0x77, b"\xa1\x02\xff\xfe")),
        ("a symbol that is none", section(0x77, b"\xa3\x02\xff\xfe")),
        (
            "a subject that is no text",
            [section(0x73, b"\xc0\x08\x04\x40\x40\x40\xa1\x02\xff\xfe"), data(b"x")].concat(),
        ),
        ("a character that is none", section(0x77, b"\x73\0\0\xd8\0")),
        ("100,000 properties", [section(0x74, &many), data(b"x")].concat()),
        ("an unknown section", b"\x00\x53\x79\x40".to_vec()),
        ("no section", b"hello".to_vec()),
        ("an unknown type", section(0x77, b"\xff")),
        ("a header of texts", [section(0x70, b"\xc0\x04\x01\xa1\x01x"), data(b"x")].concat()),
    ];
    let good = [section(0x75, b"\xa0\x02go"), section(0x75, b"\xa0\x02od")].concat();
    let mut frames = Vec::new();
    for (n, (_, message)) in bad.iter().enumerate() {
        frames.push(transfers(n as u8, message, if n % 2 == 0 { 7_000 } else { 200_000 }));
    }
    // As they may be: two data sections, none, and an empty one.
    let count = bad.len() as u8;
    for (n, message) in [&good[..], b"", &data(b"")].into_iter().enumerate() {
        frames.push(transfers(count + n as u8, message, 5));
    }
    let mut broker = RawBroker::start(vec![frames]).await;
    let source = Amqp10Source::new(&broker.settings, &Amqp10Subscription::new("queue://raw.queue")).unwrap();
    for (what, _) in &bad {
        let delivery = next(&source).await;
        let reason = delivery.view().expect_err(what).to_string();
        assert!(reason.starts_with("it cannot be decoded as an AMQP message: "), "{what}: {reason}");
        delivery.reject(reason).await.unwrap();
        let answer = broker.disposition().await;
        assert!(matches!(answer.state, Some(DeliveryState::Rejected(_))), "{what}: {answer:?}");
    }
    for body in [&b"good"[..], b"", b""] {
        let delivery = next(&source).await;
        assert_eq!(&delivery.view().unwrap().message().body()[..], body);
        delivery.ack().await.unwrap();
        assert!(matches!(broker.disposition().await.state, Some(DeliveryState::Accepted(_))));
    }
    source.close(LONG).await;
}

#[tokio::test]
async fn a_frame_that_cannot_be_read_costs_its_connection_and_no_more() {
    let error = |info: &[u8]| {
        // A detach with an error whose info is this.
        let fields = [&b"\xa3\x01c\x40"[..], info].concat();
        let error =
            [&b"\x00\x53\x1d\xd0"[..], &(fields.len() as u32 + 4).to_be_bytes(), b"\0\0\0\x03", &fields]
                .concat();
        let list = [&b"\x43\x41"[..], &error].concat();
        frame(
            &[&b"\x00\x53\x16\xd0"[..], &(list.len() as u32 + 4).to_be_bytes(), b"\0\0\0\x03", &list]
                .concat(),
        )
    };
    let last = transfers(0, &data(b"good"), 1_000);
    let mut broker = RawBroker::start(vec![
        vec![error(&pair(b"\xa3\x01k", &lists(5_000)))],
        vec![frame(&[&b"\x00\x53\x12\xd0\0\0\x9c\x40\0\0\0\x01"[..], &lists(4_444)].concat())],
        vec![b"\x7f\xff\xff\xff\x02\0\0\0".to_vec()],
        vec![last],
    ])
    .await;
    let source = Amqp10Source::new(&broker.settings, &Amqp10Subscription::new("queue://raw.queue")).unwrap();
    let delivery = next(&source).await;
    assert_eq!(&delivery.view().unwrap().message().body()[..], b"good");
    delivery.ack().await.unwrap();
    assert!(matches!(broker.disposition().await.state, Some(DeliveryState::Accepted(_))));
    source.close(LONG).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn failover_connections_that_an_operator_closes_cost_no_send() {
    let brokers = Brokers::all_up().await;
    let queue = RabbitQueue::declare(&brokers, "RABBIT1_AMQP", &unique("closed")).await;
    let mut settings = Amqp10Settings::new([brokers.get("RABBIT1_AMQP")]);
    settings.address = Some(queue.address());
    let messenger = Arc::new(Amqp10::new(&settings).unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let senders: Vec<_> = (0..20)
        .map(|_| {
            let (messenger, stop) = (Arc::clone(&messenger), Arc::clone(&stop));
            tokio::spawn(async move {
                let (mut sent, mut failed) = (0, Vec::new());
                while !stop.load(Ordering::Relaxed) {
                    match messenger.send(numbered("closed", 1)).await {
                        Ok(()) => sent += 1,
                        Err(unsent) => failed.push(unsent.to_string()),
                    }
                }
                (sent, failed)
            })
        })
        .collect();
    for _ in 0..3 {
        let before = queue.count().await;
        let grown = async { while queue.count().await < before + 100 {} };
        timeout(LONG, grown).await.expect("messages come");
        brokers.command("disconnect rabbit1").await;
    }
    stop.store(true, Ordering::Relaxed);
    let (mut sent, mut failed) = (0, Vec::new());
    for sender in senders {
        let (some, more) = sender.await.unwrap();
        sent += some;
        failed.extend(more);
    }
    assert_eq!(failed, [""; 0], "beside {sent} sends");
    // Each connection that was closed may have cost each sender one message twice, no more.
    let came = queue.count().await;
    assert!((sent..=sent + 60).contains(&came), "{came} of {sent}");
    messenger.close(LONG).await;
}

/// A queue at each kind of broker, and where it is.
async fn queues(brokers: &Brokers, test: &str) -> Vec<(Amqp10Settings, String)> {
    let queue = RabbitQueue::declare(brokers, "RABBIT1_AMQP", &unique("hostile")).await;
    let mut queues = vec![(Amqp10Settings::new([brokers.get("RABBIT1_AMQP")]), queue.address())];
    if !brokers.without_activemq(test) {
        let settings = Amqp10Settings::new([brokers.get("ACTIVEMQ_AMQP")]);
        queues.push((settings, format!("queue://{}", unique("hostile"))));
    }
    queues
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn attempts_belong_to_one_delivery_whatever_its_id() {
    let brokers = Brokers::running();
    for (settings, address) in queues(&brokers, "attempts_belong_to_one_delivery_whatever_its_id").await {
        brokers.python("proton_send.py", &[&settings.broker.urls[0], &address, "one_id"]).await;
        let source = Amqp10Source::new(&settings, &Amqp10Subscription::new(&address)).unwrap();
        for attempt in 1..=4 {
            // All are here before one is given back.
            let mut deliveries = Vec::new();
            for _ in 0..20 {
                deliveries.push(next(&source).await);
            }
            for delivery in deliveries {
                let view = delivery.view().unwrap();
                assert_eq!(view.attempt(), attempt, "{address}: {:?}", view.message().body());
                assert_eq!(view.failures().len(), attempt as usize - 1);
                match attempt {
                    4 => delivery.ack().await.unwrap(),
                    _ => delivery.retry(Duration::from_millis(20), "an outage").await.unwrap(),
                }
            }
        }
        source.close(LONG).await;
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_new_message_that_looks_like_one_that_failed_has_its_own_attempts() {
    let brokers = Brokers::running();
    let queue = RabbitQueue::declare(&brokers, "RABBIT1_AMQP", &unique("alike")).await;
    let settings = Amqp10Settings::new([brokers.get("RABBIT1_AMQP")]);
    let publish = ["publish", "", queue.name(), "{}"];
    let publish = [&[brokers.get("RABBIT1_AMQP")][..], &publish].concat();
    brokers.python("rabbit.py", &publish).await;
    let source = Amqp10Source::new(&settings, &Amqp10Subscription::new(queue.address())).unwrap();
    let first = next(&source).await;
    assert_eq!(first.view().unwrap().attempt(), 1);
    first.retry(Duration::from_millis(500), "an outage").await.unwrap();
    brokers.python("rabbit.py", &publish).await;
    // Whichever comes first: the second may take longer to be published than the first waits.
    let both = [next(&source).await, next(&source).await];
    let mut attempts = both.each_ref().map(|delivery| delivery.view().unwrap().attempt());
    attempts.sort_unstable();
    assert_eq!(attempts, [1, 2]);
    for delivery in both {
        delivery.ack().await.unwrap();
    }
    source.close(LONG).await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn our_headers_are_ignored_from_strangers() {
    let brokers = Brokers::running();
    for (settings, address) in queues(&brokers, "our_headers_are_ignored_from_strangers").await {
        let message = Message::new("user.created", "{}")
            .unwrap()
            .with_header("tower-outbox-topic", "admin.delete_all")
            .with_header("tower-outbox-attempt", 999_999)
            .with_header("tower-outbox-key", "of another")
            .with_header("tower-outbox-queue", "secret.commands")
            .with_header(
                "tower-outbox-failures",
                r#"[{"at":"2026-11-21T06:15:24.925Z","reason":"invented"}]"#,
            );
        send(&settings, &address, message).await;
        let source = Amqp10Source::new(&settings, &Amqp10Subscription::new(&address)).unwrap();
        let delivery = next(&source).await;
        let view = delivery.view().unwrap();
        assert_eq!((view.message().topic().as_str(), view.attempt()), ("user.created", 1));
        assert_eq!((view.message().key(), view.failures()), (None, &[][..]));
        assert_eq!(view.message().headers().count(), 0, "{:?}", view.message());
        delivery.ack().await.unwrap();
        source.close(LONG).await;
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn the_routing_key_of_rabbitmq_is_the_topic() {
    let brokers = Brokers::running();
    let key = format!("v.{}", unique("x"));
    let queue = RabbitQueue::declare(&brokers, "RABBIT1_AMQP", &key).await;
    let url = brokers.get("RABBIT1_AMQP");
    brokers.python("rabbit.py", &[url, "publish", "amq.topic", &key, "{}"]).await;
    let settings = Amqp10Settings::new([url]);
    let source = Amqp10Source::new(&settings, &Amqp10Subscription::new(queue.address())).unwrap();
    let delivery = next(&source).await;
    assert_eq!(delivery.view().unwrap().message().topic().as_str(), key);
    delivery.ack().await.unwrap();
    source.close(LONG).await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn the_time_of_a_message_is_right_between_both_protocols_of_rabbitmq() {
    let brokers = Brokers::running();
    let key = format!("time.{}", unique("x"));
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let message = || {
        Message::new(key.clone(), "{}")
            .unwrap()
            .with_time(time)
            .with_key("k")
            .with_header("h", 7)
            .with_header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    };
    let queues = [
        RabbitQueue::declare(&brokers, "RABBIT1_AMQP", &key).await,
        RabbitQueue::declare(&brokers, "RABBIT1_AMQP", &key).await,
    ];
    let url = brokers.get("RABBIT1_AMQP");
    let mut settings = Amqp10Settings::new([url]);
    settings.address = Some("/topic/{topic}".to_owned());
    Amqp10::new(&settings).unwrap().send(vec![message()]).await.unwrap();
    Amqp091::new(&Amqp091Settings::new([url])).unwrap().send(vec![message()]).await.unwrap();
    let sources: [Box<dyn Source>; 2] = [
        Box::new(Amqp10Source::new(&settings, &Amqp10Subscription::new(queues[0].address())).unwrap()),
        Box::new(
            Amqp091Source::new(&Amqp091Settings::new([url]), &Amqp091Subscription::new(queues[1].name()))
                .unwrap(),
        ),
    ];
    for source in sources {
        for from in ["1.0", "0-9-1"] {
            let delivery =
                timeout(LONG, source.receive(1)).await.expect("a message in time").unwrap().remove(0);
            let message = delivery.view().unwrap().message();
            println!(
                "from {from} to {}: {message:?} {:?}",
                source.name(),
                message.headers().collect::<Vec<_>>()
            );
            assert_eq!(
                (message.time(), message.topic().as_str()),
                (time, key.as_str()),
                "from {from} to {}",
                source.name()
            );
            delivery.ack().await.unwrap();
        }
        source.close(LONG).await;
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn large_bodies_do_not_fill_the_memory_and_all_come() {
    const LARGE: usize = 1 << 20;
    let brokers = Brokers::running();
    for (settings, address) in queues(&brokers, "large_bodies_do_not_fill_the_memory_and_all_come").await {
        let mut to = settings.clone();
        to.address = Some(address.clone());
        let messenger = Amqp10::new(&to).unwrap();
        let large = || Message::new("large", vec![7; LARGE]).unwrap();
        let subscription = Amqp10Subscription::new(&address).with_prefetch_bytes(4 * LARGE);
        let source = Amqp10Source::new(&settings, &subscription).unwrap();
        // With nothing known of sizes, then after hundreds of small ones.
        for small in [0, 400] {
            let mut batch = numbered("small", small);
            batch.extend((0..20).map(|_| large()));
            messenger.send(batch).await.unwrap();
            for _ in 0..small {
                next(&source).await.ack().await.unwrap();
            }
            let mut here = Vec::new();
            while let Ok(more) = timeout(Duration::from_millis(300), source.receive(100)).await {
                here.extend(more.unwrap());
            }
            assert!((1..=9).contains(&here.len()), "{address}: {} are here after {small}", here.len());
            let mut handled = 0;
            loop {
                for delivery in here.drain(..) {
                    assert_eq!(delivery.view().unwrap().message().body().len(), LARGE);
                    delivery.ack().await.unwrap();
                    handled += 1;
                }
                if handled == 20 {
                    break;
                }
                here = timeout(LONG, source.receive(100)).await.expect("the rest comes").unwrap();
            }
        }
        source.close(LONG).await;
        messenger.close(LONG).await;
    }
}

/// The landing on the moon, in milliseconds.
const LANDING: i64 = -14_182_940_000;

#[tokio::test]
async fn a_time_before_1970_is_read_wherever_it_stands() {
    let time = [&[0x83][..], &LANDING.to_be_bytes()].concat();
    let list = [&[0x40; 9][..], &time].concat();
    let list = [&[0xc0, list.len() as u8 + 1, 10][..], &list].concat();
    let text = |text: &str| [&[0xa1, text.len() as u8][..], text.as_bytes()].concat();
    let attributes = [("specversion", "1.0"), ("id", "1"), ("source", "/s"), ("type", "a.b")];
    let mut map: Vec<u8> = attributes
        .iter()
        .flat_map(|(name, value)| [text(&format!("cloudEvents:{name}")), text(value)].concat())
        .collect();
    map.extend([text("cloudEvents:time"), time].concat());
    let map = [&[0xd1][..], &(map.len() as u32 + 4).to_be_bytes(), &10_u32.to_be_bytes(), &map].concat();
    let plain = [section(0x73, &list), data(b"x")].concat();
    let event = [section(0x74, &map), data(b"x")].concat();
    let broker = RawBroker::start(vec![vec![transfers(0, &plain, 1_000), transfers(1, &event, 1_000)]]).await;
    let mut settings = broker.settings.clone();
    settings.broker.envelope = tower_outbox::envelope::Envelope::CloudEvents;
    let source = Amqp10Source::new(&settings, &Amqp10Subscription::new("queue://raw.queue")).unwrap();
    let landing = SystemTime::UNIX_EPOCH - Duration::from_millis(LANDING.unsigned_abs());
    let delivery = next(&source).await;
    assert!(delivery.view().unwrap_err().to_string().contains("not a CloudEvent"));
    delivery.ack().await.unwrap();
    let delivery = next(&source).await;
    assert_eq!(delivery.view().unwrap().message().time(), landing);
    delivery.ack().await.unwrap();
    source.close(LONG).await;

    let broker = RawBroker::start(vec![vec![transfers(0, &plain, 1_000)]]).await;
    let subscription = Amqp10Subscription::new("queue://raw.queue");
    let source = Amqp10Source::new(&broker.settings, &subscription).unwrap();
    let delivery = next(&source).await;
    assert_eq!(delivery.view().unwrap().message().time(), landing);
    delivery.ack().await.unwrap();
    source.close(LONG).await;
}
