//! Settings of the face: the table `KUBEMQ`.

use std::fmt;
use std::path::PathBuf;

use serde::de::{Deserialize, Deserializer};

/// Settings of the face: the table `MESSAGE_BUS.KUBEMQ`.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Settings {
    /// The certificate of the server with its chain, in PEM. With it the server speaks TLS only.
    pub certificate: Option<PathBuf>,
    /// The key of the certificate, unless it is in the same file.
    pub private_key: Option<PathBuf>,
    /// The authorities of client certificates. With them a client without a certificate of theirs is refused.
    pub client_cacert: Option<PathBuf>,
    /// The file of the key that verifies tokens: a public key in PEM, or a secret for HS256, HS384 and HS512. With it a client
    /// without a valid token is refused.
    pub token_key: Option<PathBuf>,
    /// The algorithm of the tokens. By default `RS256`.
    pub token_algorithm: TokenAlgorithm,
    /// The audience that a token must name.
    pub token_audience: Option<String>,
    /// The issuer that a token must name.
    pub token_issuer: Option<String>,
    /// The rights of clients to channels. Without any grant, each client may use all.
    pub grants: Vec<Grant>,
    /// Whether a receive waits the whole time unless as many messages as it wants are there, as the real server does. By
    /// default it returns when there is one.
    pub whole_waits: bool,
    /// Whether a listener that other machines can reach may run without TLS with client certificates, and without tokens. By
    /// default it may not.
    pub allow_anyone: bool,
}

/// The rights of a client.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Grant {
    /// The subject of the client's token, else the common name of its certificate. `*` (default) is every client.
    #[serde(alias = "CLIENT")]
    pub client: String,
    /// The kinds of channels: `queues`, `events`, `events_store`, `commands`, `queries`. By default all.
    #[serde(alias = "KINDS")]
    pub kinds: Vec<String>,
    /// The channels, with the wildcards `*` for a word and `>` for the rest. By default all, `>`.
    #[serde(alias = "CHANNEL")]
    pub channel: String,
    /// Whether the client may receive, subscribe and answer.
    #[serde(alias = "READ")]
    pub read: bool,
    /// Whether the client may send, publish and ask.
    #[serde(alias = "WRITE")]
    pub write: bool,
}

impl Default for Grant {
    fn default() -> Self {
        Self { client: "*".to_owned(), kinds: Vec::new(), channel: ">".to_owned(), read: false, write: false }
    }
}

/// The algorithm of the signatures of tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenAlgorithm {
    /// A shared secret with SHA-256.
    Hs256,
    /// A shared secret with SHA-384.
    Hs384,
    /// A shared secret with SHA-512.
    Hs512,
    /// RSA with SHA-256.
    #[default]
    Rs256,
    /// RSA with SHA-384.
    Rs384,
    /// RSA with SHA-512.
    Rs512,
    /// RSA-PSS with SHA-256.
    Ps256,
    /// RSA-PSS with SHA-384.
    Ps384,
    /// RSA-PSS with SHA-512.
    Ps512,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// Ed25519.
    EdDsa,
}

impl TokenAlgorithm {
    const ALL: [Self; 12] = [
        Self::Hs256,
        Self::Hs384,
        Self::Hs512,
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::Es256,
        Self::Es384,
        Self::EdDsa,
    ];
}

/// In any case.
impl<'de> Deserialize<'de> for TokenAlgorithm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let known = Self::ALL.iter().find(|known| known.to_string().eq_ignore_ascii_case(&text)).copied();
        known.ok_or_else(|| {
            let names = Self::ALL.map(|algorithm| algorithm.to_string()).join(", ");
            serde::de::Error::custom(format!("{text:?} is no algorithm of tokens; it is one of {names}"))
        })
    }
}

impl fmt::Display for TokenAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = format!("{self:?}").to_uppercase();
        f.write_str(if name == "EDDSA" { "EdDSA" } else { &name })
    }
}
