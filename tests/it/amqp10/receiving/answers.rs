//! The outcome of settlements.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::time::timeout;
use tower_outbox::Message;
use tower_outbox::amqp10::{Amqp10Source, Amqp10Subscription};
use tower_outbox::message::{Scalar, headers};
use tower_outbox::source::{Source, Unsettled};

use super::{LONG, Queue, attached, next, nothing_comes, send, seq};
use crate::peers::{Brokers, numbered, unique};

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn what_is_dropped_comes_again_and_does_not_count() {
    let brokers = Brokers::running();
    for queue in Queue::at_each(&brokers, "what_is_dropped_comes_again_and_does_not_count").await {
        queue.send(numbered("a", 1)).await;
        let source = queue.source_of(&queue.subscription().with_credit(1));
        for n in 0..3 {
            let delivery = next(&source).await;
            let view = delivery.view().unwrap();
            assert_eq!(view.attempt(), 1);
            assert!(view.redelivered() || n == 0);
        }
        next(&source).await.ack().await.unwrap();
        nothing_comes(&source).await;
        source.close(LONG).await;
        nothing_comes(&queue.source()).await;
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn attempts_are_counted_with_what_went_wrong() {
    let brokers = Brokers::running();
    for queue in Queue::at_each(&brokers, "attempts_are_counted_with_what_went_wrong").await {
        queue.send(numbered("a", 1)).await;
        let source = queue.source();
        for attempt in 1..5 {
            let delivery = next(&source).await;
            let view = delivery.view().unwrap();
            let reasons: Vec<_> = view.failures().iter().map(|failure| failure.reason.to_string()).collect();
            let expected: Vec<_> = (1..attempt).map(|n| format!("no. {n}")).collect();
            assert_eq!(
                (view.attempt(), reasons, view.redelivered()),
                (attempt, expected, view.redelivered())
            );
            assert!(attempt == 1 || view.redelivered());
            delivery.retry(Duration::ZERO, format!("no. {attempt}")).await.unwrap();
        }
        next(&source).await.ack().await.unwrap();
        nothing_comes(&source).await;
        source.close(LONG).await;
        // It is gone, not only kept from us.
        nothing_comes(&queue.source()).await;
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_retry_waits_without_holding_a_slot() {
    let brokers = Brokers::running();
    for queue in Queue::at_each(&brokers, "a_retry_waits_without_holding_a_slot").await {
        queue.send(numbered("a", 3)).await;
        let source = queue.source_of(&queue.subscription().with_credit(1));
        let wait = Duration::from_secs(2);
        let begun = Instant::now();
        for expected in 0..3 {
            let delivery = next(&source).await;
            assert_eq!(seq(&delivery), expected);
            if expected < 2 {
                delivery.retry(wait, "not yet").await.unwrap();
            } else {
                delivery.ack().await.unwrap();
            }
        }
        assert!(begun.elapsed() < wait, "{:?}", begun.elapsed());
        let mut again = BTreeSet::new();
        for _ in 0..2 {
            let delivery = next(&source).await;
            assert!(begun.elapsed() >= wait, "{:?}", begun.elapsed());
            assert_eq!(delivery.view().unwrap().attempt(), 2);
            again.insert(seq(&delivery));
            delivery.ack().await.unwrap();
        }
        assert_eq!(again, BTreeSet::from([0, 1]));
        source.close(LONG).await;
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_dead_letter_says_why_and_is_as_it_was() {
    let brokers = Brokers::running();
    for queue in Queue::at_each(&brokers, "a_dead_letter_says_why_and_is_as_it_was").await {
        let dead = queue.another(&brokers).await;
        let message = Message::json("a.b", &json!({"x": 1})).unwrap().with_header("h", 7);
        queue.send(vec![message.clone().with_expiry(Duration::from_secs(3_600))]).await;
        let source = queue.source_of(&queue.subscription().with_dead_letter_address(&dead.address));
        next(&source).await.retry(Duration::ZERO, "first").await.unwrap();
        next(&source).await.reject("no use").await.unwrap();
        nothing_comes(&source).await;
        source.close(LONG).await;
        nothing_comes(&queue.source()).await;

        let source = dead.source();
        let delivery = next(&source).await;
        let view = delivery.view().unwrap();
        let letter = view.message();
        assert_eq!(
            (letter.id(), letter.topic(), letter.body()),
            (message.id(), message.topic(), message.body())
        );
        assert_eq!((letter.header("h"), letter.expiry()), (Some(&Scalar::Int(7)), None));
        let reasons: Vec<_> = view.failures().iter().map(|failure| &*failure.reason).collect();
        assert_eq!(reasons, ["first", "no use"]);
        assert_eq!(
            (letter.header(headers::REASON), view.attempt()),
            (None, 1),
            "headers of ours are not shown"
        );
        drop(delivery);
        source.close(LONG).await;
        let shown = brokers
            .python(
                "receive.py",
                &[&dead.settings.broker.urls[0], &dead.address, "--count", "1", "--timeout", "5"],
            )
            .await;
        let properties = &shown.iter().find(|line| line["event"] == "message").unwrap()["properties"];
        assert_eq!(properties[headers::REASON], "no use");
        assert_eq!(properties[headers::ATTEMPT], 2);
        assert_eq!(properties[headers::QUEUE], queue.address);
        assert_eq!(properties[headers::TOPIC], "a.b");
        assert_eq!(properties["h"], 7);
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_message_without_a_dead_letter_queue_is_delivered_again() {
    let brokers = Brokers::running();
    if brokers.without_activemq("a_message_without_a_dead_letter_queue_is_delivered_again") {
        return;
    }
    // This client may not write there.
    let settings = brokers.mutual_tls(&["ACTIVEMQ_AMQPS"]);
    let name = unique("dead");
    let address = format!("Consumer.{name}.VirtualTopic.eng.{name}");
    let subscription = Amqp10Subscription::new(&address).with_dead_letter_address("queue://forbidden");
    let source = Amqp10Source::new(&settings, &subscription).unwrap();
    let topic = format!("topic://VirtualTopic.eng.{name}");
    attached(&[&source], &settings, &topic).await;
    send(&settings, &topic, numbered("a", 1)).await;
    let error = next(&source).await.reject("no use").await.unwrap_err();
    assert!(format!("{error:?}").contains("not authorized"), "{error:?}");
    let begun = Instant::now();
    next(&source).await.ack().await.unwrap();
    assert!(begun.elapsed() > Duration::from_millis(500), "it is paced");
    source.close(LONG).await;
}

/// RabbitMQ 3.10 sends more than its credit when that is raised at the wrong time, and the client library drops it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn every_message_comes_once_whatever_the_credit() {
    let brokers = Brokers::running();
    for queue in Queue::at_each(&brokers, "every_message_comes_once_whatever_the_credit").await {
        for credit in [1, 2, 7, 256] {
            queue.send(numbered("a", 500)).await;
            let source = queue.source_of(&queue.subscription().with_credit(credit));
            let mut open = Vec::new();
            let (mut seen, mut retried) = (BTreeSet::new(), BTreeSet::new());
            while seen.len() < 500 {
                let received = timeout(LONG, source.receive(3)).await.unwrap().unwrap();
                open.extend(received);
                // The one that is here for longest last, now and then; never more than may be here.
                while open.len() > (credit as usize).saturating_sub(1).min(5) {
                    let delivery: Unsettled = open.swap_remove(0);
                    let seq = seq(&delivery);
                    if seq.is_multiple_of(7) && retried.insert(seq) {
                        delivery.retry(Duration::from_millis(seq % 50), "once").await.unwrap();
                        continue;
                    }
                    assert_eq!(delivery.view().unwrap().attempt(), if seq.is_multiple_of(7) { 2 } else { 1 });
                    delivery.ack().await.unwrap();
                    assert!(seen.insert(seq), "{seq} came twice");
                }
                if seen.len() + open.len() == 500 {
                    for delivery in open.drain(..) {
                        seen.insert(self::seq(&delivery));
                        delivery.ack().await.unwrap();
                    }
                }
            }
            nothing_comes(&source).await;
            source.close(LONG).await;
        }
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn without_a_dead_letter_address_a_rejected_message_is_left_to_the_broker() {
    let brokers = Brokers::running();
    for queue in
        Queue::at_each(&brokers, "without_a_dead_letter_address_a_rejected_message_is_left_to_the_broker")
            .await
    {
        let mark = unique("mark");
        for durable in [true, false] {
            let mut settings = queue.settings.clone();
            settings.durable = Some(durable);
            let message =
                numbered("a", 1).remove(0).with_header("mark", mark.clone()).with_header("durable", durable);
            send(&settings, &queue.address, vec![message]).await;
        }
        let source = queue.source();
        for _ in 0..2 {
            next(&source).await.reject("no use").await.unwrap();
        }
        nothing_comes(&source).await;
        source.close(LONG).await;
        nothing_comes(&queue.source()).await;
        if queue.counts {
            // ActiveMQ keeps what is durable.
            let selected =
                Amqp10Subscription::new("queue://ActiveMQ.DLQ").with_selector(format!("mark = '{mark}'"));
            let dead = queue.source_of(&selected);
            let delivery = next(&dead).await;
            assert_eq!(delivery.view().unwrap().message().header("durable"), Some(&Scalar::Bool(true)));
            delivery.ack().await.unwrap();
            nothing_comes(&dead).await;
            dead.close(LONG).await;
        }
    }
}
