//! The messenger that signs.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

use super::signer::Signer;
use crate::message::Message;
use crate::messenger::{Capabilities, Failure, Health, Messenger, Unsent};
use crate::util::error::BoxError;

/// Signs each message, and sends it through another messenger.
///
/// It belongs next to the messenger of the broker: a message that waited in an outbox is signed when it is sent, and again when
/// it is sent again. Messages that cannot be signed are refused at `enqueue`. [`Unsent`] hands back the messages as they
/// were given.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use tower_outbox::signing::{KeyKind, Signer, Signing, SigningKey, SigningSettings};
/// use tower_outbox::testing::Recording;
/// use tower_outbox::{Message, Messenger};
///
/// let key = SigningKey::generate(KeyKind::Ed25519)?;
/// let signer = Signer::with_key(key, &SigningSettings::default().with_origin("host-1"))?;
/// let recording = Recording::new();
/// let sent = recording.listen();
/// Signing::new(recording, signer).send(vec![Message::json("user.created", &7)?]).await?;
/// assert!(sent.messages()[0].header("signature").is_some());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
pub struct Signing<M> {
    inner: M,
    signer: Signer,
}

impl<M: Messenger> Signing<M> {
    /// Signs with `signer`, and sends through `inner`.
    pub fn new(inner: M, signer: Signer) -> Self {
        Self { inner, signer }
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<M: Messenger> Messenger for Signing<M> {
    async fn send(&self, batch: Vec<Message>) -> Result<(), Unsent> {
        let mut signed = Vec::with_capacity(batch.len());
        let mut given = Vec::with_capacity(batch.len());
        for message in batch {
            match self.signer.sign(&message) {
                Ok(with_signature) => {
                    signed.push(with_signature);
                    given.push((message, None));
                }
                Err(error) => given.push((message, Some(Failure::rejected(error)))),
            }
            if self.signer.is_slow() {
                tokio::task::yield_now().await;
            }
        }
        let unsent = match signed.is_empty() {
            true => Unsent::default(),
            false => self.inner.send(signed).await.err().unwrap_or_default(),
        };
        // Both are in their order.
        let mut unsent = unsent.into_iter().peekable();
        let mut failed = Unsent::default();
        for (message, refused) in given {
            let of_this = |(of, _): &(Message, Failure)| of.id() == message.id();
            let failure = refused.or_else(|| unsent.next_if(of_this).map(|(_, failure)| failure));
            failed.extend(failure.map(|failure| (message, failure)));
        }
        failed.extend(unsent);
        failed.into_result()
    }

    fn check(&self, message: &Message) -> Result<(), BoxError> {
        self.inner.check(&self.signer.outline(message)?)
    }

    async fn health(&self) -> Health {
        self.inner.health().await
    }

    async fn close(&self, deadline: Duration) {
        self.inner.close(deadline).await;
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
}

impl<M> fmt::Debug for Signing<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signing").field("signer", &self.signer).finish_non_exhaustive()
    }
}
