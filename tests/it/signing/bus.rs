//! The table `SIGNING` of the settings.

use std::fs;
use std::time::Duration;

use axum::Router;
use axum::routing::post;
use tokio::sync::mpsc;
use tower_outbox::message::Scalar;
use tower_outbox::signing::{KeyKind, SigningKey};
use tower_outbox::{Bus, Delivery, Message, Messenger, Settings};

use super::{STUCK, key, message};

struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn new(kind: KeyKind) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let made: SigningKey = key(kind);
        fs::write(folder.path().join("key.pem"), made.to_pem().unwrap()).unwrap();
        fs::create_dir(folder.path().join("trusted")).unwrap();
        fs::write(folder.path().join("trusted/host-1.pem"), made.public_pem().unwrap()).unwrap();
        Self { folder }
    }

    fn settings(&self, more: &str) -> Result<Settings, toml::de::Error> {
        toml::from_str(&more.replace("FOLDER", self.folder.path().to_str().unwrap()))
    }
}

const SIGNING: &str = r#"
    BACKEND = "memory"
    [CONSUMERS.users]
    [SIGNING]
    ORIGIN = "host-1"
    KEY = "FOLDER/key.pem"
    TRUSTED = "FOLDER/trusted"
"#;

/// The message that the consumer of a bus gets.
async fn received(bus: &Bus) -> Message {
    let (called, mut calls) = mpsc::unbounded_channel();
    let handler = move |delivery: Delivery| async move { called.send(delivery.message().clone()).unwrap() };
    let app = Router::new().route("/user/created", post(handler));
    let consumer = tokio::spawn(bus.consumer("users", app).unwrap().into_future());
    let message = tokio::time::timeout(STUCK, calls.recv()).await.unwrap().unwrap();
    let _ = bus.shutdown(Duration::from_secs(5)).await;
    consumer.await.unwrap();
    message
}

#[tokio::test]
async fn a_bus_signs_and_its_consumers_verify() {
    for (kind, format, delivery) in [
        (KeyKind::Ed25519, "dsse", "direct"),
        (KeyKind::Rsa, "mqfactory", "background"),
        (KeyKind::Ed25519, "DSSE", "durable"),
    ] {
        let files = Files::new(kind);
        let text = format!("{SIGNING}\nFORMAT = \"{format}\"\nHEADERS = \"tenant, other\"");
        let text = format!("DELIVERY = \"{delivery}\"\nOUTBOX.PATH = \"FOLDER/outbox\"\n{text}");
        let bus = Bus::start(&files.settings(&text).unwrap()).await.unwrap();
        let sent = message(7);
        bus.messenger().send(vec![sent.clone()]).await.unwrap();
        let got = received(&bus).await;
        assert_eq!((got.id(), got.body()), (sent.id(), sent.body()));
        assert_eq!(got.header("tower-outbox-signed-by"), Some(&Scalar::from("host-1")));
    }
}

#[tokio::test]
async fn rules_of_a_policy_are_read() {
    let files = Files::new(KeyKind::Ed25519);
    let text = format!(
        "{SIGNING}\n[[SIGNING.POLICY]]\nTOPIC = \"user.#\"\nSIGN = false\n[[SIGNING.POLICY]]\nTopic = \"*\"\nsign = true"
    );
    let bus = Bus::start(&files.settings(&text).unwrap()).await.unwrap();
    bus.messenger().send(vec![message(7)]).await.unwrap();
    assert_eq!(received(&bus).await.header("tower-outbox-signed-by"), None);
}

#[tokio::test]
async fn wrong_settings_are_refused_at_the_start() {
    let files = Files::new(KeyKind::Ed25519);
    for (text, fault) in [
        ("[SIGNING]", "neither KEY nor TRUSTED"),
        ("[SIGNING]\nKEY = \"FOLDER/key.pem\"\nORIGIN = \"../x\"", "SIGNING.ORIGIN"),
        ("[SIGNING]\nKEY = \"FOLDER/key.pem\"\nMAX_AGE = 0", "SIGNING.MAX_AGE"),
        ("[SIGNING]\nKEY = \"FOLDER/key.pem\"\nREMEMBERED = 0", "SIGNING.REMEMBERED"),
        ("[SIGNING]\nKEY = \"FOLDER/key.pem\"\nHEADERS = [\"signature\"]", "SIGNING.HEADERS"),
        ("[SIGNING]\nKEY = \"FOLDER/key.pem\"\nKEYS = 1", "SIGNING.KEYS; did you mean SIGNING.KEY?"),
        ("[SIGNING]\nKEY = \"FOLDER/key.pem\"\nPOLICY = [{TOPIC = \"a*\", SIGN = true}]", "SIGNING.POLICY"),
        ("[SIGNING]\nKEY = \"FOLDER/key.pem\"\nFORMAT = \"jws\"", "dsse"),
        (
            "[SIGNING]\nKEY = \"FOLDER/key.pem\"\nFORMAT = \"dssematerial\"\nHEADERS = \"X-A\"",
            "extension attribute",
        ),
    ] {
        let error = files.settings(text).unwrap_err().to_string();
        assert!(error.contains(fault), "{error}");
    }
    for (text, fault) in [
        ("[SIGNING]\nKEY = \"FOLDER/missing.pem\"", "missing.pem"),
        ("[SIGNING]\nKEY = \"FOLDER/trusted/host-1.pem\"", "holds a PUBLIC KEY"),
        ("[SIGNING]\nKEY = \"FOLDER/key.pem\"\nTRUSTED = \"FOLDER/missing\"", "SIGNING.TRUSTED"),
        ("[SIGNING]\nKEY = \"FOLDER/key.pem\"\nFORMAT = \"mqfactory\"", "needs an RSA key"),
        ("[SIGNING]\nTRUSTED = \"FOLDER/trusted\"\nFORMAT = \"mqfactory\"", "needs SIGNING.KEY"),
        ("[SIGNING]\nKEY = \"FOLDER/key.pem\"\nFORMAT = \"dssematerial\"", "is for CloudEvents"),
        (
            "BACKEND = \"amqp091\"\nURLS = \"amqp://h\"\nENVELOPE = \"cloudevents\"\n[SIGNING]\nKEY = \"FOLDER/key.pem\"\nFORMAT = \"mqfactory\"",
            "remove ENVELOPE",
        ),
    ] {
        let error = Bus::start(&files.settings(text).unwrap()).await.err().unwrap().to_string();
        assert!(error.contains(fault), "{error}");
    }
    let text = "BACKEND = \"memory\"\n[CONSUMERS.users]\n[SIGNING]\nKEY = \"FOLDER/key.pem\"";
    let bus = Bus::start(&files.settings(text).unwrap()).await.unwrap();
    let error = bus.source("users").err().unwrap().to_string();
    assert!(error.contains("CONSUMERS.USERS cannot verify"), "{error}");
}
