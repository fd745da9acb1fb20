//! The place of trusted keys.

use std::path::PathBuf;

/// Where the trusted public keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trusted {
    /// A folder with a file `ORIGIN.pem` for each origin; see [`TrustedFolder`](super::TrustedFolder).
    Folder(PathBuf),
    /// `database`: the table `trusted_keys` beside the tables of the outbox, in the app's own database.
    Database,
}

#[cfg(feature = "settings")]
pub(super) fn read<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Trusted>, D::Error> {
    let text: String = serde::Deserialize::deserialize(deserializer)?;
    Ok(Some(match text.eq_ignore_ascii_case("database") {
        true => Trusted::Database,
        false => Trusted::Folder(text.into()),
    }))
}
