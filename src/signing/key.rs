//! Private keys.

use std::fmt;
use std::path::Path;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    Ed25519KeyPair, KeyPair, RSA_PSS_SHA256, RsaKeyPair, RsaPssSaltLength, RsaSignatureEncoding,
};

use super::error::SigningError;
use super::kind::{KeyKind, Salt};
use super::pem::{self, Block};
use super::trusted_key::TrustedKey;
use crate::util::error::BoxError;
use crate::util::text_file;

/// A private key. `Debug` shows its kind only.
pub struct SigningKey(Pair);

enum Pair {
    Ed25519(Ed25519KeyPair),
    Rsa(Box<RsaKeyPair>),
}

impl SigningKey {
    /// Makes a new key; an RSA key has 2,048 bits.
    ///
    /// # Errors
    /// [`SigningError`] when the system has no random numbers, and for [`KeyKind::P256`], with which nothing is signed here.
    pub fn generate(kind: KeyKind) -> Result<Self, SigningError> {
        let fault = |_| SigningError::new("the key could not be made");
        Ok(Self(match kind {
            KeyKind::Ed25519 => Pair::Ed25519(Ed25519KeyPair::generate().map_err(fault)?),
            KeyKind::Rsa => Pair::Rsa(Box::new(RsaKeyPair::generate(KeySize::Rsa2048).map_err(fault)?)),
            KeyKind::P256 => {
                return Err(SigningError::new("P-256 is only verified here: make an Ed25519 key"));
            }
        }))
    }

    /// Reads a key from a PEM file; `setting` names the file in errors.
    pub(super) fn from_file(setting: &str, path: &Path) -> Result<Self, SigningError> {
        let text = text_file::read(path).map_err(SigningError::new);
        text.and_then(|text| Self::from_pem(&String::from_utf8_lossy(&text)))
            .map_err(|error| error.of(setting, path))
    }

    /// Reads an Ed25519 key in PKCS #8, or an RSA key in PKCS #8 or PKCS #1. Other blocks are ignored.
    ///
    /// # Errors
    /// [`SigningError`] when there is no such key, it is encrypted, or it has fewer than 2,048 bits.
    pub fn from_pem(text: &str) -> Result<Self, SigningError> {
        let blocks = pem::read(text)?;
        let is_private = |block: &&Block| [pem::PRIVATE, pem::RSA_PRIVATE].contains(&block.label.as_str());
        let Some(Block { label, der }) = blocks.iter().find(is_private) else {
            let label = &blocks[0].label;
            return Err(SigningError::new(format!(
                "it holds a {label} and no PRIVATE KEY of Ed25519 or RSA"
            )));
        };
        let rsa = match label.as_str() {
            pem::RSA_PRIVATE => RsaKeyPair::from_der(der),
            _ => match Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
                Ok(key) => return Ok(Self(Pair::Ed25519(key))),
                Err(_) => RsaKeyPair::from_pkcs8(der),
            },
        };
        let rsa = rsa.map_err(|error| {
            SigningError::new(format!(
                "its {label} is neither an Ed25519 key nor an RSA key of at least 2,048 bits ({error})"
            ))
        })?;
        Ok(Self(Pair::Rsa(Box::new(rsa))))
    }

    /// Returns the key in PKCS #8, in PEM form. It is a secret.
    ///
    /// # Errors
    /// [`SigningError`] when the key cannot be encoded.
    pub fn to_pem(&self) -> Result<String, SigningError> {
        let fault = |_| SigningError::new("the key cannot be encoded");
        Ok(match &self.0 {
            // OpenSSL 3.0 does not read version 2.
            Pair::Ed25519(key) => pem::write(pem::PRIVATE, key.to_pkcs8v1().map_err(fault)?.as_ref()),
            Pair::Rsa(key) => pem::write(pem::PRIVATE, key.as_der().map_err(fault)?.as_ref()),
        })
    }

    /// Returns the public key in PEM form, for the folder [`trusted`](super::SigningSettings::trusted) of those that receive.
    ///
    /// # Errors
    /// [`SigningError`] when the key cannot be encoded.
    pub fn public_pem(&self) -> Result<String, SigningError> {
        let fault = |_| SigningError::new("the public key cannot be encoded");
        let der = match &self.0 {
            Pair::Ed25519(key) => key.public_key().as_der(),
            Pair::Rsa(key) => key.public_key().as_der(),
        };
        Ok(pem::write(pem::PUBLIC, der.map_err(fault)?.as_ref()))
    }

    /// Returns the public key.
    ///
    /// # Errors
    /// [`SigningError`] when the key cannot be encoded.
    pub fn public(&self) -> Result<TrustedKey, SigningError> {
        let keys = TrustedKey::all_from_pem(&self.public_pem()?)?;
        keys.into_iter().next().ok_or_else(|| SigningError::new("there is no public key"))
    }

    /// Returns the kind.
    #[must_use]
    pub fn kind(&self) -> KeyKind {
        match self.0 {
            Pair::Ed25519(_) => KeyKind::Ed25519,
            Pair::Rsa(_) => KeyKind::Rsa,
        }
    }

    pub(super) fn sign(&self, bytes: &[u8], salt: Salt) -> Result<Vec<u8>, BoxError> {
        match &self.0 {
            Pair::Ed25519(key) => Ok(key.sign(bytes).as_ref().to_vec()),
            Pair::Rsa(key) => {
                let mut signature = vec![0; self.signature_len()];
                key.sign(encoding(salt), &SystemRandom::new(), bytes, &mut signature)
                    .map_err(|_| "the RSA key could not sign")?;
                Ok(signature)
            }
        }
    }

    /// Returns how many bytes a signature has.
    pub(super) fn signature_len(&self) -> usize {
        match &self.0 {
            Pair::Ed25519(_) => 64,
            Pair::Rsa(key) => key.public_modulus_len(),
        }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("kind", &self.kind()).finish_non_exhaustive()
    }
}

