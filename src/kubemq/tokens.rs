//! Bearer tokens: JWTs that a key of the settings verifies.

use std::fmt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use tokio::time::Instant;

use super::error::KubemqError;
use super::settings::{Settings, TokenAlgorithm};
use crate::util::text_file;

/// The longest token that is verified, in bytes.
const LONGEST: usize = 16 << 10;
/// The shortest secret, in bytes: RFC 7518, section 3.2.
const SECRET: usize = 32;

/// Verifies tokens.
pub(super) struct Tokens {
    key: DecodingKey,
    validation: Validation,
}

/// The verified content of a token.
pub(super) struct Verified {
    pub(super) subject: String,
    pub(super) expiry: Instant,
}

#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    sub: String,
    exp: u64,
}

impl Tokens {
    /// Reads the key of the settings; `None` if they name none.
    pub(super) fn new(settings: &Settings) -> Result<Option<Self>, KubemqError> {
        let Some(path) = &settings.token_key else { return Ok(None) };
        let key = key(path, settings.token_algorithm)?;
        let mut validation = Validation::new(algorithm(settings.token_algorithm));
        validation.validate_nbf = true;
        match &settings.token_audience {
            Some(audience) => {
                validation.set_audience(&[audience]);
                validation.required_spec_claims.insert("aud".to_owned());
            }
            None => validation.validate_aud = false,
        }
        if let Some(issuer) = &settings.token_issuer {
            validation.set_issuer(&[issuer]);
            validation.required_spec_claims.insert("iss".to_owned());
        }
        Ok(Some(Self { key, validation }))
    }

    /// Verifies the value of the header `authorization`: a token, with or without `Bearer` before it.
    pub(super) fn verify(&self, header: &str) -> Result<Verified, String> {
        let token = match header.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
            _ => header.trim(),
        };
        if token.len() > LONGEST {
            return Err(format!("the token is longer than {LONGEST} bytes"));
        }
        let decoded = jsonwebtoken::decode::<Claims>(token, &self.key, &self.validation);
        let claims = decoded.map_err(|error| error.to_string())?.claims;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let left = Duration::from_secs(claims.exp.saturating_add(self.validation.leeway)).saturating_sub(now);
        // An instant far away would overflow.
        let left = left.min(Duration::from_secs(10 * 365 * 24 * 3_600));
        Ok(Verified { subject: claims.sub, expiry: Instant::now() + left })
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("algorithms", &self.validation.algorithms).finish_non_exhaustive()
    }
}

fn algorithm(algorithm: TokenAlgorithm) -> Algorithm {
    match algorithm {
        TokenAlgorithm::Hs256 => Algorithm::HS256,
        TokenAlgorithm::Hs384 => Algorithm::HS384,
        TokenAlgorithm::Hs512 => Algorithm::HS512,
        TokenAlgorithm::Rs256 => Algorithm::RS256,
        TokenAlgorithm::Rs384 => Algorithm::RS384,
        TokenAlgorithm::Rs512 => Algorithm::RS512,
        TokenAlgorithm::Ps256 => Algorithm::PS256,
        TokenAlgorithm::Ps384 => Algorithm::PS384,
        TokenAlgorithm::Ps512 => Algorithm::PS512,
        TokenAlgorithm::Es256 => Algorithm::ES256,
        TokenAlgorithm::Es384 => Algorithm::ES384,
        TokenAlgorithm::EdDsa => Algorithm::EdDSA,
    }
}

fn key(path: &Path, algorithm: TokenAlgorithm) -> Result<DecodingKey, KubemqError> {
    use TokenAlgorithm as A;

    let bytes = text_file::read(path)
        .map_err(|source| KubemqError::ReadTokenKey { path: path.to_owned(), source })?;
    let fault = |cure, source| KubemqError::TokenKey { path: path.to_owned(), algorithm, cure, source };
    let pem = |error: jsonwebtoken::errors::Error| {
        fault("write the public key into it, in PEM (-----BEGIN PUBLIC KEY-----)", error.into())
    };
    match algorithm {
        A::Hs256 | A::Hs384 | A::Hs512 => {
            let secret = bytes.trim_ascii();
            // A public key as the secret would be known to all.
            if secret.starts_with(b"-----BEGIN") {
                return Err(fault("set TOKEN_ALGORITHM to that of the PEM", "it is a PEM".into()));
            }
            if secret.len() < SECRET {
                let source = format!("it has {} bytes", secret.len()).into();
                return Err(fault("write a secret of at least 32 bytes into it", source));
            }
            Ok(DecodingKey::from_secret(secret))
        }
        A::Es256 | A::Es384 => DecodingKey::from_ec_pem(&bytes).map_err(pem),
        A::EdDsa => DecodingKey::from_ed_pem(&bytes).map_err(pem),
        _ => DecodingKey::from_rsa_pem(&bytes).map_err(pem),
    }
}
