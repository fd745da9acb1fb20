//! Faults of keys and of the settings of signing.

use crate::util::error::{BoxError, debug_as_display};

/// The reason why messages cannot be signed or verified with these settings or keys. It names the file or the setting, and the
/// cure.
#[derive(thiserror::Error)]
#[error(transparent)]
pub struct SigningError(BoxError);

debug_as_display!(SigningError);

impl SigningError {
    pub(crate) fn new(reason: impl Into<BoxError>) -> Self {
        Self(reason.into())
    }

    /// The same fault, of the file or folder of this setting.
    pub(super) fn of(self, setting: &str, path: &std::path::Path) -> Self {
        Self(format!("{setting} {}: {self}", path.display()).into())
    }
}
