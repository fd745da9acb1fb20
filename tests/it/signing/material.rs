//! The attribute `dssematerial` of CloudEvents.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rumqttc::PublishProperties;
use serde_json::{Map, Value, json};
use tower_outbox::amqp091::{Amqp091, Amqp091Settings, Amqp091Source, Amqp091Subscription};
use tower_outbox::envelope::Envelope;
use tower_outbox::mqtt::{BrokerSettings, Mqtt, MqttSettings, MqttSource};
use tower_outbox::signing::{
    KeyKind, SignatureFormat, Signer, Signing, SigningSettings, Verifier, Verifying,
};
use tower_outbox::source::Source;
use tower_outbox::{Message, Messenger};

use super::{Keys, Queue, key, settings, signed_by};
use crate::mqtt::raw::{Place, next, subscribed};
use crate::peers::{Brokers, unique};

fn of_events() -> SigningSettings {
    settings().with_format(SignatureFormat::Dssematerial).with_headers(["tenant", "missing"])
}

fn event() -> Message {
    Message::json("user.created", &json!({"name": "größe ☃"}))
        .unwrap()
        .with_key("user-7")
        .with_header("tenant", "acme")
        .with_header("ce-source", "/users")
        .with_header("ce-subject", "users/7")
        .with_header("ce-dataschema", "https://example.com/user")
        .with_header("ack", "users.ack")
        .with_header("unsigned", "x")
}

/// The same message with another topic and body, and without one header.
fn copy(of: &Message, topic: &str, body: &str, without: &str) -> Message {
    let mut copy = Message::new(topic.to_owned(), body.to_owned())
        .unwrap()
        .with_id(of.id())
        .with_time(of.time())
        .with_content_type(of.content_type().to_owned())
        .with_key(of.key().unwrap().to_owned());
    for (name, value) in of.headers().filter(|(name, _)| *name != without) {
        copy.set_header(name.to_owned(), value.clone());
    }
    copy
}

fn body_of(message: &Message) -> String {
    String::from_utf8(message.body().to_vec()).unwrap()
}

fn assert_same(got: &Message, sent: &Message) {
    assert_eq!((got.id(), got.topic(), got.body()), (sent.id(), sent.topic(), sent.body()));
    assert_eq!((got.key(), got.content_type()), (sent.key(), sent.content_type()));
    assert_eq!(signed_by(got), Some("host-1"));
    for name in ["tenant", "ce-source", "ce-subject", "ce-dataschema", "ack"] {
        assert_eq!(got.header(name), sent.header(name), "{name}");
    }
    for name in ["unsigned", "dssematerial", "signedat", "missing"] {
        assert_eq!(got.header(name), None, "{name}");
    }
}

#[tokio::test]
async fn an_event_arrives_with_all_that_is_signed_and_nothing_else() {
    for kind in [KeyKind::Ed25519, KeyKind::Rsa] {
        let queue = Queue::new(key(kind), &of_events());
        let sent = event();
        queue.send(&sent).await;
        let received = queue.receive().await;
        assert_same(received.view().unwrap().message(), &sent);
        received.ack().await.unwrap();
        // Without a source it has that of the settings.
        queue.send(&copy(&event(), "user.created", &body_of(&event()), "ce-source")).await;
        let received = queue.receive().await;
        assert_eq!(received.view().unwrap().message().header("ce-source"), Some(&"/tower-outbox".into()));
    }
}