/// The encoding of signatures with this salt.
fn encoding(salt: Salt) -> &'static RsaSignatureEncoding {
    const MAX: RsaSignatureEncoding = RSA_PSS_SHA256.with_pss_salt_length(RsaPssSaltLength::Max);
    match salt {
        Salt::Digest => &RSA_PSS_SHA256,
        Salt::Max => &MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_it_was_written() {
        for kind in [KeyKind::Ed25519, KeyKind::Rsa] {
            let key = SigningKey::generate(kind).unwrap();
            let again = SigningKey::from_pem(&key.to_pem().unwrap()).unwrap();
            assert_eq!((again.kind(), again.public_pem().unwrap()), (kind, key.public_pem().unwrap()));
            for salt in [Salt::Digest, Salt::Max] {
                let signature = again.sign(b"bytes", salt).unwrap();
                let public = key.public().unwrap();
                assert!(public.verifies(b"bytes", &signature, salt), "{kind} {salt:?}");
                assert!(!public.verifies(b"byteS", &signature, salt));
            }
        }
    }

    #[test]
    fn what_is_no_private_key_is_named() {
        let key = SigningKey::generate(KeyKind::Ed25519).unwrap();
        let public = key.public_pem().unwrap();
        let cut = key.to_pem().unwrap().replace("-----END", "");
        let der = pem::write("PRIVATE KEY", b"7");
        for (text, fault) in [
            (public.as_str(), "holds a PUBLIC KEY"),
            ("", "no key in PEM form"),
            (cut.as_str(), "cut off"),
            (der.as_str(), "neither"),
            ("-----BEGIN PRIVATE KEY-----\n?\n-----END PRIVATE KEY-----", "base64"),
            ("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAA==\n-----END ENCRYPTED PRIVATE KEY-----", "decrypt"),
        ] {
            let error = SigningKey::from_pem(text).unwrap_err().to_string();
            assert!(error.contains(fault), "{error}");
        }
        assert!(!format!("{key:?}").contains("Pair"));
    }
}
