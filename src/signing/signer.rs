//! Signing of single messages.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use super::dsse;
use super::error::SigningError;
use super::key::SigningKey;
use super::kind::{KeyKind, Salt};
use super::policy::Policy;
use super::settings::{SignatureFormat, SigningSettings};
use super::statement::Statement;
#[cfg(feature = "_brokers")]
use super::{material, mqfactory};
use crate::message::Message;
use crate::util::error::BoxError;

/// Signs messages with one key. A clone is a handle to the same key.
#[derive(Clone)]
pub struct Signer(Arc<Inner>);

struct Inner {
    key: SigningKey,
    origin: String,
    format: SignatureFormat,
    headers: Vec<String>,
    policy: Policy,
    #[cfg(feature = "_brokers")]
    event_source: Option<String>,
}

impl Signer {
    /// Reads the key of [`SigningSettings::key`].
    ///
    /// # Errors
    /// [`SigningError`] when the key cannot be read, or the settings are wrong.
    pub fn new(settings: &SigningSettings) -> Result<Self, SigningError> {
        let path = settings.key.as_deref().ok_or_else(|| SigningError::new("SIGNING.KEY is not set"))?;
        Self::with_key(SigningKey::from_file("SIGNING.KEY", path)?, settings)
    }

    /// Signs with a key that is not in a file.
    ///
    /// # Errors
    /// [`SigningError`] when the settings are wrong, or the format needs a key of another kind.
    pub fn with_key(key: SigningKey, settings: &SigningSettings) -> Result<Self, SigningError> {
        #[cfg(feature = "_brokers")]
        if settings.format == SignatureFormat::Mqfactory && key.kind() != KeyKind::Rsa {
            return Err(SigningError::new(format!(
                "SIGNING.FORMAT \"mqfactory\" needs an RSA key, but SIGNING.KEY is of the kind {}: make one with \
                 `tower-outbox keys generate --kind rsa`",
                key.kind()
            )));
        }
        Ok(Self(Arc::new(Inner {
            key,
            origin: settings.origin_name()?,
            format: settings.format,
            headers: settings.headers.clone(),
            policy: Policy::new(&settings.policy)?,
            #[cfg(feature = "_brokers")]
            event_source: settings.event_source.clone(),
        })))
    }

    /// Returns the name under which receivers know the key.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.0.origin
    }

    /// Returns the message with its signature, or as it is if the policy does not sign its topic. An RSA signature takes about
    /// a millisecond.
    ///
    /// # Errors
    /// Why this message cannot be signed.
    pub fn sign(&self, message: &Message) -> Result<Message, BoxError> {
        self.signed(message, SystemTime::now(), |bytes, salt| self.0.key.sign(bytes, salt))
    }

    /// The signed message with zeros for the signature, which costs no signing.
    pub(super) fn outline(&self, message: &Message) -> Result<Message, BoxError> {
        self.signed(message, SystemTime::now(), |_, _| Ok(vec![0; self.0.key.signature_len()]))
    }

    /// Whether signing takes long enough to let other tasks run in between.
    pub(super) fn is_slow(&self) -> bool {
        self.0.key.kind() == KeyKind::Rsa
    }

    fn signed(
        &self,
        message: &Message,
        now: SystemTime,
        sign: impl FnOnce(&[u8], Salt) -> Result<Vec<u8>, BoxError>,
    ) -> Result<Message, BoxError> {
        let Inner { origin, format, headers, policy, .. } = &*self.0;
        let signs = policy.signs(message.topic());
        match format {
            SignatureFormat::Dsse if !signs => Ok(message.clone()),
            SignatureFormat::Dsse => {
                if let Some(name) = dsse::OWN_HEADERS.iter().find(|name| message.header(name).is_some()) {
                    return Err(format!("the header {name:?} is set by signing: rename it").into());
                }
                let payload = Statement::of(message, origin, now, headers)?.write()?;
                let signature = sign(&dsse::signed_bytes(dsse::PAYLOAD_TYPE, &payload), Salt::Digest)?;
                let header = dsse::write(dsse::PAYLOAD_TYPE, &payload, origin, &signature)?;
                Ok(message.clone().with_header(dsse::HEADER, header))
            }
            #[cfg(feature = "_brokers")]
            SignatureFormat::Dssematerial if !signs => Ok(message.clone()),
            #[cfg(feature = "_brokers")]
            SignatureFormat::Dssematerial => {
                let source = self.0.event_source.as_deref();
                material::sign(message, (origin, source), now, headers, |bytes| sign(bytes, Salt::Digest))
            }
            #[cfg(feature = "_brokers")]
            SignatureFormat::Mqfactory if !signs => mqfactory::seal(message),
            #[cfg(feature = "_brokers")]
            SignatureFormat::Mqfactory => {
                mqfactory::sign(message, origin, now, |bytes| sign(bytes, Salt::Max))
            }
        }
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer")
            .field("origin", &self.0.origin)
            .field("key", &self.0.key)
            .finish_non_exhaustive()
    }
}
