//! Signed messages: from a messenger that signs, through a queue, to a source that verifies.

mod brokers;
mod bus;
mod copies;
mod folder;
mod formats;
mod material;
mod mosquitto;
mod peers;
mod refused;
mod table;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::timeout;
use tower_outbox::signing::{
    KeyKind, KeySource, SIGNED_BY, Signer, Signing, SigningKey, SigningSettings, TrustedKey, Verifier,
    Verifying,
};
use tower_outbox::source::{Source, Unsettled};
use tower_outbox::testing::Memory;
use tower_outbox::{BoxError, Message, Messenger, async_trait};

/// No test waits longer.
const STUCK: Duration = Duration::from_secs(30);

/// The keys of a test, which it may change or take away.
#[derive(Clone, Default)]
struct Keys(Arc<Mutex<Option<KeysByOrigin>>>);

type KeysByOrigin = HashMap<String, Vec<TrustedKey>>;

impl Keys {
    fn of(origin: &str, keys: &[&SigningKey]) -> Self {
        let keys = keys.iter().map(|key| key.public().unwrap()).collect();
        Self(Arc::new(Mutex::new(Some(HashMap::from([(origin.to_owned(), keys)])))))
    }

    fn take_away(&self) {
        self.0.lock().unwrap().take();
    }
}

#[async_trait]
impl KeySource for Keys {
    async fn keys(&self, origin: &str, _: bool) -> Result<Arc<[TrustedKey]>, BoxError> {
        match &*self.0.lock().unwrap() {
            Some(keys) => Ok(keys.get(origin).cloned().unwrap_or_default().into()),
            None => Err("the keys are on another host".into()),
        }
    }
}

fn settings() -> SigningSettings {
    SigningSettings::default().with_origin("host-1")
}

fn key(kind: KeyKind) -> SigningKey {
    SigningKey::generate(kind).unwrap()
}

/// A queue in memory, with a messenger that signs for it and a source that verifies.
struct Queue {
    memory: Memory,
    signer: Signer,
    messenger: Signing<Memory>,
    source: Arc<Verifying<Memory>>,
    keys: Keys,
}

impl Queue {
    fn new(key: SigningKey, settings: &SigningSettings) -> Self {
        let keys = Keys::of("host-1", &[&key]);
        let signer = Signer::with_key(key, settings).unwrap();
        let verifier = Verifier::with_keys(keys.clone(), settings).unwrap();
        let memory = Memory::new();
        Self {
            messenger: Signing::new(memory.clone(), signer.clone()),
            source: Arc::new(Verifying::new(memory.clone(), verifier)),
            memory,
            signer,
            keys,
        }
    }

    fn of(settings: &SigningSettings) -> Self {
        Self::new(key(KeyKind::Ed25519), settings)
    }

    async fn send(&self, message: &Message) {
        self.messenger.send(vec![message.clone()]).await.unwrap();
    }

    /// Puts a message into the queue as a stranger does.
    async fn put(&self, message: Message) {
        self.memory.send(vec![message]).await.unwrap();
    }

    async fn receive(&self) -> Unsettled {
        let received = timeout(STUCK, self.source.receive(1)).await.expect("a message comes").unwrap();
        received.into_iter().next().unwrap()
    }

    /// Why the next message is refused.
    async fn refusal(&self) -> String {
        self.receive().await.view().expect_err("it is refused").to_string()
    }
}

fn message(n: u64) -> Message {
    Message::json("user.created", &n).unwrap().with_key("user-7").with_header("tenant", "acme")
}

fn body(delivery: &Unsettled) -> &[u8] {
    delivery.view().unwrap().message().body()
}

fn signed_by(message: &Message) -> Option<&str> {
    message.header(SIGNED_BY).and_then(|origin| origin.as_str())
}
