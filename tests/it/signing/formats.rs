//! Both formats, from one end to the other.

use std::time::{Duration, SystemTime};

use serde_json::Value;
use tower_outbox::signing::{
    KeyKind, PolicyRule, SignatureFormat, Signer, Signing, Unsigned, Verified, Verifier,
};
use tower_outbox::{Failure, Message, Messenger};

use super::{Keys, Queue, body, key, message, settings, signed_by};
use crate::support::messengers::down;

const VECTORS: &str = include_str!("../../peers/mqfactory_vectors.json");

#[tokio::test]
async fn a_signed_message_arrives_as_it_was_sent() {
    let time = SystemTime::UNIX_EPOCH + Duration::from_micros(1_795_240_571_788_524);
    for (kind, format) in [
        (KeyKind::Ed25519, SignatureFormat::Dsse),
        (KeyKind::Rsa, SignatureFormat::Dsse),
        (KeyKind::Rsa, SignatureFormat::Mqfactory),
    ] {
        let queue =
            Queue::new(key(kind), &settings().with_format(format).with_headers(["tenant", "missing"]));
        let sent = message(7).with_time(time).with_expiry(Duration::from_millis(1_234)).with_priority(3);
        queue.send(&sent).await;
        let received = queue.receive().await;
        let got = received.view().unwrap().message();
        assert_eq!((got.id(), got.topic(), got.body()), (sent.id(), sent.topic(), sent.body()));
        assert_eq!(
            (got.key(), got.priority(), got.content_type()),
            (sent.key(), Some(3), "application/json")
        );
        assert_eq!(got.header("tenant"), sent.header("tenant"));
        assert_eq!((signed_by(got), got.header("signature")), (Some("host-1"), None));
        if format == SignatureFormat::Dsse {
            assert_eq!((got.time(), got.expiry()), (time, sent.expiry()));
        }
        received.ack().await.unwrap();
    }
}

/// The signatures of the original, two of them over bodies that are no JSON.
#[tokio::test]
async fn of_22_vectors_20_verify_and_2_are_refused() {
    let vectors: Value = serde_json::from_str(VECTORS).unwrap();
    let (text, origin) = (|value: &Value| value.as_str().unwrap().to_owned(), "vm");
    let keys = Keys::default();
    let public = tower_outbox::signing::TrustedKey::all_from_pem(&text(&vectors["public_pem"])).unwrap();
    *keys.0.lock().unwrap() = Some([(origin.to_owned(), public)].into());
    let settings = settings()
        .with_format(SignatureFormat::Mqfactory)
        .with_max_age(Duration::from_secs(1_000 * 365 * 24 * 60 * 60));
    let verifier = Verifier::with_keys(keys, &settings).unwrap();
    let (mut signed, mut refused) = (0, Vec::new());
    for vector in vectors["vectors"].as_array().unwrap() {
        let received = Message::new(text(&vector["topic"]), text(&vector["wire"])).unwrap();
        match verifier.verify(&received).await.unwrap() {
            Verified::Signed(opened, _) => {
                assert_eq!(signed_by(&opened), Some(origin));
                assert!(received.body().starts_with(b"{\"payload\": "));
                signed += 1;
            }
            Verified::Refused(reason) => refused.push((text(&vector["topic"]), reason)),
            unsigned => panic!("{unsigned:?}"),
        }
        // Any other byte breaks it.
        let changed = text(&vector["wire"]).replace("\"ts\": \"2026", "\"ts\": \"2025");
        let changed = verifier.verify(&Message::new("t", changed).unwrap()).await.unwrap();
        assert!(matches!(changed, Verified::Refused(_)), "{changed:?}");
    }
    assert_eq!((signed, refused.len()), (20, 2), "{refused:?}");
    assert!(refused.iter().all(|(topic, _)| ["t/15", "t/21"].contains(&topic.as_str())), "{refused:?}");
}

