//! Events and stored events through raw gRPC.

use tonic::Code;
use tower_outbox::kubemq_wire::{Event, Subscribe};

use super::{Server, is_silent, next, requests};

fn event(channel: &str, body: &str, store: bool) -> Event {
    Event {
        client_id: "client".to_owned(),
        channel: channel.to_owned(),
        body: body.to_owned().into(),
        store,
        ..Default::default()
    }
}

fn subscribe(kind: i32, channel: &str, start: i32, value: i64) -> Subscribe {
    Subscribe {
        subscribe_type_data: kind,
        client_id: "client".to_owned(),
        channel: channel.to_owned(),
        group: String::new(),
        events_store_type_data: start,
        events_store_type_value: value,
    }
}

#[tokio::test]
async fn only_stored_and_refused_events_of_a_stream_are_answered() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let (sender, stream) = requests();
    let mut answers = client.send_events_stream(stream).await.unwrap().into_inner();
    let no_client = Event { client_id: String::new(), ..event("a", "x", true) };
    for event in [
        event("a", "x", false),
        event("", "x", false),
        event("a.*", "x", false),
        event("a b", "x", true),
        event("a.", "x", true),
        event("a", "", true),
        no_client,
        event("a", "x", true),
    ] {
        sender.send(event).await.unwrap();
    }
    for text in [
        "Error 102: invalid channel value, cannot be empty",
        "Error 107: invalid channel value, no wildcards are allowed",
        "Error 108: invalid channel value, no white spaces are allowed",
        "Error 119: invalid channel value, cannot end with `.`",
        "Error 110: invalid message, cannot be empty",
        "Error 101: invalid clientID value, cannot be empty",
    ] {
        let answer = next(&mut answers).await;
        assert_eq!((answer.sent, answer.error.as_str()), (false, text));
    }
    let stored = next(&mut answers).await;
    assert_eq!((stored.sent, stored.event_id.len()), (true, 22));
    // The end of the client's side ends the stream.
    drop(sender);
    assert!(answers.message().await.unwrap().is_none());
}

#[tokio::test]
async fn pipelined_stored_events_are_answered_in_order() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let (sender, stream) = requests();
    let mut answers = client.send_events_stream(stream).await.unwrap().into_inner();
    for number in 0..300 {
        sender.send(Event { event_id: number.to_string(), ..event("a", "x", true) }).await.unwrap();
    }
    for number in 0..300 {
        assert_eq!(next(&mut answers).await.event_id, number.to_string());
    }
    let mut events = client.subscribe_to_events(subscribe(2, "a", 2, 0)).await.unwrap().into_inner();
    for number in 0..300 {
        let event = next(&mut events).await;
        assert_eq!((event.event_id, event.sequence), (number.to_string(), number + 1));
    }
}

#[tokio::test]
async fn a_bad_subscription_gets_the_text_of_the_real_server() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for (subscribe, text) in [
        (subscribe(0, "a", 0, 0), "Error 207: invalid subscribe type"),
        (subscribe(3, "a", 0, 0), "Error 207: invalid subscribe type"),
        (
            subscribe(1, "a", 1, 0),
            "Error 118: event store parameters were set but subscribe type is not event store",
        ),
        (subscribe(2, "a", 0, 0), "Error 111: invalid subscription type, cannot be undefined or 0"),
        (subscribe(2, "a.*", 1, 0), "Error 107: invalid channel value, no wildcards are allowed"),
        (subscribe(1, "", 0, 0), "Error 102: invalid channel value, cannot be empty"),
        (subscribe(1, "a b", 0, 0), "Error 108: invalid channel value, no white spaces are allowed"),
        (subscribe(1, "a.", 0, 0), "Error 119: invalid channel value, cannot end with `.`"),
        (
            subscribe(2, "a", 4, 0),
            "Error 112: invalid subscription type start at sequence value, cannot by 0 or negative",
        ),
        (
            subscribe(2, "a", 5, -1),
            "Error 113: invalid subscription type start at time value, cannot by 0 or negative",
        ),
        (
            subscribe(2, "a", 6, 0),
            "Error 114: invalid subscription type start at time delta value, cannot by 0 or negative",
        ),
        (subscribe(2, "a", 9, 0), "Error 111: invalid subscription type, cannot be undefined or 0"),
    ] {
        let status = client.subscribe_to_events(subscribe.clone()).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::Internal, text), "{subscribe:?}");
    }
}

#[tokio::test]
async fn a_durable_subscriber_gets_exactly_what_it_missed() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let store = async |client: &mut super::Client, body: &str| {
        assert!(client.send_event(event("a", body, true)).await.unwrap().into_inner().sent);
    };
    let mut events = client.subscribe_to_events(subscribe(2, "a", 2, 0)).await.unwrap().into_inner();
    store(&mut client, "0").await;
    assert_eq!(next(&mut events).await.sequence, 1);
    assert!(is_silent(&mut events).await);
    let status = client.subscribe_to_events(subscribe(2, "a", 2, 0)).await.unwrap_err();
    assert_eq!(status.message(), "stan: clientID already registered");
    drop(events);
    store(&mut client, "1").await;
    // The start counts the first time only.
    let mut events = loop {
        match client.subscribe_to_events(subscribe(2, "a", 4, 1)).await {
            Ok(events) => break events.into_inner(),
            Err(status) => assert_eq!(status.message(), "stan: clientID already registered"),
        }
    };
    let event = next(&mut events).await;
    assert_eq!((event.sequence, &event.body[..]), (2, &b"1"[..]));
    assert!(event.timestamp > 1_700_000_000_000_000_000);
}

#[tokio::test]
async fn a_slow_subscriber_of_a_store_loses_nothing() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let mut events = client.subscribe_to_events(subscribe(2, "a", 2, 0)).await.unwrap().into_inner();
    let body = "x".repeat(100 << 10);
    for _ in 0..200 {
        client.send_event(event("a", &body, true)).await.unwrap();
    }
    for sequence in 1..=200 {
        assert_eq!(next(&mut events).await.sequence, sequence);
    }
}
