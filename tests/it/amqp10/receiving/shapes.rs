//! Received messages of every shape, and their topics.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde_json::json;
use tower_outbox::amqp10::{Amqp10Settings, Amqp10Source, Amqp10Subscription, RhMsg};
use tower_outbox::message::Scalar;
use tower_outbox::source::{Source, SourceError};
use tower_outbox::{Message, Messenger};

use super::{LONG, Queue, attached, next, nothing_comes, send, seq};
use crate::peers::{Brokers, RabbitQueue, numbered, unique};

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_plain_message_arrives_as_it_was_sent() {
    let brokers = Brokers::running();
    for queue in Queue::at_each(&brokers, "a_plain_message_arrives_as_it_was_sent").await {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        let sent = Message::new("user.created", vec![0, 159, 146, 150])
            .unwrap()
            .with_content_type("image/x-odd")
            .with_time(SystemTime::now())
            .with_key("user-7")
            .with_priority(7)
            .with_header("text", "größe ☃")
            .with_header("yes", true)
            .with_header("n", -7_000_000_000_i64)
            .with_header("f", 1.5)
            .with_header("nothing", Scalar::Null);
        let old = Message::json("a.b", &json!({"n": 1})).unwrap().with_time(time);
        queue.send(vec![sent.clone(), old.clone()]).await;
        let source = queue.source();
        for expected in [&sent, &old] {
            let delivery = next(&source).await;
            let view = delivery.view().unwrap();
            let message = view.message();
            assert_eq!((message.id(), message.topic()), (expected.id(), expected.topic()));
            assert_eq!((message.body(), message.content_type()), (expected.body(), expected.content_type()));
            assert_eq!((message.key(), message.priority()), (expected.key(), expected.priority()));
            let off = expected.time().duration_since(message.time()).unwrap();
            assert!(off < Duration::from_millis(1), "{off:?}");
            let headers = |message: &Message| -> BTreeMap<String, Scalar> {
                message.headers().map(|(name, value)| (name.to_owned(), value.clone())).collect()
            };
            assert_eq!(format!("{:?}", headers(message)), format!("{:?}", headers(expected)));
            assert_eq!((view.attempt(), view.source()), (1, queue.address.as_str()));
            assert!(view.failures().is_empty());
            delivery.ack().await.unwrap();
        }
        nothing_comes(&source).await;
        source.close(LONG).await;
        assert!(matches!(source.receive(1).await, Err(SourceError::Closed)));
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn properties_of_every_type_are_read() {
    let brokers = Brokers::running();
    for queue in Queue::at_each(&brokers, "properties_of_every_type_are_read").await {
        brokers.python("proton_send.py", &[&queue.settings.broker.urls[0], &queue.address, "typed"]).await;
        let source = queue.source();
        let delivery = next(&source).await;
        let message = delivery.view().unwrap().message();
        assert_eq!(message.id().to_string(), "018f3b6e-8a3c-7b1e-9f00-0123456789ab");
        assert_eq!((message.topic().as_str(), message.content_type()), ("typed.topic", "text/csv"));
        assert_eq!((message.key(), message.priority()), (Some("g"), Some(7)));
        assert_eq!(message.time(), SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_500));
        assert_eq!(message.expiry(), Some(Duration::from_secs(60)));
        let expected: BTreeMap<&str, Scalar> = BTreeMap::from([
            ("null", Scalar::Null),
            ("bool", true.into()),
            ("ubyte", 200.into()),
            ("ushort", 60_000.into()),
            ("uint", 4_000_000_000_i64.into()),
            ("ulong", 7.into()),
            ("byte", (-5).into()),
            ("short", (-300).into()),
            ("int", (-70_000).into()),
            ("long", (-5_000_000_000_i64).into()),
            ("float", 1.5.into()),
            ("double", 2.25.into()),
            ("string", "größe".into()),
            ("symbol", "red".into()),
            ("correlation-id", "c".into()),
            ("timestamp", "1970-01-01T00:00:12.345000Z".into()),
        ]);
        let found: BTreeMap<&str, Scalar> =
            message.headers().map(|(name, value)| (name, value.clone())).collect();
        assert_eq!(found, expected);
        delivery.ack().await.unwrap();
        source.close(LONG).await;
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn every_consumer_queue_of_a_virtual_topic_gets_what_rhmsg_sends() {
    let brokers = Brokers::running();
    if brokers.without_activemq("every_consumer_queue_of_a_virtual_topic_gets_what_rhmsg_sends") {
        return;
    }
    let mut settings = brokers.mutual_tls(&["ACTIVEMQ_AMQPS"]);
    let name = unique("pdc");
    settings.broker.topic_prefix = Some(format!("VirtualTopic.eng.{name}"));
    let exact = format!("Consumer.{name}-1.VirtualTopic.eng.{name}.products.added");
    let all = format!("Consumer.{name}-2.VirtualTopic.eng.{name}.>");
    let sources = [&exact, &all]
        .map(|address| Amqp10Source::rhmsg(&settings, &Amqp10Subscription::new(address)).unwrap());
    // The queue of a consumer is there once it has attached.
    let topic = format!("topic://VirtualTopic.eng.{name}.products.added");
    attached(&[&sources[0], &sources[1]], &settings, &topic).await;
    let messenger = RhMsg::new(&settings).unwrap();
    messenger.send(numbered("products.added", 3)).await.unwrap();
    for source in &sources {
        for n in 0..3 {
            let delivery = next(source).await;
            let message = delivery.view().unwrap().message();
            assert_eq!((seq(&delivery), message.content_type()), (n, "application/json"));
            assert_eq!(message.header("seq"), Some(&Scalar::Int(n as i64)));
            delivery.ack().await.unwrap();
        }
        nothing_comes(source).await;
    }
    messenger.send(numbered("products.added", 1)).await.unwrap();
    let delivery = next(&sources[0]).await;
    assert_eq!(delivery.view().unwrap().message().topic().as_str(), "products.added");
    for source in &sources {
        source.close(LONG).await;
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn the_topic_of_a_message_is_its_subject_or_where_it_was_sent_to() {
    let brokers = Brokers::running();
    if brokers.without_activemq("the_topic_of_a_message_is_its_subject_or_where_it_was_sent_to") {
        return;
    }
    let mut settings = Amqp10Settings::new([brokers.get("ACTIVEMQ_AMQP")]);
    let name = unique("topics");
    settings.broker.topic_prefix = Some(format!("VirtualTopic.{name}"));
    let wildcard = Amqp10Subscription::new(format!("Consumer.{name}.VirtualTopic.{name}.>"));
    let source = Amqp10Source::new(&settings, &wildcard).unwrap();
    let topic = format!("topic://VirtualTopic.{name}.a.b");
    attached(&[&source], &settings, &topic).await;
    brokers.python("proton_send.py", &[brokers.get("ACTIVEMQ_AMQP"), &topic, "to"]).await;
    send(&settings, &topic, numbered("c.d", 1)).await;
    for expected in ["a.b", "c.d"] {
        let delivery = next(&source).await;
        assert_eq!(delivery.view().unwrap().message().topic().as_str(), expected);
        delivery.ack().await.unwrap();
    }
    source.close(LONG).await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_body_that_is_no_text_or_data_is_poison() {
    let brokers = Brokers::running();
    // RabbitMQ 3.10 does not take most of them.
    if !brokers.without_activemq("a_body_that_is_no_text_or_data_is_poison") {
        let queue = Queue::activemq(&brokers);
        let dead = queue.another(&brokers).await;
        brokers.python("proton_send.py", &[&queue.settings.broker.urls[0], &queue.address, "bodies"]).await;
        let source = queue.source_of(&queue.subscription().with_dead_letter_address(&dead.address));
        let mut bodies = Vec::new();
        let mut poison = 0;
        for _ in 0..7 {
            let delivery = next(&source).await;
            match delivery.view() {
                Ok(view) => {
                    bodies.push(String::from_utf8(view.message().body().to_vec()).unwrap());
                    delivery.ack().await.unwrap();
                }
                Err(reason) => {
                    assert!(reason.contains("neither data nor text"), "{reason}");
                    poison += 1;
                    delivery.reject("poison").await.unwrap();
                }
            }
        }
        assert_eq!((bodies, poison), (vec!["abcd".to_owned(), "bin".to_owned(), String::new()], 4));
        nothing_comes(&source).await;
        source.close(LONG).await;
        let shown = brokers
            .python(
                "receive.py",
                &[&dead.settings.broker.urls[0], &dead.address, "--count", "4", "--timeout", "5"],
            )
            .await;
        let letters: Vec<_> = shown.iter().filter(|line| line["event"] == "message").collect();
        let shown: Vec<_> = letters.iter().map(|letter| &letter["body"]).collect();
        assert_eq!(shown, [&json!({"a": 1}), &json!([1, 2]), &json!([1, 2]), &json!(7)]);
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn what_is_no_message_at_all_does_not_stop_the_others() {
    let brokers = Brokers::running();
    let url = brokers.get("RABBIT1_AMQP");
    let garbled = RabbitQueue::declare(&brokers, "RABBIT1_AMQP", &unique("garbled")).await;
    brokers.python("rabbit.py", &[url, "garble", garbled.name()]).await;
    let settings = Amqp10Settings::new([url]);
    send(&settings, &garbled.address(), numbered("good", 1)).await;
    let dead = RabbitQueue::declare(&brokers, "RABBIT1_AMQP", &unique("garbled-dead")).await;
    let subscription = Amqp10Subscription::new(garbled.address()).with_dead_letter_address(dead.address());
    let source = Amqp10Source::new(&settings, &subscription).unwrap();
    if brokers.rabbitmq_4() {
        // It ends the session itself, each time, until the message is taken out over AMQP 0-9-1.
        nothing_comes(&source).await;
        assert_eq!(brokers.python("rabbit.py", &[url, "drain", garbled.name()]).await.len(), 2);
        send(&settings, &garbled.address(), numbered("good", 1)).await;
        assert_eq!(next(&source).await.view().unwrap().message().topic().as_str(), "good");
        source.close(LONG).await;
        return;
    }
    let delivery = next(&source).await;
    let reason = delivery.view().unwrap_err();
    assert!(reason.contains("decoded as an AMQP message"), "{reason}");
    delivery.reject("poison").await.unwrap();
    let delivery = next(&source).await;
    assert_eq!(delivery.view().unwrap().message().topic().as_str(), "good");
    delivery.ack().await.unwrap();
    nothing_comes(&source).await;
    source.close(LONG).await;
    assert_eq!(garbled.count().await, 0);
    let letters = dead.drain().await;
    assert_eq!(letters.len(), 1, "{letters:?}");
}
