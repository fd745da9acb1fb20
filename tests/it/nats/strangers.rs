//! Messages that no well-behaved client publishes, written byte by byte.

use tokio::time::timeout;
use tower_outbox::source::Source;

use super::raw::{Place, SOON, body, header, publish_raw};
use super::receiving::{next, text};

impl Place {
    async fn of_subjects_below() -> Self {
        Self::with(|config| config.subjects = vec![format!("{}.>", config.name)]).await
    }

    async fn publish_raw(&self, messages: &[(Vec<u8>, &[u8], &[u8])]) {
        publish_raw(&self.url, messages).await;
    }

    fn below(&self, rest: &[u8]) -> Vec<u8> {
        [self.topic.as_bytes(), b".", rest].concat()
    }
}

/// The client library ends the connection over such a message, and the server delivers it again and again.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn unreadable_bytes_become_one_dead_letter_each() {
    let place = Place::of_subjects_below().await;
    // Messages on their way with such a one come again after so long.
    let source = place.source(&place.subscription().with_ack_wait(std::time::Duration::from_secs(1)));
    let good = &b"NATS/1.0\r\n\r\n"[..];
    let bad = [
        (place.below(b"a"), &b"NATS/1.0\r\na: \xff\r\n\r\n"[..], "no UTF-8"),
        (place.below(b"a"), b"NATS/1.0\r\nno colon\r\n\r\n", "colon"),
        (place.below(b"a"), b"NATS/1.0\r\na: b\rc\r\n\r\n", "carriage return"),
        (place.below("a\u{a0}b".as_bytes()), good, "subject"),
        (place.below(b"\xff"), good, "subject"),
    ];
    for (n, (subject, headers, reason)) in bad.iter().enumerate() {
        let (n, subject) = (n.to_string(), subject.clone());
        let messages = [
            (place.below(b"a"), good, &b"before"[..]),
            (subject, headers, n.as_bytes()),
            (place.below(b"a"), good, b"after"),
        ];
        place.publish_raw(&messages).await;
        for expected in ["before", "after"] {
            let delivery = next(&source).await;
            assert_eq!(text(&delivery), expected, "{reason}");
            delivery.ack().await.unwrap();
        }
    }
    let dead = Place { stream: format!("{}-all-dead", place.stream), ..place };
    let wait = async {
        while dead.stored().await.len() < bad.len() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, wait).await.expect("a dead letter is missing");
    let letters = dead.stored().await;
    for (n, (_, _, reason)) in bad.iter().enumerate() {
        assert_eq!(body(&letters[n]), n.to_string());
        let found = header(&letters[n], "tower-outbox-reason").unwrap();
        assert!(found.contains(reason), "{found}");
    }
    assert_eq!(letters.len(), bad.len());
    source.close(SOON).await;
    let stream = dead.context.get_stream(&dead.topic).await.unwrap();
    assert_eq!(stream.consumer_info("all").await.unwrap().num_ack_pending, 0);
}

/// The server itself says so by a status when there is no consumer any more.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_message_with_a_status_is_a_message() {
    let place = Place::of_subjects_below().await;
    let source = place.source(&place.subscription());
    let statuses =
        ["100", "404 No Messages", "409 Consumer Deleted", "409 Message Size Exceeds MaxBytes", "503"];
    for status in statuses {
        let headers = format!("NATS/1.0 {status}\r\n\r\n");
        place.publish_raw(&[(place.below(b"a"), headers.as_bytes(), status.as_bytes())]).await;
        let delivery = next(&source).await;
        assert_eq!((text(&delivery).as_str(), delivery.view().unwrap().attempt()), (status, 1));
        delivery.ack().await.unwrap();
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_message_without_room_for_a_reason_is_a_dead_letter() {
    let place = Place::of_subjects_below().await;
    let source = place.source(&place.subscription());
    let most = place.client.max_payload();
    let many = format!("NATS/1.0\r\nlong: {}\r\n\r\n", "x".repeat(65_000));
    let (large, alone) = (vec![b'x'; most - 1_000 - many.len()], vec![b'x'; most - 12]);
    place
        .publish_raw(&[
            (place.below(b"a"), many.as_bytes(), &large),
            (place.below(b"a"), b"NATS/1.0\r\n\r\n", &alone),
        ])
        .await;
    for _ in 0..2 {
        next(&source).await.reject("r".repeat(900)).await.unwrap();
    }
    let dead = Place { stream: format!("{}-all-dead", place.stream), ..place };
    let letters = dead.stored().await;
    let found: Vec<_> =
        letters.iter().map(|it| (it.payload.len(), header(it, "long"), it.headers.is_some())).collect();
    assert_eq!(found, [(large.len(), None, true), (alone.len(), None, false)]);
}
