//! Ways to connect.

use std::time::Duration;

use tower_outbox::nats::{BrokerSettings, Nats, NatsSettings};
use tower_outbox::{Bus, Health, Messenger, Settings};

use super::raw::{Place, body};
use crate::peers::Brokers;

fn parse(text: &str) -> Settings {
    #[derive(serde::Deserialize)]
    struct File {
        #[serde(rename = "MESSAGE_BUS")]
        message_bus: Settings,
    }
    toml::from_str::<File>(text).unwrap().message_bus
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_bus_of_settings_sends_and_receives() {
    let place = Place::new().await;
    let settings = parse(&format!(
        "[MESSAGE_BUS]\nBACKEND = \"nats\"\nURLS = [\"{}\"]\nPATTERN = \"streams\"\nCLIENT_NAME = \"app\"\n\
         [MESSAGE_BUS.CONSUMERS.all]\nSTREAM = \"{}\"\nDURABLE = \"all\"\nACK_WAIT = \"10s\"\nPREFETCH = 7\n",
        place.url, place.stream,
    ));
    let bus = Bus::start(&settings).await.unwrap();
    bus.messenger().send(vec![place.message("1")]).await.unwrap();
    assert_eq!(body(&place.stored().await[0]), "1");
    let _ = bus.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn it_connects_with_tls_password_and_nkey() {
    let brokers = Brokers::running();
    let mutual = BrokerSettings::new([brokers.get("NATS1_TLS")])
        .with_certificate(brokers.certificate("client.pem"))
        .with_cacert(brokers.certificate("ca.pem"));
    let plain = brokers.get("NATS1");
    for settings in [
        mutual.into(),
        NatsSettings::new([plain.replace("://", "://open:open@")]),
        NatsSettings::new([plain]).with_nkey_file(brokers.certificate("nkey")),
    ] {
        let messenger = Nats::new(&settings).unwrap();
        assert_eq!(messenger.health().await, Health::Up, "{settings:?}");
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn tls_without_a_client_certificate_says_so() {
    let brokers = Brokers::running();
    let settings = BrokerSettings::new([brokers.get("NATS1_TLS")]).with_cacert(brokers.certificate("ca.pem"));
    let health = Nats::new(&settings.into()).unwrap().health().await;
    let Health::Down { reason } = health else { panic!("it connects") };
    assert!(reason.contains("CERTIFICATE"), "{reason}");
}
