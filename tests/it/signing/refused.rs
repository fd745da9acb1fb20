//! Messages that are not trusted.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::routing::post;
use http::StatusCode;
use tower_outbox::Consumer;
use tower_outbox::consumer::ConsumerSettings;
use tower_outbox::signing::{KeyKind, SignatureFormat};
use tower_outbox::source::{Source, SourceError};
use tower_outbox::{Message, Topic};

use super::{Queue, STUCK, key, message, settings};

/// The same message with another part; `Message` itself cannot change these.
fn with(message: &Message, topic: &str, body: &'static [u8]) -> Message {
    let changed = Message::new(topic.to_owned(), body).unwrap().with_id(message.id());
    let changed = changed.with_time(message.time()).with_content_type(message.content_type().to_owned());
    message
        .headers()
        .fold(changed, |changed, (name, value)| changed.with_header(name.to_owned(), value.clone()))
}

#[tokio::test]
async fn a_changed_message_is_refused_with_the_part_that_was_changed() {
    let queue = Queue::of(&settings().with_headers(["tenant", "added"]));
    let signed = queue.signer.sign(&message(7)).unwrap();
    let body = b"7";
    for (changed, part) in [
        (with(&signed, "user.created", b"8"), "body"),
        (with(&signed, "user.deleted", body), "topic"),
        (signed.clone().with_id(message(1).id()), "id"),
        (signed.clone().with_content_type("text/plain"), "content type"),
        (signed.clone().with_header("tenant", "evil"), "header \"tenant\""),
        (signed.clone().with_header("tenant", 7), "header \"tenant\""),
        (signed.clone().with_header("added", "later"), "header \"added\""),
    ] {
        queue.put(changed).await;
        let reason = queue.refusal().await;
        assert!(reason.contains(&format!("its {part} was changed")), "{part}: {reason}");
        assert!(reason.contains("user."), "it names the topic: {reason}");
    }
    // These are restored, whatever is received.
    let changed = with(&signed, "user.created", body);
    let changed =
        changed.with_key("other").with_time(SystemTime::UNIX_EPOCH).with_expiry(Duration::from_secs(9));
    queue.put(changed.with_header("unsigned", 1)).await;
    let received = queue.receive().await;
    let got = received.view().unwrap().message();
    assert_eq!((got.key(), got.expiry()), (Some("user-7"), None));
    assert_eq!(got.time(), micros(signed.time()));
}

fn micros(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    SystemTime::UNIX_EPOCH + Duration::from_micros(since.as_micros() as u64)
}

#[tokio::test]
async fn a_header_that_must_be_signed_is_missed() {
    let sender = Queue::of(&settings());
    let receiver = Queue::of(&settings().with_headers(["tenant"]));
    *receiver.keys.0.lock().unwrap() = sender.keys.0.lock().unwrap().clone();
    receiver.put(sender.signer.sign(&message(1)).unwrap()).await;
    let reason = receiver.refusal().await;
    assert!(reason.contains("\"tenant\" is not signed") && reason.contains("SIGNING.HEADERS"), "{reason}");
}

/// Else a stranger could confirm any message, or have confirmations sent to itself.
#[tokio::test]
async fn the_headers_of_acknowledgement_are_always_signed() {
    let queue = Queue::of(&settings());
    let signed = queue.signer.sign(&message(1).with_header("confirm", "a")).unwrap();
    queue.put(signed.with_header("confirm", "b")).await;
    assert!(queue.refusal().await.contains("header \"confirm\" was changed"));
    queue.put(queue.signer.sign(&message(1)).unwrap().with_header("ack", "me/ack")).await;
    assert!(queue.refusal().await.contains("header \"ack\" is not signed"));
    queue.send(&message(1).with_header("ack", "mq/ack")).await;
    assert!(queue.receive().await.view().is_ok());
}

#[tokio::test]
async fn a_signature_of_a_stranger_is_refused() {
    let queue = Queue::of(&settings());
    let stranger = Queue::of(&settings());
    queue.put(stranger.signer.sign(&message(1)).unwrap()).await;
    assert!(queue.refusal().await.contains("fits no key of host-1"));
    let other = Queue::of(&settings().with_origin("host-2"));
    queue.put(other.signer.sign(&message(1)).unwrap()).await;
    assert!(queue.refusal().await.contains("host-2 is not trusted"));
    queue.put(message(1)).await;
    assert!(queue.refusal().await.contains("it is not signed"));
}

