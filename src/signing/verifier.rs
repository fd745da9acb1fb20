//! Verification of single messages.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};

use super::dsse;
use super::error::SigningError;
use super::key_source::{KeySource, MOST_KEYS};
use super::kind::Salt;
#[cfg(feature = "_brokers")]
use super::material::{self, Material};
#[cfg(feature = "_brokers")]
use super::mqfactory;
use super::policy::Policy;
use super::settings::{SignatureFormat, SigningSettings, Unsigned, is_origin};
use super::statement::Statement;
use super::trusted::Trusted;
use super::trusted_folder::TrustedFolder;
use super::trusted_key::TrustedKey;
use crate::message::headers::start_of;
use crate::message::{Message, Scalar};
use crate::util::error::BoxError;

/// How far the clocks of two hosts may be apart.
const CLOCKS: Duration = Duration::from_secs(5 * 60);

/// Verifies messages. A clone is a handle to the same keys.
#[derive(Clone)]
pub struct Verifier(Arc<Inner>);

struct Inner {
    keys: Box<dyn KeySource>,
    format: SignatureFormat,
    headers: Vec<String>,
    policy: Policy,
    unsigned: Unsigned,
    max_age: Duration,
    remembered: usize,
}

/// The result of a verification.
#[derive(Debug)]
#[non_exhaustive]
pub enum Verified {
    /// The message as it was signed, in its header [`SIGNED_BY`](super::SIGNED_BY) the origin.
    Signed(Message, Signature),
    /// The message has no signature and needs none.
    Unsigned(Message),
    /// The message must not be handled, for this reason.
    Refused(String),
}

/// A signature that was verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature {
    /// The start of the digest of the signed bytes, the same for all copies of one sending.
    pub(super) digest: [u8; 16],
    pub(super) too_old_at: Option<SystemTime>,
}

/// A fault of the message, or a fault of the keys, for which the message must wait.
enum Fault {
    Message(String),
    Keys(BoxError),
}

impl From<BoxError> for Fault {
    fn from(error: BoxError) -> Self {
        Self::Message(error.to_string())
    }
}

impl From<String> for Fault {
    fn from(reason: String) -> Self {
        Self::Message(reason)
    }
}

impl From<&str> for Fault {
    fn from(reason: &str) -> Self {
        Self::Message(reason.to_owned())
    }
}

impl Verifier {
    /// Opens the folder [`SigningSettings::trusted`].
    ///
    /// # Errors
    /// [`SigningError`] when the folder or one of its keys cannot be read, or the settings are wrong, or name the database:
    /// use [`with_keys`](Self::with_keys) for its table.
    pub fn new(settings: &SigningSettings) -> Result<Self, SigningError> {
        match &settings.trusted {
            Some(Trusted::Folder(path)) => Self::with_keys(TrustedFolder::open(path)?, settings),
            Some(Trusted::Database) => Err(SigningError::new(
                "SIGNING.TRUSTED is \"database\", which needs the pool of the database: use a TrustedTable",
            )),
            None => Err(SigningError::new("SIGNING.TRUSTED is not set: name the folder of the public keys")),
        }
    }

    /// Verifies with the keys of another source.
    ///
    /// # Errors
    /// [`SigningError`] when the settings are wrong.
    pub fn with_keys(keys: impl KeySource, settings: &SigningSettings) -> Result<Self, SigningError> {
        Ok(Self(Arc::new(Inner {
            keys: Box::new(keys),
            format: settings.format,
            headers: settings.headers.clone(),
            policy: Policy::new(&settings.policy)?,
            unsigned: settings.unsigned,
            max_age: settings.max_age,
            remembered: settings.remembered,
        })))
    }

    pub(super) fn remembered(&self) -> usize {
        self.0.remembered
    }

    /// Verifies a received message. It does not know whether the message was handled before.
    ///
    /// # Errors
    /// Why the trusted keys cannot be read now.
    ///
    /// # Cancel safety
    /// Dropping the future has no effect.
    pub async fn verify(&self, message: &Message) -> Result<Verified, BoxError> {
        let verified = match self.0.format {
            SignatureFormat::Dsse => self.dsse(message).await,
            #[cfg(feature = "_brokers")]
            SignatureFormat::Dssematerial => self.dssematerial(message).await,
            #[cfg(feature = "_brokers")]
            SignatureFormat::Mqfactory => self.mqfactory(message).await,
        };
        match verified {
            Ok(verified) => Ok(verified),
            Err(Fault::Message(reason)) => Ok(Verified::Refused(reason)),
            Err(Fault::Keys(error)) => Err(error),
        }
    }

