//! The fuzz target of signatures.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::runtime::Runtime;

use super::dsse;
use super::key::SigningKey;
use super::key_source::KeySource;
use super::kind::KeyKind;
use super::settings::{SignatureFormat, SigningSettings, Unsigned};
use super::trusted_key::TrustedKey;
use super::verifier::{Verified, Verifier};
use crate::message::Message;
use crate::util::error::BoxError;

/// Every origin has the same keys.
struct Anyone(Arc<[TrustedKey]>);

#[async_trait]
impl KeySource for Anyone {
    async fn keys(&self, _: &str, _: bool) -> Result<Arc<[TrustedKey]>, BoxError> {
        Ok(Arc::clone(&self.0))
    }
}

struct Verifiers {
    runtime: Runtime,
    dsse: Verifier,
    mqfactory: Verifier,
}

impl Verifiers {
    fn new() -> Self {
        let keys = [KeyKind::Ed25519, KeyKind::Rsa].map(|kind| {
            let key = SigningKey::generate(kind).expect("a key can be made");
            key.public().expect("it has a public key")
        });
        let keys: Arc<[TrustedKey]> = keys.into();
        let settings = SigningSettings::default()
            .with_unsigned(Unsigned::Accept)
            .with_max_age(Duration::from_secs(1_000 * 365 * 24 * 60 * 60));
        let verifier = |settings: &SigningSettings| {
            Verifier::with_keys(Anyone(Arc::clone(&keys)), settings).expect("the settings are right")
        };
        Self {
            runtime: tokio::runtime::Builder::new_current_thread().build().expect("a runtime can be made"),
            dsse: verifier(&settings),
            mqfactory: verifier(&settings.with_format(SignatureFormat::Mqfactory)),
        }
    }
}

/// The bytes as a signature of a message, and as a message of mqfactory: nothing is signed with keys of this process.
pub fn signatures(data: &[u8]) {
    thread_local! {
        static VERIFIERS: Verifiers = Verifiers::new();
    }
    let signature = String::from_utf8_lossy(data).into_owned();
    let with_header = Message::new("a", "7").expect("a is a topic").with_header(dsse::HEADER, signature);
    let with_body = Message::new("a", data.to_vec()).expect("a is a topic");
    VERIFIERS.with(|Verifiers { runtime, dsse, mqfactory }| {
        for (verifier, message) in [(dsse, with_header), (mqfactory, with_body)] {
            match runtime.block_on(verifier.verify(&message)).expect("the keys are there") {
                Verified::Signed(..) => panic!("a signature of nobody was accepted"),
                Verified::Unsigned(accepted) => assert!(accepted.header(super::dsse::SIGNED_BY).is_none()),
                Verified::Refused(reason) => assert!(reason.len() < 1_000, "{reason}"),
            }
        }
    });
}
