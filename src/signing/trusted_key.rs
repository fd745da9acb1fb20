//! Public keys.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::PublicKey as RsaPublicKey;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, RSA_PSS_2048_8192_SHA256,
    RsaParameters, RsaPssSaltLength,
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
    /// A signature is two numbers of 32 bytes, as in the draft of CloudEvents, or in DER, as OpenSSL writes it.
    P256 {
        fixed: ParsedPublicKey,
        der: ParsedPublicKey,
    },
}

impl TrustedKey {
    /// Reads all public keys of a PEM text, of which there is one at least: Ed25519, RSA or P-256.
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
        let p256 = [&ECDSA_P256_SHA256_FIXED, &ECDSA_P256_SHA256_ASN1]
            .map(|algorithm| ParsedPublicKey::new(algorithm, der));
        if let [Ok(fixed), Ok(in_der)] = p256 {
            let key = Parsed::P256 { fixed, der: in_der };
            return Ok(Self { key, fingerprint: fingerprint(der) });
        }
        let fault = |_| SigningError::new(format!("its {label} is no key of Ed25519, RSA or P-256"));
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
            Parsed::P256 { .. } => KeyKind::P256,
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
            (Parsed::P256 { fixed, .. }, _) if signature.len() == 64 => fixed,
            (Parsed::P256 { der, .. }, _) => der,
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
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
    };

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
    fn a_signature_of_p_256_is_two_numbers_or_der() {
        let made = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
        let private = made.to_pkcs8v1().unwrap();
        let public = pem::write(pem::PUBLIC, made.public_key().as_der().unwrap().as_ref());
        let trusted = &TrustedKey::all_from_pem(&public).unwrap()[0];
        for algorithm in [&ECDSA_P256_SHA256_ASN1_SIGNING, &ECDSA_P256_SHA256_FIXED_SIGNING] {
            let key = EcdsaKeyPair::from_pkcs8(algorithm, private.as_ref()).unwrap();
            let signature = key.sign(&SystemRandom::new(), b"bytes").unwrap();
            assert!(trusted.verifies(b"bytes", signature.as_ref(), Salt::Digest));
            assert!(!trusted.verifies(b"byteS", signature.as_ref(), Salt::Digest));
        }
        assert!(SigningKey::generate(KeyKind::P256).is_err());
    }

    #[test]
    fn what_is_no_public_key_is_named() {
        let private = SigningKey::generate(KeyKind::Ed25519).unwrap().to_pem().unwrap();
        for (text, fault) in [
            (private.as_str(), "holds a PRIVATE KEY"),
            ("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----", "-pubkey"),
            ("-----BEGIN PUBLIC KEY-----\nAA==\n-----END PUBLIC KEY-----", "no key of"),
            ("", "no key"),
        ] {
            let error = TrustedKey::all_from_pem(text).unwrap_err().to_string();
            assert!(error.contains(fault), "{error}");
        }
    }
}