    async fn dsse(&self, message: &Message) -> Result<Verified, Fault> {
        let signature = match message.header(dsse::HEADER) {
            Some(Scalar::String(signature)) if self.0.policy.signs(message.topic()) => signature,
            Some(_) if self.0.policy.signs(message.topic()) => return Err("its signature is no text".into()),
            _ => return self.unsigned(message.clone()),
        };
        let signed = dsse::read(dsse::PAYLOAD_TYPE, signature)?;
        let bytes = dsse::signed_bytes(dsse::PAYLOAD_TYPE, &signed.payload);
        let origin = self.signer_of(&signed, &bytes).await?;
        let statement = Statement::read(&signed.payload)?;
        if statement.origin != *origin {
            return Err("its signature is that of another origin than it says".into());
        }
        let restored = statement.restore(message, &self.0.headers)?;
        self.signed(restored, origin, statement.signed_at()?, &bytes)
    }

    #[cfg(feature = "_brokers")]
    async fn dssematerial(&self, message: &Message) -> Result<Verified, Fault> {
        let signature = match message.header(material::HEADER) {
            _ if !self.0.policy.signs(message.topic()) => return self.unsigned(message.clone()),
            None => return self.unsigned(message.clone()),
            Some(signature) => signature.as_str().ok_or("its attribute dssematerial is no text")?,
        };
        let signed = material::read(signature)?;
        let bytes = dsse::signed_bytes(material::TYPE, &signed.payload);
        let origin = self.signer_of(&signed, &bytes).await?;
        let material = Material::read(&signed.payload)?;
        let (restored, signed_at) = material.restore(message, &self.0.headers)?;
        self.signed(restored, origin, signed_at, &bytes)
    }

    /// The origin of the first signature that fits.
    async fn signer_of<'a>(&self, signed: &'a dsse::Signed, bytes: &[u8]) -> Result<&'a str, Fault> {
        let mut last = None;
        for (origin, signature) in &signed.signatures {
            match self.check(origin, |key| key.verifies(bytes, signature, Salt::Digest)).await {
                Ok(()) => return Ok(origin),
                Err(Fault::Message(reason)) => last = Some(reason),
                Err(fault) => return Err(fault),
            }
        }
        Err(Fault::Message(last.unwrap_or_default()))
    }

    #[cfg(feature = "_brokers")]
    async fn mqfactory(&self, message: &Message) -> Result<Verified, Fault> {
        let signed = match self.0.policy.signs(message.topic()) {
            true => mqfactory::read(message.body())?,
            false => None,
        };
        let Some(mqfactory::Signed { origin, at, signature, bytes }) = signed else {
            return self.unsigned(mqfactory::open(message)?);
        };
        self.check(&origin, |key| key.verifies(&bytes, &signature, Salt::Max)).await?;
        let opened = mqfactory::open(message)?.with_time(at);
        self.signed(opened, &origin, at, &bytes)
    }

    fn unsigned(&self, mut message: Message) -> Result<Verified, Fault> {
        if self.0.unsigned == Unsigned::Reject && self.0.policy.signs(message.topic()) {
            return Err("it is not signed; SIGNING.UNSIGNED = \"accept\" would accept it".into());
        }
        message.remove_header(dsse::SIGNED_BY);
        Ok(Verified::Unsigned(message))
    }

    fn signed(
        &self,
        message: Message,
        origin: &str,
        at: SystemTime,
        bytes: &[u8],
    ) -> Result<Verified, Fault> {
        let max_age = self.0.max_age;
        match SystemTime::now().duration_since(at) {
            Ok(age) if age > max_age => {
                return Err(format!(
                    "its signature of {origin} is {} old; SIGNING.MAX_AGE is {}",
                    humantime::format_duration(Duration::from_secs(age.as_secs())),
                    humantime::format_duration(max_age)
                )
                .into());
            }
            Err(early) if early.duration() > CLOCKS => {
                return Err(format!(
                    "its signature of {origin} is from {} in the future: set the clocks",
                    humantime::format_duration(Duration::from_secs(early.duration().as_secs()))
                )
                .into());
            }
            _ => {}
        }
        let mut start = [0; 16];
        start.copy_from_slice(&digest(&SHA256, bytes).as_ref()[..16]);
        let signature = Signature { digest: start, too_old_at: at.checked_add(max_age) };
        Ok(Verified::Signed(message.with_header(dsse::SIGNED_BY, origin.to_owned()), signature))
    }

    /// Checks a signature with the keys of this origin.
    async fn check(&self, origin: &str, verifies: impl Fn(&TrustedKey) -> bool) -> Result<(), Fault> {
        if !is_origin(origin) {
            return Err(format!("its origin {:?} is no valid name", start_of(origin, 80)).into());
        }
        let mut known = false;
        for anew in [false, true] {
            let keys = self.0.keys.keys(origin, anew).await.map_err(Fault::Keys)?;
            if keys.iter().take(MOST_KEYS).any(&verifies) {
                return Ok(());
            }
            known = !keys.is_empty();
        }
        match known {
            true => Err(format!(
                "its signature fits no key of {origin}: it was changed, or signed with another key"
            )
            .into()),
            false => Err(format!("its origin {origin} is not trusted: there is no key of it").into()),
        }
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("format", &self.0.format).finish_non_exhaustive()
    }
}
