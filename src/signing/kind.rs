//! The kinds of keys and signatures.

use std::fmt;

/// The kind of a key, which decides the algorithm of its signatures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyKind {
    /// Ed25519 (RFC 8032).
    Ed25519,
    /// RSA of 2,048 to 8,192 bits: RSASSA-PSS with SHA-256 (RFC 8017).
    Rsa,
    /// ECDSA on P-256 with SHA-256 (FIPS 186-5), of other signers: its signatures are verified, and not made.
    P256,
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ed25519 => "Ed25519",
            Self::Rsa => "RSA",
            Self::P256 => "P-256",
        })
    }
}

/// The length of the salt of RSASSA-PSS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Salt {
    /// That of the digest, 32 bytes.
    Digest,
    /// As long as fits, 222 bytes in a signature of 2,048 bits.
    #[cfg_attr(not(feature = "_brokers"), allow(dead_code, reason = "only mqfactory has it"))]
    Max,
}
