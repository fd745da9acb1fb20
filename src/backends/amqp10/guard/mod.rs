//! A filter between the socket and the client library, which passes only bytes that the library can decode.
//!
//! The client library (fe2o3-amqp 0.18 with serde_amqp 0.18) decodes by recursion, misreads some arrays, and decodes a
//! message before this crate gets it: 25 kB of nested lists would end the process.

mod frames;
mod held;
mod sections;
mod stream;
mod values;

pub(super) use self::frames::MAX_MESSAGE;
#[cfg(feature = "_fuzzing")]
pub(super) use self::frames::{ADDED, Frames};
pub(super) use self::held::HeldBytes;
pub(super) use self::sections::check;
pub(super) use self::stream::{Guarded, MAX_FRAME_SIZE};
