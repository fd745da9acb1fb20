//! The table `SIGNING` of the settings.

use std::path::PathBuf;
use std::time::Duration;

use super::error::SigningError;
use super::policy::PolicyRule;
use super::trusted::Trusted;
use crate::util::host_name::host_name;

/// The place of the signature, and what it covers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "settings", derive(serde::Deserialize), serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum SignatureFormat {
    /// `dsse`: the header `signature`, a DSSE envelope (Dead Simple Signing Envelope 1.0.2), beside the message as it is.
    #[default]
    Dsse,
    /// `dssematerial`: the attribute of this name of a CloudEvent, by a draft of their specification. **Experimental**: it changes with the
    /// draft. It is for the envelopes `cloudevents` and `cloudevents_structured`.
    #[cfg(feature = "_brokers")]
    #[cfg_attr(docsrs, doc(cfg(any(feature = "amqp091", feature = "amqp10", feature = "mqtt"))))]
    Dssematerial,
    /// `mqfactory`: the tag `signature` of the JSON messages of mqfactory 0.0.4, which this format writes itself. RSA only.
    #[cfg(feature = "_brokers")]
    #[cfg_attr(docsrs, doc(cfg(any(feature = "amqp091", feature = "amqp10", feature = "mqtt"))))]
    Mqfactory,
}

/// The treatment of a received message without a signature.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "settings", derive(serde::Deserialize), serde(rename_all = "lowercase"))]
pub enum Unsigned {
    /// `reject`: it becomes a dead letter.
    #[default]
    Reject,
    /// `accept`: it is handled. Whoever removes a signature can then change the message.
    Accept,
}

/// The settings of [`Signer`](super::Signer) and [`Verifier`](super::Verifier): the table `SIGNING`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "settings", derive(serde::Deserialize), serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct SigningSettings {
    /// The place of the signature; [`SignatureFormat::Dsse`] by default.
    #[cfg_attr(feature = "settings", serde(deserialize_with = "crate::util::units::word"))]
    pub format: SignatureFormat,
    /// The name of the sender, under which receivers know its key; the host name by default.
    pub origin: Option<String>,
    /// The private key in PEM form: Ed25519 in PKCS #8, or RSA in PKCS #8 or PKCS #1. Without one messages are not signed.
    pub key: Option<PathBuf>,
    /// The public keys that are trusted: a folder, or `database`. They are read again when they change. Consumers need them.
    #[cfg_attr(feature = "settings", serde(deserialize_with = "super::trusted::read"))]
    pub trusted: Option<Trusted>,
    /// The treatment of a received message without a signature; [`Unsigned::Reject`] by default.
    #[cfg_attr(feature = "settings", serde(deserialize_with = "crate::util::units::word"))]
    pub unsigned: Unsigned,
    /// The headers that are signed, and that must be signed in received messages; none by default. Not for
    /// [`mqfactory`](SignatureFormat), which signs all of them.
    #[cfg_attr(feature = "settings", serde(deserialize_with = "crate::util::units::one_or_many"))]
    pub headers: Vec<String>,
    /// How old a signature may be when its message is received; 1 day by default. Signatures are made when a message is sent to
    /// the broker, so the time in an outbox does not count, but that in a queue of the broker does.
    #[cfg_attr(feature = "settings", serde(deserialize_with = "crate::util::units::duration"))]
    pub max_age: Duration,
    /// How many handled messages each consumer remembers to detect copies; 100,000 by default, about 10 MB.
    pub remembered: usize,
    /// Which topics are signed and verified; all by default.
    pub policy: Vec<PolicyRule>,
    /// The source of CloudEvents without a header `ce-source`, for [`dssematerial`](SignatureFormat); a [`Bus`](crate::bus::Bus) takes the key
    /// `EVENT_SOURCE` of its backend.
    #[cfg_attr(feature = "settings", serde(skip))]
    pub event_source: Option<String>,
}

impl Default for SigningSettings {
    fn default() -> Self {
        Self {
            format: SignatureFormat::default(),
            origin: None,
            key: None,
            trusted: None,
            unsigned: Unsigned::default(),
            headers: Vec::new(),
            max_age: Duration::from_secs(24 * 60 * 60),
            remembered: 100_000,
            policy: Vec::new(),
            event_source: None,
        }
    }
}

