//! Ways to connect.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpListener;
use tower_outbox::kafka::{BrokerSettings, Kafka, KafkaSettings};
use tower_outbox::{Bus, Health, Messenger, Settings};

use super::proxy::Proxy;
use super::raw::{Place, body};
use super::server::{Server, free_port};
use crate::peers::Brokers;

fn parse(text: &str) -> Settings {
    #[derive(serde::Deserialize)]
    struct File {
        #[serde(rename = "MESSAGE_BUS")]
        message_bus: Settings,
    }
    toml::from_str::<File>(text).unwrap().message_bus
}

/// TLS that demands a client certificate.
fn mutual(brokers: &Brokers) -> ServerConfig {
    let certificates = |name| {
        let found = CertificateDer::pem_file_iter(brokers.certificate(name)).unwrap();
        found.collect::<Result<Vec<_>, _>>().unwrap()
    };
    let mut roots = RootCertStore::empty();
    certificates("ca.pem").into_iter().for_each(|certificate| roots.add(certificate).unwrap());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let key = PrivateKeyDer::from_pem_file(brokers.certificate("server.key")).unwrap();
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(certificates("server.pem"), key)
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn it_connects_by_mutual_tls_and_names_what_is_wrong() {
    let brokers = Brokers::running();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, proxied) = (free_port(), listener.local_addr().unwrap().port());
    let _server = Server::advertised(port, format!("localhost:{proxied}"), &[]).await;
    let _proxy = Proxy::start_tls(listener, port, mutual(&brokers));
    let settings = || BrokerSettings::new([format!("kafkas://localhost:{proxied}")]);
    let with_certificate = || settings().with_certificate(brokers.certificate("client.pem"));
    let ca = brokers.certificate("ca.pem");
    let health = async |settings: BrokerSettings| Kafka::new(&settings.into()).unwrap().health().await;
    assert_eq!(health(with_certificate().with_cacert(&ca)).await, Health::Up);
    for (settings, cure) in [(settings().with_cacert(&ca), "CERTIFICATE"), (with_certificate(), "CACERT")] {
        let Health::Down { reason } = health(settings).await else { panic!("it connects") };
        assert!(reason.contains(cure), "{cure}: {reason}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_bus_of_settings_sends_and_has_no_requests() {
    let place = Place::new().await;
    let settings = parse(&format!(
        "[MESSAGE_BUS]\nBACKEND = \"kafka\"\nURLS = [\"{}\"]\nCOMPRESSION = \"lz4\"\n\
         [MESSAGE_BUS.CONSUMERS.all]\nGROUP = \"all\"\nTOPICS = [\"{}\"]\nPREFETCH_BYTES = \"1MiB\"\n",
        place.server.url(),
        place.topic,
    ));
    let bus = Bus::start(&settings).await.unwrap();
    bus.messenger().send(vec![place.message("1")]).await.unwrap();
    assert_eq!(body(&place.stored().await[0]), "1");
    let error = bus.client("quotes").unwrap_err().to_string();
    assert!(error.contains("kafka") && error.contains("nats"), "{error}");
    let _ = bus.shutdown(std::time::Duration::from_secs(5)).await;
    assert!(KafkaSettings::default().auto_create_topics);
}