#[tokio::test]
async fn a_hash_in_a_payload_is_not_that_of_the_signature() {
    let queue = Queue::new(key(KeyKind::Rsa), &settings().with_format(SignatureFormat::Mqfactory));
    let payload =
        serde_json::json!({"signature": {"hash": "AAAA", "origin": "host-1", "ts": "now"}, "tags": {}});
    queue.send(&Message::json("a", &payload).unwrap()).await;
    let received = queue.receive().await;
    assert_eq!(serde_json::from_slice::<Value>(body(&received)).unwrap(), payload);
}

#[tokio::test]
async fn a_policy_decides_which_topics_are_signed_and_verified() {
    let policy = [PolicyRule::new("public.#", false)];
    for (kind, format) in
        [(KeyKind::Ed25519, SignatureFormat::Dsse), (KeyKind::Rsa, SignatureFormat::Mqfactory)]
    {
        let queue = Queue::new(key(kind), &settings().with_format(format).with_policy(policy.clone()));
        let public = Message::json("public.news", &1).unwrap();
        queue.send(&public).await;
        let received = queue.receive().await;
        let got = received.view().unwrap().message();
        assert_eq!((signed_by(got), got.id(), got.body()), (None, public.id(), public.body()));
        queue.send(&message(2)).await;
        assert_eq!(signed_by(queue.receive().await.view().unwrap().message()), Some("host-1"));
    }
}

#[tokio::test]
async fn unsigned_messages_are_accepted_where_the_settings_say_so() {
    let queue = Queue::of(&settings().with_unsigned(Unsigned::Accept));
    queue.put(message(1).with_header("tower-outbox-signed-by", "host-1")).await;
    let received = queue.receive().await;
    assert_eq!(signed_by(received.view().unwrap().message()), None, "a stranger names no signer");
    queue.put(message(2).with_header("signature", "{}")).await;
    assert!(queue.refusal().await.contains("no DSSE envelope"));
}

#[tokio::test]
async fn a_message_that_cannot_be_signed_is_refused_at_enqueue() {
    let dsse = Queue::of(&settings().with_headers(["ratio"]));
    let rsa = Queue::new(key(KeyKind::Rsa), &settings().with_format(SignatureFormat::Mqfactory));
    for (queue, message, fault) in [
        (&dsse, message(1).with_header("signature", "mine"), "rename"),
        (&dsse, message(1).with_header("ratio", f64::NAN), "finite"),
        (&dsse, message(1).with_header("ratio", "x".repeat(70_000)), "sign fewer headers"),
        (&rsa, Message::new("a", "no json").unwrap(), "must be JSON"),
        (&rsa, message(1).with_header("signature", "mine"), "rename"),
    ] {
        let error = queue.messenger.check(&message).unwrap_err().to_string();
        assert!(error.contains(fault), "{error}");
        let unsent = queue.messenger.send(vec![message.clone()]).await.unwrap_err();
        let (returned, failure) = unsent.into_iter().next().unwrap();
        assert!(!failure.is_transient());
        assert_eq!(returned.id(), message.id());
    }
    assert!(dsse.messenger.check(&message(1)).is_ok() && rsa.messenger.check(&message(1)).is_ok());
}

#[tokio::test]
async fn unsent_messages_come_back_in_order_as_they_were_given() {
    let queue = Queue::of(&settings());
    let messenger = Signing::new(down(Failure::transient("no broker")), queue.signer.clone());
    let batch = vec![message(1), message(2).with_header("signature", "mine"), message(3)];
    let unsent = messenger.send(batch.clone()).await.unwrap_err();
    let transient: Vec<_> = unsent.iter().map(|(_, failure)| failure.is_transient()).collect();
    assert_eq!(transient, [true, false, true]);
    assert_eq!(unsent.into_messages(), batch);
}

#[test]
fn mqfactory_needs_an_rsa_key() {
    let settings = settings().with_format(SignatureFormat::Mqfactory);
    let error = Signer::with_key(key(KeyKind::Ed25519), &settings).unwrap_err().to_string();
    assert!(error.contains("needs an RSA key") && error.contains("keys generate --kind rsa"), "{error}");
}
