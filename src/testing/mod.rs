//! Doubles for the tests of an app, and conformance suites for those who write their own messenger, store or source.
//!
//! - [`Recording`] and [`Memory`] replace a broker in the tests of an app.
//! - [`messenger_conformance`], [`store_conformance`] and [`source_conformance`] (and `engine_conformance` for channels) check that an implementation of
//!   [`Messenger`](crate::messenger::Messenger), [`Store`](crate::store::Store) or [`Source`](crate::source::Source) keeps the
//!   contract. This crate runs the same checks on its own. A check panics with the reason when the contract is broken.

pub use crate::backends::memory::{DeadLetter, Memory};
pub use crate::backends::recording::{Recording, Sent};

#[cfg(feature = "channels")]
#[allow(clippy::unwrap_used, reason = "a check that fails panics")]
pub mod engine_conformance;
#[allow(clippy::unwrap_used, reason = "a check that fails panics")]
pub mod messenger_conformance;
#[allow(clippy::unwrap_used, reason = "a check that fails panics")]
pub mod source_conformance;
#[allow(clippy::unwrap_used, reason = "a check that fails panics")]
pub mod store_conformance;
#[doc(hidden)]
#[allow(
    missing_docs,
    clippy::should_implement_trait,
    clippy::unwrap_used,
    reason = "not for users; a check that fails panics"
)]
pub mod support;