impl SigningSettings {
    /// Sets [`format`](Self::format).
    #[must_use]
    pub fn with_format(self, format: SignatureFormat) -> Self {
        Self { format, ..self }
    }

    /// Sets [`origin`](Self::origin).
    #[must_use]
    pub fn with_origin(self, origin: impl Into<String>) -> Self {
        Self { origin: Some(origin.into()), ..self }
    }

    /// Sets [`key`](Self::key).
    #[must_use]
    pub fn with_key(self, key: impl Into<PathBuf>) -> Self {
        Self { key: Some(key.into()), ..self }
    }

    /// Sets [`trusted`](Self::trusted) to a folder.
    #[must_use]
    pub fn with_trusted(self, folder: impl Into<PathBuf>) -> Self {
        Self { trusted: Some(Trusted::Folder(folder.into())), ..self }
    }

    /// Sets [`unsigned`](Self::unsigned).
    #[must_use]
    pub fn with_unsigned(self, unsigned: Unsigned) -> Self {
        Self { unsigned, ..self }
    }

    /// Sets [`headers`](Self::headers).
    #[must_use]
    pub fn with_headers<H: Into<String>>(self, headers: impl IntoIterator<Item = H>) -> Self {
        Self { headers: headers.into_iter().map(Into::into).collect(), ..self }
    }

    /// Sets [`max_age`](Self::max_age).
    #[must_use]
    pub fn with_max_age(self, max_age: Duration) -> Self {
        Self { max_age, ..self }
    }

    /// Sets [`remembered`](Self::remembered).
    #[must_use]
    pub fn with_remembered(self, remembered: usize) -> Self {
        Self { remembered, ..self }
    }

    /// Sets [`policy`](Self::policy).
    #[must_use]
    pub fn with_policy(self, policy: impl IntoIterator<Item = PolicyRule>) -> Self {
        Self { policy: policy.into_iter().collect(), ..self }
    }

    /// Sets [`event_source`](Self::event_source).
    #[must_use]
    pub fn with_event_source(self, source: impl Into<String>) -> Self {
        Self { event_source: Some(source.into()), ..self }
    }

    /// Checks what is known without the files.
    #[cfg(feature = "settings")]
    pub(crate) fn check(&self) -> Result<(), SigningError> {
        let fault = |reason: &str| Err(SigningError::new(reason));
        if self.key.is_none() && self.trusted.is_none() {
            return fault("SIGNING has neither KEY nor TRUSTED: set KEY to sign, TRUSTED to verify");
        }
        if self.max_age.is_zero() {
            return fault("SIGNING.MAX_AGE is 0: every signature would be too old");
        }
        if !(1..=10_000_000).contains(&self.remembered) {
            return fault("SIGNING.REMEMBERED must be from 1 to 10,000,000");
        }
        if self.headers.iter().any(|name| super::dsse::OWN_HEADERS.contains(&name.as_str())) {
            return fault("SIGNING.HEADERS names a header that signing itself sets: remove it");
        }
        #[cfg(feature = "_brokers")]
        if self.format == SignatureFormat::Dssematerial
            && let Some(name) = self.headers.iter().find(|name| !super::material::is_extension(name))
        {
            return Err(SigningError::new(format!(
                "SIGNING.HEADERS names {name:?}, which is no extension attribute of a CloudEvent: lower-case letters and digits"
            )));
        }
        self.origin_name()?;
        super::policy::Policy::new(&self.policy).map(drop)
    }

    /// Returns the origin, or else the name of this host.
    pub(super) fn origin_name(&self) -> Result<String, SigningError> {
        let origin = self.origin.clone().or_else(host_name);
        let origin = origin.ok_or_else(|| SigningError::new("this host has no name: set SIGNING.ORIGIN"))?;
        match is_origin(&origin) {
            true => Ok(origin),
            false => Err(SigningError::new(format!(
                "SIGNING.ORIGIN {origin:?} must be 1 to 255 letters, digits, `.`, `-`, `_` or `@`, and begin with no dot"
            ))),
        }
    }
}

/// Whether it can be the name of an origin, and of a file.
pub(super) fn is_origin(name: &str) -> bool {
    (1..=255).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_@".contains(&byte))
}