#[tokio::test]
async fn every_signed_attribute_is_covered() {
    let queue = Queue::of(&of_events());
    let (sent, other) = (event(), Message::new("user.removed", "").unwrap());
    let signed = queue.signer.sign(&sent).unwrap();
    let body = body_of(&sent);
    let with = |name: &'static str, value: &str| signed.clone().with_header(name, value.to_owned());
    for (message, reason) in [
        (copy(&signed, "user.created", "{}", ""), "its data"),
        (copy(&signed, "user.removed", &body, ""), "its data"),
        (copy(&signed, "user.created", &body, "ce-dataschema"), "its data"),
        (copy(&signed, "user.created", &body, "tenant"), "extension"),
        (copy(&signed, "user.created", &body, "signedat"), "extension"),
        (copy(&signed, "user.created", &body, "dssematerial"), "not signed"),
        (signed.clone().with_time(signed.time() + Duration::from_secs(1)), "its data"),
        (signed.clone().with_id(other.id()), "its data"),
        (signed.clone().with_content_type("text/plain"), "its data"),
        (with("ce-source", "/other"), "its data"),
        (with("ce-subject", "users/8"), "its data"),
        (with("tenant", "other"), "extension"),
        (with("missing", "now there"), "extension"),
        (with("ack", "evil.ack"), "extension"),
        (with("signedat", "2099-01-01T00:00:00Z"), "extension"),
        (signed.clone().with_key("user-8"), "extension"),
        (with("confirm", "x"), "\"confirm\" is not signed"),
        (with("dssematerial", "e30="), "no DSSE envelope"),
        (with("dssematerial", "?"), "base64"),
        // The id of another event, and a header that would restore this one.
        (with("ce-id", &sent.id().to_string()).with_id(other.id()), "its data"),
    ] {
        queue.put(message).await;
        let refusal = queue.refusal().await;
        assert!(refusal.contains(reason), "{refusal}");
    }
    queue.put(with("unsigned", "changed")).await;
    assert_same(queue.receive().await.view().unwrap().message(), &sent);
}

#[tokio::test]
async fn an_old_signature_is_refused_by_the_time_of_signing() {
    let queue = Queue::of(&of_events().with_max_age(Duration::from_secs(60)));
    // The event waited in an outbox, and was signed when it was sent.
    let waited = event().with_time(SystemTime::now() - Duration::from_secs(3_600));
    queue.send(&waited).await;
    assert!(queue.receive().await.view().is_ok());
    let queue = Queue::of(&of_events().with_max_age(Duration::ZERO));
    queue.send(&event()).await;
    assert!(queue.refusal().await.contains("SIGNING.MAX_AGE"));
}

#[test]
fn what_no_event_carries_is_refused_at_enqueue() {
    let signer = Signer::with_key(key(KeyKind::Ed25519), &of_events()).unwrap();
    for message in [
        event().with_header("dssematerial", "x"),
        event().with_header("signedat", "x"),
        event().with_header("tenant", 0.5),
        event().with_header("tenant", 1_i64 << 40),
    ] {
        assert!(signer.sign(&message).is_err(), "{message:?}");
    }
}

/// Both modes of CloudEvents, over both protocols.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_signed_event_survives_the_brokers() {
    let brokers = Brokers::running();
    for envelope in [Envelope::CloudEvents, Envelope::CloudEventsStructured] {
        let place = Place::new(&brokers);
        let broker = BrokerSettings::new([&place.url]).with_envelope(envelope);
        let mqtt = MqttSettings::from(broker);
        let source = MqttSource::new(&mqtt, &place.subscription()).unwrap();
        subscribed(&source, &mqtt, &place.topic).await;
        survives(place.topic, Mqtt::new(&mqtt).unwrap(), source).await;

        let topic = unique("signed.event");
        let broker = BrokerSettings::new([brokers.get("RABBIT1_AMQP")]).with_envelope(envelope);
        let rabbit = Amqp091Settings::from(broker);
        let mut subscription = Amqp091Subscription::new(unique("signed-events"));
        subscription.bindings = vec![topic.clone()];
        let source = Amqp091Source::new(&rabbit, &subscription).unwrap();
        survives(topic, Amqp091::new(&rabbit).unwrap(), source).await;
    }
}

