//! A message comes back exactly as it was, at once and after a reopen.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::message::{Message, Scalar};
use uuid::Uuid;

use super::harness::StoreHarness;
use crate::testing::support::stores::{find, ids_of, lease_all};

/// Stores these, and looks at them in the list, in leases, and after a reopen.
async fn come_back(harness: &StoreHarness, messages: &[Message]) {
    let store = harness.open().await;
    store.append(messages.to_vec()).await.unwrap();
    for message in messages {
        assert_eq!(find(&*store, message.id()).await.message.as_ref(), Some(message), "listed");
    }
    let due: Vec<_> = messages.iter().filter(|message| message.delay().is_none()).cloned().collect();
    let leased = lease_all(&*store, due.len()).await;
    assert_eq!(leased.into_iter().map(|one| one.message).collect::<Vec<_>>(), due, "leased");
    let store = harness.reopen(store).await;
    for message in messages {
        assert_eq!(
            find(&*store, message.id()).await.message.as_ref(),
            Some(message),
            "listed after a reopen"
        );
    }
    let leased = lease_all(&*store, due.len()).await;
    assert_eq!(leased.into_iter().map(|one| one.message).collect::<Vec<_>>(), due, "leased after a reopen");
}

pub async fn every_field_comes_back_as_it_was(harness: StoreHarness) {
    let bare = Message::new("größe.☃", &b"\x00\xff plain"[..]).unwrap();
    let full = Message::json("user.created", &serde_json::json!({"text": "größe ☃ 🦀\n\"\\"}))
        .unwrap()
        .with_id(Uuid::from_u128(7))
        .with_header("größe", "ü")
        .with_header("", "")
        .with_header("traceparent", "00-1-2-03")
        .with_content_type("application/cloudevents+json; charset=utf-8")
        .with_key("ключ 🔑")
        .with_priority(9)
        .with_expiry(Duration::new(86_400, 999_999_999))
        .with_time(SystemTime::now() - Duration::new(77, 123_456_789));
    let held_back = full.clone().with_id(Uuid::from_u128(8)).with_delay(Duration::new(7_200, 1));
    let empty = Message::new("a", "").unwrap().with_key("").with_content_type("").with_priority(0);
    let nil = Message::new("a", "x").unwrap().with_id(Uuid::nil());
    let max = Message::new("t".repeat(255), "x").unwrap().with_id(Uuid::max()).with_key("k".repeat(70_000));
    come_back(&harness, &[bare, full, held_back, empty, nil, max]).await;
}

pub async fn every_scalar_comes_back_as_it_was(harness: StoreHarness) {
    let scalars = [
        Scalar::Null,
        Scalar::Bool(true),
        Scalar::Bool(false),
        Scalar::Int(0),
        Scalar::Int(i64::MIN),
        Scalar::Int(i64::MAX),
        Scalar::Float(-0.0),
        Scalar::Float(0.1),
        Scalar::Float(f64::MIN_POSITIVE),
        Scalar::Float(f64::INFINITY),
        Scalar::from(""),
        Scalar::from("ü".repeat(100_000)),
    ];
    let mut message = Message::new("a", "").unwrap();
    for (n, scalar) in scalars.into_iter().enumerate() {
        message.set_header(format!("header-{n}"), scalar);
    }
    let mut many = Message::new("a", "").unwrap();
    for n in 0..1_000 {
        many.set_header(format!("header-{n}"), n);
    }
    come_back(&harness, &[message, many]).await;
}

pub async fn times_and_durations_at_their_ends_come_back_as_they_were(harness: StoreHarness) {
    let message = || Message::new("a", "").unwrap();
    let day = Duration::from_secs(86_400);
    let messages = [
        message().with_time(UNIX_EPOCH),
        message().with_time(UNIX_EPOCH - Duration::new(1, 1)),
        message().with_time(UNIX_EPOCH + 400_000 * day).with_expiry(Duration::MAX),
        message().with_expiry(Duration::ZERO),
        message().with_delay(Duration::MAX),
        message().with_time(UNIX_EPOCH + 400_000 * day).with_delay(Duration::MAX),
    ];
    come_back(&harness, &messages).await;
}

pub async fn empty_and_large_bodies_come_back_as_they_were(harness: StoreHarness) {
    let noise: Vec<u8> = (0..1 << 20).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let messages = [
        Message::new("a", "").unwrap(),
        Message::new("a", vec![0; 1 << 20]).unwrap(),
        Message::new("a", vec![0xff; 4_096]).unwrap(),
        Message::new("a", noise).unwrap(),
        Message::new("a", "last").unwrap(),
    ];
    come_back(&harness, &messages).await;
}

pub async fn two_messages_of_one_id_are_two_messages(harness: StoreHarness) {
    let store = harness.open().await;
    let message = Message::new("a", "").unwrap();
    store.append(vec![message.clone(), message.clone()]).await.unwrap();
    store.append(vec![message.clone()]).await.unwrap();
    assert_eq!(ids_of(&lease_all(&*store, 3).await), [message.id(); 3]);
}
