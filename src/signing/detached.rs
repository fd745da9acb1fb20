//! Signatures apart from the bytes that they are for, for parts with messages of their own. Ed25519 only.
//!
//! A signature is the length of the origin's name in one byte, the name, and the 64 bytes of Ed25519 (RFC 8032).

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::error::SigningError;
use super::key::SigningKey;
use super::key_source::{KeySource, MOST_KEYS};
use super::kind::{KeyKind, Salt};
use super::settings::is_origin;
use super::trusted_folder::TrustedFolder;
use super::trusted_key::TrustedKey;
use crate::message::headers::start_of;
use crate::util::error::BoxError;
use crate::util::host_name::host_name;

/// Signs bytes.
pub(crate) struct DetachedSigner {
    key: SigningKey,
    origin: String,
}

impl DetachedSigner {
    /// Reads the key of a setting. The origin is the name of this host by default.
    pub(crate) fn open(setting: &str, path: &Path, origin: Option<&str>) -> Result<Self, SigningError> {
        let key = SigningKey::from_file(setting, path)?;
        if key.kind() != KeyKind::Ed25519 {
            let kind = key.kind();
            let fault = format!("it is a key of the kind {kind}: make one with `tower-outbox keys generate`");
            return Err(SigningError::new(fault).of(setting, path));
        }
        let origin = origin.map(str::to_owned).or_else(host_name).unwrap_or_default();
        match is_origin(&origin) {
            true => Ok(Self { key, origin }),
            false => Err(SigningError::new(format!(
                "the name {origin:?} of the signing key must be 1 to 255 letters, digits, `.`, `-`, `_` or `@`, and begin with no dot"
            ))),
        }
    }

    /// Returns the signature; empty if the key cannot sign.
    pub(crate) fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        match self.key.sign(bytes, Salt::Digest) {
            Ok(signature) => {
                let length = u8::try_from(self.origin.len()).unwrap_or_default();
                [&[length], self.origin.as_bytes(), &signature].concat()
            }
            Err(error) => {
                tracing::error!(%error, "could not sign a message; it goes without a signature");
                Vec::new()
            }
        }
    }
}

impl fmt::Debug for DetachedSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DetachedSigner").field("origin", &self.origin).finish_non_exhaustive()
    }
}

/// Verifies bytes with the keys of a folder.
#[derive(Debug)]
pub(crate) struct DetachedVerifier(TrustedFolder);

/// A signature that does not fit, with the reason, or keys that cannot be read now.
#[derive(Debug)]
pub(crate) enum DetachedFault {
    Signature(String),
    Keys(BoxError),
}

impl DetachedVerifier {
    /// Opens the folder of a setting.
    pub(crate) fn open(setting: &str, path: &Path) -> Result<Self, SigningError> {
        TrustedFolder::open_as(setting, path).map(Self)
    }

    /// Checks a signature.
    pub(crate) async fn verify(&self, bytes: &[u8], signature: &[u8]) -> Result<(), DetachedFault> {
        let parts =
            signature.split_first().and_then(|(length, rest)| rest.split_at_checked(usize::from(*length)));
        let Some((Ok(origin), signature)) = parts.map(|(origin, rest)| (std::str::from_utf8(origin), rest))
        else {
            return Err(DetachedFault::Signature("its signature cannot be read".to_owned()));
        };
        if !is_origin(origin) {
            let origin = start_of(origin, 80);
            return Err(DetachedFault::Signature(format!("its origin {origin:?} is no valid name")));
        }
        let mut known = false;
        for anew in [false, true] {
            let keys: Arc<[TrustedKey]> = self.0.keys(origin, anew).await.map_err(DetachedFault::Keys)?;
            let mut fits = keys.iter().take(MOST_KEYS).filter(|key| key.kind() == KeyKind::Ed25519);
            if fits.any(|key| key.verifies(bytes, signature, Salt::Digest)) {
                return Ok(());
            }
            known = !keys.is_empty();
        }
        Err(DetachedFault::Signature(match known {
            true => format!(
                "its signature fits no Ed25519 key of {origin}: it was changed, or signed with another key"
            ),
            false => format!("its origin {origin} is not trusted: there is no key {origin}.pem"),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_signature_fits_its_bytes_and_its_origin_only() {
        let folder = tempfile::tempdir().unwrap();
        let signer = |name: &str, kind| {
            let (key, path) =
                (SigningKey::generate(kind).unwrap(), folder.path().join(format!("{name}.key")));
            std::fs::write(&path, key.to_pem().unwrap()).unwrap();
            std::fs::write(folder.path().join(format!("{name}.pem")), key.public_pem().unwrap()).unwrap();
            DetachedSigner::open("KEY", &path, Some(name))
        };
        let (good, other) =
            (signer("good", KeyKind::Ed25519).unwrap(), signer("other", KeyKind::Ed25519).unwrap());
        let error = signer("rsa", KeyKind::Rsa).unwrap_err().to_string();
        assert!(error.contains("KEY") && error.contains("RSA"), "{error}");
        assert!(signer(".x", KeyKind::Ed25519).is_err());
        let verifier = DetachedVerifier::open("TRUSTED", folder.path()).unwrap();
        let signature = good.sign(b"bytes");
        verifier.verify(b"bytes", &signature).await.unwrap();
        let mut renamed = other.sign(b"bytes");
        renamed.splice(..6, signature[..5].iter().copied());
        let stranger = [&[1][..], b"x", &signature[5..]].concat();
        let odd = [&[1][..], b"/", &signature[5..]].concat();
        for (bytes, signature, reason) in [
            (&b"byteS"[..], &signature[..], "fits no"),
            (b"bytes", &signature[..68], "fits no"),
            (b"bytes", &renamed, "fits no"),
            (b"bytes", &stranger, "x is not trusted"),
            (b"bytes", &odd, "no valid name"),
            (b"bytes", b"", "cannot be read"),
            (b"bytes", b"\x05abc", "cannot be read"),
            (b"bytes", b"\x01\xff", "cannot be read"),
        ] {
            let Err(DetachedFault::Signature(fault)) = verifier.verify(bytes, signature).await else {
                panic!("{reason}")
            };
            assert!(fault.contains(reason), "{fault}");
        }
    }
}
