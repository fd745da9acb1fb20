//! The router of a site in an app: messenger, source, last values, and settings.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tower_outbox::message::headers::DROPPED;
use tower_outbox::routing::{
    Namespace, Pattern, QueueLimits, RouterSettings, Routing, RoutingSource, SiteRouter, is_persisted,
    persist,
};
use tower_outbox::source::{Source, SourceError};
use tower_outbox::testing::messenger_conformance::{self, MessengerCapabilities, Received};
use tower_outbox::{Bus, Message, Messenger, Settings};

use super::STUCK;

fn namespace() -> Namespace {
    Namespace::named("site").unwrap()
}

fn pattern(text: &str) -> Pattern {
    Pattern::new(text).unwrap()
}

async fn routing() -> (Routing, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    (Routing::open(folder.path().join("router"), namespace()).await.unwrap(), folder)
}

async fn receive(source: &RoutingSource) -> Message {
    let received = timeout(STUCK, source.receive(1)).await.expect("no message comes").unwrap().remove(0);
    let message = received.view().unwrap().message().clone();
    received.ack().await.unwrap();
    message
}

#[tokio::test]
async fn the_messenger_conforms() {
    let (routing, _folder) = routing().await;
    let source = routing.subscription("x", pattern("user/*"));
    source.subscribe().await.unwrap();
    let inbox = async move |count| {
        let mut received = Vec::new();
        while received.len() < count {
            for delivery in source.receive(count - received.len()).await.unwrap() {
                received.push(Received::from(delivery.view().unwrap().message()));
                delivery.ack().await.unwrap();
            }
        }
        received
    };
    let capabilities = MessengerCapabilities::default().with_arrival(true).with_any_body(true);
    let capabilities = capabilities.with_headers(true).with_closes(true);
    messenger_conformance::all(Arc::new(routing), "user.created", capabilities, inbox).await;
}

#[tokio::test]
async fn a_consumer_that_starts_again_resumes_its_queue() {
    let (routing, _folder) = routing().await;
    let source = routing.subscription("x", pattern("a/*"));
    source.subscribe().await.unwrap();
    let sent = ["1", "2", "3"].map(|body| Message::new("a.b", body).unwrap());
    routing.send(sent.to_vec()).await.unwrap();
    assert_eq!(receive(&source).await.body(), "1");
    let unsettled = source.receive(1).await.unwrap();
    source.close(STUCK).await;
    drop(unsettled);
    let again = routing.subscription("x", pattern("a/*"));
    let redelivered: Vec<_> = again.receive(10).await.unwrap();
    let flags: Vec<_> = redelivered.iter().map(|it| it.view().unwrap().redelivered()).collect();
    assert_eq!(flags, [true, false]);
    assert_eq!(redelivered[0].view().unwrap().message().id(), sent[1].id());
}

#[tokio::test]
async fn the_next_message_says_how_many_a_full_queue_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = RouterSettings::new(folder.path().join("router"));
    settings.subscription_limits = QueueLimits { length: 10, bytes: 1 << 20 };
    let routing = Routing::new(SiteRouter::open(settings).await.unwrap(), namespace());
    let source = routing.subscription("x", pattern("*"));
    source.subscribe().await.unwrap();
    routing.send((0..15).map(|n| Message::new("a", n.to_string()).unwrap()).collect()).await.unwrap();
    let first = receive(&source).await;
    assert_eq!((&first.body()[..], first.header(DROPPED)), (&b"5"[..], Some(&5.into())));
    assert_eq!(receive(&source).await.header(DROPPED), None);
    assert_eq!(routing.router().counts().dropped, 5);
}

#[tokio::test]
async fn of_two_sources_with_one_identifier_the_older_gets_an_error() {
    let (routing, _folder) = routing().await;
    let (older, newer) = (routing.subscription("x", pattern("*")), routing.subscription("x", pattern("*")));
    older.subscribe().await.unwrap();
    routing.send(vec![Message::new("a", "1").unwrap()]).await.unwrap();
    let held = older.receive(1).await.unwrap().remove(0);
    newer.subscribe().await.unwrap();
    assert!(held.is_stale());
    let failed = older.receive(1).await;
    assert!(matches!(failed, Err(SourceError::Unavailable(_))), "{failed:?}");
    assert_eq!(receive(&newer).await.body(), "1");
}

