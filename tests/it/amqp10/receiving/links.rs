//! The link: what it is attached to, and what happens to it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout;
use tower_outbox::amqp10::{Amqp10Settings, Amqp10Source, Amqp10Subscription};
use tower_outbox::source::{Source, Unsettled};

use super::{LONG, Queue, attached, failure, next, nothing_comes, send, seq, seq_of};
use crate::peers::{Brokers, RabbitQueue, numbered, unique};

#[test]
fn what_is_wrong_with_a_subscription_is_said_at_once() {
    let topic = || Amqp10Subscription::new("topic://t");
    for (subscription, key) in [
        (Amqp10Subscription::new(" "), "ADDRESS"),
        (topic().with_credit(0), "CREDIT"),
        (topic().with_selector(""), "SELECTOR"),
        (topic().with_durable(""), "DURABLE"),
        (Amqp10Subscription::new("queue://q").with_durable("d"), "DURABLE"),
        (topic().with_dead_letter_address(""), "DEAD_LETTER_ADDRESS"),
        (topic().with_dead_letter_address("topic://t"), "DEAD_LETTER_ADDRESS"),
    ] {
        let settings = Amqp10Settings::new(["amqp://localhost"]);
        let error = Amqp10Source::new(&settings, &subscription).unwrap_err().to_string();
        assert!(error.starts_with(key), "{error}");
    }
    let error = Amqp10Source::rhmsg(&Amqp10Settings::default(), &topic()).unwrap_err();
    assert!(error.to_string().contains("URLS"), "{error}");
    let read: Result<Amqp10Subscription, _> = toml::from_str(
        r#"address = "q"
        credits = 7"#,
    );
    assert!(read.unwrap_err().to_string().contains("credits"));
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn only_what_the_selector_selects_comes() {
    let brokers = Brokers::running();
    if brokers.without_activemq("only_what_the_selector_selects_comes") {
        return;
    }
    let queue = Queue::activemq(&brokers);
    let mut batch = numbered("a", 10);
    for message in &mut batch {
        message.set_header("seq", seq_of(message) as i64);
    }
    queue.send(batch).await;
    let source = queue.source_of(&queue.subscription().with_selector("seq > 3 AND seq <= 5"));
    for expected in [4, 5] {
        let delivery = next(&source).await;
        assert_eq!(seq(&delivery), expected);
        delivery.ack().await.unwrap();
    }
    nothing_comes(&source).await;
    source.close(LONG).await;

    let rabbit = Queue::rabbitmq(&brokers).await;
    let source = rabbit.source_of(&rabbit.subscription().with_selector("seq > 3"));
    let text = failure(&source).await;
    assert!(text.contains("leave SELECTOR out"), "{text}");
    source.close(LONG).await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_durable_subscription_keeps_messages_while_we_are_away() {
    let brokers = Brokers::running();
    if brokers.without_activemq("a_durable_subscription_keeps_messages_while_we_are_away") {
        return;
    }
    let settings = Amqp10Settings::new([brokers.get("ACTIVEMQ_AMQP")]);
    let topic = format!("topic://{}", unique("durable"));
    let subscription = Amqp10Subscription::new(&topic).with_durable(unique("app"));
    let source = Amqp10Source::new(&settings, &subscription).unwrap();
    attached(&[&source], &settings, &topic).await;
    send(&settings, &topic, numbered("a", 2)).await;
    next(&source).await.ack().await.unwrap();

    // A second one of the same name says what to do.
    let second = Amqp10Source::new(&settings, &subscription).unwrap();
    let text = failure(&second).await;
    assert!(text.contains("already connected"), "{text}");
    second.close(LONG).await;

    source.close(LONG).await;
    send(&settings, &topic, numbered("b", 2)).await;
    let source = Amqp10Source::new(&settings, &subscription).unwrap();
    for expected in [("a", 1), ("b", 0), ("b", 1)] {
        let delivery = next(&source).await;
        assert_eq!((delivery.view().unwrap().message().topic().as_str(), seq(&delivery)), expected);
        delivery.ack().await.unwrap();
    }
    source.close(LONG).await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn what_was_fetched_is_handed_back_by_pause_and_comes_again_after_it() {
    let brokers = Brokers::running();
    for queue in
        Queue::at_each(&brokers, "what_was_fetched_is_handed_back_by_pause_and_comes_again_after_it").await
    {
        queue.send(numbered("a", 20)).await;
        let source = queue.source();
        let given_out = next(&source).await;
        source.pause().await;
        given_out.ack().await.unwrap();
        // Another consumer gets them.
        let other = queue.source();
        let mut seen = BTreeSet::new();
        for _ in 0..10 {
            let delivery = next(&other).await;
            seen.insert(seq(&delivery));
            delivery.ack().await.unwrap();
        }
        other.close(LONG).await;
        for _ in 0..9 {
            let delivery = next(&source).await;
            seen.insert(seq(&delivery));
            delivery.ack().await.unwrap();
        }
        assert_eq!(seen, (1..20).collect());
        source.close(LONG).await;
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn close_gives_the_answers_and_hands_back_the_rest() {
    let brokers = Brokers::running();
    for queue in Queue::at_each(&brokers, "close_gives_the_answers_and_hands_back_the_rest").await {
        queue.send(numbered("a", 300)).await;
        let source = queue.source();
        let (mut held, mut left) = (Vec::new(), (0..300).collect::<BTreeSet<_>>());
        while left.len() > 250 {
            let delivery = next(&source).await;
            match seq(&delivery) % 3 {
                0 => held.push(delivery),
                1 => delivery.retry(Duration::from_secs(3_600), "later").await.unwrap(),
                _ => {
                    left.remove(&seq(&delivery));
                    delivery.ack().await.unwrap();
                }
            }
        }
        source.close(LONG).await;
        for delivery in held {
            assert!(delivery.is_stale());
            delivery.ack().await.unwrap_err();
        }
        let source = queue.source();
        let mut seen = BTreeSet::new();
        while seen.len() < left.len() {
            let delivery = next(&source).await;
            assert!(seen.insert(seq(&delivery)), "{} came twice", seq(&delivery));
            delivery.ack().await.unwrap();
        }
        assert_eq!(seen, left);
        nothing_comes(&source).await;
        source.close(LONG).await;
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_permanent_fault_is_reported_with_its_cure() {
    let brokers = Brokers::running();
    let rabbit = brokers.get("RABBIT1_AMQP");
    let source = |url: &str, address: &str| {
        Amqp10Source::new(&Amqp10Settings::new([url]), &Amqp10Subscription::new(address)).unwrap()
    };
    let missing = source(rabbit, "/amq/queue/nosuch");
    let begun = Instant::now();
    for _ in 0..2 {
        let text = failure(&missing).await;
        assert!(text.contains("no queue 'nosuch'") && text.contains("check ADDRESS"), "{text}");
    }
    assert!(begun.elapsed() >= Duration::from_secs(1), "it is paced");
    missing.close(LONG).await;
    let text = failure(&source(&rabbit.replace("://", "://guest:wrong@"), "/amq/queue/nosuch")).await;
    assert!(text.contains("rejected SASL"), "{text}");
    if brokers.without_activemq("a_permanent_fault_is_reported_with_its_cure") {
        return;
    }
    let settings = brokers.mutual_tls(&["ACTIVEMQ_AMQPS"]);
    let source = Amqp10Source::new(&settings, &Amqp10Subscription::new("queue://forbidden")).unwrap();
    let text = failure(&source).await;
    assert!(text.contains("not authorized to read") && text.contains("read permissions"), "{text}");
    source.close(LONG).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn failover_a_killed_broker_loses_nothing_and_receiving_goes_on() {
    let brokers = Brokers::all_up().await;
    for (name, key) in [("rabbit2", "RABBIT2_AMQP"), ("activemq", "ACTIVEMQ_AMQP")] {
        if name == "activemq"
            && brokers.without_activemq("failover_a_killed_broker_loses_nothing_and_receiving_goes_on")
        {
            return;
        }
        let address = if name == "activemq" {
            format!("queue://{}", unique("killed"))
        } else {
            RabbitQueue::declare(&brokers, key, &unique("killed")).await.address()
        };
        let settings = Amqp10Settings::new([brokers.get(key)]);
        send(&settings, &address, numbered("a", 2_000)).await;
        let source = Arc::new(Amqp10Source::new(&settings, &Amqp10Subscription::new(&address)).unwrap());
        let consumer = Arc::clone(&source);
        let (some, enough) = tokio::sync::oneshot::channel();
        let consuming = tokio::spawn(async move {
            let mut seen = BTreeSet::new();
            let mut some = Some(some);
            while seen.len() < 2_000 {
                for delivery in consumer.receive(16).await.unwrap() {
                    let seq = seq(&delivery);
                    // A message that was not acknowledged comes again.
                    if delivery.ack().await.is_ok() {
                        seen.insert(seq);
                    }
                }
                if seen.len() > 200
                    && let Some(some) = some.take()
                {
                    some.send(()).unwrap();
                }
            }
        });
        enough.await.unwrap();
        brokers.command(&format!("kill {name}")).await;
        brokers.command(&format!("start {name}")).await;
        timeout(Duration::from_secs(60), consuming).await.expect("all come").unwrap();
        nothing_comes(&source).await;
        source.close(LONG).await;
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn failover_a_frozen_broker_is_left_for_another() {
    let brokers = Brokers::all_up().await;
    let queue = RabbitQueue::declare(&brokers, "RABBIT1_AMQP", &unique("frozen")).await;
    let name = queue.name().to_owned();
    brokers.python("rabbit.py", &[brokers.get("RABBIT2_AMQP"), "declare", &name, &name]).await;
    let nodes = [("rabbit1", "RABBIT1_AMQP"), ("rabbit2", "RABBIT2_AMQP")];
    for (_, key) in nodes {
        send(&Amqp10Settings::new([brokers.get(key)]), &queue.address(), numbered(key, 1)).await;
    }
    let mut settings = Amqp10Settings::new(nodes.map(|(_, key)| brokers.get(key)));
    settings.broker.idle_timeout = Duration::from_secs(2);
    settings.broker.connection_timeout = Some(Duration::from_secs(2));
    let source = Amqp10Source::new(&settings, &Amqp10Subscription::new(queue.address())).unwrap();
    let delivery = next(&source).await;
    let topic = |delivery: &Unsettled| delivery.view().unwrap().message().topic().to_string();
    let (frozen, key) = nodes.into_iter().find(|(_, key)| topic(&delivery) == *key).unwrap();
    brokers.command(&format!("freeze {frozen}")).await;
    let other = next(&source).await;
    assert_ne!(topic(&other), key);
    other.ack().await.unwrap();
    assert!(delivery.is_stale());
    delivery.ack().await.unwrap_err();
    brokers.command(&format!("thaw {frozen}")).await;
    source.close(LONG).await;
    let thawed = Amqp10Source::new(
        &Amqp10Settings::new([brokers.get(key)]),
        &Amqp10Subscription::new(queue.address()),
    )
    .unwrap();
    let again = next(&thawed).await;
    assert_eq!(topic(&again), key);
    again.ack().await.unwrap();
    thawed.close(LONG).await;
}
