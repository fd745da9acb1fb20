//! The contract of a source.

use std::time::{Duration, Instant, SystemTime};

use tower_outbox::Message;
use tower_outbox::message::Scalar;
use tower_outbox::source::SourceError;

use super::{Place, id, ids, ids_of};
use crate::support::stores::STUCK;

pub(super) async fn what_is_sent_is_received_in_order(place: Place) {
    let sent = place.send(200).await;
    let received = place.receive(200).await;
    assert_eq!(ids_of(&received), ids(&sent));
    for delivery in received {
        let view = delivery.view().unwrap();
        assert_eq!((view.attempt(), view.failures().len()), (1, 0));
        assert_eq!(view.source(), &*place.source.name());
        delivery.ack().await.unwrap();
    }
    place.assert_empty().await;
}

pub(super) async fn every_field_arrives(place: Place) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let sent = Message::new(place.topic.clone(), r#"{"größe": "☃"}"#)
        .unwrap()
        .with_content_type("application/json")
        .with_time(time)
        .with_key("schlüssel")
        .with_priority(5)
        .with_header("text", "Grüße")
        .with_header("yes", true)
        .with_header("int", -7)
        .with_header("float", 0.5);
    place.messenger.send(vec![sent.clone()]).await.unwrap();
    let delivery = place.receive_one().await;
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

pub(super) async fn a_limit_is_kept(place: Place) {
    place.send(10).await;
    for _ in 0..10 {
        let received = place.source.receive(1).await.unwrap();
        assert_eq!(received.len(), 1);
        for delivery in received {
            delivery.ack().await.unwrap();
        }
    }
}

pub(super) async fn what_is_acknowledged_does_not_come_again(place: Place) {
    place.send(3).await;
    for delivery in place.receive(3).await {
        delivery.ack().await.unwrap();
    }
    place.assert_empty().await;
    place.dead(0).await;
}

pub(super) async fn what_is_released_or_dropped_comes_again_and_no_attempt_is_counted(place: Place) {
    let sent = place.send(1).await;
    place.receive_one().await.release().await.unwrap();
    let again = place.receive_one().await;
    assert_eq!(id(&again), sent[0].id());
    drop(again);
    let again = place.receive_one().await;
    let view = again.view().unwrap();
    assert_eq!((view.message().id(), view.failures().len()), (sent[0].id(), 0));
    again.ack().await.unwrap();
    place.assert_empty().await;
}

pub(super) async fn a_retry_comes_after_its_delay_as_the_next_attempt(place: Place) {
    let sent = place.send(1).await;
    let after = Duration::from_millis(200);
    for attempt in 1..=3 {
        let delivery = place.receive_one().await;
        let view = delivery.view().unwrap();
        assert_eq!((view.message().id(), view.attempt()), (sent[0].id(), attempt));
        assert_eq!(view.message().body(), sent[0].body());
        assert!(view.redelivered() == (attempt > 1) || !place.capabilities.redelivered);
        if place.capabilities.history {
            let reasons: Vec<_> = view.failures().iter().map(|failure| failure.reason.to_string()).collect();
            assert_eq!(reasons, (1..attempt).map(|n| format!("failed {n}")).collect::<Vec<_>>());
        }
        if attempt == 3 {
            delivery.ack().await.unwrap();
            break;
        }
        let begun = Instant::now();
        delivery.retry(after, format!("failed {attempt}")).await.unwrap();
        let again = place.receive_one().await;
        assert!(begun.elapsed() >= after, "it came after {:?}", begun.elapsed());
        again.release().await.unwrap();
    }
    place.assert_empty().await;
}

pub(super) async fn a_retry_that_waits_holds_nothing_up(place: Place) {
    let sent = place.send(20).await;
    for _ in 0..10 {
        place.receive_one().await.retry(Duration::from_secs(1), "not yet").await.unwrap();
    }
    let begun = Instant::now();
    let received = place.receive(10).await;
    assert!(begun.elapsed() < Duration::from_secs(1), "they waited for the others");
    assert_eq!(ids_of(&received), ids(&sent[10..]));
    for delivery in received {
        delivery.ack().await.unwrap();
    }
    let mut again = ids_of(&place.receive(10).await);
    again.sort();
    let mut waited = ids(&sent[..10]);
    waited.sort();
    assert_eq!(again, waited);
}

pub(super) async fn what_is_rejected_is_a_dead_letter_with_its_reasons(place: Place) {
    let sent = place.send(2).await;
    let mut received = place.receive(2).await;
    let (second, first) = (received.pop().unwrap(), received.pop().unwrap());
    first.retry(Duration::ZERO, "not yet").await.unwrap();
    second.ack().await.unwrap();
    place.receive_one().await.reject("never").await.unwrap();
    let dead = place.dead(1).await.remove(0);
    assert_eq!((dead.id, dead.reasons.join(", ").as_str()), (sent[0].id(), "not yet, never"));
    place.assert_empty().await;
}

pub(super) async fn a_receive_that_is_dropped_loses_nothing(place: Place) {
    let sending = async {
        for n in 0..200 {
            place.messenger.send(vec![place.message(n)]).await.unwrap();
        }
    };
    let receiving = async {
        let mut received = Vec::new();
        let begun = Instant::now();
        while received.len() < 200 {
            assert!(begun.elapsed() < STUCK, "only {} came", received.len());
            let dropped_soon = tokio::time::timeout(Duration::from_micros(300), place.source.receive(7));
            for delivery in dropped_soon.await.into_iter().flat_map(Result::unwrap) {
                received.push(id(&delivery));
                delivery.ack().await.unwrap();
            }
        }
        received
    };
    let ((), received) = tokio::join!(sending, receiving);
    assert_eq!(received.iter().collect::<std::collections::HashSet<_>>().len(), 200, "each came once");
    place.assert_empty().await;
}

pub(super) async fn a_closed_source_says_so(place: Place) {
    place.send(1).await;
    place.receive_one().await.ack().await.unwrap();
    place.source.close(STUCK).await;
    let closed = tokio::time::timeout(STUCK, place.source.receive(1)).await.expect("it waits");
    assert!(matches!(closed, Err(SourceError::Closed)), "{closed:?}");
}