#[tokio::test]
async fn a_dead_letter_survives_a_restart_and_can_be_handled() {
    let (first, folder) = routing().await;
    let source = first.subscription("x", pattern("*"));
    source.subscribe().await.unwrap();
    let sent = persist(Message::new("a", "1").unwrap().with_header("n", 7));
    first.send(vec![sent.clone()]).await.unwrap();
    source.receive(1).await.unwrap().remove(0).reject("never").await.unwrap();
    first.close(STUCK).await;
    drop((first, source));
    let second = Routing::open(folder.path().join("router"), namespace()).await.unwrap();
    let letters = second.subscription("x", pattern("*")).dead_letters();
    let letter = timeout(STUCK, letters.receive(1)).await.unwrap().unwrap().remove(0);
    let view = letter.view().unwrap();
    let got = view.message();
    assert_eq!((got.id(), got.topic(), got.body()), (sent.id(), sent.topic(), sent.body()));
    assert_eq!(got.header("n"), Some(&7.into()));
    assert!(is_persisted(got));
    assert_eq!(&*view.failures()[0].reason, "never");
    letter.ack().await.unwrap();
    assert!(timeout(Duration::from_millis(200), letters.receive(1)).await.is_err());
}

#[tokio::test]
async fn the_last_value_of_each_uri_is_read_as_a_message() {
    let (routing, _folder) = routing().await;
    for (topic, body) in [("a.b.c", "old"), ("a.b.c", "new"), ("a.c", "1"), ("x.c", "2")] {
        routing.send(vec![persist(Message::new(topic, body).unwrap())]).await.unwrap();
    }
    for (text, wanted) in
        [("a/+/c", &["new"][..]), ("a/*", &["new", "1"]), ("*/c", &["new", "1", "2"]), ("b", &[])]
    {
        let mut values = routing.query(&pattern(text)).await.unwrap();
        let mut found = Vec::new();
        while let Some(value) = values.next().await.unwrap() {
            found.push(String::from_utf8_lossy(value.body()).into_owned());
        }
        assert_eq!(found, wanted, "{text}");
    }
}

#[tokio::test]
async fn a_message_that_no_router_can_carry_is_refused_at_once() {
    let (routing, _folder) = routing().await;
    let good = Message::new("a", "x").unwrap();
    for bad in [
        good.clone().with_delay(Duration::from_secs(1)),
        Message::new("a//b", "x").unwrap(),
        good.clone().with_header("large", "x".repeat(300 << 10)),
    ] {
        assert!(routing.check(&bad).is_err(), "{bad:?}");
    }
    routing.check(&good).unwrap();
    let large = Message::new("a", vec![b'x'; 17 << 20]).unwrap();
    let unsent = routing.send(vec![good.clone(), large, good]).await.unwrap_err();
    assert_eq!(unsent.iter().map(|(_, failure)| failure.is_transient()).collect::<Vec<_>>(), [false]);
}

#[tokio::test]
async fn settings_give_messenger_and_consumer() {
    let folder = tempfile::tempdir().unwrap();
    let settings = |keys: &str| -> Settings {
        let path = folder.path().join("router");
        toml::from_str(&format!(
            "BACKEND = \"routing\"\nPATH = {path:?}\n{keys}\n[CONSUMERS.display]\nURI = \"floor1/*\"\nIDENTIFIER = \"main\""
        ))
        .unwrap()
    };
    let bus = Bus::start(&settings("")).await.unwrap();
    let source = bus.source("display").unwrap();
    assert!(timeout(Duration::from_millis(100), source.receive(10)).await.is_err());
    bus.messenger().send(vec![Message::new("floor1.temperature", "21.5").unwrap()]).await.unwrap();
    let delivery = timeout(STUCK, source.receive(10)).await.unwrap().unwrap().remove(0);
    assert_eq!(delivery.view().unwrap().message().topic().as_str(), "floor1.temperature");
    delivery.ack().await.unwrap();
    let _ = bus.shutdown(Duration::from_secs(10)).await;
    for (keys, fault) in [
        ("NAMESPACE = \"?\"", "base64url"),
        ("CONFIG = \"x\"", "leave the other keys out"),
        ("URLS = \"x\"", "URLS"),
    ] {
        let error = Bus::start(&settings(keys)).await.unwrap_err();
        let error = format!("{error:?}");
        assert!(error.contains(fault), "{error}");
    }
    let path = folder.path().join("other");
    let wrong = format!("BACKEND = \"routing\"\nPATH = {path:?}\n[CONSUMERS.x]\nURI = \"a//b\"");
    let wrong = toml::from_str(&wrong).unwrap();
    assert!(format!("{:?}", Bus::start(&wrong).await.unwrap_err()).contains("empty level"));
}
