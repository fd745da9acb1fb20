//! What can keep an outbox.

#[cfg(feature = "embedded")]
mod embedded;

#[cfg(feature = "embedded")]
pub use self::embedded::{Embedded, EmbeddedSettings, OpenError};
