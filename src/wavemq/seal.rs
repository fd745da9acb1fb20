//! The signatures of messages between routers.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::config::SecurityConfig;
use crate::routing::{RoutedMessage, Seal, SealError};
use crate::signing::SigningError;
use crate::signing::detached::{DetachedFault, DetachedSigner, DetachedVerifier};

/// Signs what is published at this router, and verifies what comes from others, as far as the configuration says so.
#[derive(Debug)]
pub(super) struct RouterSeal {
    signer: Option<DetachedSigner>,
    verifier: Option<DetachedVerifier>,
    accepts_unsigned: bool,
}

impl RouterSeal {
    /// Reads the keys; `None` if the configuration has none.
    pub(super) fn open(security: &SecurityConfig) -> Result<Option<Arc<dyn Seal>>, SigningError> {
        let SecurityConfig { signingkey, signingname, trustedkeys, acceptunsigned, .. } = security;
        if signingkey.is_none() && trustedkeys.is_none() {
            return Ok(None);
        }
        let sign = |path: &Path| DetachedSigner::open("Security.SigningKey", path, signingname.as_deref());
        let verify = |path: &Path| DetachedVerifier::open("Security.TrustedKeys", path);
        Ok(Some(Arc::new(Self {
            signer: signingkey.as_deref().map(sign).transpose()?,
            verifier: trustedkeys.as_deref().map(verify).transpose()?,
            accepts_unsigned: *acceptunsigned,
        })))
    }
}

#[async_trait]
impl Seal for RouterSeal {
    fn sign(&self, message: &RoutedMessage) -> Bytes {
        let signed = self.signer.as_ref().map(|signer| signer.sign(&message.signed_bytes()));
        signed.unwrap_or_default().into()
    }

    async fn verify(&self, message: &RoutedMessage) -> Result<(), SealError> {
        let Some(verifier) = &self.verifier else { return Ok(()) };
        if message.signature.is_empty() {
            return match self.accepts_unsigned {
                true => Ok(()),
                false => Err(SealError::Forged("it has no signature".to_owned())),
            };
        }
        let verified = verifier.verify(&message.signed_bytes(), &message.signature).await;
        verified.map_err(|fault| match fault {
            DetachedFault::Signature(reason) => SealError::Forged(reason),
            DetachedFault::Keys(error) => SealError::Unavailable(error),
        })
    }
}
