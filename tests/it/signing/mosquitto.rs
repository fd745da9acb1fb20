//! Signatures over mosquitto: a consumer that trusts the keys of a folder, and a stranger at the same broker.

use std::fs;
use std::future::pending;
use std::sync::Arc;

use axum::http::StatusCode;
use tempfile::TempDir;
use tower_outbox::mqtt::Mqtt;
use tower_outbox::signing::{KeyKind, Signer, Signing, SigningKey, TrustedFolder, Verifier, Verifying};
use tower_outbox::{Consumer, Message, Messenger};

use super::{key, settings, signed_by};
use crate::acknowledging::Handled;
use crate::mqtt::raw::{Place, Raw, body, property};
use crate::peers::Brokers;
use crate::support::stores::until;

struct Receiver {
    place: Place,
    trusted: TempDir,
    handled: Handled,
    /// Everyone who may read the topic sees this.
    seen: Raw,
    dead: Raw,
}

impl Receiver {
    async fn trusting(keys: &[&SigningKey]) -> Self {
        let place = Place::new(&Brokers::running());
        let dead = format!("{}-dead", place.topic);
        let source = place.source(&place.subscription().with_dead_letter_topic(&*dead)).await;
        // Later: the probe of the source must find it alone.
        let (seen, letters) = (place.raw().await, Raw::subscribed(&place.url, &dead).await);
        let handled = Handled::default();
        let receiver = Self {
            place,
            trusted: tempfile::tempdir().unwrap(),
            handled: handled.clone(),
            seen,
            dead: letters,
        };
        receiver.trust(keys);
        let verifier =
            Verifier::with_keys(TrustedFolder::open(receiver.trusted.path()).unwrap(), &settings()).unwrap();
        let consumer =
            Consumer::new(Arc::new(Verifying::new(source, verifier)), handled.router(StatusCode::OK));
        tokio::spawn(consumer.with_graceful_shutdown(pending(), crate::support::MINUTE));
        receiver
    }

    /// Replaces the keys of the origin at once, as `mv` does.
    fn trust(&self, keys: &[&SigningKey]) {
        let text: String = keys.iter().map(|key| key.public_pem().unwrap()).collect();
        let (file, new) = (self.trusted.path().join("host-1.pem"), self.trusted.path().join("new"));
        fs::write(&new, text).unwrap();
        fs::rename(new, file).unwrap();
    }

    fn sender(&self, key: &SigningKey) -> Signing<Mqtt> {
        let key = SigningKey::from_pem(&key.to_pem().unwrap()).unwrap();
        Signing::new(self.place.messenger(), Signer::with_key(key, &settings()).unwrap())
    }

    async fn handles(&self, bodies: &[&str]) {
        until("they are handled", || async { self.handled.len() == bodies.len() }).await;
        let all = self.handled.all();
        let handled: Vec<_> = all.iter().map(|message| String::from_utf8_lossy(message.body())).collect();
        assert_eq!(handled, bodies);
        assert!(all.iter().all(|message| signed_by(message) == Some("host-1")));
    }

    /// The reason of the one dead letter.
    async fn refuses(&mut self, expected: &str) {
        let letter = self.dead.next().await;
        assert_eq!(body(&letter), expected);
        let reason = property(&letter, "tower-outbox-reason").unwrap().to_owned();
        self.dead.assert_quiet().await;
        assert!(reason.contains("is not trusted"), "{reason}");
    }
}

/// A stranger may publish to the topic, and sees what is published.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_tampered_message_is_one_dead_letter_and_the_next_goes_on() {
    let key = key(KeyKind::Ed25519);
    let mut receiver = Receiver::trusting(&[&key]).await;
    let sender = receiver.sender(&key);
    let message = |receiver: &Receiver, body: &str| receiver.place.message(body);
    let sent: Message = message(&receiver, "pay 10");
    sender.send(vec![sent.clone()]).await.unwrap();
    receiver.handles(&["pay 10"]).await;

    let seen = receiver.seen.next().await;
    let properties = seen.properties.clone().unwrap();
    assert!(property(&seen, "signature").is_some());
    let topic = receiver.place.topic.clone();
    receiver.seen.publish(&topic, "pay 10000", properties.clone()).await;
    receiver.refuses("pay 10000").await;
    let mut other_id = properties.clone();
    for (name, value) in &mut other_id.user_properties {
        if name == "tower-outbox-id" {
            *value = message(&receiver, "").id().to_string();
        }
    }
    receiver.seen.publish(&topic, "pay 10", other_id).await;
    receiver.refuses("pay 10").await;
    let mut unsigned = properties.clone();
    unsigned.user_properties.retain(|(name, _)| name != "signature");
    receiver.seen.publish(&topic, "pay 10", unsigned).await;
    receiver.refuses("pay 10").await;
    // A copy is acknowledged, and not handled.
    receiver.seen.publish(&topic, "pay 10", properties).await;

    sender.send(vec![message(&receiver, "pay 20")]).await.unwrap();
    receiver.handles(&["pay 10", "pay 20"]).await;
    receiver.dead.assert_quiet().await;
    assert_eq!(receiver.handled.all()[0].id(), sent.id());
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_key_is_replaced_while_messages_come_over_mosquitto() {
    let (old, new) = (key(KeyKind::Ed25519), key(KeyKind::Ed25519));
    let mut receiver = Receiver::trusting(&[&old]).await;
    let (by_old, by_new) = (receiver.sender(&old), receiver.sender(&new));
    let message = |receiver: &Receiver, body: &str| vec![receiver.place.message(body)];
    by_old.send(message(&receiver, "1")).await.unwrap();
    by_new.send(message(&receiver, "too early")).await.unwrap();
    receiver.refuses("too early").await;
    // Both are trusted as soon as the file has both.
    receiver.trust(&[&old, &new]);
    by_new.send(message(&receiver, "2")).await.unwrap();
    by_old.send(message(&receiver, "3")).await.unwrap();
    receiver.handles(&["1", "2", "3"]).await;
    // A message that fits a key does not look for another one, so the old key fades within a second.
    receiver.trust(&[&new]);
    by_new.send(message(&receiver, "4")).await.unwrap();
    receiver.handles(&["1", "2", "3", "4"]).await;
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    by_old.send(message(&receiver, "too late")).await.unwrap();
    receiver.refuses("too late").await;
    receiver.handles(&["1", "2", "3", "4"]).await;
}