async fn survives(topic: String, messenger: impl Messenger, source: impl Source) {
    let made = key(KeyKind::Ed25519);
    let keys = Keys::of("host-1", &[&made]);
    let signing = Signing::new(messenger, Signer::with_key(made, &of_events()).unwrap());
    let verifier = Verifier::with_keys(keys, &of_events()).unwrap();
    let source = Arc::new(Verifying::new(source, verifier));
    let sent = copy(&event(), &topic, "{\"n\": 1.50}", "");
    let receive = async {
        loop {
            let received = next(&source).await;
            let is_sent = received.view().unwrap().message().id() == sent.id();
            if is_sent {
                return received;
            }
        }
    };
    let send = async {
        // Until its queue is bound.
        loop {
            signing.send(vec![sent.clone()]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let received = tokio::select! {
        received = receive => received,
        () = send => unreachable!(),
    };
    assert_same(received.view().unwrap().message(), &sent);
    received.ack().await.unwrap();
}

/// A peer in Python that follows the draft: each verifies the events of the other. Its ids need not be UUIDs.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn python_and_we_agree_on_events() {
    let brokers = Brokers::running();
    let place = Place::new(&brokers);
    let (made, folder) = (key(KeyKind::Ed25519), tempfile::tempdir().unwrap());
    let path = |name: &str| folder.path().join(name).display().to_string();
    fs::write(path("key.pem"), made.to_pem().unwrap()).unwrap();
    fs::create_dir(path("trusted")).unwrap();
    fs::write(path("trusted/host-1.pem"), made.public_pem().unwrap()).unwrap();
    let mqtt = MqttSettings::from(BrokerSettings::new([&place.url]).with_envelope(Envelope::CloudEvents));
    let mut raw = place.raw().await;

    let settings = of_events().with_key(path("key.pem")).with_trusted(path("trusted"));
    let ours = Signing::new(Mqtt::new(&mqtt).unwrap(), Signer::new(&settings).unwrap());
    ours.send(vec![copy(&event(), &place.topic, "{\"n\": 1.50}", "ack")]).await.unwrap();
    let seen = raw.next().await;
    let properties = seen.properties.clone().unwrap();
    let mut attributes: Map<String, Value> =
        properties.user_properties.into_iter().map(|(name, value)| (name, value.into())).collect();
    attributes.insert("datacontenttype".into(), properties.content_type.unwrap().into());
    attributes.insert("data".into(), String::from_utf8(seen.payload.to_vec()).unwrap().into());
    let attributes = Value::Object(attributes).to_string();
    let names =
        brokers.python("signatures.py", &["verify-event", &path("trusted/host-1.pem"), &attributes]).await;
    assert_eq!(names[0], json!(["tenant", "missing", "partitionkey", "signedat"]));

    // Another topic, to which only the source subscribes.
    let place = Place::new(&brokers);
    let source = MqttSource::new(&mqtt, &place.subscription()).unwrap();
    let verifier = Verifier::new(&settings.with_headers(["tenant"])).unwrap();
    subscribed(&source, &mqtt, &place.topic).await;
    let source = Verifying::new(source, verifier);
    let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
    let event = json!({
        "id": "A-1", "source": "/python", "specversion": "1.0", "type": "user.created", "time": time, "tenant": "acme",
        "other": "not signed", "data": "größe", "datacontenttype": "text/plain",
    });
    let args = ["sign-event", &path("key.pem"), "host-1", &event.to_string(), "[\"tenant\"]"];
    let material = brokers.python("signatures.py", &args).await[0].as_str().unwrap().to_owned();
    let properties = |id: &str| {
        let attributes = event.as_object().unwrap().iter().filter(|(name, _)| !name.starts_with("data"));
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let mut user_properties: Vec<_> =
            attributes.map(|(name, value)| (name.clone(), text(value))).collect();
        user_properties
            .iter_mut()
            .filter(|(name, _)| name == "id")
            .for_each(|(_, value)| *value = id.to_owned());
        user_properties.push(("dssematerial".to_owned(), material.clone()));
        PublishProperties {
            user_properties,
            content_type: Some("text/plain".to_owned()),
            ..Default::default()
        }
    };
    raw.publish(&place.topic, "größe", properties("A-2")).await;
    let refused = next(&source).await;
    let reason = refused.view().unwrap_err().to_string();
    assert!(reason.contains("its data, or one of the attributes id"), "{reason}");
    refused.ack().await.unwrap();
    raw.publish(&place.topic, "größe", properties("A-1")).await;
    let received = next(&source).await;
    let got = received.view().unwrap().message();
    assert_eq!((got.header("tenant"), got.header("other")), (Some(&"acme".into()), None));
    assert_eq!((signed_by(got), &got.body()[..]), (Some("host-1"), "größe".as_bytes()));
}
