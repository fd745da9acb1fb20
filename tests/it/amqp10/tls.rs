//! The TLS matrix: what must not connect does not, and says why.

use std::time::Duration;

use tower_outbox::amqp10::{Amqp10, Amqp10Settings, Sasl};
use tower_outbox::{Health, Message, Messenger};

use crate::peers::{Brokers, Peer, RabbitQueue, unique};

/// Nothing connects; the error of a send, which health gives too.
async fn refusal(settings: &Amqp10Settings) -> String {
    let messenger = Amqp10::new(settings).unwrap();
    let unsent = messenger.send(vec![Message::new("a", "x").unwrap()]).await.expect_err("nothing connects");
    let (_, failure) = unsent.iter().next().unwrap();
    assert!(failure.is_transient(), "the message is not at fault: {failure}");
    let Health::Down { reason } = messenger.health().await else { panic!("healthy") };
    assert!(!reason.is_empty());
    failure.to_string()
}

fn brokers_with_tls(brokers: &Brokers) -> Vec<&'static str> {
    let mut keys = vec!["RABBIT1_AMQPS"];
    if !brokers.without_activemq("the TLS matrix on ActiveMQ") {
        keys.push("ACTIVEMQ_AMQPS");
    }
    keys
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_broker_of_a_foreign_authority_is_refused() {
    let brokers = Brokers::running();
    for key in brokers_with_tls(&brokers) {
        let mut settings = brokers.mutual_tls(&[key]);
        settings.broker.cacert = Some(brokers.certificate("foreign-ca.pem"));
        for dangerous in [false, true] {
            settings.broker.dangerous_accept_any_host_name = dangerous;
            let error = refusal(&settings).await;
            assert!(error.contains("not signed by a CA we trust: set CACERT"), "{key}: {error}");
        }
        // Nor do the system's roots know it.
        settings.broker.cacert = None;
        assert!(refusal(&settings).await.contains("set CACERT"));
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_client_without_a_certificate_is_refused() {
    let brokers = Brokers::running();
    for key in brokers_with_tls(&brokers) {
        let mut settings = brokers.mutual_tls(&[key]);
        settings.broker.certificate = None;
        let error = refusal(&settings).await;
        assert!(error.contains("requires") && error.contains("CERTIFICATE"), "{key}: {error}");
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_client_certificate_of_a_foreign_authority_is_refused() {
    let brokers = Brokers::running();
    for key in brokers_with_tls(&brokers) {
        let mut settings = brokers.mutual_tls(&[key]);
        settings.broker.certificate = Some(brokers.certificate("foreign-client.pem"));
        let error = refusal(&settings).await;
        assert!(error.contains("does not trust our client certificate"), "{key}: {error}");
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_subject_the_broker_does_not_know_is_refused() {
    let brokers = Brokers::running();
    let mut settings = brokers.mutual_tls(&["RABBIT1_AMQPS"]);
    settings.broker.certificate = Some(brokers.certificate("client-unknown.pem"));
    let error = refusal(&settings).await;
    assert!(error.contains("rejected SASL EXTERNAL") && error.contains("subject"), "{error}");
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_wrong_password_is_refused_and_does_not_print() {
    let brokers = Brokers::running();
    let url = brokers.get("RABBIT1_AMQP").replace("://", "://guest:geheim@");
    let error = refusal(&Amqp10Settings::new([url])).await;
    assert!(error.contains("rejected SASL PLAIN: check user and password"), "{error}");
    assert!(!error.contains("geheim"));
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn external_is_not_used_where_it_is_not_offered() {
    let brokers = Brokers::running();
    if brokers.without_activemq("external_is_not_used_where_it_is_not_offered") {
        return;
    }
    let mut settings = brokers.mutual_tls(&["ACTIVEMQ_AMQPS"]);
    settings.broker.sasl = Sasl::External;
    let error = refusal(&settings).await;
    assert!(
        error.contains("offers SASL") && error.contains("ANONYMOUS") && error.contains("set SASL"),
        "{error}"
    );
}

/// A Proton listener with this server certificate, and settings that reach it as `localhost`.
async fn proton_with(brokers: &Brokers, server: &str) -> (Peer, Amqp10Settings) {
    let file = |name: String| brokers.certificate(&name).display().to_string();
    let (certificate, key) = (file(format!("{server}.pem")), file(format!("{server}.key")));
    let (peer, address) =
        brokers.proton(&["--sasl", "ANONYMOUS", "--tls-cert", &certificate, "--tls-key", &key]).await;
    let mut settings =
        Amqp10Settings::new([format!("amqps://{}", address.replace("127.0.0.1", "localhost"))]);
    settings.broker.cacert = Some(brokers.certificate("ca.pem"));
    (peer, settings)
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn an_expired_server_certificate_is_refused() {
    let brokers = Brokers::running();
    let (_peer, mut settings) = proton_with(&brokers, "server-expired").await;
    for dangerous in [false, true] {
        settings.broker.dangerous_accept_any_host_name = dangerous;
        let error = refusal(&settings).await;
        assert!(error.contains("the broker's certificate has expired"), "{error}");
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_certificate_of_another_host_is_refused_unless_that_is_asked_for() {
    let brokers = Brokers::running();
    let (_peer, mut settings) = proton_with(&brokers, "server-wrong-name").await;
    let error = refusal(&settings).await;
    assert!(error.contains("not valid for the host name localhost, only for"), "{error}");
    assert!(error.contains("broker.wrongname.example"), "{error}");
    settings.broker.dangerous_accept_any_host_name = true;
    Amqp10::new(&settings).unwrap().send(vec![Message::new("a", "x").unwrap()]).await.unwrap();
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn tls_to_a_plain_port_and_the_reverse_say_so() {
    let brokers = Brokers::running();
    let mut settings = brokers.mutual_tls(&[]);
    settings.broker.urls = vec![brokers.get("RABBIT1_AMQP").replace("amqp://127.0.0.1", "amqps://localhost")];
    settings.broker.connection_timeout = Some(Duration::from_secs(5));
    let error = refusal(&settings).await;
    assert!(error.contains("does not speak TLS on this port"), "{error}");
    let mut settings = Amqp10Settings::new([brokers.get("RABBIT1_AMQPS").replace("amqps", "amqp")]);
    settings.broker.connection_timeout = Some(Duration::from_secs(5));
    let error = refusal(&settings).await;
    assert!(error.contains("localhost"), "{error}");
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn certificate_and_key_are_taken_in_either_order_or_from_two_files() {
    let brokers = Brokers::running();
    let queue = RabbitQueue::declare(&brokers, "RABBIT1_AMQP", &unique("pem")).await;
    let mut settings = brokers.mutual_tls(&["RABBIT1_AMQPS"]);
    settings.address = Some(queue.address());
    settings.broker.sasl = Sasl::External;
    for (certificate, key) in
        [("client.pem", None), ("client-key-first.pem", None), ("client-cert.pem", Some("client-key.pem"))]
    {
        settings.broker.certificate = Some(brokers.certificate(certificate));
        settings.broker.private_key = key.map(|key| brokers.certificate(key));
        Amqp10::new(&settings).unwrap().send(vec![Message::new("a", "x").unwrap()]).await.unwrap();
    }
    assert_eq!(queue.drain().await.len(), 3);
}
