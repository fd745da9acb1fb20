//! Doubles for the tests of an app.

pub use crate::backends::memory::{DeadLetter, Memory};
pub use crate::backends::recording::{Recording, Sent};
