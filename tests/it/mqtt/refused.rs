//! Messages and connections that a broker refuses.

use tokio::time::timeout;
use tower_outbox::mqtt::{Mqtt, MqttSettings, MqttSource, MqttSubscription};
use tower_outbox::source::Source;
use tower_outbox::{Health, Message, Messenger};

use super::raw::{Place, SOON, body};
use crate::peers::{Brokers, unique};

fn limited(brokers: &Brokers, user: &str) -> MqttSettings {
    MqttSettings::new([brokers.get("MOSQUITTO1_MQTT").replace("://", &format!("://{user}:{user}@"))])
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_message_that_the_broker_refuses_is_rejected_alone() {
    let brokers = Brokers::running();
    let open = Place { topic: format!("open/{}", unique("t")), ..Place::new(&brokers) };
    let mut raw = open.raw().await;
    for qos in [1, 2] {
        let messenger = Mqtt::new(&limited(&brokers, "limited").with_qos(qos)).unwrap();
        let topic = open.topic.replace('/', ".");
        let batch = [(topic.clone(), "1"), ("closed.topic".to_owned(), "2"), (topic, "3")];
        let batch = batch.map(|(topic, body)| Message::new(topic, body).unwrap());
        let unsent = messenger.send(batch.to_vec()).await.unwrap_err();
        assert_eq!(unsent.len(), 1);
        let (message, failure) = unsent.iter().next().unwrap();
        assert_eq!((message.body(), failure.is_transient()), (batch[1].body(), false));
        assert!(failure.to_string().contains("NotAuthorized"), "{failure}");
        assert_eq!([body(&raw.next().await), body(&raw.next().await)], ["1", "3"]);
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn an_unroutable_message_is_rejected_if_mandatory() {
    let brokers = Brokers::running();
    let place = Place::new(&brokers);
    place.messenger().send(vec![place.message("1")]).await.unwrap();
    let mandatory = Mqtt::new(&place.settings().with_mandatory(true)).unwrap();
    let unsent = mandatory.send(vec![place.message("2")]).await.unwrap_err();
    let (_, failure) = unsent.iter().next().unwrap();
    assert!(!failure.is_transient() && failure.to_string().contains("nobody subscribes"), "{failure}");
    let mut raw = place.raw().await;
    mandatory.send(vec![place.message("3")]).await.unwrap();
    assert_eq!(body(&raw.next().await), "3");
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_packet_over_the_limit_of_the_broker_is_rejected_alone() {
    let brokers = Brokers::running();
    let place = Place::at(&brokers, "MOSQUITTO2_MQTT");
    let mut raw = place.raw().await;
    let messenger = place.messenger();
    let large = "x".repeat(70_000);
    // Before it is connected nobody knows the limit.
    messenger.check(&place.message(&large)).unwrap();
    let batch = [place.message("1"), place.message(&large), place.message("3")];
    let unsent = messenger.send(batch.to_vec()).await.unwrap_err();
    let (message, failure) = unsent.iter().next().unwrap();
    assert_eq!((unsent.len(), message.body().len(), failure.is_transient()), (1, 70_000, false));
    assert!(failure.to_string().contains("65536"), "{failure}");
    assert_eq!([body(&raw.next().await), body(&raw.next().await)], ["1", "3"]);
    let error = messenger.check(&place.message(&large)).unwrap_err().to_string();
    assert!(error.contains("65536"), "{error}");
    messenger.check(&place.message("small")).unwrap();
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_refused_connection_says_how_to_mend_it() {
    let brokers = Brokers::running();
    let url = brokers.get("MOSQUITTO1_MQTT");
    let with_password = MqttSettings::new([url.replace("://", "://limited:wrong@")]);
    let mut without_certificate = MqttSettings::new([brokers.get("MOSQUITTO1_MUTUAL")]);
    without_certificate.broker.cacert = Some(brokers.certificate("ca.pem"));
    let mut wrong_authority = MqttSettings::new([brokers.get("MOSQUITTO1_MQTTS")]);
    wrong_authority.broker.cacert = Some(brokers.certificate("foreign-ca.pem"));
    let mut tls_to_plain = MqttSettings::new([url.replace("mqtt://127.0.0.1", "mqtts://localhost")]);
    tls_to_plain.broker.cacert = Some(brokers.certificate("ca.pem"));
    for (settings, cure) in [
        (with_password, "check user and password in URLS"),
        (without_certificate, "set CERTIFICATE"),
        (wrong_authority, "set CACERT"),
        (MqttSettings::new(["mqtt://127.0.0.1:1"]), "refused"),
        (
            MqttSettings::new([brokers.get("RABBIT1_AMQP").replace("amqp://", "mqtt://")]),
            "URLS names an MQTT 5 broker",
        ),
        (tls_to_plain, ""),
    ] {
        let messenger = Mqtt::new(&settings).unwrap();
        let unsent = messenger.send(vec![Message::new("a", "").unwrap()]).await.unwrap_err().to_string();
        assert!(unsent.contains("transient") && unsent.contains(cure), "{cure}: {unsent}");
        assert!(!unsent.contains("wrong@"), "{unsent}");
        assert!(matches!(messenger.health().await, Health::Down { .. }));
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn tls_and_mutual_tls_work_and_name_the_user() {
    let brokers = Brokers::running();
    let place = Place::new(&brokers);
    let mut raw = place.raw().await;
    for (key, certificate) in [("MOSQUITTO1_MQTTS", None), ("MOSQUITTO1_MUTUAL", Some("client.pem"))] {
        let mut settings = MqttSettings::new([brokers.get(key)]);
        settings.broker.cacert = Some(brokers.certificate("ca.pem"));
        settings.broker.certificate = certificate.map(|name| brokers.certificate(name));
        let messenger = Mqtt::new(&settings).unwrap();
        messenger.send(vec![place.message(key)]).await.unwrap();
        assert_eq!(body(&raw.next().await), key);
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_source_that_is_refused_is_an_error() {
    let brokers = Brokers::running();
    let url = brokers.get("MOSQUITTO1_MQTT").replace("://", "://limited:wrong@");
    let source = MqttSource::new(&MqttSettings::new([url]), &MqttSubscription::new("a")).unwrap();
    let failed = timeout(SOON, source.receive(1)).await.expect("it waits");
    assert!(failed.is_err_and(|error| format!("{error:?}").contains("user and password")));
}
