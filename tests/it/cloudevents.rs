//! The structured mode of CloudEvents, with the SDK of the CloudEvents project as the peer.

use ::cloudevents::event::ExtensionValue;
use ::cloudevents::{AttributesReader, Data, Event, EventBuilder, EventBuilderV10};
use bytes::Bytes;
use tower_outbox::Message;
use tower_outbox::fuzzing::{open, seal};

fn received(body: impl Into<Bytes>) -> Message {
    Message::new("routed.by", body).unwrap().with_content_type("application/cloudevents+json; charset=utf-8")
}

#[test]
fn the_sdk_reads_what_we_write() {
    let message = Message::json("user.created", &serde_json::json!({"id": 7}))
        .unwrap()
        .with_key("user-7")
        .with_header("attempts", 3)
        .with_header("urgent", true)
        .with_header("ce-subject", "users/7");
    let sealed = seal(&message, "/me");
    assert_eq!(sealed.content_type(), "application/cloudevents+json");
    let event: Event = serde_json::from_slice(sealed.body()).unwrap();
    assert_eq!((event.id(), event.ty()), (message.id().to_string().as_str(), "user.created"));
    assert_eq!((event.source().as_str(), event.subject()), ("/me", Some("users/7")));
    assert_eq!(event.datacontenttype(), Some("application/json"));
    assert!(event.time().is_some());
    assert_eq!(event.extension("partitionkey"), Some(&ExtensionValue::from("user-7")));
    assert_eq!(event.extension("attempts"), Some(&ExtensionValue::from(3)));
    assert_eq!(event.extension("urgent"), Some(&ExtensionValue::from(true)));
    assert_eq!(event.data(), Some(&Data::Json(serde_json::json!({"id": 7}))));
    let sealed = seal(&Message::new("a", &b"\0\xff"[..]).unwrap(), "/me");
    let event: Event = serde_json::from_slice(sealed.body()).unwrap();
    assert_eq!(event.data(), Some(&Data::Binary(vec![0, 255])));
}

#[test]
fn we_read_what_the_sdk_writes() {
    let event = EventBuilderV10::new()
        .id("A-1")
        .source("https://example.com/s")
        .ty("com.example.made")
        .subject("it")
        .time("2026-11-21T05:56:11+01:00")
        .extension("count", 3)
        .extension("urgent", true)
        .extension("partitionkey", "k");
    let json = event.clone().data("application/json", serde_json::json!({"n": 1})).build().unwrap();
    let opened = open(received(serde_json::to_vec(&json).unwrap()));
    assert_eq!((opened.topic().as_str(), opened.key()), ("com.example.made", Some("k")));
    assert_eq!((opened.content_type(), opened.body().as_ref()), ("application/json", &br#"{"n":1}"#[..]));
    let header = |name| opened.header(name).cloned();
    assert_eq!((header("count"), header("urgent")), (Some(3.into()), Some(true.into())));
    assert_eq!(header("ce-source"), Some("https://example.com/s".into()));
    assert_eq!(header("ce-subject"), Some("it".into()));
    let text = event.clone().data("text/plain", "text").build().unwrap();
    let opened = open(received(serde_json::to_vec(&text).unwrap()));
    assert_eq!((opened.content_type(), opened.body().as_ref()), ("text/plain", &b"text"[..]));
    let binary = event.data("image/png", vec![0, 255]).build().unwrap();
    let opened = open(received(serde_json::to_vec(&binary).unwrap()));
    assert_eq!((opened.content_type(), opened.body().as_ref()), ("image/png", &[0, 255][..]));
}
