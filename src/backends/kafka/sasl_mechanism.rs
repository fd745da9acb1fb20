//! The SASL mechanism.

use serde::Deserialize;

/// How user and password are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub enum SaslMechanism {
    /// `plain`: as they are. Use it with TLS.
    #[default]
    #[serde(rename = "plain")]
    Plain,
    /// `scram-sha-256`: by a proof that does not show the password.
    #[serde(rename = "scram-sha-256")]
    ScramSha256,
    /// `scram-sha-512`: the same with a longer hash.
    #[serde(rename = "scram-sha-512")]
    ScramSha512,
}
