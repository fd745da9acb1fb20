//! Public keys.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::PublicKey as RsaPublicKey;
use aws_lc_rs::signature::{
    ED25519, ParsedPublicKey, RSA_PSS_2048_8192_SHA256, RsaParameters, RsaPssSaltLength,
};

use super::error::SigningError;
use super::kind::{KeyKind, Salt};
use super::pem::{self, Block};

/// A public key whose signatures are trusted. A clone is a copy.
#[derive(Clone)]
pub struct TrustedKey {
    key: Parsed,
    fingerprint: String,
}

#[derive(Clone)]
enum Parsed {
    Ed25519(ParsedPublicKey),
    /// The library keeps the length of the salt with the key.
    Rsa {
        digest: ParsedPublicKey,
        max: ParsedPublicKey,
    },
}

impl TrustedKey {
    /// Reads all public keys of a PEM text, of which there is one at least: Ed25519 or RSA.
    ///
    /// # Errors
    /// [`SigningError`] when a block is anything else, such as a private key or a certificate.
    pub fn all_from_pem(text: &str) -> Result<Vec<Self>, SigningError> {
        pem::read(text)?.iter().map(Self::of).collect()
    }

    pub(super) fn of(Block { label, der }: &Block) -> Result<Self, SigningError> {
        const MAX: RsaParameters = RSA_PSS_2048_8192_SHA256.with_pss_salt_length(RsaPssSaltLength::Max);
        match label.as_str() {
            pem::PUBLIC | pem::RSA_PUBLIC => {}
            "CERTIFICATE" => {
                return Err(SigningError::new(
                    "it holds a CERTIFICATE; write its public key with openssl x509 -pubkey -noout",
                ));
            }
            _ => {
                return Err(SigningError::new(format!(
                    "it holds a {label}; only a PUBLIC KEY belongs there: openssl pkey -pubout"
                )));
            }
        }
        if let Ok(key) = ParsedPublicKey::new(&ED25519, der)
            && label == pem::PUBLIC
        {
            return Ok(Self { key: Parsed::Ed25519(key), fingerprint: fingerprint(der) });
        }
        let fault = |_| SigningError::new(format!("its {label} is neither an Ed25519 key nor an RSA key"));
        let unspecified = |_| SigningError::new("its RSA key cannot be used");
        let rsa = RsaPublicKey::from_der(der).map_err(fault)?;
        let bits = RsaParameters::public_modulus_len(rsa.as_ref()).map_err(unspecified)?;
        if !(2_048..=8_192).contains(&bits) {
            return Err(SigningError::new(format!(
                "its RSA key has {bits} bits; 2,048 to 8,192 are supported"
            )));
        }
        let fingerprint = fingerprint(rsa.as_der().map_err(unspecified)?.as_ref());
        let key = Parsed::Rsa {
            digest: ParsedPublicKey::new(&RSA_PSS_2048_8192_SHA256, der).map_err(fault)?,
            max: ParsedPublicKey::new(&MAX, der).map_err(fault)?,
        };
        Ok(Self { key, fingerprint })
    }

    /// Returns the kind.
    #[must_use]
    pub fn kind(&self) -> KeyKind {
        match self.key {
            Parsed::Ed25519(_) => KeyKind::Ed25519,
            Parsed::Rsa { .. } => KeyKind::Rsa,
        }
    }

    /// Returns the first 16 hexadecimal digits of the SHA-256 of the key in DER form, for people to compare.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    pub(super) fn verifies(&self, bytes: &[u8], signature: &[u8], salt: Salt) -> bool {
        let key = match (&self.key, salt) {
            (Parsed::Ed25519(key), _) => key,
            (Parsed::Rsa { digest, .. }, Salt::Digest) => digest,
            (Parsed::Rsa { max, .. }, Salt::Max) => max,
        };
        key.verify_sig(bytes, signature).is_ok()
    }
}

fn fingerprint(der: &[u8]) -> String {
    digest(&SHA256, der).as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

impl fmt::Debug for TrustedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrustedKey({} {})", self.kind(), self.fingerprint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signing::SigningKey;

    #[test]
    fn a_text_may_hold_several_keys() {
        let keys = [KeyKind::Ed25519, KeyKind::Rsa].map(|kind| SigningKey::generate(kind).unwrap());
        let text: String = keys.iter().map(|key| format!("# a key\n{}", key.public_pem().unwrap())).collect();
        let read = TrustedKey::all_from_pem(&text).unwrap();
        assert_eq!(read.iter().map(TrustedKey::kind).collect::<Vec<_>>(), [KeyKind::Ed25519, KeyKind::Rsa]);
        assert_eq!(read[1].fingerprint(), keys[1].public().unwrap().fingerprint());
    }

    #[test]
    fn what_is_no_public_key_is_named() {
        let private = SigningKey::generate(KeyKind::Ed25519).unwrap().to_pem().unwrap();
        for (text, fault) in [
            (private.as_str(), "holds a PRIVATE KEY"),
            ("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----", "-pubkey"),
            ("-----BEGIN PUBLIC KEY-----\nAA==\n-----END PUBLIC KEY-----", "neither"),
            ("", "no key"),
        ] {
            let error = TrustedKey::all_from_pem(text).unwrap_err().to_string();
            assert!(error.contains(fault), "{error}");
        }
    }
}
