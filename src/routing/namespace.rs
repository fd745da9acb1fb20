//! Namespaces: the owner of a tree of URIs.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::util::error::debug_as_display;

/// As WAVE writes hashes: the URL-safe alphabet with padding. Texts without padding are read too.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The owner of a tree of URIs: 1 to 64 bytes, in WAVEMQ the 34 bytes of an entity's hash. Its text is base64url.
///
/// A clone shares the bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Namespace(Arc<[u8]>);

impl Namespace {
    /// The largest number of bytes.
    pub const MAX_LEN: usize = 64;

    /// Makes a namespace of its bytes.
    ///
    /// # Errors
    /// [`NamespaceError`] if there are no bytes, or more than [`MAX_LEN`](Self::MAX_LEN).
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, NamespaceError> {
        match bytes.len() {
            0 => Err(NamespaceError("it is empty")),
            1..=Self::MAX_LEN => Ok(Self(bytes.into())),
            _ => Err(NamespaceError("it is longer than 64 bytes")),
        }
    }

    /// Makes a namespace of a name, for sites without WAVE: its bytes are those of the text.
    ///
    /// # Errors
    /// As [`from_bytes`](Self::from_bytes).
    pub fn named(name: &str) -> Result<Self, NamespaceError> {
        Self::from_bytes(name.as_bytes())
    }

    /// A namespace that no message has.
    pub(super) fn unknown() -> Self {
        Self(Arc::default())
    }

    /// Returns the bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl FromStr for Namespace {
    type Err = NamespaceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = BASE64.decode(text.trim()).map_err(|_| NamespaceError("it is not base64url"))?;
        Self::from_bytes(&bytes)
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(&self.0))
    }
}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Namespace({self})")
    }
}

/// Bytes or a text that is no [`Namespace`].
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is not a namespace: {0}; use 1 to 64 bytes, as text in base64url")]
pub struct NamespaceError(&'static str);

debug_as_display!(NamespaceError);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_read_as_it_is_written() {
        let text = "GyC5wUUGKON6uC4gxuH6TpzU9vvuKHGeJa1jUr4G-j_NbA==";
        let namespace: Namespace = text.parse().unwrap();
        assert_eq!((namespace.as_bytes().len(), namespace.to_string().as_str()), (34, text));
        assert_eq!(text.trim_end_matches('=').parse(), Ok(namespace));
    }

    #[test]
    fn bytes_outside_the_limits_are_no_namespace() {
        assert!(Namespace::from_bytes(&[]).is_err());
        assert!(Namespace::from_bytes(&[7; 65]).is_err());
        assert!(Namespace::from_bytes(&[7; 64]).is_ok());
        assert!("not base64!".parse::<Namespace>().is_err());
        assert!("".parse::<Namespace>().is_err());
    }
}
