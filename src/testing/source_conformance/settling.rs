//! Deliveries, and how they are settled.

use std::time::{Duration, Instant, SystemTime};

use crate::message::{Message, Scalar};
use crate::source::SourceError;

use super::harness::{SourceHarness, id, ids, ids_of};
use crate::testing::support::stores::STUCK;

pub async fn sent_messages_are_received_in_order(harness: SourceHarness) {
    let sent = harness.send(200).await;
    let received = harness.receive(200).await;
    assert_eq!(ids_of(&received), ids(&sent));
    for delivery in received {
        let view = delivery.view().unwrap();
        assert_eq!((view.attempt(), view.failures().len()), (1, 0));
        assert_eq!(view.source(), &*harness.source.name());
        delivery.ack().await.unwrap();
    }
    harness.assert_empty().await;
}

pub async fn every_field_arrives(harness: SourceHarness) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let sent = Message::new(harness.topic.clone(), r#"{"größe": "☃"}"#)
        .unwrap()
        .with_content_type("application/json")
        .with_time(time)
        .with_key("schlüssel")
        .with_priority(5)
        .with_header("text", "Grüße")
        .with_header("yes", true)
        .with_header("int", -7)
        .with_header("float", 0.5);
    harness.messenger.send(vec![sent.clone()]).await.unwrap();
    let delivery = harness.receive_one().await;
    let got = delivery.view().unwrap().message();
    assert_eq!((got.id(), got.topic(), got.body()), (sent.id(), sent.topic(), sent.body()));
    assert_eq!((got.content_type(), got.time(), got.key()), (sent.content_type(), time, sent.key()));
    assert_eq!(got.priority(), Some(5));
    for (name, value) in sent.headers() {
        assert_eq!(got.header(name), Some(value), "{name}");
    }
    assert_eq!(got.header("text"), Some(&Scalar::from("Grüße")));
    delivery.ack().await.unwrap();
}

pub async fn a_limit_is_kept(harness: SourceHarness) {
    harness.send(10).await;
    for _ in 0..10 {
        let received = harness.source.receive(1).await.unwrap();
        assert_eq!(received.len(), 1);
        for delivery in received {
            delivery.ack().await.unwrap();
        }
    }
}

pub async fn an_acknowledged_message_is_not_delivered_again(harness: SourceHarness) {
    harness.send(3).await;
    for delivery in harness.receive(3).await {
        delivery.ack().await.unwrap();
    }
    harness.assert_empty().await;
    harness.dead(0).await;
}

pub async fn a_released_or_dropped_delivery_comes_again_without_an_attempt(harness: SourceHarness) {
    let sent = harness.send(1).await;
    harness.receive_one().await.release().await.unwrap();
    let again = harness.receive_one().await;
    assert_eq!(id(&again), sent[0].id());
    drop(again);
    let again = harness.receive_one().await;
    let view = again.view().unwrap();
    assert_eq!((view.message().id(), view.failures().len()), (sent[0].id(), 0));
    again.ack().await.unwrap();
    harness.assert_empty().await;
}

pub async fn a_retry_comes_after_its_delay_as_the_next_attempt(harness: SourceHarness) {
    let sent = harness.send(1).await;
    let after = Duration::from_millis(200);
    for attempt in 1..=3 {
        let delivery = harness.receive_one().await;
        let view = delivery.view().unwrap();
        assert_eq!((view.message().id(), view.attempt()), (sent[0].id(), attempt));
        assert_eq!(view.message().body(), sent[0].body());
        assert!(view.redelivered() == (attempt > 1) || !harness.capabilities.redelivered);
        if harness.capabilities.history {
            let reasons: Vec<_> = view.failures().iter().map(|failure| failure.reason.to_string()).collect();
            assert_eq!(reasons, (1..attempt).map(|n| format!("failed {n}")).collect::<Vec<_>>());
        }
        if attempt == 3 {
            delivery.ack().await.unwrap();
            break;
        }
        let begun = Instant::now();
        delivery.retry(after, format!("failed {attempt}")).await.unwrap();
        let again = harness.receive_one().await;
        assert!(begun.elapsed() >= after, "it came after {:?}", begun.elapsed());
        again.release().await.unwrap();
    }
    harness.assert_empty().await;
}

pub async fn a_waiting_retry_does_not_delay_others(harness: SourceHarness) {
    let sent = harness.send(20).await;
    for _ in 0..10 {
        harness.receive_one().await.retry(Duration::from_secs(1), "not yet").await.unwrap();
    }
    let begun = Instant::now();
    let received = harness.receive(10).await;
    assert!(begun.elapsed() < Duration::from_secs(1), "they waited for the others");
    assert_eq!(ids_of(&received), ids(&sent[10..]));
    for delivery in received {
        delivery.ack().await.unwrap();
    }
    let mut again = ids_of(&harness.receive(10).await);
    again.sort();
    let mut waited = ids(&sent[..10]);
    waited.sort();
    assert_eq!(again, waited);
}

pub async fn a_rejected_message_is_a_dead_letter_with_its_reasons(harness: SourceHarness) {
    let sent = harness.send(2).await;
    let mut received = harness.receive(2).await;
    let (second, first) = (received.pop().unwrap(), received.pop().unwrap());
    first.retry(Duration::ZERO, "not yet").await.unwrap();
    second.ack().await.unwrap();
    harness.receive_one().await.reject("never").await.unwrap();
    let dead = harness.dead(1).await.remove(0);
    assert_eq!((dead.id, dead.reasons.join(", ").as_str()), (sent[0].id(), "not yet, never"));
    harness.assert_empty().await;
}

pub async fn a_receive_that_is_dropped_loses_nothing(harness: SourceHarness) {
    let sending = async {
        for n in 0..200 {
            harness.messenger.send(vec![harness.message(n)]).await.unwrap();
        }
    };
    let receiving = async {
        let mut received = Vec::new();
        let begun = Instant::now();
        while received.len() < 200 {
            assert!(begun.elapsed() < STUCK, "only {} came", received.len());
            let dropped_soon = tokio::time::timeout(Duration::from_micros(300), harness.source.receive(7));
            for delivery in dropped_soon.await.into_iter().flat_map(Result::unwrap) {
                received.push(id(&delivery));
                delivery.ack().await.unwrap();
            }
        }
        received
    };
    let ((), received) = tokio::join!(sending, receiving);
    assert_eq!(received.iter().collect::<std::collections::HashSet<_>>().len(), 200, "each came once");
    harness.assert_empty().await;
}

pub async fn a_closed_source_says_so(harness: SourceHarness) {
    harness.send(1).await;
    harness.receive_one().await.ack().await.unwrap();
    harness.source.close(STUCK).await;
    let closed = tokio::time::timeout(STUCK, harness.source.receive(1)).await.expect("it waits");
    assert!(matches!(closed, Err(SourceError::Closed)), "{closed:?}");
}