/// Two origins with the same key: neither may speak for the other.
#[tokio::test]
async fn a_signature_under_another_name_is_refused() {
    let queue = Queue::of(&settings());
    let signed = queue.signer.sign(&message(1)).unwrap();
    let header = signed.header("signature").unwrap().as_str().unwrap();
    let renamed = header.replace(r#""keyid":"host-1""#, r#""keyid":"host-2""#);
    let keys = queue.keys.0.lock().unwrap().as_ref().unwrap()["host-1"].clone();
    queue.keys.0.lock().unwrap().as_mut().unwrap().insert("host-2".to_owned(), keys);
    queue.put(signed.with_header("signature", renamed)).await;
    assert!(queue.refusal().await.contains("another origin than it says"));
}

#[tokio::test]
async fn an_old_signature_is_refused_and_an_old_message_is_not() {
    let queue = Queue::of(&settings().with_max_age(Duration::from_millis(20)));
    let signed = queue.signer.sign(&message(1)).unwrap();
    tokio::time::sleep(Duration::from_millis(30)).await;
    queue.put(signed).await;
    assert!(queue.refusal().await.contains("SIGNING.MAX_AGE is 20ms"));
    // It waited in an outbox.
    let day_old = message(2).with_time(SystemTime::now() - Duration::from_secs(86_400));
    queue.send(&day_old).await;
    assert_eq!(queue.receive().await.view().unwrap().message().id(), day_old.id());
}

#[tokio::test]
async fn hostile_signatures_are_refused_and_the_next_message_is_handled() {
    let queue = Queue::of(&settings());
    let good = queue.signer.sign(&message(7)).unwrap();
    let header = good.header("signature").unwrap().as_str().unwrap().to_owned();
    for (signature, fault) in [
        ("x".repeat(1 << 20), "more than 65536 bytes"),
        ("[".repeat(60_000), "no DSSE envelope"),
        (header.replace("host-1", "../../etc/passwd"), "no valid name"),
        (header.replace("host-1", &"x".repeat(300)), "no valid name"),
        (header.replace("host-1", ""), "no valid name"),
        (header.replace(r#""keyid":"#, r#""keyid":null,"x":"#), "no DSSE envelope"),
    ] {
        queue.put(message(1).with_header("signature", signature)).await;
        let reason = queue.refusal().await;
        assert!(reason.contains(fault) && reason.len() < 600, "{reason}");
    }
    queue.put(message(1).with_header("signature", true)).await;
    assert!(queue.refusal().await.contains("no text"));
    queue.put(good).await;
    assert!(queue.receive().await.view().is_ok());
}

/// In mqfactory one bad signature blocks the inbox for ever, and a body that is no JSON ends receiving.
#[tokio::test]
async fn after_1000_bad_messages_a_good_one_is_handled() {
    for (kind, format) in
        [(KeyKind::Ed25519, SignatureFormat::Dsse), (KeyKind::Rsa, SignatureFormat::Mqfactory)]
    {
        let queue = Queue::new(key(kind), &settings().with_format(format));
        let signed = queue.signer.sign(&message(1)).unwrap();
        for n in 0..1_000 {
            queue
                .put(match n % 4 {
                    0 => message(n),
                    1 => Message::new("user.created", "no json").unwrap(),
                    2 => with(&signed, "user.created", b"{\"payload\": 1, \"tags\": {\"signature\": 7}}"),
                    _ => with(&signed, "user.created", b"8"),
                })
                .await;
        }
        queue.send(&message(7)).await;
        let handled = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&handled);
        let handler = move |body: String| async move {
            assert_eq!(body, "7");
            count.fetch_add(1, Ordering::SeqCst);
        };
        let app = Router::new().route("/user/created", post(handler));
        let memory = queue.memory.clone();
        let idle = async move { memory.wait_idle().await };
        let consumer =
            Consumer::new(Arc::clone(&queue.source), app).with_settings(ConsumerSettings::default());
        tokio::time::timeout(STUCK, consumer.with_graceful_shutdown(idle, STUCK)).await.unwrap();
        assert_eq!(handled.load(Ordering::SeqCst), 1);
        let dead = queue.memory.dead_letters();
        assert_eq!(dead.len(), 1_000);
        assert!(
            dead.iter().all(|dead| dead.failures[0].reason.contains("is not trusted: ")),
            "{:?}",
            dead[0]
        );
    }
}

/// In mqfactory the first attempt takes the signature away, so that no retry can succeed.
#[tokio::test]
async fn a_failed_handler_is_retried_with_the_same_message() {
    for (kind, format) in
        [(KeyKind::Ed25519, SignatureFormat::Dsse), (KeyKind::Rsa, SignatureFormat::Mqfactory)]
    {
        let queue = Queue::new(key(kind), &settings().with_format(format));
        let sent = message(7);
        queue.send(&sent).await;
        let calls = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&calls);
        let id = sent.id();
        let handler = move |delivery: tower_outbox::Delivery| async move {
            assert_eq!(delivery.message().id(), id);
            assert_eq!(delivery.message().topic(), &Topic::new("user.created").unwrap());
            match count.fetch_add(1, Ordering::SeqCst) {
                0 => (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "0")]),
                _ => (StatusCode::OK, [("retry-after", "0")]),
            }
        };
        let memory = queue.memory.clone();
        let idle = async move { memory.wait_idle().await };
        let app = Router::new().route("/user/created", post(handler));
        let consumer = Consumer::new(Arc::clone(&queue.source), app);
        tokio::time::timeout(STUCK, consumer.with_graceful_shutdown(idle, STUCK)).await.unwrap();
        assert_eq!((calls.load(Ordering::SeqCst), queue.memory.dead_letters().len()), (2, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn messages_wait_while_the_keys_cannot_be_read() {
    let queue = Queue::of(&settings());
    queue.send(&message(7)).await;
    let keys = queue.keys.0.lock().unwrap().clone();
    queue.keys.take_away();
    for _ in 0..3 {
        let error = queue.source.receive(1).await.unwrap_err();
        let SourceError::Unavailable(cause) = error else { panic!("{error:?}") };
        assert!(cause.to_string().contains("the keys are on another host"), "{cause}");
    }
    *queue.keys.0.lock().unwrap() = keys;
    let received = queue.receive().await;
    assert_eq!(received.view().unwrap().attempt(), 1);
}
